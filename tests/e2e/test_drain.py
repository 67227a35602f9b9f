"""Node lifecycle on three real agents whose engine runs nothing: cordon, drain, interrupt, rebalance, remove."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import jsonschema
import pytest

from tests.e2e.local_mesh import NAMES, ROOT, LocalMesh, applied, eventually

pytestmark = pytest.mark.timeout(300)

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: "localhost/web:1", resources: {requests: {cpu: 10m, memory: 16Mi}}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: web}}}
"""

LONE = """
apiVersion: v1
kind: Pod
metadata: {name: lone}
spec: {containers: [{name: web, image: "localhost/web:1"}]}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Three agents with a deployment, under a budget that spares no replica."""
    with applied(tmp_path_factory.mktemp("mesh"), MANIFESTS, beemesh_runtime="mock", beemesh_images=[]) as mesh:
        yield mesh


def places(mesh: LocalMesh) -> Counter[str]:
    """How many pods each node runs."""
    return Counter(pod["spec"]["nodeName"] for pod in mesh.pods().values())


def schema(name: str) -> object:
    """One of the documented shapes."""
    return json.loads((ROOT / f"schemas/{name}.schema.json").read_text())


def test_a_cordon_is_shown_and_kept_to(mesh: LocalMesh) -> None:
    """`get nodes` says so as kubectl does, and new replicas go elsewhere."""
    assert mesh.run("node", "cordon", "e1", "--reason", "new disk").stdout == "node/e1 cordoned\n"
    assert mesh.run("node", "cordon", "e1").stdout == "node/e1 already cordoned\n"
    lines = mesh.run("get", "nodes").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("e1")] == ["Ready,SchedulingDisabled"]

    before = places(mesh)["e1"]
    scaled = mesh.run("apply", "-", "--wait", "--timeout", "60s", stdin=MANIFESTS.replace("replicas: 6", "replicas: 8"))
    assert scaled.returncode == 0, scaled.stderr
    assert places(mesh)["e1"] == before
    assert mesh.run("node", "uncordon", "e1").stdout == "node/e1 uncordoned\n"


def test_a_dry_run_lists_moves_and_blockers_and_changes_nothing(mesh: LocalMesh) -> None:
    """With its documented shape; what would be lost needs a word, and without it nothing is begun."""
    assert mesh.run("apply", "-", "--wait", stdin=LONE).returncode == 0
    node = mesh.pods()["lone"]["spec"]["nodeName"]
    before = places(mesh)

    planned = mesh.run("node", "drain", node, "--dry-run", "-o", "json")
    document = json.loads(planned.stdout)
    jsonschema.validate(document, schema("drain"))
    (plan,) = document["nodes"]
    refused = mesh.run("node", "drain", node)

    assert planned.returncode == 1
    assert {move["how"] for move in plan["moves"]} == {"start-first"}
    assert [(each["pod"], each["needs"]) for each in plan["blockers"]] == [("lone", "--force")]
    assert refused.returncode == 1
    assert "default/lone" in refused.stderr
    assert places(mesh) == before
    assert mesh.run("delete", "pod", "lone").returncode == 0


def test_a_drain_moves_everything_and_misses_nothing(mesh: LocalMesh) -> None:
    """The budget forbids that any replica is missing, and the deployment is never short of one."""
    (node, count), *_ = places(mesh).most_common(1)
    command = [sys.executable, "-m", "beemeshctl.main", "node", "drain", node, "--timeout", "60s"]
    least = 8
    with subprocess.Popen(command, cwd=ROOT, env=mesh.environment, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            deployment = mesh.json("get", "deployment/web")
            least = min(least, deployment["status"]["readyReplicas"])
        told = process.stdout.read() if process.stdout else ""

    assert process.returncode == 0, told
    assert told.splitlines()[0] == f"node/{node} cordoned"
    assert told.splitlines()[-1] == f"node/{node} drained"
    assert told.count(f"left {node}") == count
    assert least == 8
    assert places(mesh)[node] == 0
    assert mesh.run("node", "uncordon", node).returncode == 0


def test_the_mesh_becomes_even_again_on_request(mesh: LocalMesh) -> None:
    """`rebalance` shows its moves, asks nobody with --yes, and the emptied node gets its share."""
    shown = json.loads(mesh.run("rebalance", "--dry-run", "-o", "json").stdout)
    jsonschema.validate(shown, schema("rebalance"))
    assert shown["moves"]
    assert shown["imbalanceAfter"] < shown["imbalance"]

    done = mesh.run("rebalance", "--yes", "--timeout", "60s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert eventually(lambda: min(places(mesh)[name] for name in NAMES) >= 2, 20), places(mesh)
    assert sum(places(mesh).values()) == 8


def test_a_drain_goes_on_when_its_command_is_interrupted(mesh: LocalMesh) -> None:
    """Ctrl-C ends the command and not the order: the node is empty soon after."""
    (node, _), *_ = places(mesh).most_common(1)
    command = [sys.executable, "-m", "beemeshctl.main", "node", "drain", node]
    with subprocess.Popen(
        command, cwd=ROOT, env=mesh.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert "cordoned" in process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "is drained all the same" in errors
    assert eventually(lambda: places(mesh)[node] == 0, 30), places(mesh)
    assert mesh.run("node", "uncordon", node).returncode == 0


def test_a_node_that_is_removed_is_drained_first(mesh: LocalMesh) -> None:
    """Nothing is missed on the way, and in the end the mesh has two nodes with everything on them."""
    started_s = time.monotonic()
    removed = mesh.run("node", "remove", "e3", "--timeout", "60s")

    assert removed.returncode == 0, removed.stdout + removed.stderr
    assert "node/e3 drained" in removed.stdout
    assert time.monotonic() - started_s < 60
    assert [item["metadata"]["name"] for item in mesh.json("get", "nodes")["items"]] == ["e1", "e2"]
    assert sum(places(mesh).values()) == 8
