"""Publish and subscribe over plain gossip: every message reaches every member, at most once each.

A message is pushed at once to a few members (to all in a small mesh), who push it on; whoever was not pushed to learns
of it from the ids that everybody mentions now and then, and asks for it. So one lost datagram costs a moment, not a
message. Above some hundred nodes a tree takes the pushes' place behind the same interface.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from beemesh.effects import Effects, Notify, Now, Randomness, Received, Schedule, Send, TimerFired
from beemesh.events import Delivered, MemberDown, MemberUp, Observed
from beemesh.ids import NodeId
from beemesh.membership.view import View
from beemesh.rates import Rates
from beemesh.topics.messages import MESSAGE_ID_BYTES, IHave, IWant, TopicMessage

PUSH_ALL_UP_TO = 8
"""Members that are all pushed to directly: one hop is fastest, and seven datagrams cost nothing."""

FANOUT = 4
"""Members pushed to in a larger mesh: log(n) hops, and a loss of 30 % still reaches almost all before any repair."""

MENTION_EVERY_S = 0.2
MENTIONS = 5
"""Times that each id is mentioned, to `MENTION_TO` members each: what pushes missed is asked for within a second."""
MENTION_TO = 3
IDS_PER_MENTION_MAX = 48
"""Ids of one `IHave`: they fit a datagram."""

KEPT_S = 60.0
KEPT_MESSAGES_MAX = 4_096
KEPT_BYTES_MAX = 8 * 1024 * 1024
"""Messages held for those who ask: a minute's worth, and never more memory than this."""

SEEN_MAX = 65_536
"""Ids by which repetitions are recognised: far longer than any message is still under way."""

MISSING_MAX = 4_096
"""Messages that are asked for at the same time: as many as anybody keeps."""

HOPS_MAX = 16
BODY_BYTES_MAX = 60 * 1024
ASK_AGAIN_S = 0.15
"""A message that was asked for and did not come is asked for again, in turn from those who mentioned it."""
ASKED_TIMES_MAX = 12
HOLDERS_MAX = 4
"""Members remembered for a missing message, newest first."""

AWAY_S = 120.0
AWAY_BYTES_MAX = 256 * 1024
"""Store-and-forward for a member that is away: two minutes, a few hundred events."""

RELAY_PER_S = 300.0
RELAY_BURST = 1_500.0
"""Messages that one member may hand us: some ten times a busy mesh's rate. What is refused can be had from another."""
WANTED_BYTES_PER_S = 2.0 * 1024 * 1024
WANTED_BYTES_BURST = 8.0 * 1024 * 1024
"""Bytes that one member may ask us for: all that is kept, once."""

_TICK = ("topics", "tick")


@dataclass(slots=True)
class _Kept:
    message: TopicMessage
    until_s: float
    mentions_left: int


@dataclass(slots=True)
class _Missing:
    holders: list[NodeId]
    asked: int
    again_s: float


class Gossip:
    """One node's end of all topics."""

    room = "topics"
    handles = (TopicMessage, IHave, IWant)
    listens = (MemberUp, MemberDown)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        view: View,
        randomness: Randomness,
        encode: Callable[[msgspec.Struct], bytes],
        decode: Callable[[bytes], msgspec.Struct | None],
        stored_topics: frozenset[str] = frozenset(),
    ) -> None:
        """`encode` and `decode` are the wire's (type number and body in one); messages of `stored_topics` are kept for
        members that are briefly away."""
        self._self_id = self_id
        self._view = view
        self._randomness = randomness
        self._encode = encode
        self._decode = decode
        self._stored_topics = stored_topics
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._missing: OrderedDict[bytes, _Missing] = OrderedDict()
        self._away: dict[NodeId, tuple[float, list[TopicMessage]]] = {}
        self._ticking = False
        self._relayed = Rates(RELAY_PER_S, RELAY_BURST)
        self._handed_out = Rates(WANTED_BYTES_PER_S, WANTED_BYTES_BURST)

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept on disk."""

    def start(self, now: Now) -> Effects:
        """Nothing to do before the first message."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case Received(sender=sender, message=TopicMessage() as message):
                return self._take(sender, message, now)
            case Received(sender=sender, message=IHave(ids=ids)):
                return self._mentioned(sender, ids, now)
            case Received(sender=sender, message=IWant(ids=ids)):
                return self._wanted(sender, ids, now)
            case MemberDown(node_id=node_id):
                self._away[node_id] = (now.boot_s + AWAY_S, [])
                return []
            case MemberUp(node_id=node_id):
                return self._returned(node_id, now)
            case TimerFired():
                return self._tick(now)
        return []

    def publish(self, topic: str, message: msgspec.Struct, now: Now) -> Effects:
        """Bring `message` to every member, this node included."""
        body = self._encode(message)
        wrapped = TopicMessage(topic, message_id(topic, body), body)
        if wrapped.id in self._seen:
            return []
        return self._accept(self._self_id, wrapped, message, now)

    # --- messages -------------------------------------------------------------------------------------------------

    def _take(self, sender: NodeId, wrapped: TopicMessage, now: Now) -> Effects:
        if wrapped.id in self._seen:
            return [Notify(Observed("topic_repeats"))]
        if not self._relayed.take(sender, now.boot_s):
            return [Notify(Observed("topic_refused", {"reason": "rate"}))]
        sound = len(wrapped.body) <= BODY_BYTES_MAX and wrapped.id == message_id(wrapped.topic, wrapped.body)
        message = self._decode(wrapped.body) if sound else None
        if message is None:
            return [Notify(Observed("topic_refused", {"reason": "content"}))]
        return self._accept(sender, wrapped, message, now)

    def _accept(self, sender: NodeId, wrapped: TopicMessage, message: msgspec.Struct, now: Now) -> Effects:
        self._remember(wrapped, now)
        effects: Effects = [Notify(Delivered(wrapped.topic, message, sender))]
        if wrapped.hops < HOPS_MAX:
            onward = msgspec.structs.replace(wrapped, hops=wrapped.hops + 1)
            effects += [Send(peer, onward) for peer in self._push_targets(sender, wrapped.hops)]
        if wrapped.topic in self._stored_topics:
            self._store_for_absent(wrapped, now)
        return effects + self._tick_soon(now)

    def _tick_soon(self, now: Now) -> Effects:
        if self._ticking:
            return []
        self._ticking = True
        return [Schedule(_TICK, now.boot_s + MENTION_EVERY_S)]

    def _push_targets(self, sender: NodeId, hops: int) -> list[NodeId]:
        others = [peer for peer in self._view.alive() if peer not in (self._self_id, sender)]
        if len(others) < PUSH_ALL_UP_TO:
            return others if hops == 0 else []  # its author has pushed to everybody already
        return list(self._randomness.sample(others, FANOUT))

    def _remember(self, wrapped: TopicMessage, now: Now) -> None:
        self._seen[wrapped.id] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        self._missing.pop(wrapped.id, None)
        self._kept[wrapped.id] = _Kept(wrapped, now.boot_s + KEPT_S, MENTIONS)
        self._kept_bytes += len(wrapped.body)
        while len(self._kept) > KEPT_MESSAGES_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, dropped = self._kept.popitem(last=False)
        self._kept_bytes -= len(dropped.message.body)

    # --- repair ---------------------------------------------------------------------------------------------------

    def _tick(self, now: Now) -> Effects:
        while self._kept and next(iter(self._kept.values())).until_s <= now.boot_s:
            self._drop_oldest()
        effects = self._ask_again(now)
        ids = [key for key, kept in self._kept.items() if kept.mentions_left > 0][-IDS_PER_MENTION_MAX:]
        for key in ids:
            self._kept[key].mentions_left -= 1
        if ids:
            others = [peer for peer in self._view.alive() if peer != self._self_id]
            chosen = self._randomness.sample(others, min(MENTION_TO, len(others)))
            effects += [Send(peer, IHave(tuple(ids))) for peer in chosen]
        if ids or self._missing:
            return [*effects, Schedule(_TICK, now.boot_s + MENTION_EVERY_S)]
        self._ticking = False  # the next message sets the timer anew, and sooner
        return [*effects, Schedule(_TICK, now.boot_s + KEPT_S)] if self._kept else effects

    def _mentioned(self, sender: NodeId, ids: tuple[bytes, ...], now: Now) -> Effects:
        fresh = []
        for key in ids[:IDS_PER_MENTION_MAX]:
            if key in self._seen:
                continue
            missing = self._missing.get(key)
            if missing is None and len(key) == MESSAGE_ID_BYTES and len(self._missing) < MISSING_MAX:
                self._missing[key] = _Missing([sender], 1, now.boot_s + ASK_AGAIN_S)
                fresh.append(key)
            elif missing is not None and sender not in missing.holders:
                missing.holders = [sender, *missing.holders][:HOLDERS_MAX]
        return [Send(sender, IWant(tuple(fresh))), *self._tick_soon(now)] if fresh else []

    def _ask_again(self, now: Now) -> Effects:
        """Ask the next holder of each message that did not come."""
        by_holder: dict[NodeId, list[bytes]] = {}
        for key, missing in list(self._missing.items()):
            if missing.again_s > now.boot_s:
                continue
            if missing.asked >= ASKED_TIMES_MAX:
                del self._missing[key]
                continue
            holder = missing.holders[missing.asked % len(missing.holders)]
            missing.asked, missing.again_s = missing.asked + 1, now.boot_s + ASK_AGAIN_S
            by_holder.setdefault(holder, []).append(key)
        return [
            Send(holder, IWant(tuple(keys[start : start + IDS_PER_MENTION_MAX])))
            for holder, keys in by_holder.items()
            for start in range(0, len(keys), IDS_PER_MENTION_MAX)
        ]

    def _wanted(self, sender: NodeId, ids: tuple[bytes, ...], now: Now) -> Effects:
        effects: Effects = []
        for key in dict.fromkeys(ids[:IDS_PER_MENTION_MAX]):
            kept = self._kept.get(key)
            if kept is None or not self._handed_out.take(sender, now.boot_s, len(kept.message.body)):
                continue
            effects.append(Send(sender, msgspec.structs.replace(kept.message, hops=kept.message.hops + 1)))
        return effects

    # --- members that are briefly away ----------------------------------------------------------------------------

    def _store_for_absent(self, wrapped: TopicMessage, now: Now) -> None:
        for node_id, (until_s, messages) in list(self._away.items()):
            if until_s <= now.boot_s:
                del self._away[node_id]
            elif sum(len(message.body) for message in messages) + len(wrapped.body) <= AWAY_BYTES_MAX:
                messages.append(wrapped)

    def _returned(self, node_id: NodeId, now: Now) -> Effects:
        until_s, messages = self._away.pop(node_id, (0.0, []))
        if until_s <= now.boot_s:
            return []
        return [Send(node_id, msgspec.structs.replace(message, hops=HOPS_MAX)) for message in messages]


def message_id(topic: str, body: bytes) -> bytes:
    """BLAKE2b-128 of topic and body: an id names its content."""
    return hashlib.blake2b(topic.encode() + b"\0" + body, digest_size=MESSAGE_ID_BYTES).digest()
