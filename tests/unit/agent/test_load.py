"""What one peer may make an agent do: half a core in the long run, and never before everybody else's turn."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from agent.transport import load
from agent.transport.connection import Connection
from agent.transport.load import BUSY_S_MAX, CORE_SHARE_MAX, TURN_S, Load
from agent.transport.streams import Streams
from beemesh.membership.messages import Introduction
from beemesh.wire.framing import Frame, FrameDecoder, FrameKind, encode_frame
from beemesh.wire.registry import encode_message
from tests.contract.test_streams import shown_card
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


@pytest.mark.asyncio
async def test_who_opens_another_stream_does_not_begin_anew() -> None:
    """What a peer took on one that it has closed counts on the next."""
    streams = Streams(None, roster("a"), lambda *_: None, lambda *_: None)  # type: ignore[arg-type]
    now_s = asyncio.get_running_loop().time()
    connection = Connection(PEER, asyncio.StreamReader(), Writer(), streams)  # type: ignore[arg-type]
    streams.load(PEER).spend(BUSY_S_MAX, now_s)
    connection.close()
    del connection
    gc.collect()

    assert streams.load(PEER).spend(0.2, now_s)


@pytest.mark.asyncio
async def test_nothing_more_is_heard_of_a_peer_that_is_shut_out_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had sent before is read already, and dropped."""
    heard: list[object] = []

    def told(_peer: object, message: object) -> None:
        heard.append(message)
        asyncio.get_running_loop().call_soon(streams.close_strangers)

    monkeypatch.setattr(Load, "spend", lambda *_: 0.0)
    streams = Streams(None, roster("a"), lambda *_: None, told)  # type: ignore[arg-type]
    reader = asyncio.StreamReader()
    connection = Connection(PEER, reader, Writer(), streams)  # type: ignore[arg-type]
    streams._incoming.add(connection)
    code, body = encode_message(Introduction(shown_card("b")))
    reader.feed_data(encode_frame(Frame(FrameKind.TELL, 0, code, 0, body)) * 5)
    reader.feed_eof()
    await connection.run()

    assert len(heard) == 1
