"""What a user does on one machine, with real podman: apply, change, look, break, and search the disk."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Iterator

import jsonschema
import pytest

from tests.e2e.local_mesh import NAMES, ROOT, LocalMesh, applied, eventually, why_not

pytestmark = [
    pytest.mark.podman,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run"),
]

MARKER = "MARKER-9b1d7f3a"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Three agents with the example applied."""
    with applied(tmp_path_factory.mktemp("mesh"), manifest()) as mesh:
        yield mesh


def manifest(token: str = MARKER, replicas: int = 2) -> str:
    """The example with a marker in its Secret."""
    text = (ROOT / "examples/hello.yaml").read_text()
    return text.replace("honey-is-sweet", token).replace("replicas: 2", f"replicas: {replicas}")


def test_every_replica_serves_its_secret(mesh: LocalMesh) -> None:
    """Each listed endpoint answers with the Secret as an environment variable and as a file."""
    pods = mesh.pods()

    assert len(pods) == 2
    for pod in pods.values():
        (endpoint,) = pod["status"]["endpoints"]
        with urllib.request.urlopen(f"http://{endpoint['address']}:{endpoint['port']}/", timeout=10) as answer:
            page = answer.read().decode()
        assert f"GREETING_TOKEN={MARKER}" in page
        assert f"/etc/hello/token={MARKER}" in page


def test_any_agent_lists_the_same(mesh: LocalMesh) -> None:
    """`get pods -o json` from each agent gives the same pods on the same nodes."""
    lists = [
        [(pod["metadata"]["name"], pod["spec"]["nodeName"]) for pod in mesh.json("get", "pods", "--via", name)["items"]]
        for name in NAMES
    ]

    assert lists[0] == lists[1] == lists[2]
    assert len(lists[0]) == 2


def test_tables_fit_eighty_columns(mesh: LocalMesh) -> None:
    """Nodes, pods and deployments are readable on a small terminal."""
    for words in (("get", "nodes"), ("get", "pods"), ("get", "deployments")):
        lines = mesh.run(*words).stdout.splitlines()
        assert len(lines) > 1
        assert max(map(len, lines)) <= 80, lines


def test_an_explanation_has_its_documented_shape(mesh: LocalMesh) -> None:
    """`explain -o json` fits the schema that the project ships, and tells of bids and leases."""
    schema = json.loads((ROOT / "schemas/explanation.schema.json").read_text())

    stories = mesh.json("explain", "deployment/hello")

    assert len(stories) == 2
    for story in stories:
        jsonschema.validate(story, schema)
        assert story["state"] == "Deployed"
        assert story["bids"]
        assert story["leases"][0]["node"] == story["node"]


def test_applying_the_same_again_changes_nothing(mesh: LocalMesh) -> None:
    """The second apply says unchanged, and no pod is touched."""
    before = {name: pod["status"]["startTime"] for name, pod in mesh.pods().items()}

    again = mesh.run("apply", "-", stdin=manifest())

    assert again.stdout.splitlines() == ["secret/hello unchanged", "deployment.apps/hello unchanged"]
    assert {name: pod["status"]["startTime"] for name, pod in mesh.pods().items()} == before


def test_a_killed_agent_finds_its_pods_again(mesh: LocalMesh) -> None:
    """`kill -9` of every agent: the supervisor starts them again, and every pod goes on untouched."""
    before = {name: pod["status"]["startTime"] for name, pod in mesh.pods().items()}
    for name in NAMES:
        pid = mesh.agent_pid(name)
        assert pid
        os.kill(pid, signal.SIGKILL)

    def same_again() -> bool:
        result = mesh.run("get", "pods", "-o", "json")
        if result.returncode:
            return False
        found = {
            pod["metadata"]["name"]: pod["status"].get("startTime", "")
            for pod in json.loads(result.stdout)["items"]
            if pod["spec"].get("nodeName")
        }
        return found == before

    assert eventually(same_again, 30)


def test_impossible_work_stays_pending_with_every_nodes_reason(mesh: LocalMesh) -> None:
    """16 TB of memory: accepted, pending, and each node says what it lacks."""
    huge = manifest().replace("name: hello", "name: huge").replace("secretName: hello", "secretName: huge")
    huge = huge.replace("memory: 16Mi", "memory: 16Ti").replace("memory: 64Mi", "memory: 16Ti")

    result = mesh.run("apply", "-", "--wait", "--timeout", "8s", stdin=huge)

    assert result.returncode == 4, result.stdout + result.stderr
    assert all(name in result.stderr for name in NAMES), result.stderr
    assert "memory" in result.stderr
    mesh.run("delete", "deployment", "huge")
    mesh.run("delete", "secret", "huge")


def test_an_image_that_does_not_exist_is_named(mesh: LocalMesh) -> None:
    """The reason reaches whoever waits, and delete leaves nothing behind."""
    wrong = manifest().replace("name: hello", "name: wrong").replace("secretName: hello", "secretName: wrong")
    wrong = wrong.replace("localhost/hello:1", "localhost/nothere:7")

    result = mesh.run("apply", "-", "--wait", "--timeout", "40s", stdin=wrong)

    assert result.returncode in (1, 4), result.stdout + result.stderr
    assert "localhost/nothere:7" in result.stderr
    assert mesh.run("delete", "deployment", "wrong").returncode == 0
    mesh.run("delete", "secret", "wrong")


def test_wrong_manifests_change_nothing(mesh: LocalMesh) -> None:
    """Unknown fields and wrong values are all named with line and column, exit 2, nothing sent."""
    wrong = manifest().replace("replicas: 2", "replicas: two").replace("imagePullPolicy", "imagePulPolicy")

    result = mesh.run("apply", "-", stdin=wrong)

    assert result.returncode == 2
    assert re.search(r"\d+:\d+: .*replicas", result.stderr)
    assert "imagePullPolicy" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_altered_config_is_refused(mesh: LocalMesh) -> None:
    """An agent starts with no configuration that its CA did not sign for it."""
    path = mesh.data / "e1/config/node.yaml"
    original = path.read_bytes()
    try:
        path.write_bytes(
            original.replace(b"mem_mb: 512", b"mem_mb: 1").replace(b"level: info", b"level: debug") + b"# x\n"
        )
        altered = mesh.agent("e1", "check-config")
    finally:
        path.write_bytes(original)

    assert altered.returncode == 3
    assert "altered" in altered.stderr
    assert mesh.agent("e1", "check-config").returncode == 0


def test_deleted_work_is_gone(mesh: LocalMesh) -> None:
    """`delete` waits until no pod is left; the name is free again."""
    result = mesh.run("delete", "deployment/hello")

    assert result.returncode == 0, result.stderr
    assert mesh.pods() == {}
