"""Beside a peer: from command to running container, and to a replacement after `kill -9`, against Docker Swarm mode.

`make demo`, then `python bench/peers.py` as root. Swarm comes from the Debian package `docker.io`: one `dockerd` with a
socket and folders of its own under a temporary folder, and one node. Ours is the running demo mesh of three agents with
podman. Both run the same image, in turn in every round.

The clock starts before the command line's process (`docker service create --detach`, `beemeshctl apply`) and stops when
the container's first process is in /proc, which is read every 10 ms: neither tool's word is taken for it. Both are
given a mark by which the process is found in its environment. What is killed is the container's first process.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.figures import judged  # noqa: E402
from examples.local.hello_image import IMAGE, build  # noqa: E402

Found = TypeVar("Found")

MARK = "BEEMESH_BENCH_MARK"
POLL_S = 0.01
PATIENCE_S = 60.0
SETTLE_S = 6.0
"""Swarm calls a task stable after 5 s; before that, a kill would measure its start-up grace instead of its repair."""

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: {image}
          imagePullPolicy: Never
          command: [/bin/busybox, sleep, "100000"]
          env: [{{name: {mark}, value: "{value}"}}]
          resources: {{limits: {{memory: 32Mi}}}}
"""


class Swarm:
    """Docker Swarm mode with one node."""

    name = "swarm"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = f"unix://{folder}/docker.sock"
        self._docker = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"

    @contextmanager
    def running(self) -> Iterator[Swarm]:
        """A daemon of our own, which is ended with all that it runs."""
        folder = self._folder
        command = [
            *("dockerd", "-H", self._socket, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
            *("--pidfile", f"{folder}/pid"),
            *("--default-ulimit", "nofile=16384:16384", "--default-ulimit", "nproc=32768:32768"),
        ]
        with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
            try:
                wait_for(lambda: self._call("info", check=False).returncode == 0 or None, "dockerd to answer")
                archive = folder / "hello.tar"
                build(archive)
                self._call("load", "-i", str(archive))
                self._call("swarm", "init", "--advertise-addr", "127.0.0.1")
                yield self
            finally:
                self._call("swarm", "leave", "--force", check=False)
                daemon.terminate()
                daemon.wait(timeout=PATIENCE_S)

    def start(self, name: str, mark: str) -> None:
        """Create a service of one replica."""
        self._call(
            *("service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", name),
            *("--env", f"{MARK}={mark}", "--limit-memory", "32M", "--stop-grace-period", "1s"),
            *(IMAGE, "/bin/busybox", "sleep", "100000"),
        )

    def end(self, name: str) -> None:
        """Remove it again."""
        self._call("service", "rm", name)

    def _call(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        command = [self._docker, "-H", self._socket, *words]
        return subprocess.run(command, check=check, capture_output=True, timeout=PATIENCE_S)


class Beemesh:
    """The demo mesh, by the command line that people use."""

    name = "beemesh"

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        # People's shells let Python keep its byte code; with this, every command would compile all its modules anew.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._environment = {**kept, "BEEMESH_HOME": str(home)}
        installed = ROOT / ".venv/bin/beemeshctl"
        self._program = str(installed) if installed.exists() else "beemeshctl"

    def start(self, name: str, mark: str) -> None:
        """Apply a Deployment of one replica."""
        file = self._folder / f"{name}.yaml"
        file.write_text(DEPLOYMENT.format(name=name, image=IMAGE, mark=MARK, value=mark))
        self._call("apply", str(file))

    def end(self, name: str) -> None:
        """Delete it again."""
        self._call("delete", "deployment", name)

    def _call(self, *words: str) -> None:
        subprocess.run(
            [self._program, *words], check=True, env=self._environment, capture_output=True, timeout=PATIENCE_S
        )


Tool = Swarm | Beemesh


def one_round(tool: Tool) -> dict[str, float]:
    """Milliseconds until it runs, and from its death until it runs again."""
    mark = secrets.token_hex(12)
    name = f"peer-{mark[:8]}"
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    tool.start(name, mark)
    try:
        first = wait_for(lambda: first_process(mark), f"{tool.name} to start a container")
        time.sleep(SETTLE_S)
        died = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.kill(first, signal.SIGKILL)
        second = wait_for(lambda: other_than(first, first_process(mark)), f"{tool.name} to replace the container")
        return {"start": 1000 * (birth_s_of[first] - began), "replace": 1000 * (birth_s_of[second] - died)}
    finally:
        tool.end(name)
        wait_for(lambda: True if first_process(mark) is None else None, f"{tool.name} to remove the container")


birth_s_of: dict[int, float] = {}
"""When a process was first seen here, by the kernel's boot clock: exact to one poll, where /proc tells 10 ms alone."""


def first_process(mark: str) -> int | None:
    """The first process of the container whose environment has the mark: the marked one with an unmarked parent."""
    wanted = f"{MARK}={mark}".encode()
    marked = {pid: parent for pid, parent in processes() if wanted in environment(pid)}
    for pid, parent in marked.items():
        if parent not in marked and command(pid)[:1] == [b"/bin/busybox"]:
            birth_s_of.setdefault(pid, time.clock_gettime(time.CLOCK_BOOTTIME))
            return pid
    return None


def processes() -> Iterator[tuple[int, int]]:
    """Every process and its parent."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_bytes().rpartition(b") ")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                yield int(folder.name), int(fields[1])


def environment(pid: int) -> list[bytes]:
    """The environment that a process was started with; empty once it is gone."""
    return _words(pid, "environ")


def command(pid: int) -> list[bytes]:
    """The words of a process's command."""
    return _words(pid, "cmdline")


def _words(pid: int, file: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().split(b"\0")
    except OSError:
        return []


def other_than(known: int, found: int | None) -> int | None:
    """`found` unless it is `known`."""
    return None if found == known else found


def wait_for(look: Callable[[], Found | None], what: str) -> Found:
    """What `look` finds, as soon as it finds something; ends the bench after `PATIENCE_S`."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := look()) is None:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"waited {PATIENCE_S:g} s for {what}, in vain")
        time.sleep(POLL_S)
    return found


def main() -> int:
    """Measure, print a table, and JSON as the last line; fails where the peer is ahead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10, help="rounds (default 10)")
    rounds = parser.parse_args().n
    home = Path(os.environ.get("BEEMESH_HOME", str(ROOT / ".demo")))
    if not (home / "context.yaml").exists():
        print("needs a running mesh: run `make demo`, or name its folder in BEEMESH_HOME", file=sys.stderr)
        return 1
    if shutil.which("dockerd") is None:
        print("needs Docker beside us: apt-get install docker.io (this bench installs nothing)", file=sys.stderr)
        return 1
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="beemesh-peers-")))
        tools: list[Tool] = [stack.enter_context(Swarm(folder).running()), Beemesh(folder, home)]
        rows: dict[str, list[dict[str, float]]] = {tool.name: [] for tool in tools}
        for _ in range(rounds):
            for tool in tools:
                rows[tool.name].append(one_round(tool))
        return report(rows)


def report(rows: dict[str, list[dict[str, float]]]) -> int:
    """A table for people, JSON for scripts; the exit code."""
    aims: list[tuple[str, bool]] = []
    result: dict[str, object] = {"rounds": len(rows["beemesh"])}
    print(f"{'median (lowest - highest), ms':<32}" + "".join(f"{name:>26}" for name in rows) + "   ours / swarm")
    for what, title in (("start", "command to running container"), ("replace", "kill -9 to its replacement")):
        line, medians = f"{title:<32}", {}
        for name, found in rows.items():
            values = sorted(row[what] for row in found)
            medians[name] = statistics.median(values)
            line += f"{medians[name]:>11.0f} ({values[0]:.0f} - {values[-1]:.0f})".rjust(26)
            result[f"{what}_{name}_ms"] = {"median": round(medians[name]), "worst": round(values[-1])}
        ratio = medians["beemesh"] / medians["swarm"]
        result[f"{what}_ratio"] = round(ratio, 2)
        aims.append((f"ahead of the peer in {title}", ratio < 1.0))
        print(f"{line}{ratio:>15.2f}")
    code = judged(*aims)
    print(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
