"""Every wait for a lock of the host and every call of another program ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from agent.locks import HostLock, LockTimeout
from agent.runtime.command import call, end_orphans
from agent.runtime.contract import FailureReason, RuntimeFailure

pytestmark = pytest.mark.asyncio


async def test_sharers_hold_it_together_and_exclude_others(tmp_path: Path) -> None:
    """Two sharers are inside at once; one who wants it alone waits, and gives up at its deadline."""
    lock, other = HostLock(tmp_path / "deep" / "lock"), HostLock(tmp_path / "deep" / "lock")
    async with lock.shared(1), other.shared(1):
        with pytest.raises(LockTimeout, match="deep/lock"):
            async with other.exclusive(0.02):
                pass
    async with lock.exclusive(1):
        with pytest.raises(LockTimeout):
            async with other.shared(0.02):
                pass
    async with lock.shared(1):
        pass


async def test_a_stream_of_sharers_starves_nobody(tmp_path: Path) -> None:
    """Who wants it alone gets it although sharers keep coming."""
    lock, done = HostLock(tmp_path / "lock"), asyncio.Event()

    async def sharer() -> None:
        while not done.is_set():
            async with lock.shared(5):
                await asyncio.sleep(0.005)

    sharers = [asyncio.create_task(sharer()) for _ in range(4)]
    await asyncio.sleep(0.01)
    async with lock.exclusive(3):
        done.set()
    await asyncio.gather(*sharers)


async def test_input_goes_in_and_output_is_bounded() -> None:
    """Standard input is handed over whole; output beyond the limit is dropped, not waited for."""
    echoed = await call(["cat"], timeout_s=5, stdin=b"x" * 200_000)
    assert len(echoed.stdout) == 200_000
    bounded = await call(
        ["sh", "-c", "head -c 300000 /dev/zero; echo no >&2; exit 7"], timeout_s=5, max_output_bytes=10
    )
    assert (bounded.exit_code, len(bounded.stdout), bounded.error_text.rstrip("\0\n")) == (7, 10, "no")


async def test_a_call_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """At its deadline the whole process group is gone."""
    note = tmp_path / "pid"
    with pytest.raises(RuntimeFailure) as caught:
        await call(["sh", "-c", f"sleep 1000 & echo $! > {note}; wait"], timeout_s=0.3)
    assert caught.value.reason is FailureReason.TIMEOUT
    child = int(note.read_text())
    for _ in range(100):
        if not _alive(child):
            return
        await asyncio.sleep(0.02)
    pytest.fail("the child outlived its call")


async def test_calls_of_an_agent_that_is_no_more_are_ended() -> None:
    """Those with the words and the mark, with their helpers; no other, and it returns when they are gone."""

    def start(mark: str, *words: str) -> subprocess.Popen[bytes]:
        command = ["sh", "-c", "sleep 1000; true", *words]
        return subprocess.Popen(command, env={**os.environ, "MARK": mark}, start_new_session=True)

    orphan = start("mine", "kube", "play", "-")
    others = [start("other", "kube", "play", "-"), start("mine", "kube", "down")]
    try:
        assert await asyncio.to_thread(end_orphans, ("kube", "play"), ("MARK", "mine")) == 1
        assert orphan.poll() is not None
        assert [other.poll() for other in others] == [None, None]
    finally:
        for process in (orphan, *others):
            process.kill()
            process.wait()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_missing_program_is_named() -> None:
    """There is no traceback for a program that is not installed, but its name and a hint."""
    with pytest.raises(RuntimeFailure, match="no-such-engine") as caught:
        await call(["no-such-engine", "ps"], timeout_s=1)
    assert caught.value.reason is FailureReason.ENGINE_MISSING
    assert "install" in caught.value.hint


async def test_no_argument_is_repeated_in_an_error() -> None:
    """What was called is named by its first words only."""
    with pytest.raises(RuntimeFailure) as caught:
        await call(["sh", "-c", "sleep 5", "one", "two", "--secret=/x"], timeout_s=0.05)
    assert "secret" not in str(caught.value)
    assert os.sep not in caught.value.message
