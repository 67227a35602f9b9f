"""The process engine and its monitors: what is ended when the store is full, or a start is cut off."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import shim
from agent.runtime.process import ProcessRuntime, ProcessSettings


@pytest.fixture
def monitor() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a monitor."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def engine(base: Path, monitor: subprocess.Popen[bytes]) -> ProcessRuntime:
    """An engine with the pod `web`, whose monitor has started nothing yet."""
    runtime = ProcessRuntime(ProcessSettings(base / "s", base / "d"))
    home = base / "s/process/web"
    home.mkdir(parents=True)
    state = {"pid": monitor.pid, "ticks": shim._boot_ticks(monitor.pid), "ended": False, "stopped": False}
    (home / "state.json").write_text(json.dumps({**state, "containers": []}))
    return runtime


@pytest.mark.asyncio
async def test_a_full_store_keeps_no_pod_from_ending(
    tmp_path: Path, monitor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor is told although its grace cannot be written; an older grace does not count."""
    runtime = engine(tmp_path, monitor)
    grace = tmp_path / "s/process/web/grace"
    grace.write_text("1000")

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    await runtime.stop("web", 5)
    assert monitor.poll() is not None
    assert not grace.exists()


@pytest.mark.asyncio
async def test_what_cannot_be_read_now_is_not_removed(
    tmp_path: Path, monitor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent starts when no descriptor is left: it fails, and tries again, before it takes a pod for half-started."""
    runtime = engine(tmp_path, monitor)
    read = Path.read_text

    def poor(path: Path, *arguments: Any) -> str:
        if path.name == "state.json":
            raise OSError(errno.ENFILE, "Too many open files in system")
        return read(path, *arguments)

    monkeypatch.setattr(Path, "read_text", poor)
    monkeypatch.setattr("agent.runtime.process.ensure_tmpfs", _nothing)
    with pytest.raises(OSError, match="Too many open files"):
        await runtime.prepare()

    assert (tmp_path / "s/process/web").is_dir()
    assert monitor.poll() is None


async def _nothing(*_arguments: object) -> None:
    """No mount."""


class SessionBegunError(Exception):
    """The monitor has left the process group of the call that starts it."""


def begin(home: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """What a monitor does until its session begins."""

    def setsid() -> None:
        raise SessionBegunError

    body = json.dumps({"dir": str(home)}).encode()
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "setsid", setsid)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(body)))
    return shim.main()


def test_a_monitor_can_be_found_before_it_outlives_the_call_that_starts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However early a deployment is cut off, either its process group or `state.json` leads to the monitor."""
    with pytest.raises(SessionBegunError):
        begin(tmp_path, monkeypatch)
    assert json.loads((tmp_path / "state.json").read_text())["pid"] == os.getpid()


def test_a_monitor_of_a_pod_that_was_removed_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot say where it is, so it ends."""
    assert begin(tmp_path / "gone", monkeypatch) == 1


@pytest.mark.asyncio
async def test_a_monitor_that_had_started_nothing_when_its_agent_died_is_ended(
    tmp_path: Path, monitor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows of its pod: the start was never answered."""

    async def ensure(*_arguments: object) -> None:
        pass

    monkeypatch.setattr("agent.runtime.process.ensure_tmpfs", ensure)
    runtime = engine(tmp_path, monitor)
    await runtime.prepare()
    try:
        assert monitor.poll() is not None
        assert await runtime.list() == ()
        assert not (tmp_path / "s/process/web").exists()
    finally:
        await runtime.close()
