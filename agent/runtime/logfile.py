"""Logs of containers as conmon writes them (k8s-file): read without a call of podman, followed by looking at the file.

A line of the file is `<RFC 3339 time> stdout|stderr F|P <text>`; `P` says that the text goes on in the next line.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path

POLL_S = 0.2  # how far behind a followed log may be; one fstat per poll and reader
MAX_TAIL_LINES = 100_000
MAX_LINE_BYTES = 1024 * 1024  # a longer line is handed out in pieces
READ_BYTES = 64 * 1024


async def read_log(
    path: Path,
    *,
    follow: bool,
    tail_lines: int | None,
    since_ms: int | None,
    timestamps: bool,
    ended: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """The log's lines, each with its newline. With `follow`, goes on until `ended()` says so and all is read."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return
    try:
        joiner = LineJoiner(since_ms, timestamps)
        if tail_lines is not None:
            last: deque[bytes] = deque(maxlen=min(max(tail_lines, 0), MAX_TAIL_LINES))
            while chunk := file.read(READ_BYTES):
                last.extend(joiner.feed(chunk))
            for line in last:
                yield line
        while True:
            finishing = ended() if follow else True
            while chunk := file.read(READ_BYTES):
                for line in joiner.feed(chunk):
                    yield line
            if finishing:
                break
            if rotated := _rotated(path, file.fileno()):
                file.close()
                file = rotated.open("rb", buffering=0)
                continue
            await asyncio.sleep(POLL_S)
        for line in joiner.rest():
            yield line
    finally:
        file.close()


def _rotated(path: Path, descriptor: int) -> Path | None:
    try:
        now, held = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return None
    return path if (now.st_ino, now.st_dev) != (held.st_ino, held.st_dev) else None


class LineJoiner:
    """Bytes of a k8s-file log in, whole lines of output out."""

    def __init__(self, since_ms: int | None = None, timestamps: bool = False) -> None:
        """Leave out lines older than `since_ms`; `timestamps` puts each line's time before it."""
        self._since_ms = since_ms
        self._timestamps = timestamps
        self._tail = b""
        self._partial: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take in the next bytes of the file."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            parts = line.split(b" ", 3)
            if len(parts) < 4:
                continue
            stamp, stream, flag, text = parts
            if self._since_ms is not None and time_ms(stamp) < self._since_ms:
                continue
            whole = self._partial.pop(stream, b"") + text
            if flag == b"P" and len(whole) < MAX_LINE_BYTES:
                self._partial[stream] = whole
                continue
            yield (stamp + b" " + whole if self._timestamps else whole) + b"\n"

    def rest(self) -> Iterator[bytes]:
        """What was written without a newline at the end."""
        for text in self._partial.values():
            yield text + b"\n"
        self._partial.clear()


def time_ms(stamp: bytes) -> int:
    """Milliseconds since 1970 of an RFC 3339 time; 0 for what is none."""
    text = stamp.decode("ascii", "replace")
    head, dot, fraction = text.partition(".")
    if dot:
        digits = fraction.rstrip("Z")
        for sign in "+-":
            digits = digits.partition(sign)[0]
        text = f"{head}.{digits[:6]}{fraction[len(digits) :]}"
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return 0
