"""Pieces make up the message that they were cut from, and nobody's pieces spoil another's."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.ids import NodeId
from beemesh.topics.chunks import (
    ASSEMBLED_S,
    CHUNK_BYTES,
    CHUNKED_BYTES_MAX,
    CHUNKS_MAX,
    OPEN_MAX,
    OPEN_PER_SENDER_MAX,
    TOPIC_BYTES_MAX,
    WHOLE_BYTES_MAX,
    Assembly,
    is_chunked,
    split,
)
from beemesh.topics.messages import Chunk, TopicMessage
from beemesh.topics.store import message_id
from beemesh.wire.datagram import BODY_BYTES_MAX
from beemesh.wire.registry import encode_message

PEER, OTHER = NodeId(b"p" * 32), NodeId(b"o" * 32)


def _message(body: bytes, topic: str = "scheduler-tasks") -> TopicMessage:
    return TopicMessage(topic, message_id(topic, body), body, 3, True)


@given(size=st.integers(CHUNK_BYTES, CHUNKED_BYTES_MAX), order=st.randoms(use_true_random=False))
def test_pieces_in_any_order_make_the_message(size: int, order: object) -> None:
    """Whatever the size, the order and the repetitions: the last missing piece completes the very message."""
    message = _message(bytes(index % 251 for index in range(size)))
    chunks = split(message)
    if len(chunks) < 2:
        return
    order.shuffle(chunks)  # type: ignore[attr-defined]
    assembly = Assembly()
    assert all(assembly.take(PEER, chunk, 0.0) is None for chunk in [*chunks[:-1], *chunks[:-1]])
    assert assembly.take(PEER, chunks[-1], 0.0) == message
    assert len(assembly) == 0


def test_whole_messages_and_pieces_fit_datagrams() -> None:
    """The largest message that is not cut, and the largest piece with the longest topic, take at most a datagram."""
    topic = "t" * TOPIC_BYTES_MAX
    whole = TopicMessage(topic, bytes(16), bytes(WHOLE_BYTES_MAX - TOPIC_BYTES_MAX), 255, True)
    piece = Chunk(topic, bytes(16), CHUNKS_MAX, CHUNKS_MAX, bytes(CHUNK_BYTES), 255, True)

    assert not is_chunked(whole)
    assert is_chunked(msgspec.structs.replace(whole, body=whole.body + b"x"))
    assert not is_chunked(msgspec.structs.replace(whole, body=bytes(CHUNKED_BYTES_MAX + 1)))
    for message in (whole, piece):
        assert len(encode_message(message)[1]) <= BODY_BYTES_MAX


def test_a_wrong_piece_spoils_only_its_senders_message() -> None:
    """Pieces of one sender never mix with another's."""
    message = _message(bytes(3 * CHUNK_BYTES))
    chunks, assembly = split(message), Assembly()
    assembly.take(OTHER, msgspec.structs.replace(chunks[0], data=b"\xff" * CHUNK_BYTES), 0.0)
    results = [assembly.take(PEER, chunk, 0.0) for chunk in chunks]

    assert results[-1] == message


@pytest.mark.parametrize(
    "changes",
    [
        {"index": -1},
        {"index": 3},
        {"count": 1},
        {"count": CHUNKS_MAX + 1},
        {"data": b""},
        {"data": b"x"},
        {"data": bytes(CHUNK_BYTES + 1)},
        {"id": b"short"},
        {"topic": "t" * (TOPIC_BYTES_MAX + 1)},
    ],
    ids=str,
)
def test_pieces_that_cannot_be_are_ignored(changes: dict[str, object]) -> None:
    """Nothing is kept of a piece outside its limits."""
    chunk = msgspec.structs.replace(split(_message(bytes(3 * CHUNK_BYTES)))[0], **changes)
    assembly = Assembly()
    assembly.take(PEER, chunk, 0.0)

    assert len(assembly) == 0


def test_pieces_wait_for_a_bounded_time_and_in_bounded_number() -> None:
    """A sender that never finishes fills its own share alone; all of them together have a limit; and time ends it."""
    assembly = Assembly()
    honest = split(_message(b"h" * 2 * CHUNK_BYTES))
    assembly.take(OTHER, honest[0], 0.0)
    for number in range(10 * OPEN_PER_SENDER_MAX):
        assembly.take(PEER, split(_message(number.to_bytes(2, "big") * CHUNK_BYTES))[0], 0.0)
    assert len(assembly) == OPEN_PER_SENDER_MAX + 1
    assert assembly.take(OTHER, honest[1], 0.0) is not None

    for number in range(2 * OPEN_MAX):
        assembly.take(NodeId(number.to_bytes(32, "big")), honest[0], 1.0)
    assert len(assembly) == OPEN_MAX
    assembly.take(OTHER, honest[0], 1.0 + ASSEMBLED_S)
    assert len(assembly) == 1


def test_the_missing_pieces_are_known() -> None:
    """Which pieces did not come is known per sender, until the message came in another way."""
    message, assembly = _message(bytes(4 * CHUNK_BYTES)), Assembly()
    assembly.take(PEER, split(message)[2], 0.0)
    assert assembly.missing(PEER, message.id) == (0, 1, 3)
    assert assembly.missing(OTHER, message.id) == ()

    assembly.arrived(message.id, [PEER])
    assert assembly.missing(PEER, message.id) == ()
    assert [chunk.index for chunk in split(message, (3, 9, 0, -1, 3))] == [0, 3]
