"""What one peer may make an agent do: half a core in the long run, and never before everybody else's turn."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from agent.transport import load
from agent.transport.connection import Connection
from agent.transport.load import BUSY_S_MAX, CORE_SHARE_MAX, TURN_S, Load
from agent.transport.streams import Streams
from beemesh.wire.framing import FrameDecoder
from tests.unit.agent.test_edges import PEER, Writer, request
from tests.unit.identity.cast import roster


@pytest.mark.parametrize("busy_s", [0.0001, 0.003, 0.2, 3.0])
def test_a_flood_takes_no_more_than_its_share(busy_s: float) -> None:
    """However long one message takes; the last one may go beyond, and is made up for."""
    peer, now_s, spent_s = Load(), 100.0, 0.0
    while now_s < 160.0:
        now_s, spent_s = now_s + busy_s, spent_s + busy_s
        now_s += peer.spend(busy_s, now_s) or 0.0

    passed_s = now_s - 100.0
    share_s = CORE_SHARE_MAX * passed_s
    assert 0.8 * share_s < spent_s <= share_s + BUSY_S_MAX + busy_s


def test_a_peer_that_asks_in_measure_never_waits() -> None:
    """Neither for a burst of a second nor for a third of a core all along; others have their turn in between."""
    peer, pauses = Load(), []
    for number in range(30_000):
        pauses.append(peer.spend(0.001, 100.0 + 0.003 * number))

    assert set(pauses) == {None, 0.0}
    assert pauses.count(0.0) == pytest.approx(30_000 * 0.001 / TURN_S, rel=0.01)
    assert Load().spend(BUSY_S_MAX, 100.0) == 0.0


@pytest.mark.asyncio
async def test_requests_that_take_long_are_read_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sixty that came at once all are answered, others are served in between, and past the share they wait."""
    monkeypatch.setattr(load, "BUSY_S_MAX", 0.05)
    turns, spent_s = 0, 0.0

    def asked(_peer: object, token: int, *_rest: Any) -> None:
        nonlocal spent_s
        began_s = time.thread_time()
        while time.thread_time() - began_s < 0.003:
            pass
        spent_s += time.thread_time() - began_s
        streams.refuse(token, "not here")

    def others() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(others)

    streams = Streams(None, roster("a"), asked, lambda *_: None)  # type: ignore[arg-type]
    reader, writer = asyncio.StreamReader(limit=2**20), Writer()
    connection = Connection(PEER, reader, writer, streams)  # type: ignore[arg-type]
    reader.feed_data(b"".join(request(number) for number in range(60)))
    reader.feed_eof()
    others()
    began_s = time.monotonic()
    await connection.run()

    assert len(list(FrameDecoder().feed(writer.written))) == 60
    assert turns > 10
    assert time.monotonic() - began_s > (spent_s - 0.05) / CORE_SHARE_MAX - 0.02
