"""The connection to this very machine: plain processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from beemesh.errors import NotFound
from beemeshctl.ssh.connection import (
    CHUNK_BYTES,
    DEFAULT_TIMEOUT_S,
    MAX_OUTPUT_BYTES,
    Become,
    Result,
    put_by_command,
    too_slow,
)


class LocalConnection:
    """Runs commands as child processes, each in a session of its own so that a timeout ends all of it."""

    peer_address = ""

    def __init__(self, *, become: bool = False, become_password: str = "") -> None:
        self._become = Become(wanted=False, password="")
        self._wished = Become(wanted=become and os.geteuid() != 0, password=become_password)

    async def open(self) -> None:
        """Make sure that root can be had where it is wanted; raises `CannotBecomeRoot`."""
        await self._wished.prepare(self)
        self._become = self._wished

    async def run(
        self, command: Sequence[str], *, stdin: bytes | Path = b"", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Result:
        """See `Connection.run`."""
        words, first = self._become.wrap(command)
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            return Result(127, b"", f"{words[0]}: command not found".encode())
        except PermissionError:
            return Result(126, b"", f"{words[0]}: permission denied".encode())
        try:
            async with asyncio.timeout(timeout_s):
                _, stdout, stderr = await asyncio.gather(
                    _feed(process, first, stdin), _drain(process.stdout), _drain(process.stderr)
                )
                return Result(await process.wait(), stdout, stderr)
        except TimeoutError:
            raise too_slow(words[0], timeout_s) from None
        finally:
            await _end(process)

    async def put(self, content: bytes | Path, path: str, *, mode: int = 0o600) -> None:
        """See `Connection.put`."""
        await put_by_command(self, content, path, mode)

    async def close(self) -> None:
        """Nothing is held open."""


async def _feed(process: asyncio.subprocess.Process, first: bytes, content: bytes | Path) -> None:
    writer = process.stdin
    if writer is None:
        raise NotFound("the command has no input")
    # A command may end without reading all it is offered; what it said is in its status.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        writer.write(first)
        if isinstance(content, bytes):
            writer.write(content)
            await writer.drain()
        else:
            with content.open("rb") as stream:
                while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
                    writer.write(chunk)
                    await writer.drain()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        writer.close()
        await writer.wait_closed()


async def _drain(reader: asyncio.StreamReader | None) -> bytes:
    kept = bytearray()
    while reader is not None and (chunk := await reader.read(CHUNK_BYTES)):
        kept += chunk[: MAX_OUTPUT_BYTES - len(kept)]
    return bytes(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the command's session."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
