"""Logs in conmon's format are read line by line, whole, and from the right place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.logfile import LineJoiner, read_log, time_ms

STAMP = b"2026-11-21T01:28:44.760527787+00:00"


def test_partial_lines_are_joined_by_stream() -> None:
    """`P` pieces of one stream make one line, whatever the other stream says between them."""
    raw = b"".join(STAMP + b" " + rest + b"\n" for rest in (b"stdout P ab", b"stderr F oops", b"stdout F c", b"broken"))
    assert list(LineJoiner().feed(raw)) == [b"oops\n", b"abc\n"]


@given(st.lists(st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"")), max_size=20), st.integers(1, 7))
def test_lines_do_not_depend_on_how_they_are_read(lines: list[bytes], step: int) -> None:
    """The same lines come out however the file is cut into reads."""
    raw = b"".join(STAMP + b" stdout F " + line + b"\n" for line in lines)
    joiner = LineJoiner()
    out = [line for start in range(0, len(raw), step) for line in joiner.feed(raw[start : start + step])]
    assert out == [line + b"\n" for line in lines]


def test_times_are_read_and_lines_left_out_by_them() -> None:
    """Nanoseconds and zones are understood; `since_ms` leaves out what is older."""
    assert time_ms(STAMP) == time_ms(b"2026-11-21T02:28:44.760+01:00") == 1795224524760
    assert time_ms(b"2026-11-21T01:28:44Z") == 1795224524000
    assert time_ms(b"yesterday") == 0
    raw = STAMP + b" stdout F old\n2026-11-21T01:28:45.000000001+00:00 stdout F new\n"
    assert list(LineJoiner(since_ms=1795224525000).feed(raw)) == [b"new\n"]
    assert next(iter(LineJoiner(timestamps=True).feed(raw))) == STAMP + b" old\n"


@pytest.mark.asyncio
async def test_following_survives_a_rotation(tmp_path: Path) -> None:
    """When conmon starts a new file, the reader goes on in it, and ends when it is told."""
    path, ended, seen = tmp_path / "ctr.log", [False], []
    path.write_bytes(STAMP + b" stdout F one\n")
    reading = read_log(path, follow=True, tail_lines=None, since_ms=None, timestamps=False, ended=lambda: ended[0])
    async with asyncio.timeout(5):
        async for line in reading:
            seen.append(line)
            if line == b"one\n":
                (tmp_path / "next").write_bytes(STAMP + b" stdout F two\n")
                (tmp_path / "next").replace(path)
            else:
                ended[0] = True
    assert seen == [b"one\n", b"two\n"]
