"""The record DHT of one node: keeps records for others, publishes its own, and finds who has what.

One instance serves one domain; a node has one for the machine plane, a work-plane process another that shares nothing
with it. What is published is published again at half of its life, by its writer alone, so records die with whom they
tell of.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from beemesh.crypto import Crypto
from beemesh.dht.lookup import K, Lookup, distance
from beemesh.dht.messages import (
    FOUND_NODES_MAX,
    FOUND_RECORDS_MAX,
    FindRecords,
    FoundRecords,
    RecordStored,
    StoreRecord,
)
from beemesh.dht.records import RECORD_KIND, Domain, Record, RecordType, open_record, point_of
from beemesh.dht.store import RecordStore
from beemesh.effects import Answered, Asked, Effects, Notify, Now, Randomness, Reply, Request, Schedule, TimerFired
from beemesh.errors import Untrusted
from beemesh.events import FindProviders, MemberDown, Observed, ProvidersFound, PublishRecord, WithdrawRecord
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import NodeId, to_text
from beemesh.rates import Rates

TTL_MS = 3_600_000
"""Life of what nodes tell of themselves: it changes seldom, and whoever asks a node that has nothing loses 1 ms."""

QUESTION_S = 1.0
LOOKUP_S = 5.0
LOOKUPS_MAX = 128
START_NODES = 3 * K
"""Nearest known nodes with which a lookup starts."""

FAR = 2 * K
"""Records are kept by whoever is among so many nearest, as far as it knows: views differ by a few nodes."""

TICK_S = 0.5
PUBLISHED_PER_TICK = 8
"""Records sent out at once: a node that starts with thousands of them takes minutes rather than the network."""

OWN_MAX = 20_000
SWEEP_EVERY_S = 60.0
STORES_PER_S, STORES_BURST = 100.0, 2_000.0
"""Of one member: some times what a node publishes at its start."""


@dataclass(slots=True)
class _Own:
    """One record of ours and when it is to be published (again)."""

    type: RecordType
    subject: str
    value: bytes
    due_s: float


@dataclass(slots=True)
class _Search:
    lookup: Lookup
    wish: FindProviders
    found: dict[bytes, Record] = field(default_factory=dict)


class Directory:
    """See the module."""

    handles = (StoreRecord, FindRecords)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        domain: Domain,
        members: Callable[[], Iterable[NodeId]],
        crypto: Crypto,
        randomness: Randomness,
        new_request_id: Callable[[], int],
        *,
        room: str = "directory",
    ) -> None:
        """`members` are those of the domain that count as alive and keep records, this node included if it does."""
        self.room = room
        self.listens = (PublishRecord, WithdrawRecord, FindProviders, MemberDown)
        self.store = RecordStore()
        self._self_id = self_id
        self._domain = domain
        self._members = members
        self._crypto = crypto
        self._randomness = randomness
        self._new_request_id = new_request_id
        self._own: OrderedDict[tuple[RecordType, str], _Own] = OrderedDict()
        self._seq = 0
        self._searches: dict[str, _Search] = {}
        self._questions: dict[int, str] = {}
        self._stores: set[int] = set()
        self._rates = Rates(STORES_PER_S, STORES_BURST)
        self._tick_s = float("inf")

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Records are transient: whoever keeps something tells of it again at its start."""

    def start(self, now: Now) -> Effects:
        """Tell of this node, and sweep from time to time."""
        present = PublishRecord("presence", to_text(self._self_id))
        return [Schedule((self.room, "sweep"), now.boot_s + SWEEP_EVERY_S), *self._publish(present, now)]

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case Asked(sender=sender, token=token, message=StoreRecord() as store):
                return self._keep(sender, token, store, now)
            case Asked(token=token, message=FindRecords() as question):
                return self._tell(token, question, now)
            case Answered():
                return self._answered(event, now)
            case TimerFired(key=key):
                return self._timer(key, now)
            case PublishRecord():
                return self._publish(event, now)
            case WithdrawRecord(type=type_, subject=subject):
                self._own.pop((type_, subject), None)
                return []
            case FindProviders():
                return self._find(event, now)
            case MemberDown(node_id=node_id) if self._domain.key_of(node_id) is None:
                self.store.forget(node_id)
        return []

    # --- serving --------------------------------------------------------------------------------------------------

    def _keep(self, sender: NodeId, token: int, store: StoreRecord, now: Now) -> Effects:
        try:
            if store.domain != self._domain.name:
                raise Untrusted(f"this node keeps no records of {store.domain}")
            if not self._rates.take(sender, now.boot_s):
                raise Untrusted(f"more than {STORES_PER_S:g} records a second")
            record = open_record(self._crypto, self._domain, store.record, now.wall_ms)
            if self._self_id not in self._nearest(record.point, FAR):
                raise Untrusted("the record belongs to nodes nearer to its key")
        except Untrusted as error:
            return [Reply(token, RecordStored(False, error.message)), _count("records_kept", outcome="refused")]
        verdict = self.store.put(record, store.record, now)
        outcome = "kept" if verdict.ok else "refused"
        return [
            Reply(token, RecordStored(verdict.ok, verdict.reason, verdict.newer)),
            _count("records_kept", outcome=outcome),
        ]

    def _tell(self, token: int, question: FindRecords, now: Now) -> Effects:
        if question.domain != self._domain.name or len(question.point) != len(self._self_id):
            return [Reply(token, FoundRecords())]
        records = tuple(kept.signed for kept in self.store.at(question.point, now)[:FOUND_RECORDS_MAX])
        return [Reply(token, FoundRecords(records, self._nearest(question.point, FOUND_NODES_MAX)))]

    def _nearest(self, point: bytes, count: int) -> tuple[NodeId, ...]:
        return tuple(heapq.nsmallest(count, self._members(), key=lambda node_id: distance(node_id, point)))

    # --- publishing -----------------------------------------------------------------------------------------------

    def _publish(self, wish: PublishRecord, now: Now) -> Effects:
        key = (wish.type, wish.subject)
        before = self._own.get(key)
        if wish.type not in self._domain.types or (before is None and len(self._own) >= OWN_MAX):
            return []
        if before is not None and before.value == wish.value:
            return []
        self._own[key] = _Own(wish.type, wish.subject, wish.value, now.boot_s)
        self._own.move_to_end(key, last=False)  # what is due now stands in front
        return self._tick_soon(now)

    def _tick_soon(self, now: Now) -> Effects:
        return self._tick_at(now.boot_s + self._randomness.uniform(0.0, TICK_S))

    def _tick_at(self, at_s: float) -> Effects:
        if at_s >= self._tick_s:
            return []
        self._tick_s = at_s
        return [Schedule((self.room, "publish"), at_s)]

    def _tick(self, now: Now) -> Effects:
        self._tick_s = float("inf")
        due = [own for own in self._own.values() if own.due_s <= now.boot_s][:PUBLISHED_PER_TICK]
        effects: Effects = []
        for own in due:
            own.due_s = now.boot_s + TTL_MS / 1000 * self._randomness.uniform(0.4, 0.6)
            effects += self._send_out(own, now)
        first_s = min((own.due_s for own in self._own.values()), default=float("inf"))
        return effects + (self._tick_at(max(now.boot_s + TICK_S, first_s)) if self._own else [])

    def _send_out(self, own: _Own, now: Now) -> Effects:
        self._seq = max(self._seq + 1, now.wall_ms)
        record = Record(
            domain=self._domain.name,
            type=own.type,
            subject=own.subject,
            writer=self._self_id,
            epoch=0,
            seq=self._seq,
            issued_ms=now.wall_ms,
            ttl_ms=TTL_MS,
            value=own.value,
        )
        signed = sign_statement(self._crypto, RECORD_KIND, record)
        effects: Effects = []
        for peer in self._nearest(record.point, K):
            request_id = self._new_request_id()
            self._stores.add(request_id)
            effects.append(Request(request_id, peer, StoreRecord(self._domain.name, signed), QUESTION_S))
        return [*effects, _count("records_published", type=own.type)]

    # --- finding --------------------------------------------------------------------------------------------------

    def _find(self, wish: FindProviders, now: Now) -> Effects:
        if wish.ref in self._searches or len(self._searches) >= LOOKUPS_MAX:
            return [Notify(ProvidersFound(wish.ref, wish.subject, ()))]
        point = point_of(self._domain.name, wish.type, wish.subject)
        lookup = Lookup(point, self._nearest(point, START_NODES), self._is_member)
        search = self._searches[wish.ref] = _Search(lookup, wish)
        deadline = Schedule((self.room, "deadline", wish.ref), now.boot_s + LOOKUP_S)
        return [deadline, *self._go_on(search)]

    def _is_member(self, node_id: bytes) -> bool:
        return self._domain.key_of(node_id) is not None

    def _go_on(self, search: _Search) -> Effects:
        effects: Effects = []
        for peer in search.lookup.next():
            request_id = self._new_request_id()
            self._questions[request_id] = search.wish.ref
            effects.append(Request(request_id, peer, FindRecords(self._domain.name, search.lookup.point), QUESTION_S))
        return self._end(search) if search.lookup.done and not effects else effects

    def _answered(self, event: Answered, now: Now) -> Effects:
        if event.request_id in self._stores:
            self._stores.discard(event.request_id)
            ok = isinstance(event.message, RecordStored) and event.message.ok
            return [_count("records_stored", outcome="kept" if ok else "refused" if event.message else "lost")]
        search = self._searches.get(self._questions.pop(event.request_id, ""))
        if search is None:
            return []
        if isinstance(event.message, FoundRecords):
            for signed in event.message.records[:FOUND_RECORDS_MAX]:
                self._take(search, signed, now)
            search.lookup.heard(event.peer, event.message.nodes[:FOUND_NODES_MAX])
        else:
            search.lookup.lost(event.peer)
        return self._go_on(search)

    def _take(self, search: _Search, signed: Signed, now: Now) -> None:
        """Believe a record for its own signature, whoever handed it to us."""
        try:
            record = open_record(self._crypto, self._domain, signed, now.wall_ms)
        except Untrusted:
            return
        before = search.found.get(record.writer)
        if record.point == search.lookup.point and (before is None or before.version < record.version):
            search.found[record.writer] = record

    def _end(self, search: _Search) -> Effects:
        del self._searches[search.wish.ref]
        self._questions = {key: ref for key, ref in self._questions.items() if ref != search.wish.ref}
        found = tuple(record for _, record in sorted(search.found.items()))
        told = ProvidersFound(search.wish.ref, search.wish.subject, tuple(NodeId(each.writer) for each in found), found)
        return [Notify(told), _count("lookups", outcome="found" if found else "empty")]

    # --- time -----------------------------------------------------------------------------------------------------

    def _timer(self, key: Any, now: Now) -> Effects:
        match key:
            case (_, "publish"):
                return self._tick(now)
            case (_, "sweep"):
                self.store.sweep(now)
                return [Schedule((self.room, "sweep"), now.boot_s + SWEEP_EVERY_S)]
            case (_, "deadline", str() as ref):
                search = self._searches.get(ref)
                return self._end(search) if search is not None else []
        return []


def _count(name: str, **labels: str) -> Notify:
    return Notify(Observed(name, labels))
