"""Bringing intent maps together: news at once to everybody, and a comparison with one member from time to time.

A comparison sends one short hash per bucket, gets the entries of those that differ, then fetches what is newer there
and pushes what is newer here, in bounded pieces. So a node that was away for a month and one that missed a datagram
are served by the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from beemesh.effects import (
    Answered,
    Asked,
    Broadcast,
    Effects,
    Notify,
    Now,
    Randomness,
    Received,
    Reply,
    Request,
    Schedule,
    TimerFired,
)
from beemesh.events import Delivered, IntentPut, MemberUp, PutIntent
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.intents.map import TABLE, IntentMap
from beemesh.intents.messages import (
    ANSWER_BYTES_MAX,
    ENTRIES_PER_DIGEST_MAX,
    INLINE_BYTES_MAX,
    KEYS_PER_FETCH_MAX,
    TOPIC_INTENTS,
    FetchIntents,
    FetchMembers,
    IntentDigests,
    IntentEntry,
    IntentNews,
    IntentRecords,
    IntentsAck,
    PushIntents,
    SyncIntents,
)
from beemesh.intents.record import node_key
from beemesh.membership.roster import Roster
from beemesh.membership.view import View

COMPARE_EVERY_S = 30.0
COMPARE_JITTER = 0.2
COMPARE_AFTER_START_S = 1.0
COMPARE_AFTER_NEWS_S = 0.3
"""A member that just came back is compared with soon, but not by everybody at the same moment."""

REQUEST_PATIENCE_S = 5.0
HOUSEKEEPING_EVERY_S = 3_600.0
REFUSALS_TOLD_MAX = 20

_COMPARE = ("intents", "compare")
_COMPARE_SOON = ("intents", "compare-soon")
_HOUSEKEEPING = ("intents", "housekeeping")


class IntentSync:
    """The protocol around an `IntentMap`."""

    room = "intents"
    handles = (FetchIntents, FetchMembers, PushIntents, SyncIntents)
    listens = (PutIntent, Delivered, MemberUp)
    tables = (TABLE,)

    def __init__(
        self,
        self_id: NodeId,
        intents: IntentMap,
        roster: Roster,
        view: View,
        randomness: Randomness,
        new_request_id: Callable[[], int],
    ) -> None:
        self.intents = intents
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._randomness = randomness
        self._new_request_id = new_request_id
        self._soon: list[NodeId] = []

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back the map."""
        self.intents.restore(rows)

    def start(self, now: Now) -> Effects:
        """Begin to compare."""
        return [
            Schedule(_COMPARE, now.boot_s + COMPARE_AFTER_START_S),
            Schedule(_HOUSEKEEPING, now.boot_s + HOUSEKEEPING_EVERY_S),
        ]

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case PutIntent():
                return self._put(event)
            case Delivered(topic=topic, message=IntentNews() as news, relay=relay) if topic == TOPIC_INTENTS:
                return self._news(news, relay)
            case MemberUp(node_id=node_id):
                return self._returned(node_id, now)
            case Asked(sender=sender, token=token, message=message):
                return self._asked(sender, token, message)
            case Answered(peer=peer, message=message):
                return self._answered(peer, message)
            case TimerFired(key=key):
                return self._timer(key, now)
            case Received():
                return []
        return []

    # --- news -----------------------------------------------------------------------------------------------------

    def _put(self, event: PutIntent) -> Effects:
        merged = self.intents.merge(event.signed)
        effects = list(merged.effects)
        if merged.changed and merged.intent is not None:
            effects.append(Broadcast(TOPIC_INTENTS, self._as_news(merged.intent.key)))
        if event.token:
            effects.append(Notify(IntentPut(event.token, merged.stands, merged.reason)))
        return effects

    def _as_news(self, key: str) -> IntentNews:
        found = self.intents.get(key)
        entry = self.intents.entry(key)
        assert found is not None and entry is not None, "only called for a key that was just merged"
        small = len(msgspec.msgpack.encode(found[1])) <= INLINE_BYTES_MAX
        return IntentNews(entry, found[1] if small else None)

    def _news(self, news: IntentNews, relay: NodeId) -> Effects:
        if not self._is_newer(news.entry):
            return []
        if news.record is not None:
            return self._merge_all((news.record,))
        return self._ask(relay, FetchIntents((news.entry.key,)))

    def _is_newer(self, entry: IntentEntry) -> bool:
        here = self.intents.version(entry.key)
        return here is None or entry.version > here

    def _merge_all(self, records: Iterable[Signed]) -> Effects:
        """Merge in two rounds: what the CA signed may entitle what operators signed."""
        effects: Effects = []
        for wanted in (True, False):
            for signed in records:
                if (signed.signer == self._roster.ca_id) is wanted:
                    effects += self.intents.merge(signed).effects
        return effects

    # --- comparing ------------------------------------------------------------------------------------------------

    def _returned(self, node_id: NodeId, now: Now) -> Effects:
        if node_id == self._self_id or len(self._soon) > KEYS_PER_FETCH_MAX:
            return []
        self._soon.append(node_id)
        chance = 1.0 if len(self._view.alive()) <= 8 else 4.0 / len(self._view.alive())
        if self._randomness.random() > chance:  # a few of a large mesh are enough for one that came back
            self._soon.pop()
            return []
        delay_s = self._randomness.uniform(0.0, COMPARE_AFTER_NEWS_S)
        return [Schedule(_COMPARE_SOON, now.boot_s + delay_s)]

    def _timer(self, key: object, now: Now) -> Effects:
        if key == _COMPARE_SOON:
            soon, self._soon = self._soon, []
            return [effect for node_id in dict.fromkeys(soon) for effect in self._compare(node_id)]
        if key == _HOUSEKEEPING:
            again = Schedule(_HOUSEKEEPING, now.boot_s + HOUSEKEEPING_EVERY_S)
            return [*self.intents.forget_old_tombstones(now), again]
        others = [node_id for node_id in self._view.alive() if node_id != self._self_id]
        spread = self._randomness.uniform(1 - COMPARE_JITTER, 1 + COMPARE_JITTER)
        effects: Effects = [Schedule(_COMPARE, now.boot_s + COMPARE_EVERY_S * spread)]
        if not others:
            effects = [Schedule(_COMPARE, now.boot_s + COMPARE_AFTER_START_S)]
        return effects + (self._compare(self._randomness.choice(others)) if others else [])

    def _compare(self, peer: NodeId) -> Effects:
        return self._ask(peer, SyncIntents(self.intents.bucket_hashes()))

    def _ask(self, peer: NodeId, message: msgspec.Struct) -> Effects:
        return [Request(self._new_request_id(), peer, message, REQUEST_PATIENCE_S)]

    def _answered(self, peer: NodeId, message: msgspec.Struct | None) -> Effects:
        match message:
            case IntentRecords(records=records):
                return self._merge_all(records)
            case IntentDigests():
                return self._settle(peer, message)
            case _:
                return []

    def _settle(self, peer: NodeId, digests: IntentDigests) -> Effects:
        """Fetch what is newer there, push what is newer here."""
        wanted = [entry.key for entry in digests.entries if self._is_newer(entry)]
        effects: Effects = []
        for start in range(0, len(wanted), KEYS_PER_FETCH_MAX):
            effects += self._ask(peer, FetchIntents(tuple(wanted[start : start + KEYS_PER_FETCH_MAX])))
        there = {entry.key: entry.version for entry in digests.entries}
        newer_here = [
            entry.key
            for entry in self.intents.entries_in(digests.differing)
            if entry.key not in there or entry.version > there[entry.key]
        ]
        for records in self._pieces(newer_here):
            effects += self._ask(peer, PushIntents(records))
        return effects

    def _pieces(self, keys: Iterable[str]) -> list[tuple[Signed, ...]]:
        pieces: list[tuple[Signed, ...]] = []
        piece: list[Signed] = []
        size = 0
        for key in keys:
            found = self.intents.get(key)
            if found is None:
                continue
            length = len(found[1].body) + 200
            if piece and size + length > ANSWER_BYTES_MAX:
                pieces.append(tuple(piece))
                piece, size = [], 0
            piece.append(found[1])
            size += length
        return [*pieces, tuple(piece)] if piece else pieces

    # --- answering ------------------------------------------------------------------------------------------------

    def _asked(self, sender: NodeId, token: int, message: msgspec.Struct) -> Effects:
        match message:
            case FetchIntents(keys=keys):
                pieces = self._pieces(keys[:KEYS_PER_FETCH_MAX])
                return [Reply(token, IntentRecords(pieces[0] if pieces else ()))]
            case FetchMembers(node_ids=node_ids):
                cards = [self._roster.member(node_id) for node_id in node_ids[:KEYS_PER_FETCH_MAX]]
                pieces = self._pieces([node_key(card.name) for card in cards if card is not None])
                return [Reply(token, IntentRecords(pieces[0] if pieces else ()))]
            case PushIntents(records=records):
                return self._pushed(token, records)
            case SyncIntents(buckets=buckets):
                return [Reply(token, self._digests(buckets))]
        return []

    def _pushed(self, token: int, records: tuple[Signed, ...]) -> Effects:
        effects: Effects = []
        saved: list[IntentEntry] = []
        refused: list[str] = []
        ordered = sorted(records, key=lambda signed: signed.signer != self._roster.ca_id)
        for signed in ordered:
            merged = self.intents.merge(signed)
            effects += merged.effects
            entry = self.intents.entry(merged.intent.key) if merged.intent is not None else None
            if entry is not None:
                saved.append(entry)
            if not merged.stands and len(refused) < REFUSALS_TOLD_MAX:
                refused.append(merged.reason)
        return [*effects, Reply(token, IntentsAck(tuple(saved), tuple(refused)))]

    def _digests(self, buckets: tuple[bytes, ...]) -> IntentDigests:
        own = self.intents.bucket_hashes()
        differing = [index for index, value in enumerate(own) if index >= len(buckets) or buckets[index] != value]
        listed: list[int] = []
        entries: list[IntentEntry] = []
        for index in differing:
            part = list(self.intents.entries_in((index,)))
            if listed and len(entries) + len(part) > ENTRIES_PER_DIGEST_MAX:
                break
            listed.append(index)
            entries += part
        return IntentDigests(tuple(listed), tuple(entries))
