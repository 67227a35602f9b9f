"""What waits to be sent to each peer: a budget of bytes per second, control before data, and fair between topics.

A peer that is sent more than its budget gets the rest later, and topics take turns by bytes (deficit round robin,
Shreedhar and Varghese 1995): a topic that floods waits behind itself alone. What does not fit a peer's queue is
dropped, the oldest of the longest topic first: whoever misses it learns its id and asks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

import msgspec

from beemesh.effects import Send
from beemesh.ids import NodeId

BYTES_PER_S = 2.0 * 1024 * 1024
"""One peer's share: a tenth of what a slow wired link carries, a hundred times what a busy mesh of 1,000 says."""
BURST_BYTES = 256.0 * 1024
"""Sent at once to a peer that was quiet: a few large messages, less than a receiver's socket buffer and batch hold."""
QUANTUM_BYTES = 1_200
"""What a topic may send in its turn: a datagram."""
QUEUE_BYTES_MAX = 2 * 1024 * 1024
"""Waiting for one peer: a second of its budget. What is older is better asked for by its id."""
TOTAL_BYTES_MAX = 32 * 1024 * 1024
"""Waiting for all peers together."""
PEERS_MAX = 4_096
"""Peers whose budgets are remembered: the largest mesh several times over. Whoever was idle longest had all of it."""
CONTROL = ""
"""The topic of what keeps the mesh going; it goes before all others."""

Queued = tuple[msgspec.Struct, int]


@dataclass(slots=True)
class _Peer:
    tokens: float
    at_s: float
    waiting: int = 0
    queues: OrderedDict[str, deque[Queued]] = field(default_factory=OrderedDict)
    deficit: dict[str, float] = field(default_factory=dict)


class Outbox:
    """The queues to all peers of one node."""

    def __init__(self) -> None:
        self._peers: OrderedDict[NodeId, _Peer] = OrderedDict()
        self._busy: dict[NodeId, None] = {}
        self._total = 0
        self.dropped = 0
        """Messages that found no room, since the start."""

    @property
    def waiting_bytes(self) -> int:
        """What waits for all peers."""
        return self._total

    def send(self, to: NodeId, message: msgspec.Struct, size: int, now_s: float, topic: str = CONTROL) -> list[Send]:
        """Send `message` of about `size` bytes, at once where the peer's budget allows, else by a later `due`."""
        peer = self._peer(to, now_s)
        if not peer.waiting and peer.tokens >= size:
            peer.tokens -= size
            return [Send(to, message)]
        if not self._make_room(to, peer, size):
            return []
        peer.queues.setdefault(topic, deque()).append((message, size))
        peer.waiting += size
        self._total += size
        self._busy[to] = None
        return self._drain(to, peer)

    def due(self, now_s: float) -> list[Send]:
        """What may leave now of what waits."""
        sends: list[Send] = []
        for to in list(self._busy):
            sends += self._drain(to, self._peer(to, now_s))
        return sends

    def next_s(self, now_s: float) -> float | None:
        """When `due` has something to send; None when nothing waits."""
        soonest: float | None = None
        for to in self._busy:
            peer = self._peers[to]
            wanted = min(BURST_BYTES, peer.queues[self._whose_turn(peer)][0][1])
            at_s = max(now_s, peer.at_s + max(0.0, wanted - peer.tokens) / BYTES_PER_S)
            soonest = at_s if soonest is None else min(soonest, at_s)
        return soonest

    def forget(self, to: NodeId) -> None:
        """A peer is gone: nothing waits for it."""
        peer = self._peers.pop(to, None)
        if peer is not None:
            self._total -= peer.waiting
        self._busy.pop(to, None)

    def _peer(self, to: NodeId, now_s: float) -> _Peer:
        peer = self._peers.get(to)
        if peer is None:
            peer = self._peers[to] = _Peer(BURST_BYTES, now_s)
            if len(self._peers) > PEERS_MAX:
                self.forget(next(iter(self._peers)))
            return peer
        self._peers.move_to_end(to)
        peer.tokens = min(BURST_BYTES, peer.tokens + max(0.0, now_s - peer.at_s) * BYTES_PER_S)
        peer.at_s = now_s
        return peer

    def _make_room(self, to: NodeId, peer: _Peer, size: int) -> bool:
        """Drop what waits longest in the longest topic until `size` fits; False when it never will."""
        if size > QUEUE_BYTES_MAX or self._total - peer.waiting + size > TOTAL_BYTES_MAX:
            self.dropped += 1
            return False
        while peer.waiting + size > QUEUE_BYTES_MAX or self._total + size > TOTAL_BYTES_MAX:
            longest = max(peer.queues, key=lambda topic: sum(each for _, each in peer.queues[topic]))
            self._take(to, peer, longest)
            self.dropped += 1
        return True

    def _drain(self, to: NodeId, peer: _Peer) -> list[Send]:
        sends: list[Send] = []
        while peer.waiting:
            topic = self._whose_turn(peer)
            size = peer.queues[topic][0][1]
            if peer.tokens < min(size, BURST_BYTES):
                break
            peer.tokens -= size
            if topic != CONTROL:
                peer.deficit[topic] -= size
            sends.append(Send(to, self._take(to, peer, topic)))
        return sends

    def _whose_turn(self, peer: _Peer) -> str:
        """The topic that sends next; each that is passed over has saved a quantum for its next turn."""
        if CONTROL in peer.queues:
            return CONTROL
        while True:
            topic = next(iter(peer.queues))
            saved = peer.deficit.get(topic, 0.0)
            if saved >= peer.queues[topic][0][1]:
                return topic
            peer.deficit[topic] = saved + QUANTUM_BYTES
            peer.queues.move_to_end(topic)

    def _take(self, to: NodeId, peer: _Peer, topic: str) -> msgspec.Struct:
        message, size = peer.queues[topic].popleft()
        peer.waiting -= size
        self._total -= size
        if not peer.queues[topic]:
            del peer.queues[topic]
            peer.deficit.pop(topic, None)
        if not peer.queues:
            self._busy.pop(to, None)
        return message
