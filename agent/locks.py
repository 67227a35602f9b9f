"""Locks between the processes of one host: several agents, and an agent beside a person's command.

A `HostLock` is a pair of `flock`ed files. The kernel lets go of them when their process dies, so a killed agent never
leaves one held. Waiting is asynchronous and always bounded.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from beemesh.errors import BeemeshError

FIRST_WAIT_S = 0.005  # a start of a pod takes some 200 ms: poll finely at first, then leave the processor alone
LONGEST_WAIT_S = 0.05
LOCK_MODE = 0o600


class LockTimeout(BeemeshError):
    """Somebody else on this host held the lock for longer than we may wait."""

    http_status = 503


class HostLock:
    """A readers-writer lock of a whole host, named by a path.

    Those who ask for it exclusively are not starved by a stream of those who share it: everybody passes a gate first,
    and the exclusive one keeps the gate while it waits for the others to leave.
    """

    def __init__(self, path: Path) -> None:
        """`path` need not exist; its directory is made when the lock is first taken."""
        self.path = path
        self._gate_path = path.with_name(path.name + ".gate")

    @asynccontextmanager
    async def shared(self, timeout_s: float) -> AsyncIterator[None]:
        """Hold it together with other sharers; raises `LockTimeout` after `timeout_s`."""
        async with self._hold(fcntl.LOCK_SH, timeout_s):
            yield

    @asynccontextmanager
    async def exclusive(self, timeout_s: float) -> AsyncIterator[None]:
        """Hold it alone; raises `LockTimeout` after `timeout_s`."""
        async with self._hold(fcntl.LOCK_EX, timeout_s):
            yield

    @asynccontextmanager
    async def _hold(self, how: int, timeout_s: float) -> AsyncIterator[None]:
        deadline = time.monotonic() + timeout_s
        gate = await self._take(self._gate_path, fcntl.LOCK_EX, deadline, timeout_s)
        try:
            held = await self._take(self.path, how, deadline, timeout_s)
        finally:
            os.close(gate)
        try:
            yield
        finally:
            os.close(held)

    async def _take(self, path: Path, how: int, deadline: float, timeout_s: float) -> int:
        descriptor = _open(path)
        wait_s = FIRST_WAIT_S
        try:
            while not _try_lock(descriptor, how):
                if time.monotonic() >= deadline:
                    raise LockTimeout(
                        f"{path}: another process of this host held the lock for more than {timeout_s:g} s",
                        hint=f"see who holds it with: fuser {path}",
                    )
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, LOCK_MODE)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, LOCK_MODE)


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
