"""Messages that are too large for one datagram, in pieces; and how pieces become a message again.

Pieces of different senders are kept apart: whoever sends a wrong one spoils only what it sends itself. What is larger
than `CHUNKED_BYTES_MAX` goes whole, over a stream.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from beemesh.ids import NodeId
from beemesh.topics.messages import MESSAGE_ID_BYTES, Chunk, TopicMessage

WHOLE_BYTES_MAX = 1_010
"""Topic and body of a message that travels in one datagram."""
CHUNK_BYTES = 900
"""Body bytes of one piece: with its topic and id it fits a datagram."""
TOPIC_BYTES_MAX = 64
"""A longer topic would leave no room for a piece."""
CHUNKED_BYTES_MAX = 16 * 1024
"""Larger messages go over a stream: nineteen signatures cost as much as opening one."""
CHUNKS_MAX = -(-CHUNKED_BYTES_MAX // CHUNK_BYTES)

ASSEMBLED_S = 5.0
"""A message that is not whole by then is given up; it can be asked for again."""
OPEN_PER_SENDER_MAX = 16
BYTES_PER_SENDER_MAX = OPEN_PER_SENDER_MAX * CHUNKED_BYTES_MAX
"""Pieces that wait for others, of one sender: what fits its share of a second."""
OPEN_MAX = 512
"""Of all senders: 8 MiB at the worst, as much as is kept of whole messages."""

Key = tuple[NodeId, bytes]


def is_chunked(message: TopicMessage) -> bool:
    """Whether a message travels in pieces."""
    return WHOLE_BYTES_MAX - len(message.topic.encode()) < len(message.body) <= CHUNKED_BYTES_MAX


def split(message: TopicMessage, indices: Iterable[int] | None = None) -> list[Chunk]:
    """The pieces of a message: all, or those of the given indices that exist."""
    count = -(-len(message.body) // CHUNK_BYTES)
    chosen = range(count) if indices is None else sorted({index for index in indices if 0 <= index < count})
    return [
        Chunk(
            message.topic,
            message.id,
            index,
            count,
            message.body[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES],
            message.hops,
            message.straight,
        )
        for index in chosen
    ]


@dataclass(slots=True)
class _Partial:
    topic: str
    count: int
    until_s: float
    hops: int
    straight: bool
    pieces: dict[int, bytes] = field(default_factory=dict)


class Assembly:
    """Pieces that wait for the rest of their message, per sender. Bounded in number, bytes and time."""

    def __init__(self) -> None:
        self._open: OrderedDict[Key, _Partial] = OrderedDict()
        self._of_sender: dict[NodeId, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def take(self, sender: NodeId, chunk: Chunk, now_s: float) -> TopicMessage | None:
        """Add a piece; the message, unverified, when it was the last one that was missing.

        A piece that contradicts the earlier ones of its message is ignored."""
        self._expire(now_s)
        if not _is_sound(chunk):
            return None
        partial = self._open.get((sender, chunk.id))
        if partial is None:
            partial = self._begin(sender, chunk, now_s)
        if (chunk.topic, chunk.count) != (partial.topic, partial.count):
            return None
        partial.pieces.setdefault(chunk.index, chunk.data)
        partial.hops = max(partial.hops, chunk.hops)
        partial.straight = partial.straight and chunk.straight
        if len(partial.pieces) < partial.count:
            return None
        self._drop((sender, chunk.id))
        body = b"".join(partial.pieces[index] for index in range(partial.count))
        return TopicMessage(partial.topic, chunk.id, body, partial.hops, partial.straight)

    def missing(self, sender: NodeId, key: bytes) -> tuple[int, ...]:
        """The pieces of a message that did not come from `sender`; none when it sends no pieces of it."""
        partial = self._open.get((sender, key))
        if partial is None:
            return ()
        return tuple(index for index in range(partial.count) if index not in partial.pieces)

    def arrived(self, key: bytes, senders: Iterable[NodeId]) -> None:
        """The message came whole in another way."""
        for sender in senders:
            self._drop((sender, key))

    def _begin(self, sender: NodeId, chunk: Chunk, now_s: float) -> _Partial:
        if self._of_sender.get(sender, 0) >= OPEN_PER_SENDER_MAX:
            self._drop(next(place for place in self._open if place[0] == sender))
        elif len(self._open) >= OPEN_MAX:
            self._drop(next(iter(self._open)))
        partial = _Partial(chunk.topic, chunk.count, now_s + ASSEMBLED_S, chunk.hops, chunk.straight)
        self._open[sender, chunk.id] = partial
        self._of_sender[sender] = self._of_sender.get(sender, 0) + 1
        return partial

    def _expire(self, now_s: float) -> None:
        while self._open:
            place, oldest = next(iter(self._open.items()))
            if oldest.until_s > now_s:
                return
            self._drop(place)

    def _drop(self, place: Key) -> None:
        if self._open.pop(place, None) is None:
            return
        left = self._of_sender[place[0]] - 1
        if left:
            self._of_sender[place[0]] = left
        else:
            del self._of_sender[place[0]]


def _is_sound(chunk: Chunk) -> bool:
    return (
        len(chunk.id) == MESSAGE_ID_BYTES
        and len(chunk.topic.encode(errors="replace")) <= TOPIC_BYTES_MAX
        and 1 < chunk.count <= CHUNKS_MAX
        and 0 <= chunk.index < chunk.count
        and 0 < len(chunk.data) <= CHUNK_BYTES
        and (len(chunk.data) == CHUNK_BYTES or chunk.index == chunk.count - 1)
    )
