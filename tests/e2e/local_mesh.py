"""Three agents on this machine with real podman, for tests: ports, directories and names of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from examples.local import hello_image

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("e1", "e2", "e3")


def why_not() -> str:
    """Why such a mesh cannot run here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root to run containers"
    if shutil.which("podman") is None:
        return "needs podman, which `make test` installs where there is apt"
    return ""


def free_port() -> int:
    """A TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], bool], patience_s: float) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


@contextmanager
def applied(
    folder: Path, manifest: str, patience: str = "60s", names: Sequence[str] = NAMES, **changes: Any
) -> Iterator[LocalMesh]:
    """A mesh of agents that runs what the manifest asks for, and is gone afterwards; `changes` are variables of all
    hosts."""
    mesh = LocalMesh(folder, names=names)
    mesh.write_inventory(**changes)
    try:
        made = mesh.bootstrap()
        assert made.returncode == 0, made.stdout + made.stderr
        done = mesh.run("apply", "-", "--wait", "--timeout", patience, stdin=manifest)
        assert done.returncode == 0, done.stdout + done.stderr
        yield mesh
    finally:
        mesh.down()


class LocalMesh:
    """A mesh of three supervised agents below `folder`, or of those `names`; their data may lie elsewhere (`data`)."""

    def __init__(self, folder: Path, data: Path | None = None, names: Sequence[str] = NAMES) -> None:
        self.folder = folder
        self.names = names
        self.data = data or folder / "nodes"
        self.state = Path(f"/run/bt-{os.getpid()}")
        self.environment = {**os.environ, "BEEMESH_HOME": str(folder / "home")}
        self.inventory = folder / "inventory.yaml"
        self.archive = folder / "hello.tar"
        self.digest = hello_image.build(self.archive).removeprefix("sha256:")
        self.write_inventory()

    def write_inventory(self, **changes: Any) -> None:
        """Write the inventory; `changes` are variables of all hosts."""
        if not hasattr(self, "ports"):
            self.ports = {name: (free_port(), free_port()) for name in self.names}
        variables = {
            "ansible_connection": "local",
            "beemesh_mesh": "e2e",
            "beemesh_service": "supervised",
            "beemesh_allow_same_host": True,
            "beemesh_address": "127.0.0.1",
            "beemesh_listen_address": "127.0.0.1",
            "beemesh_prefix": str(self.folder / "prefix"),
            "beemesh_data_dir": str(self.data) + "/{{ inventory_hostname }}",
            "beemesh_config_dir": str(self.data) + "/{{ inventory_hostname }}/config",
            "beemesh_state_dir": str(self.state) + "/{{ inventory_hostname }}",
            "beemesh_lock_dir": str(self.folder / "locks"),
            "beemesh_state_size_mb": 192,
            "beemesh_reserve": {"disk_mb": 0},
            "beemesh_images": [{"archive": str(self.archive), "sha256": self.digest, "name": hello_image.IMAGE}],
            **changes,
        }
        hosts = {
            name: {"beemesh_gossip_port": gossip, "beemesh_api_port": api} for name, (gossip, api) in self.ports.items()
        }
        self.inventory.write_text(json.dumps({"all": {"vars": variables, "hosts": hosts}}))

    def run(self, *words: str, stdin: str | None = None, patience_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """One command line of `beemeshctl`."""
        return subprocess.run(
            [sys.executable, "-m", "beemeshctl.main", *words],
            cwd=ROOT,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=patience_s,
            check=False,
        )

    def json(self, *words: str) -> Any:
        """What a command answers with `-o json`."""
        result = self.run(*words, "-o", "json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def bootstrap(self) -> subprocess.CompletedProcess[str]:
        """Bootstrap all of them."""
        return self.run("bootstrap", str(self.inventory), "--no-passphrase")

    def agent(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of a node's agent program."""
        command = [
            str(self.folder / "prefix/bin/beemesh-agent"),
            *words,
            "--config-dir",
            str(self.data / name / "config"),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def agent_pid(self, name: str) -> int:
        """The process of a node's agent (not of its supervisor); 0 when there is none."""
        wanted = f"agent.main run --config-dir {self.data / name / 'config'}"
        found = subprocess.run(["pgrep", "-f", "-x", f".*python[^ ]* .*{wanted}"], capture_output=True, text=True)
        pids = [int(pid) for pid in found.stdout.split()]
        return max((pid for pid in pids if "agent.supervise" not in _command_of(pid)), default=0)

    def pods(self) -> dict[str, dict[str, Any]]:
        """Pods that run, by name."""
        items = self.json("get", "pods")["items"]
        return {pod["metadata"]["name"]: pod for pod in items if pod["spec"].get("nodeName")}

    def in_memory(self, word: str) -> bool:
        """Whether a process in some container of this mesh has the word in its environment."""
        return any(word.encode() in _environment_of(int(path.name)) for path in Path("/proc").glob("[0-9]*"))

    def containers(self, word: str) -> list[str]:
        """Names of this mesh's pods in podman's own stores that hold the word."""
        found = []
        for name in self.names:
            graph, run = self.state / name / "graph", self.state / name / "run"
            command = ["podman", "--root", str(graph), "--runroot", str(run), "pod", "ps", "--format", "{{.Name}}"]
            listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
            found += [each for each in listed.split() if word in each]
        return found

    def running_words(self, variable: str) -> set[str]:
        """The values of a variable in the environments of this machine's processes."""
        prefix = f"{variable}=".encode()
        lines = {line for path in Path("/proc").glob("[0-9]*") for line in _environment_of(int(path.name)).split(b"\0")}
        return {line.removeprefix(prefix).decode() for line in lines if line.startswith(prefix)}

    def down(self) -> None:
        """End it all."""
        for name in self.names:
            if (self.data / name / "config" / "node.yaml").exists():
                self.agent(name, "service", "stop")
                self.agent(name, "teardown")
        shutil.rmtree(self.state, ignore_errors=True)


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
