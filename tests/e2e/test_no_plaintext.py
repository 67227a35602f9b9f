"""Whatever happens to a mesh, what was sealed is found nowhere but in the memory of those who run it."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.local_mesh import NAMES, LocalMesh, eventually, why_not
from tests.e2e.loop_disk import loop_disk

pytestmark = [
    pytest.mark.podman,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run"),
]

MARKER = "MARKER-5e41c0d9aa"
CONTROL = b"CONTROL-77aa10"
MANIFEST = f"""\
apiVersion: v1
kind: Secret
metadata: {{name: quiet}}
stringData: {{token: "{MARKER}-secret"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: quiet}}
data: {{motto: "{MARKER}-config"}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: quiet}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: quiet}}}}
  template:
    metadata: {{labels: {{app: quiet}}}}
    spec:
      containers:
        - name: web
          image: localhost/hello:1
          imagePullPolicy: Never
          # command
          env:
            - {{name: PLAIN, value: "{MARKER}-value-VERSION"}}
            - {{name: TOKEN, valueFrom: {{secretKeyRef: {{name: quiet, key: token}}}}}}
          volumeMounts: [{{name: secret, mountPath: /etc/quiet}}, {{name: config, mountPath: /etc/motto}}]
      volumes:
        - {{name: secret, secret: {{secretName: quiet}}}}
        - {{name: config, configMap: {{name: quiet}}}}
"""


def spellings(word: str) -> list[bytes]:
    """A word as it may stand in a file: as it is, in hex, and in base64 at each of the three offsets."""
    raw = word.encode()
    coded = [base64.b64encode(b"\0" * offset + raw)[4 if offset else 0 : -4] for offset in range(3)]
    return [raw, raw.hex().encode(), *coded]


def found_in(path: Path, words: Iterable[bytes]) -> list[str]:
    """Those of the words that some byte sequence of a file or device holds."""
    patterns = [argument for word in words for argument in ("-e", word.decode())]
    result = subprocess.run(["grep", "-a", "-o", "-F", *patterns, str(path)], capture_output=True, timeout=120)
    assert result.returncode in (0, 1), result.stderr
    return sorted(set(result.stdout.decode().split()))


@contextmanager
def capture(path: Path, ports: Iterable[int]) -> Iterator[None]:
    """Record all that passes through these ports of the loopback."""
    expression = " or ".join(f"port {port}" for port in ports)
    command = ["tcpdump", "-i", "lo", "-s", "0", "-U", "-B", "8192", "-w", str(path), expression]
    recorder = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert recorder.stderr is not None
    try:
        assert "listening on" in recorder.stderr.readline()
        yield
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.communicate(timeout=30)


def swap_devices() -> list[Path]:
    """What this machine swaps to."""
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    return [Path(line.split()[0]) for line in lines]


def placed(mesh: LocalMesh, via: str) -> dict[str, str]:
    """Replica → node, of the pods that are ready as one agent sees them."""
    items = mesh.json("get", "pods", "--via", via)["items"]
    return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in items if pod["status"]["phase"] == "Running"}


def live_through(mesh: LocalMesh) -> None:
    """Apply what fails and then what runs; lose a node and get it back; crash every agent; apply a change."""
    wrong = MANIFEST.replace("# command", f'command: ["/{MARKER}-command"]')
    failed = mesh.run("apply", "-", "--wait", "--timeout", "60s", stdin=wrong)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "executable file not found" in failed.stderr or "no such file" in failed.stderr, failed.stderr
    assert MARKER not in failed.stderr + mesh.run("events", "-o", "json").stdout  # every member reads these
    applied = mesh.run("apply", "-", "--wait", "--timeout", "60s", stdin=MANIFEST)
    assert applied.returncode == 0, applied.stderr
    before = placed(mesh, "e1")
    lost = next(iter(before.values()))
    other = next(name for name in NAMES if name != lost)
    assert mesh.agent(lost, "service", "stop").returncode == 0
    assert mesh.agent(lost, "teardown").returncode == 0
    moved = eventually(lambda: len(now := placed(mesh, other)) == 2 and lost not in now.values(), 60)
    assert moved, placed(mesh, other)
    assert mesh.agent(lost, "service", "start").returncode == 0
    assert eventually(lambda: mesh.run("get", "nodes").stdout.count(" Ready ") == len(NAMES), 40)
    for name in NAMES:
        pid = mesh.agent_pid(name)
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert any(line.split()[4:6] == ["0", "0"] for line in limits.splitlines() if "core file" in line)
        os.kill(pid, signal.SIGABRT)
    assert eventually(lambda: mesh.run("get", "nodes").stdout.count(" Ready ") == len(NAMES), 40)
    changed = mesh.run("apply", "-", "--wait", "--timeout", "60s", stdin=MANIFEST.replace("VERSION", "two"))
    assert changed.returncode == 0, changed.stderr


def test_no_word_of_a_manifest_is_found_anywhere(tmp_path: Path) -> None:
    """Not on the disk of the agents and images (raw, with what was deleted), in swap, journal, core files or on the
    wire: after applies, the loss of a node, a crash of all agents and a change."""
    if shutil.which("tcpdump") is None:
        pytest.skip("needs tcpdump, which `make test` installs where there is apt")
    recorded = tmp_path / "capture.pcap"
    with loop_disk(tmp_path) as disk:
        if disk.image is None:
            pytest.skip("no loop device here: the raw search needs a file system of its own")
        mesh = LocalMesh(tmp_path / "mesh", disk.mount)
        try:
            with capture(recorded, [port for pair in mesh.ports.values() for port in pair]):
                made = mesh.bootstrap()
                assert made.returncode == 0, made.stdout + made.stderr
                live_through(mesh)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.sendto(CONTROL, ("127.0.0.1", mesh.ports["e1"][0]))
                assert eventually(lambda: bool(found_in(recorded, [CONTROL])), 10)  # the capture sees what passes
            assert mesh.in_memory(MARKER), "the search would not see a container that has it"
        finally:
            mesh.down()
        subprocess.run(["sync", "-f", str(disk.mount)], check=True)
        words = spellings(MARKER)
        assert found_in(disk.image, words) == []
        assert found_in(disk.image, [b"localhost/hello"])  # records name images: the search sees what is there
        assert not list(disk.mount.rglob("core*"))
    assert found_in(recorded, words) == []
    assert recorded.stat().st_size > 100_000
    for device in swap_devices():
        assert found_in(device, words) == [], device
    assert journal_lines(MARKER) == ""


def journal_lines(word: str) -> str:
    """What the machine's journal holds of a word; empty where there is no journal."""
    if shutil.which("journalctl") is None:
        return ""
    command = ["journalctl", "--no-pager", "-a", "-q", "--since", "-1h", "--grep", word]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
