"""Commands inside podman's containers that take nothing with them when they run out of time.

A killed `podman exec` leaves its command running, with a conmon and a session. So the command is killed first: then
podman sees it end, and cleans up after it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from agent.runtime.command import CallResult
from agent.runtime.contract import FailureReason, RuntimeFailure

MARK = "BEEMESH_EXEC"
"""The variable by which a command is told from others in the same container."""
CLEAN_UP_S = 3.0  # what podman gets to clean up after a command that was killed; some 200 ms


class PodmanInput(Protocol):
    """Runs podman with these words and this input."""

    def __call__(
        self, words: Sequence[str], *, timeout_s: float, stdin: bytes = b""
    ) -> Coroutine[Any, Any, CallResult]:
        """See `PodmanRuntime`."""
        ...


async def run_inside(
    podman: PodmanInput, container_id: str, argv: Sequence[str], *, userdata: Path, stdin: bytes, timeout_s: float
) -> CallResult:
    """Run a command in a container; at its deadline, or when this is cancelled, it is killed with its process group.

    `userdata` is where podman keeps what it knows of the container.
    """
    mark = f"{MARK}={uuid.uuid4().hex}"
    words = ["exec", "--env", mark, *(["-i"] if stdin else []), container_id, *argv]
    running = asyncio.create_task(podman(words, timeout_s=timeout_s + CLEAN_UP_S, stdin=stdin))
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(running)
    except TimeoutError as error:
        raise RuntimeFailure(
            FailureReason.TIMEOUT, f"the command did not end within {timeout_s:g} s and was killed"
        ) from error
    finally:
        if not running.done():
            await asyncio.shield(_end(running, userdata, mark))


async def _end(running: asyncio.Task[CallResult], userdata: Path, mark: str) -> None:
    kill_marked(userdata, mark)
    await asyncio.wait([running], timeout=CLEAN_UP_S)
    if not running.done():  # podman itself hangs
        running.cancel()
        await asyncio.wait([running])
        kill_marked(userdata, mark)
    if not running.cancelled():
        running.exception()  # nobody asks any more


def kill_marked(userdata: Path, mark: str) -> None:
    """Kill the command whose session, in a folder of its own, was made with the mark."""
    for document in userdata.glob("*/exec-process-*"):
        with suppress(OSError, ValueError):  # it ended meanwhile
            if f'"{mark}"'.encode() in document.read_bytes():
                pid = int((document.parent / "exec_pid").read_text())
                if os.getpgid(pid) == pid:
                    os.killpg(pid, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGKILL)
