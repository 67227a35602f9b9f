"""The process engine and its monitors: what is ended when the store is full, or a start is cut off."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

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
