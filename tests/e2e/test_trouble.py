"""What goes wrong on a real mesh, and what becomes of the work: nothing half-done, nothing lost, and a clear word."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.local_mesh import NAMES, ROOT, LocalMesh, eventually, why_not
from tests.e2e.loop_disk import loop_disk

pytestmark = [
    pytest.mark.podman,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run"),
]

WRAPPER = """\
#!/bin/sh
# podman, but a start of a pod by an agent whose name stands in a file beside this one hangs, or takes twelve seconds.
for name in e1 e2 e3; do
  case "$CONTAINERS_CONF $*" in
    */$name/*"kube play"*)
      [ -e "{folder}/hang-$name" ] && echo $name >> "{folder}/hung" && exec sleep 600
      [ -e "{folder}/slow-$name" ] && sleep 12;;
  esac
done
exec {podman} "$@"
"""
POD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
        - name: web
          image: "localhost/hello:1"
          imagePullPolicy: Never
          env: [{{name: WHO_APPLIED, value: "{who}"}}]
"""


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the podman that agents get, and the switches of its faults."""
    folder = tmp_path_factory.mktemp("podman")
    wrapper = folder / "podman"
    wrapper.write_text(WRAPPER.format(folder=folder, podman=shutil.which("podman")))
    wrapper.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, trouble: Path) -> Iterator[LocalMesh]:
    """Three agents; the data of e1 lies on a small disk of its own."""
    folder = tmp_path_factory.mktemp("mesh")
    with loop_disk(tmp_path_factory.mktemp("disk")) as disk:
        mesh = LocalMesh(folder)
        mesh.environment["PATH"] = f"{trouble}:{mesh.environment['PATH']}"
        mesh.data.mkdir()
        (mesh.data / "e1").mkdir()
        subprocess.run(["mount", "--bind", str(disk.mount), str(mesh.data / "e1")], check=True)
        try:
            made = mesh.bootstrap()
            assert made.returncode == 0, made.stdout + made.stderr
            yield mesh
        finally:
            mesh.down()
            subprocess.run(["umount", str(mesh.data / "e1")], check=True)


def pod(name: str, who: str = "one", replicas: int = 1) -> str:
    """A small Deployment."""
    return POD.format(name=name, who=who, replicas=replicas)


def remove(mesh: LocalMesh, name: str) -> None:
    """Delete a Deployment."""
    gone = mesh.run("delete", "deployment", name)
    assert gone.returncode == 0, gone.stderr


def test_a_podman_that_hangs_loses_nothing(mesh: LocalMesh, trouble: Path) -> None:
    """Starts hang on two of three nodes: the call is ended, the replica runs on the third, and the agents answer."""
    switches = [trouble / "hang-e1", trouble / "hang-e2"]
    for switch in switches:
        switch.touch()
    try:
        applied = mesh.run("apply", "-", "--wait", "--timeout", "100s", stdin=pod("stuck", replicas=3))
        nodes = mesh.run("get", "nodes")
    finally:
        for switch in switches:
            switch.unlink()
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert nodes.stdout.count(" Ready ") == len(NAMES)
    assert [each["spec"]["nodeName"] for each in mesh.pods().values()] == ["e3"] * 3
    assert (trouble / "hung").exists()
    assert not subprocess.run(["pgrep", "-f", "-x", "sleep 600"], capture_output=True).stdout
    remove(mesh, "stuck")


def test_an_agent_killed_while_it_deploys(mesh: LocalMesh, trouble: Path) -> None:
    """`kill -9` between lease and start: one replica runs in the end, once, and nothing half-made is left."""
    for name in NAMES:
        (trouble / f"slow-{name}").touch()
    try:
        assert mesh.run("apply", "-", stdin=pod("halfway")).returncode == 0
        assert eventually(lambda: "Scheduled" in mesh.run("events").stdout.rpartition("halfway")[0], 15)
        tasks = mesh.json("get", "tasks")["items"]
        (holder,) = {task["status"]["node"] for task in tasks if task["spec"]["workload"].endswith("/halfway")}
        os.kill(mesh.agent_pid(holder), signal.SIGKILL)
    finally:
        for name in NAMES:
            (trouble / f"slow-{name}").unlink()

    def one_runs() -> bool:
        result = mesh.run("get", "pods", "-o", "json")
        return result.returncode == 0 and [
            pod["status"]["phase"] for pod in json.loads(result.stdout)["items"] if pod["spec"].get("nodeName")
        ] == ["Running"]

    assert eventually(one_runs, 60), mesh.run("get", "pods").stdout
    assert not subprocess.run(["pgrep", "-f", f"{trouble}/podman kube play"], capture_output=True).stdout
    remove(mesh, "halfway")
    assert eventually(lambda: not mesh.containers("halfway"), 20), mesh.containers("halfway")
    assert eventually(lambda: not mesh.running_words("WHO_APPLIED"), 20), mesh.running_words("WHO_APPLIED")


def test_two_operators_apply_the_same_name_at_once(mesh: LocalMesh) -> None:
    """Each is told the truth: whoever was beaten gets a conflict, and what runs is what the last winner applied."""
    beaten = 0
    for number in range(3):
        names = [f"{who}-{number}" for who in ("ada", "bob", "eve", "joe")]
        with ThreadPoolExecutor(len(names)) as people:
            results = list(people.map(lambda who: mesh.run("apply", "-", stdin=pod("both", who)), names))
        codes = [result.returncode for result in results]
        assert 0 in codes, [result.stderr for result in results]
        for result in results:
            if result.returncode:
                beaten += 1
                assert result.returncode == 1
                assert "was changed by somebody else" in result.stderr
                assert "Traceback" not in result.stderr
        winners = {who for who, code in zip(names, codes, strict=True) if code == 0}

        def one_winner_runs(winners: set[str] = winners) -> bool:
            words = mesh.running_words("WHO_APPLIED")
            return len(words) == 1 and words <= winners

        assert eventually(one_winner_runs, 30), (
            winners,
            mesh.running_words("WHO_APPLIED"),
            mesh.run("get", "pods").stdout,
        )
    assert beaten, "no two applies met: the test proves nothing"
    remove(mesh, "both")


def test_a_full_disk_takes_no_work_and_says_so(mesh: LocalMesh) -> None:
    """e1 cannot save: what is applied runs elsewhere, `doctor` names the disk, and room makes it well by itself."""
    ballast = mesh.data / "e1" / "ballast"
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=1M"], capture_output=True)
    try:
        assert eventually(lambda: "its disk is full" in mesh.run("get", "node", "e1", "-o", "json").stdout, 30)
        applied = mesh.run("apply", "-", "--wait", "--timeout", "60s", stdin=pod("room", replicas=2))
        doctor = mesh.run("doctor")
    finally:
        ballast.unlink()
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert {each["spec"]["nodeName"] for each in mesh.pods().values()} <= {"e2", "e3"}
    assert doctor.returncode == 1
    assert "disk" in doctor.stdout
    assert "free some space" in doctor.stdout
    assert eventually(lambda: mesh.run("doctor").returncode == 0, 30), mesh.run("doctor").stdout
    remove(mesh, "room")


COMMANDS = (
    ("apply", "-", "--wait", "--timeout", "60s"),
    ("events", "-w"),
    ("logs", "-f", "deployment/patient"),
    ("reconcile", "{folder}", "--interval", "30"),
    ("get", "pods", "-w"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_control_c_ends_every_command_that_waits(mesh: LocalMesh, tmp_path: Path, words: tuple[str, ...]) -> None:
    """SIGINT ends it at once, with one line and no traceback; what was accepted stays so."""
    if words[0] == "logs":
        assert mesh.run("apply", "-", "--wait", stdin=pod("patient")).returncode == 0
    manifest = pod("later").replace('image: "localhost/hello:1"', 'image: "localhost/never:1"')
    (tmp_path / "empty.yaml").write_text(pod("patient") if words[0] == "reconcile" else "")
    command = [sys.executable, "-m", "beemeshctl.main", *(word.format(folder=tmp_path) for word in words)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=mesh.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(manifest if words[0] == "apply" else "")
    process.stdin.close()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3)  # it does wait
    os.killpg(process.pid, signal.SIGINT)
    output = process.stdout.read() if process.stdout else ""
    assert process.wait(timeout=5) == 1, output
    assert output.rstrip().endswith("interrupted"), output
    assert "Traceback" not in output
    if words[0] == "apply":
        assert "later" in mesh.run("get", "deployments").stdout
        remove(mesh, "later")
    if words[0] == "logs":
        remove(mesh, "patient")
