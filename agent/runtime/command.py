"""Calls of other programs: always with a deadline, in a process group of their own, with bounded output.

What a program is told in confidence goes to its standard input; arguments are visible to everybody on the machine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.runtime.contract import FailureReason, RuntimeFailure

MAX_OUTPUT_BYTES = 8 * 1024 * 1024  # per stream: a listing of some 2,000 containers as JSON
READ_BYTES = 64 * 1024
REAP_TIMEOUT_S = 2.0  # after SIGKILL a process that is not stuck in the kernel is gone by then
REAP_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a program ended. Streams are cut at the limit that was asked for."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def error_text(self) -> str:
        """What it said about its failure, in one string."""
        return (self.stderr + b"\n" + self.stdout).decode("utf-8", "replace").strip()


async def call(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
) -> CallResult:
    """Run `argv` to its end. Raises `Timeout` after `timeout_s`, `EngineMissing` when there is no such program, and
    `EngineError` when the machine cannot run it now.

    A program that runs out of time, and every call that is cancelled, is killed with all of its process group.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(env) if env is not None else None,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise RuntimeFailure(
            FailureReason.ENGINE_MISSING,
            f"cannot run {argv[0]!r}: {error.strerror or error}",
            hint=f"install {argv[0].rpartition('/')[2]}, or choose another runtime.engine in node.yaml",
        ) from error
    except OSError as error:  # no memory, process or descriptor is left, or an argument is too long
        raise RuntimeFailure(
            FailureReason.ENGINE_ERROR,
            f"cannot run {_shown(argv)}: {error.strerror or error}",
            hint="look at the machine's memory, processes and open files (free -m, ps -e, ulimit -a), then try again",
        ) from error
    finished = False
    try:
        async with asyncio.timeout(timeout_s):
            _, stdout, stderr = await asyncio.gather(
                _feed(process.stdin, stdin),
                _drain(process.stdout, max_output_bytes),
                _drain(process.stderr, max_output_bytes),
            )
            code = await process.wait()
        finished = True
        return CallResult(code, stdout, stderr)
    except TimeoutError as error:
        raise RuntimeFailure(
            FailureReason.TIMEOUT,
            f"{_shown(argv)} did not end within {timeout_s:g} s and was killed",
            hint="look at the machine's load and disk (uptime, df -h), then try again",
        ) from error
    finally:
        if not finished:
            await asyncio.shield(_kill(process))


def end_orphans(words: Sequence[str], environment: tuple[str, str]) -> int:
    """Kill the calls that an agent which is no more left at work, and return how many there were.

    Such a call is known by consecutive `words` among its arguments and by a variable of its environment. It returns
    when they are gone, or after `REAP_TIMEOUT_S`: what they still make then would be made behind our back.
    """
    found = list(_calls(words, environment))
    for pid in found:
        with suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:  # `call` gives each one a group of its own, whose helpers end with it
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + REAP_TIMEOUT_S
    while any(_calls(words, environment)) and time.monotonic() < deadline_s:
        time.sleep(REAP_POLL_S)
    return len(found)


def _calls(words: Sequence[str], environment: tuple[str, str]) -> Iterator[int]:
    wanted = "=".join(environment).encode()
    spoken = b"\0" + b"\0".join(word.encode() for word in words) + b"\0"
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is somebody else's
            if spoken in (folder / "cmdline").read_bytes() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


async def _feed(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    if stream is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
    with suppress(BrokenPipeError, ConnectionResetError):
        stream.close()
        await stream.wait_closed()


async def _drain(stream: asyncio.StreamReader | None, limit: int) -> bytes:
    if stream is None:
        return b""
    kept = bytearray()
    while chunk := await stream.read(READ_BYTES):
        kept += chunk[: limit - len(kept)]
    return bytes(kept)


async def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(REAP_TIMEOUT_S):
            await process.wait()


def _shown(argv: Sequence[str]) -> str:
    """The program and its first plain words; enough to know which call it was."""
    words = [argv[0].rpartition("/")[2]]
    words += [word for word in argv[1:4] if not word.startswith("-") and "/" not in word]
    return repr(" ".join(words[:3]))
