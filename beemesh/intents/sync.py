"""Bringing intent maps together: news at once to everybody, and a comparison with one member from time to time.

A comparison sends one short hash per bucket, gets the entries of those that differ, then fetches what is newer there
and pushes what is newer here, in bounded pieces. So a node that was away for a month and one that missed a datagram
are served by the same path.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from beemesh.effects import (
    Answered,
    Asked,
    Broadcast,
    Effects,
    Erase,
    Flush,
    Notify,
    Now,
    Randomness,
    Received,
    Reply,
    Request,
    Save,
    Schedule,
    TimerFired,
)
from beemesh.events import (
    CompareWanted,
    Delivered,
    EmitEvent,
    IntentChanged,
    IntentLost,
    IntentPut,
    MemberUp,
    PutIntent,
    SeedIntents,
)
from beemesh.identity.signing import Signed
from beemesh.ids import DIGEST_BYTES, NodeId, ulid
from beemesh.intents.awaited import FETCH_AGAIN_S, Awaited, Fetch
from beemesh.intents.denials import Denials
from beemesh.intents.digests import MORE_DIFFERS, digests_of, spoken_for
from beemesh.intents.entitlement import KEY_CHARS_MAX
from beemesh.intents.forgeries import Forgeries
from beemesh.intents.map import REMOVALS_TOLD_MAX, TABLE, TOMBSTONE_KEPT_MS, IntentMap, Merged
from beemesh.intents.messages import (
    ANSWER_BYTES_MAX,
    INLINE_BYTES_MAX,
    KEYS_PER_FETCH_MAX,
    RECORD_OVERHEAD_BYTES,
    RECORDS_PER_MESSAGE_MAX,
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
from beemesh.intents.record import Intent, IntentVersion, node_key, workload_id_of
from beemesh.membership.partners import Partners
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.rates import Rates
from beemesh.scheduling.messages import Event

CONTACT_TABLE = "intents-contact"
CONTACT_KEY = b"last"
"""When this node was last in touch with another one (wall ms, text)."""
WALL_MS_DIGITS_MAX = 19
"""More is no time, but a garbled disk."""

COMPARE_EVERY_S = 30.0
COMPARE_JITTER = 0.2
COMPARE_AFTER_START_S = 1.0
GIVE_UP_EVERY_S = 1.0
COMPARE_AFTER_NEWS_S = 0.3
"""A member that just came back is compared with soon, but not by everybody at the same moment."""

CARDS_TOLD_BURST = 1.0
CARDS_TOLD_PER_S = 1.0
"""Cards of members that introduce themselves here and are told on as news. A site that joins at once makes no storm:
whoever hears of a member without a card asks for it, and for many with one question."""

RETURNED_AT_ONCE_MAX = 1
"""Members that came back together and are compared with: who joins a mesh sees all of it come up, and each comparison
with somebody else costs a handshake."""

REQUEST_PATIENCE_S = 5.0
HOUSEKEEPING_EVERY_S = 3_600.0
REFUSALS_TOLD_MAX = 20

NEWS_PER_EXCHANGE_MAX = 16
"""Records that came by comparison are told on as news when they are few: a partition that heals is quick about what
changed meanwhile. More are left to comparisons, or one node that comes back would make everybody shout."""

ENTERED_MAX = 256
"""Records entered here that are still watched for a conflict: an operator hears of it within moments or never."""

_COMPARE = ("intents", "compare")
_FETCH = ("intents", "fetch")
_COMPARE_SOON = ("intents", "compare-soon")
_HOUSEKEEPING = ("intents", "housekeeping")
_GIVE_UP = ("intents", "give-up")


class IntentSync:
    """The protocol around an `IntentMap`."""

    room = "intents"
    handles = (FetchIntents, FetchMembers, PushIntents, SyncIntents)
    listens = (PutIntent, SeedIntents, Delivered, MemberUp, IntentLost, CompareWanted)
    tables = (TABLE, CONTACT_TABLE)

    def __init__(
        self,
        self_id: NodeId,
        intents: IntentMap,
        roster: Roster,
        view: View,
        randomness: Randomness,
        new_request_id: Callable[[], int],
        partners: Partners | None = None,
    ) -> None:
        """`partners` are those with whom the membership is compared as well."""
        self.intents = intents
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._randomness = randomness
        self._new_request_id = new_request_id
        self._partners = partners or Partners(view, randomness)
        self._soon: list[NodeId] = []
        self._awaited = Awaited(view, randomness)
        self._garbled: Effects = []
        self._entered: OrderedDict[str, IntentVersion] = OrderedDict()
        self._compared_s = float("-inf")
        self._cards_told = Rates(CARDS_TOLD_PER_S, CARDS_TOLD_BURST)
        self._forgeries = Forgeries()
        self._denials = Denials()
        self._noted_s = float("-inf")
        self._doubtful = True
        """Whether this node cannot tell yet which of its records still stand."""
        self._away_since_ms = 0
        """When it was last in touch, if that is longer ago than removals are remembered, else 0."""
        self._in_touch = Now(0.0, 0)
        """When it was last in touch, by both clocks: the first runs on while the machine sleeps and never jumps."""

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back the map, and when this node was last in touch."""
        if table == TABLE:
            self._garbled = self.intents.restore(rows)
            return
        last_ms = max(
            (int(value) for _, value in rows if value.isdigit() and len(value) <= WALL_MS_DIGITS_MAX), default=0
        )
        self._in_touch = Now(now.boot_s - (now.wall_ms - last_ms) / 1000, last_ms)
        self._doubtful = False
        self._doubt_after_absence(now)

    def start(self, now: Now) -> Effects:
        """Begin to compare."""
        garbled, self._garbled = self._garbled, []
        return [
            *garbled,
            Schedule(_COMPARE, now.boot_s + COMPARE_AFTER_START_S),
            Schedule(_HOUSEKEEPING, now.boot_s + HOUSEKEEPING_EVERY_S),
        ]

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        self._doubt_after_absence(now)
        match event:
            case PutIntent():
                return self._put(event, now)
            case SeedIntents(records=records):
                return self._merge_all(records, now)
            case IntentLost(loser=loser, winner=winner):
                return self._report_conflict(loser, winner, now)
            case Delivered(topic=topic, message=IntentNews() as news, relay=relay) if topic == TOPIC_INTENTS:
                return self._news(news, relay, now)
            case MemberUp(node_id=node_id):
                return self._returned(node_id, now)
            case CompareWanted(node_id=node_id):
                return self._compare_soon(node_id, now)
            case Asked(sender=sender, token=token, message=message):
                return self._asked(sender, token, message, now)
            case Answered(peer=peer, message=message):
                return self._answered(peer, message, now)
            case TimerFired(key=key):
                return self._timer(key, now)
            case Received():
                return []
        return []

    # --- news -----------------------------------------------------------------------------------------------------

    def _put(self, event: PutIntent, now: Now) -> Effects:
        merged = self.intents.merge(event.signed, now)
        effects = list(merged.effects)
        if merged.changed and merged.intent is not None:
            rare = merged.intent.kind != "membership" or self._cards_told.take(b"", now.boot_s)
            if event.token or (event.tell and rare):
                effects.append(Broadcast(TOPIC_INTENTS, self._as_news(merged.intent.key)))
            version = self.intents.version(merged.intent.key)
            if event.token and version is not None:
                self._entered[merged.intent.key] = version
                if len(self._entered) > ENTERED_MAX:
                    self._entered.popitem(last=False)
        if event.token:
            effects.append(Notify(IntentPut(event.token, merged.stands, merged.reason)))
        return effects

    def _report_conflict(self, loser: Intent, winner: Intent, now: Now) -> Effects:
        """A record that was accepted here lost against another of the same number: its author should know."""
        entered = self._entered.get(loser.key)
        if entered is None or (entered.epoch, entered.seq) != (loser.epoch, loser.seq) or loser.author == winner.author:
            return []
        del self._entered[loser.key]
        author = self._roster.issued_grant(winner.author)
        reason = f"{loser.key}: operator {author.name if author else 'unknown'} changed it at the same time and won"
        event_id = ulid(now.wall_ms, self._randomness.randbytes(10))
        workload_id = workload_id_of(loser.key)
        event = Event(event_id, self._self_id, "IntentConflict", now.wall_ms, workload_id=workload_id, reason=reason)
        return [Notify(EmitEvent(event))]

    def _as_news(self, key: str) -> IntentNews:
        found = self.intents.get(key)
        entry = self.intents.entry(key)
        assert found is not None and entry is not None, "only called for a key that was just merged"
        small = len(msgspec.msgpack.encode(found[1])) <= INLINE_BYTES_MAX
        return IntentNews(entry, found[1] if small else None)

    def _news(self, news: IntentNews, relay: NodeId, now: Now) -> Effects:
        """Nothing of it is signed, so what is kept and asked for has to be small."""
        if len(news.entry.key) > KEY_CHARS_MAX or len(news.entry.version.digest) > DIGEST_BYTES:
            return []
        if not self._is_newer(news.entry):
            return []
        if news.record is not None:
            return self._merge_all((news.record,), now)
        is_due = bool(self._awaited)
        fetches = self._awaited.heard(news.entry, relay, now.boot_s)
        # News that keep coming put no round off.
        round_due = [Schedule(_FETCH, now.boot_s + FETCH_AGAIN_S)] if self._awaited and not is_due else []
        return [*self._fetch(fetches), *round_due]

    def _fetch(self, fetches: Iterable[Fetch]) -> Effects:
        return [effect for peer, keys in fetches for effect in self._ask(peer, FetchIntents(keys))]

    def _fetch_again(self, now: Now) -> Effects:
        effects = self._fetch(self._awaited.again(self._is_newer))
        return [*effects, Schedule(_FETCH, now.boot_s + FETCH_AGAIN_S)] if self._awaited else effects

    def _is_newer(self, entry: IntentEntry) -> bool:
        here = self.intents.version(entry.key)
        return here is None or entry.version > here

    def _merge_all(self, records: tuple[Signed, ...], now: Now) -> Effects:
        return [effect for _, merged in self._merged(records, now) for effect in merged.effects]

    def _merged_of(self, sender: NodeId, records: tuple[Signed, ...], now: Now) -> Iterator[Merged]:
        """Merge what a member sent over a stream, no more than it may send, and until too much of it is forged."""
        if self._forgeries.is_forger(sender, now.boot_s):
            return
        news = tuple(each for each in records[:RECORDS_PER_MESSAGE_MAX] if not self._forgeries.is_known(each))
        for signed, merged in self._merged(news, now):
            yield merged
            if merged.is_forged:
                self._forgeries.note(sender, signed, now.boot_s)
                if self._forgeries.is_forger(sender, now.boot_s):
                    return

    def _merged(self, records: tuple[Signed, ...], now: Now) -> Iterator[tuple[Signed, Merged]]:
        """Merge one after the other; first what the CA signed: it may entitle what operators signed."""
        for signed in sorted(records, key=lambda signed: signed.signer != self._roster.ca_id):
            yield signed, self.intents.merge(signed, now)

    def _tell_on(self, effects: Effects) -> Effects:
        """News of what an exchange changed here, where that is little; its id is its content, so none is told twice.
        Cards are left out: whoever hears of a member without one asks."""
        changed = [
            effect.event.intent.key
            for effect in effects
            if isinstance(effect, Notify)
            and isinstance(effect.event, IntentChanged)
            and effect.event.intent.kind != "membership"
        ]
        if len(changed) > NEWS_PER_EXCHANGE_MAX:
            return []
        return [Broadcast(TOPIC_INTENTS, self._as_news(key)) for key in changed]

    # --- comparing ------------------------------------------------------------------------------------------------

    def _returned(self, node_id: NodeId, now: Now) -> Effects:
        if node_id == self._self_id or len(self._soon) >= RETURNED_AT_ONCE_MAX:
            return []
        self._soon.append(node_id)
        chance = 1.0 if len(self._view.alive()) <= 8 else 2.0 / len(self._view.alive())
        if self._randomness.random() > chance:  # a few of a large mesh are enough for one that came back
            self._soon.pop()
            return []
        delay_s = self._randomness.uniform(0.0, COMPARE_AFTER_NEWS_S)
        return [Schedule(_COMPARE_SOON, now.boot_s + delay_s)]

    def _timer(self, key: object, now: Now) -> Effects:
        if key == _COMPARE_SOON:
            soon, self._soon = self._soon, []
            self._compared_s = now.boot_s
            return [effect for node_id in dict.fromkeys(soon) for effect in self._compare(node_id)]
        if key == _FETCH:
            return self._fetch_again(now)
        if key == _HOUSEKEEPING:
            return [*self._note_contact(now), Schedule(_HOUSEKEEPING, now.boot_s + HOUSEKEEPING_EVERY_S)]
        if key == _GIVE_UP:
            return self._with_rest(self.intents.give_up(), now)
        partner = self._partners.one()
        spread = self._randomness.uniform(1 - COMPARE_JITTER, 1 + COMPARE_JITTER)
        given_up = self._with_rest(self.intents.note_comparison(), now) if self._is_alone() else []
        # Right before: who still remembers what a new node refuses as forgotten keeps it from seeing two equal maps.
        if self._is_in_touch():  # else those who have not heard of a removal yet may hear of it from nobody else
            given_up += self.intents.forget_old_tombstones(now)
        if partner is None:
            return [*given_up, Schedule(_COMPARE, now.boot_s + COMPARE_AFTER_START_S)]
        effects: Effects = [*given_up, Schedule(_COMPARE, now.boot_s + COMPARE_EVERY_S * spread)]
        if now.boot_s - self._compared_s < COMPARE_EVERY_S / 2:  # with whoever came back
            return effects
        return effects + self._compare(partner)

    def _note_contact(self, now: Now) -> Effects:
        """Remember that this node is in touch."""
        if not self._is_in_touch():
            return []
        self._in_touch = now
        return [Save(CONTACT_TABLE, CONTACT_KEY, str(now.wall_ms).encode())]

    def _is_in_touch(self) -> bool:
        """Whether others would tell what this node lacks; a lone node misses nothing."""
        return self._is_alone() or (not self._doubtful and len(self._view.alive()) >= 2)

    def _is_alone(self) -> bool:
        return len(self._roster.members()) <= 1

    def _doubt_after_absence(self, now: Now) -> None:
        """Doubt what stands here once this node was out of touch for longer than removals are remembered: it was off,
        or cut off, or the machine slept. Looked at before anything is done: the first event after a long sleep may be
        a comparison, and who is there is not known yet."""
        if not self._doubtful and now.boot_s - self._in_touch.boot_s > TOMBSTONE_KEPT_MS / 1000:
            self._doubtful, self._away_since_ms = True, self._in_touch.wall_ms

    def _compare(self, peer: NodeId) -> Effects:
        return self._ask(peer, SyncIntents(self.intents.bucket_hashes()))

    def _ask(self, peer: NodeId, message: msgspec.Struct) -> Effects:
        return [Request(self._new_request_id(), peer, message, REQUEST_PATIENCE_S)]

    def _answered(self, peer: NodeId, message: msgspec.Struct | None, now: Now) -> Effects:
        match message:
            case IntentRecords(records=records):
                effects = [each for merged in self._merged_of(peer, records, now) for each in merged.effects]
                news = self._tell_on(effects)
                # An answer is bounded: whatever it left out is asked for until both are equal.
                more = any(isinstance(effect, Save) for effect in effects)
                return [*effects, *news, *(self._compare_soon(peer, now) if more else [])]
            case IntentDigests():
                return [*self._note_comparison(message, now), *self._settle(peer, message, now)]
        return []

    def _note_comparison(self, digests: IntentDigests, now: Now) -> Effects:
        """Somebody who knows what stands has answered; several answers within a moment count as one."""
        if digests.doubtful or not self._is_in_touch() or now.boot_s - self._noted_s < COMPARE_EVERY_S / 2:
            return []
        self._noted_s = now.boot_s
        return self._with_rest(self.intents.note_comparison(), now)

    def _with_rest(self, given_up: Effects, now: Now) -> Effects:
        """What is told as removed now, and that the rest is told soon."""
        return [*given_up, Schedule(_GIVE_UP, now.boot_s + GIVE_UP_EVERY_S)] if self.intents.given_up() else given_up

    def _compare_soon(self, peer: NodeId, now: Now) -> Effects:
        self._soon.append(peer)
        return [Schedule(_COMPARE_SOON, now.boot_s + self._randomness.uniform(0.0, COMPARE_AFTER_NEWS_S))]

    def _settle(self, peer: NodeId, digests: IntentDigests, now: Now) -> Effects:
        """Fetch what is newer there, push what is newer here; without either both are as good as equal."""
        there = {entry.key: entry.version for entry in digests.entries}
        here = spoken_for(self.intents, digests)
        newer_here = [entry.key for entry in here if self._is_news(entry, there.get(entry.key), now)]
        wanted = [entry.key for entry in digests.entries if self._is_newer(entry)]
        if not newer_here and not wanted and MORE_DIFFERS not in digests.differing:
            return self._settled(digests, now)
        effects: Effects = []
        if self._away_since_ms and not digests.doubtful:
            lacked = {key: None for key in newer_here if key not in there and self._is_from_before(key)}
            newer_here = [key for key in newer_here if key not in lacked]
            gone = self._denials.agreed(peer, lacked, there, len(self._roster.members()))
            effects += self.intents.drop(gone[:REMOVALS_TOLD_MAX])  # the rest after the next comparison, which is soon
        if self._doubtful or not digests.doubtful:
            for start in range(0, len(wanted), KEYS_PER_FETCH_MAX):
                effects += self._ask(peer, FetchIntents(tuple(wanted[start : start + KEYS_PER_FETCH_MAX])))
        if effects and isinstance(effects[0], Erase):
            effects += self._compare_soon(peer, now)
        for records in self._pieces(newer_here):
            effects += self._ask(peer, PushIntents(records))
        return effects

    def _is_news(self, entry: IntentEntry, there: IntentVersion | None, now: Now) -> bool:
        """Whether what stands here is anything to another member: it refuses an old removal of what it lacks."""
        return entry.version > there if there is not None else not self.intents.is_forgotten(entry.key, now)

    def _settled(self, digests: IntentDigests, now: Now) -> Effects:
        """Both maps are equal. What a member that does not doubt holds, or most of the mesh, is what stands."""
        most = 2 * len(self._view.alive()) > len(self._roster.members())
        if not self._doubtful or (digests.doubtful and not most):
            return []
        self._doubtful, self._away_since_ms, self._in_touch = False, 0, now
        self._denials.forget()
        return self._note_contact(now)

    def _is_from_before(self, key: str) -> bool:
        """Whether a record was here before we went away: then its removal may be forgotten everywhere."""
        found = self.intents.get(key)
        return found is not None and found[0].issued_ms <= self._away_since_ms

    def _pieces(self, keys: Iterable[str]) -> list[tuple[Signed, ...]]:
        pieces: list[tuple[Signed, ...]] = []
        piece: list[Signed] = []
        size = 0
        for key in keys:
            found = self.intents.get(key)
            if found is None:
                continue
            length = len(found[1].body) + RECORD_OVERHEAD_BYTES
            if piece and size + length > ANSWER_BYTES_MAX:
                pieces.append(tuple(piece))
                piece, size = [], 0
            piece.append(found[1])
            size += length
        return [*pieces, tuple(piece)] if piece else pieces

    # --- answering ------------------------------------------------------------------------------------------------

    def _asked(self, sender: NodeId, token: int, message: msgspec.Struct, now: Now) -> Effects:
        match message:
            case FetchIntents(keys=keys):
                pieces = self._pieces(keys[:KEYS_PER_FETCH_MAX])
                return [Reply(token, IntentRecords(pieces[0] if pieces else ()))]
            case FetchMembers(node_ids=node_ids):
                cards = [self._roster.member(node_id) for node_id in node_ids[:KEYS_PER_FETCH_MAX]]
                pieces = self._pieces([node_key(card.name) for card in cards if card is not None])
                return [Reply(token, IntentRecords(pieces[0] if pieces else ()))]
            case PushIntents(records=records):
                return self._pushed(sender, token, records, now)
            case SyncIntents(buckets=buckets):
                return [Reply(token, digests_of(self.intents, buckets, self._doubtful, self._randomness))]
        return []

    def _pushed(self, sender: NodeId, token: int, records: tuple[Signed, ...], now: Now) -> Effects:
        effects: Effects = []
        saved: list[IntentEntry] = []
        refused: list[str] = []
        for merged in self._merged_of(sender, records, now):
            effects += merged.effects
            entry = self.intents.entry(merged.intent.key) if merged.intent is not None else None
            if entry is not None:
                saved.append(entry)
                effects += [] if merged.changed else [Flush(TABLE, entry.key.encode())]
            if not merged.stands and len(refused) < REFUSALS_TOLD_MAX:
                refused.append(merged.reason)
        news = self._tell_on(effects)
        return [*effects, Reply(token, IntentsAck(tuple(saved), tuple(refused))), *news]
