"""Facts of a healthy host, wishes for one, and an agent that only pretends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from beemeshctl.bootstrap.facts import Disk, Facts, Podman, Port, ServiceState
from beemeshctl.bundle import Bundle, Target, pack
from beemeshctl.inventory.desired import DesiredNode, desired_nodes
from beemeshctl.inventory.reader import read_inventory

GIB = 1 << 30

STUB_AGENT = """
import hashlib, json, os, pathlib, socket, subprocess, sys, time


def main():
    words = sys.argv[1:]
    if words[0] == "init":
        keys = pathlib.Path(words[2]) / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        if not (keys / "x25519").exists():
            (keys / "x25519").write_bytes(os.urandom(32))
        sign = hashlib.sha256(b"sign" + (keys / "x25519").read_bytes()).digest()
        import base64
        node_id = base64.b32encode(hashlib.sha256(sign).digest()).decode().rstrip("=").lower()
        # 9 is a point on the curve; nobody opens what is sealed here.
        print(json.dumps({"node_id": node_id, "sign_key": sign.hex(), "open_key": (9).to_bytes(32, "little").hex()}))
        return 0
    config = pathlib.Path(words[words.index("--config-dir") + 1])
    line = next(line for line in (config / "node.yaml").read_text().splitlines() if line.startswith("  data: "))
    data = pathlib.Path(json.loads(line.removeprefix("  data: ")))
    if words[0] == "service":
        with (data / "calls").open("a") as calls:
            calls.write(words[1] + chr(10))
        if words[1] == "restart":
            pid = int((data / "service.lock").read_text())
            os.kill(pid, 9)
            time.sleep(0.1)
        process = subprocess.Popen(
            [sys.executable, "-I", os.path.abspath(sys.argv[0]), "serve", "--config-dir", str(config)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(0.1)
        return 0
    if words[0] == "serve":
        import fcntl
        lock = (data / "service.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        path = data / "agent.sock"
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen(5)
        server.settimeout(60)
        while True:
            client, _ = server.accept()
            request = client.recv(65536)
            if request.startswith(b"POST"):
                head, _, body = request.partition(b"\\r\\n\\r\\n")
                while len(body) < int(head.split(b"Content-Length: ")[1].split()[0]):
                    body += client.recv(65536)
                with (data / "submissions").open("a") as log:
                    log.write(request.split()[1].decode() + chr(10))
            refused = request.startswith(b"POST") and (data / "refuse").exists()
            client.sendall(b"HTTP/1.0 503 no\\r\\n\\r\\nbusy" if refused else b"HTTP/1.0 200 OK\\r\\n\\r\\nok")
            client.close()
"""


def healthy(**changes: Any) -> Facts:
    """A host that can be bootstrapped, unless told otherwise."""
    facts = Facts(
        python=(3, 11, 2),
        implementation="cpython",
        executable="/usr/bin/python3",
        gil_disabled=False,
        uid=0,
        arch="x86_64",
        libc=("glibc", 2, 36),
        hostname="box",
        machine_id="0123",
        kernel="6.1.0",
        systemd=True,
        cpus=4,
        memory_bytes=4 * GIB,
        swap=(),
        address="10.0.0.5",
        podman=Podman("/usr/bin/podman", "4.3.1", "/usr/bin/crun"),
        disks={path: Disk(9 * GIB, 20 * GIB, True) for path in ("/var/lib/beemesh", "/opt/beemesh", "/etc/beemesh")},
        ports={name: Port(True) for name in ("gossip UDP", "gossip TCP", "api TCP")},
        files={},
        release="",
        keys=False,
        service=ServiceState(False, False, False),
        supervised=False,
        wall_ms=0,
    )
    return msgspec.structs.replace(facts, **changes)


@pytest.fixture
def wish(tmp_path: Path) -> Callable[..., DesiredNode]:
    """A wish for a host `a`, from what an inventory would say of it."""

    def make(**variables: Any) -> DesiredNode:
        import json

        path = tmp_path / "wish.yaml"
        path.write_text(json.dumps({"all": {"hosts": {"a": {"ansible_host": "10.0.0.5", **variables}}}}))
        inventory = read_inventory(path)
        return desired_nodes(inventory, inventory.hosts)[0]

    return make


class StubBundles:
    """A store whose one bundle holds the pretended agent; `version` makes another one."""

    version = "1"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def get(self, target: Target) -> Bundle:
        """The same for every target."""
        launch = (
            b"import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'lib'))\n"
        )
        content = pack(
            {"launch.py": launch + b"from stub import main\nsys.exit(main())\n", "lib/stub.py": STUB_AGENT.encode()}
        )
        digest = hashlib.sha256(content + self.version.encode()).hexdigest()
        self._folder.mkdir(parents=True, exist_ok=True)
        archive = self._folder / f"{digest}.tar.gz"
        archive.write_bytes(content)
        return Bundle(archive, digest[:32], hashlib.sha256(content).hexdigest(), len(content))
