"""New revisions on real podman: a good one is rolled out, a bad one taken back by itself, and what an operator says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.local_mesh import ROOT, LocalMesh, applied, eventually, why_not

pytestmark = [
    pytest.mark.podman,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run"),
]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Three agents with three replicas of the example."""
    with applied(tmp_path_factory.mktemp("mesh"), manifest()) as mesh:
        yield mesh


def manifest(token: str = "honey-is-sweet", image: str = "") -> str:
    """The example with three replicas."""
    text = (ROOT / "examples/hello.yaml").read_text().replace("replicas: 2", "replicas: 3")
    text = text.replace("honey-is-sweet", token)
    return text.replace("localhost/hello:1", image) if image else text


def running(mesh: LocalMesh) -> set[str]:
    """The names of the pods that run and are ready."""
    return {name for name, pod in mesh.pods().items() if ready(pod)}


def ready(pod: dict[str, object]) -> bool:
    """Whether a pod is ready."""
    status = pod["status"]
    assert isinstance(status, dict)
    return any(each["type"] == "Ready" and each["status"] == "True" for each in status["conditions"])


def test_a_bad_image_rolls_back_by_itself(mesh: LocalMesh) -> None:
    """The three good replicas are never touched, `apply --wait` and `rollout status` exit with 1 and say why, and so do
    the events; an undo makes the good revision the current one without touching a pod."""
    before = running(mesh)
    assert len(before) == 3
    applied = mesh.run("apply", "-", "--wait", "--timeout", "120s", stdin=manifest(image="localhost/not-there:7"))

    assert applied.returncode == 1, applied.stdout + applied.stderr
    assert "revision 2 failed; revision 1 runs in its place" in applied.stderr
    assert "not-there" in applied.stderr
    status = mesh.run("rollout", "status", "deployment/hello", "--timeout", "20s")
    assert status.returncode == 1
    assert "revision 1 runs in its place" in status.stderr
    told = [event for event in mesh.json("get", "events")["items"] if event["action"] == "RolledBack"]
    assert len(told) == 1
    assert "not-there" in told[0]["message"]
    assert running(mesh) == before

    undone = mesh.run("rollout", "undo", "deployment/hello")
    assert undone.returncode == 0, undone.stderr
    status = mesh.run("rollout", "status", "deployment/hello", "--timeout", "20s")
    assert status.returncode == 0, status.stdout + status.stderr
    assert running(mesh) == before


def test_a_restart_replaces_every_pod_and_a_scale_counts(mesh: LocalMesh) -> None:
    """A restart needs no manifest: what was sealed for the revision is opened again, under another number."""
    before = running(mesh)
    assert mesh.run("rollout", "restart", "deployment/hello").returncode == 0
    status = mesh.run("rollout", "status", "deployment/hello", "--timeout", "90s")
    assert status.returncode == 0, status.stdout + status.stderr
    # Whoever lists may read what its agent heard up to half a second before the rollout was complete.
    assert eventually(lambda: len(running(mesh)) == 3 and not running(mesh) & before, 5)

    assert mesh.run("scale", "deployment/hello", "--replicas", "1").returncode == 0
    assert eventually(lambda: len(mesh.pods()) == 1, 45)
    again = mesh.run("apply", "-", "--wait", "--timeout", "60s", stdin=manifest())
    assert again.returncode == 0, again.stderr
    assert len(running(mesh)) == 3
