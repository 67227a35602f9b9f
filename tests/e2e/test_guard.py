"""A pod that must not be doubled ends although its agent is not there to end it; all others run on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e.local_mesh import LocalMesh, applied, eventually, why_not

NODE = "e1"
ENDED_WITHIN_S = 17.0
"""A run lease lasts for 15 s and may have been renewed just now; others may be granted it 2 s later."""

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  annotations: {{beemesh.io/duplicate-tolerant: "{tolerant}"}}
spec:
  containers:
    - name: main
      image: "localhost/hello:1"
      imagePullPolicy: Never
      command: ["/bin/busybox", "sleep", "3600"]
      env: [{{name: GUARDED_POD, value: "{name}-{folder}"}}]
"""

ENGINES = [
    "process",
    pytest.param("podman", marks=[pytest.mark.podman, pytest.mark.skipif(bool(why_not()), reason=why_not() or "runs")]),
]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module", params=ENGINES)
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """One agent with two pods, of which `lone` must not be doubled."""
    folder = tmp_path_factory.mktemp("mesh")
    pods = [POD.format(name=name, tolerant=tolerant, folder=folder.name) for name, tolerant in TOLERANT.items()]
    with applied(folder, "---\n".join(pods), names=[NODE], beemesh_runtime=request.param) as mesh:
        yield mesh
    assert not guards(mesh), "a guard is left"
    assert not list((mesh.folder / "locks").glob("guard-*")), "a guard's files are left"


TOLERANT = {"lone": "false", "many": "true"}


def running(mesh: LocalMesh) -> set[str]:
    """Which of the two pods have processes."""
    words = mesh.running_words("GUARDED_POD")
    return {name for name in TOLERANT if f"{name}-{mesh.folder.name}" in words}


def guards(mesh: LocalMesh) -> list[str]:
    """The command lines of this mesh's guards, and of what they run."""
    found = subprocess.run(["pgrep", "-f", "-a", str(mesh.folder / "locks/guard-")], capture_output=True, text=True)
    return found.stdout.splitlines()


def log_of(mesh: LocalMesh) -> str:
    """What the agent and those that help it have said."""
    return (mesh.data / NODE / "agent.log").read_text()


def supervisor_pid(mesh: LocalMesh) -> int:
    """The process that would start the agent again."""
    return int((mesh.data / NODE / "service.lock").read_text())


def test_a_pod_ends_that_must_not_be_doubled_when_its_agent_is_killed(mesh: LocalMesh) -> None:
    """Its run lease ends while nobody renews it, and another node may run it then; the agent starts it anew later."""
    assert running(mesh) == {"lone", "many"}
    assert eventually(lambda: len(guards(mesh)) == 1, 10), guards(mesh)

    for pid in (supervisor_pid(mesh), mesh.agent_pid(NODE)):
        os.kill(pid, signal.SIGKILL)
    began_s = time.monotonic()

    assert eventually(lambda: running(mesh) == {"many"}, ENDED_WITHIN_S), running(mesh)
    print(f"gone after {time.monotonic() - began_s:.1f} s")
    assert eventually(lambda: "ended pod default/lone" in log_of(mesh), 10), log_of(mesh)[-2000:]

    assert mesh.agent(NODE, "service", "start").returncode == 0
    assert eventually(lambda: running(mesh) == {"lone", "many"}, 60), mesh.run("get", "pods").stdout


def test_a_pod_ends_that_must_not_be_doubled_while_its_agent_stands_still(mesh: LocalMesh) -> None:
    """A stopped process ends nothing and renews nothing; it does once it goes on."""
    agent = mesh.agent_pid(NODE)
    os.kill(agent, signal.SIGSTOP)
    try:
        assert eventually(lambda: running(mesh) == {"many"}, ENDED_WITHIN_S), running(mesh)
    finally:
        os.kill(agent, signal.SIGCONT)
    assert eventually(lambda: running(mesh) == {"lone", "many"}, 60), mesh.run("get", "pods").stdout
