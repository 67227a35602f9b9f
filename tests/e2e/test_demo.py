"""`make demo` and `make demo-down` as a newcomer runs them, in a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.local_mesh import ROOT, why_not

pytestmark = [
    pytest.mark.podman,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run"),
]

PORTS = (17946, 17947, 17956, 17957, 17966, 17967)


def _taken() -> list[int]:
    taken = []
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.append(port)
    return taken


@pytest.fixture
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's files that shares this one's virtual environment."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    copy = tmp_path_factory.mktemp("demo") / "checkout"
    for name in listed.stdout.splitlines():
        source = ROOT / name
        if source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / name)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    return copy


def test_the_demo_comes_up_and_leaves_nothing_behind(checkout: Path) -> None:
    """Three agents, two replicas whose pages show the Secret; a second run is quick; `demo-down` leaves no trace."""
    if taken := _taken():
        pytest.skip(f"a demo seems to run here already: ports {taken} are taken")
    mounts_before = _mounts()
    links_before = _links()
    command = [str(ROOT / ".venv/bin/python"), "examples/local/demo.py"]
    environment = {key: value for key, value in os.environ.items() if key != "BEEMESH_HOME"}
    try:
        for _ in range(2):
            up = subprocess.run(
                [*command, "up"], cwd=checkout, env=environment, capture_output=True, text=True, timeout=150
            )
            assert up.returncode == 0, up.stdout + up.stderr
            assert up.stdout.count("GREETING_TOKEN=honey-is-sweet") == 2, up.stdout
            assert up.stdout.count("/etc/hello/token=honey-is-sweet") == 2, up.stdout
        assert "unchanged" in up.stdout
    finally:
        down = subprocess.run(
            [*command, "down"], cwd=checkout, env=environment, capture_output=True, text=True, timeout=90
        )

    assert down.returncode == 0, down.stdout + down.stderr
    assert not (checkout / ".demo").exists()
    assert not Path("/run/beemesh-demo").exists()
    assert _mounts() == mounts_before
    assert _links() == links_before
    assert _processes(checkout) == []


def _mounts() -> set[str]:
    return {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}


def _links() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def _processes(checkout: Path) -> list[str]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                command = (place / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if str(checkout) in command and "pytest" not in command:
                found.append(command)
    return found
