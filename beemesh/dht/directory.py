"""The record DHT of one node: keeps records for others, publishes its own, and finds who has what.

One instance serves one domain; a node has one for the machine plane, a work-plane process another that shares nothing
with it. What is published is published again at half of its life, by its writer alone, so records die with whom they
tell of; meanwhile those that keep it hand it to whoever comes to belong to the key's region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from beemesh.crypto import Crypto
from beemesh.dht.contacts import Contacts
from beemesh.dht.handover import BATCH_EVERY_S, GATHER_S, Copy, Handover
from beemesh.dht.lookup import Lookup
from beemesh.dht.messages import (
    FOUND_NODES_MAX,
    FOUND_RECORDS_MAX,
    FindRecords,
    FoundRecords,
    RecordStored,
    StoreRecord,
)
from beemesh.dht.publisher import Own, OwnKey, Publisher
from beemesh.dht.records import Domain, Record, check_record, open_record, point_of, read_record
from beemesh.dht.region import Choice, Region
from beemesh.dht.store import RecordStore
from beemesh.effects import (
    Answered,
    Asked,
    Cancel,
    Effects,
    Notify,
    Now,
    Randomness,
    Reply,
    Request,
    Schedule,
    TimerFired,
)
from beemesh.errors import Untrusted
from beemesh.events import (
    FindProviders,
    MemberDown,
    MemberLeft,
    MemberUp,
    Observed,
    ProvidersFound,
    PublishRecord,
    RecordPublished,
    SeedIntents,
    WithdrawRecord,
)
from beemesh.identity.signing import Signed
from beemesh.ids import NODE_ID_BYTES, NodeId, to_text
from beemesh.rates import Rates

QUESTION_S = 1.0
LOOKUP_S = 5.0
LOOKUPS_MAX = 128

FIRST_S = (1.0, 2.0)
"""From the start to the first publication: by then a node has heard who is there."""

SPARE_AFTER_S = 0.02
"""From when those whom a reader asks keep a record to when the rest of its region gets it: whoever waits for the first
is told before."""

FRESH_SHARE = 0.75
"""Of those that a reader asks: when so many keep a record fresh it is not published again."""

SOUND_S = (0.5, 1.0)
SOUND_AT_START = 5
"""Lookups of chance points by which a node without a roster fills its table and measures the network."""
SOUND_EVERY_S = (400.0, 800.0)

SWEEP_EVERY_S = 60.0
STORES_PER_S, STORES_BURST = 100.0, 2_000.0
"""Of one member: some times what a node publishes at its start."""


@dataclass(slots=True)
class _Publication:
    """One record of ours on its way to those that should keep it: first to those whom readers ask, then to the rest."""

    key: OwnKey
    signed: Signed
    rest: tuple[NodeId, ...]
    full: bool
    """Whether whoever should keep it is known."""
    waiting: set[int] = field(default_factory=set)
    asked: int = 0
    kept: int = 0
    is_told: bool = False


@dataclass(slots=True)
class _Search:
    """A lookup: to find (`wish`), to publish (`own`), or to see how dense the network is."""

    ref: str
    lookup: Lookup
    names: bool
    wish: FindProviders | None = None
    own: tuple[OwnKey, Signed] | None = None
    found: dict[bytes, tuple[Signed, Record]] = field(default_factory=dict)
    introduced: set[bytes] = field(default_factory=set)
    fresh_s: dict[NodeId, float] = field(default_factory=dict)
    """Who keeps `own` already, and for how long that saves publishing it."""


class Directory:
    """See the module."""

    handles = (StoreRecord, FindRecords)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        domain: Domain,
        contacts: Contacts,
        crypto: Crypto,
        randomness: Randomness,
        new_request_id: Callable[[], int],
        *,
        room: str = "directory",
    ) -> None:
        """`contacts` are those of the domain that keep records, as far as this node knows."""
        self.room = room
        self.listens = (PublishRecord, WithdrawRecord, FindProviders, MemberUp, MemberDown, MemberLeft)
        self.store = RecordStore()
        self.contacts = contacts
        self.published = Publisher(self_id, domain, crypto, randomness)
        self._self_id = self_id
        self._domain = domain
        self._crypto = crypto
        self._randomness = randomness
        self._new_request_id = new_request_id
        self._handover = Handover(self_id, self.store)
        self._searches: dict[str, _Search] = {}
        self._questions: dict[int, str] = {}
        self._publications: dict[int, _Publication] = {}
        self._copies: set[int] = set()
        self._spare: dict[OwnKey, _Publication] = {}
        """Those that readers ask keep these; the rest of the region is yet to get them."""
        self._rates = Rates(STORES_PER_S, STORES_BURST)
        self._tick_s = float("inf")
        self._sounded = 0

    @property
    def searching(self) -> int:
        """Lookups under way."""
        return len(self._searches)

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Records are transient: whoever keeps something tells of it again at its start."""

    def start(self, now: Now) -> Effects:
        """Tell of this node, and sweep from time to time."""
        first_s = now.boot_s + self._randomness.uniform(*FIRST_S)
        if "presence" in self._domain.types:
            self.published.add(PublishRecord("presence", to_text(self._self_id), is_old=True), first_s)
        effects: Effects = [Schedule((self.room, "sweep"), now.boot_s + SWEEP_EVERY_S), *self._tick_at(first_s)]
        if self.contacts.is_table:
            effects.append(Schedule((self.room, "sound"), now.boot_s + self._randomness.uniform(*SOUND_S)))
        return effects

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case Asked(sender=sender, token=token, message=StoreRecord() as store):
                return [*self._keep(sender, token, store, now), *self._met(sender, now)]
            case Asked(sender=sender, token=token, message=FindRecords() as question):
                return [*self._tell(token, question, now), *self._met(sender, now)]
            case Answered():
                return self._answered(event, now)
            case TimerFired(key=key):
                return self._timer(key, now)
            case PublishRecord():
                return self._publish_due(now) if self.published.add(event, now.boot_s) else []
            case WithdrawRecord(type=type_, subject=subject):
                self.published.withdraw((type_, subject))
            case FindProviders(type=type_) if type_ in self._domain.types:
                return self._find(event, now)
            case MemberUp(node_id=node_id):
                return self._changed(node_id, now, came=True)
            case MemberDown(node_id=node_id) | MemberLeft(node_id=node_id):
                return self._gone(node_id, now)
        return []

    # --- serving --------------------------------------------------------------------------------------------------

    def _keep(self, sender: NodeId, token: int, store: StoreRecord, now: Now) -> Effects:
        try:
            if store.domain != self._domain.name:
                raise Untrusted(f"this node keeps no records of {store.domain}")
            if not self._rates.take(sender, now.boot_s):
                raise Untrusted(f"more than {STORES_PER_S:g} records a second")
            record = read_record(store.record)
            point = record.point
            if self.store.has(point, store.record, now):
                return [Reply(token, RecordStored(True)), _count("records_kept", outcome="had")]
            check_record(self._crypto, self._domain, store.record, record, now.wall_ms)
            if not self._is_near(point):
                raise Untrusted("the record belongs to nodes nearer to its key")
        except Untrusted as error:
            return [Reply(token, RecordStored(False, error.message)), _count("records_kept", outcome="refused")]
        verdict = self.store.put(record, store.record, now)
        outcome = "kept" if verdict.ok else "refused"
        return [
            Reply(token, RecordStored(verdict.ok, verdict.reason, verdict.newer)),
            _count("records_kept", outcome=outcome),
        ]

    def _is_near(self, point: bytes) -> bool:
        """Whether somebody whose view differs a little from ours may count this node among a point's keepers."""
        region = Region(point, self.contacts.size())
        return region.tolerates(self._self_id) or self._self_id in region.choose(self._everybody()).nodes

    def _everybody(self) -> set[NodeId]:
        """Whom this node knows; itself where nobody else says whether it keeps records."""
        return {*self.contacts, self._self_id} if self.contacts.is_table else set(self.contacts)

    def _tell(self, token: int, question: FindRecords, now: Now) -> Effects:
        if question.domain != self._domain.name or len(question.point) != NODE_ID_BYTES:
            return [Reply(token, FoundRecords())]
        nodes: tuple[NodeId, ...] = ()
        cards: tuple[Signed, ...] = ()
        differs = bool(question.roster) and question.roster != self.contacts.digest
        if question.nodes or differs:
            region = Region(question.point, self.contacts.size())
            nodes = region.choose(self._everybody()).nodes[:FOUND_NODES_MAX]
        if differs:
            cards = self.contacts.cards(nodes)
        return [Reply(token, FoundRecords(self.store.shown(question.point, self._self_id, now), nodes, cards))]

    # --- who is there ---------------------------------------------------------------------------------------------

    def _met(self, node_id: NodeId, now: Now) -> Effects:
        """Somebody proved to be there; only a table wants to know."""
        if self.contacts.is_table and self._domain.key_of(node_id) is not None and self.contacts.seen(node_id):
            return self._changed(node_id, now, came=True)
        return []

    def _gone(self, node_id: NodeId, now: Now) -> Effects:
        if self._domain.key_of(node_id) is None:
            self.store.forget(node_id)
            self.contacts.forget(node_id)
        return self._changed(node_id, now, came=False)

    def _changed(self, node_id: NodeId, now: Now, *, came: bool) -> Effects:
        due = self._handover.came(node_id) if came else self._handover.went(node_id)
        if not due:
            return []
        return [Schedule((self.room, "handover"), now.boot_s + self._randomness.uniform(*GATHER_S))]

    def _hand_over(self, now: Now) -> Effects:
        members = self._everybody()
        effects: Effects = []
        for copy in self._handover.batch(members, self.contacts.size(), now):
            effects += self._copy(copy)
        if self._handover.is_due:
            effects.append(Schedule((self.room, "handover"), now.boot_s + BATCH_EVERY_S))
        return effects

    def _copy(self, copy: Copy) -> Effects:
        request_id = self._new_request_id()
        self._copies.add(request_id)
        return [Request(request_id, copy.to, StoreRecord(self._domain.name, copy.kept.signed), QUESTION_S)]

    # --- publishing -----------------------------------------------------------------------------------------------

    def _publish_due(self, now: Now) -> Effects:
        effects: Effects = []
        for own in self.published.due(now):
            effects += self._send_out(own, now)
        return [*effects, *self._tick_next(now)]

    def _tick_next(self, now: Now) -> Effects:
        """Look again when the next publication is due."""
        next_s = self.published.next_s(now)
        return self._tick_at(next_s) if next_s is not None else []

    def _tick_at(self, at_s: float) -> Effects:
        if at_s >= self._tick_s:
            return []
        self._tick_s = at_s
        return [Schedule((self.room, "publish"), at_s)]

    def _send_out(self, own: Own, now: Now) -> Effects:
        """To those that should keep it; whoever does not know all of them, or whether they do, looks first."""
        key = (own.type, own.subject)
        record, signed = self.published.sign(own, now)
        count = _count("records_published", type=own.type)
        unsure, own.is_unsure = own.is_unsure, False
        if self.contacts.is_full(now) and not unsure:
            choice = Region(record.point, self.contacts.size()).choose(self._everybody())
            return [count, *self._store_at(key, signed, choice, now, full=True)]
        search = self._search(f"publish {own.type} {own.subject}", record.point, now)
        if search is None:
            self.published.settled(key, now, well=False)
            return []
        search.own = key, signed
        return [count, *self._begin(search, now)]

    def _place(self, search: _Search, key: OwnKey, signed: Signed, now: Now) -> Effects:
        """Store where a lookup led, unless enough of those keep it, fresh."""
        lookup = search.lookup
        choice = lookup.chosen()
        fresh_s = sorted(each for each in search.fresh_s.values() if each > 0)
        if choice.nodes and FRESH_SHARE * choice.enough <= len(fresh_s):
            self.published.skip(key, now, fresh_s[0])
            told = Notify(RecordPublished(*key, len(fresh_s), len(lookup.answered)))
            return [told, _count("records_skipped", type=key[0]), *self._tick_next(now)]
        full = (self.contacts.is_table or self.contacts.is_full(now)) and len(lookup.answered) > len(lookup.failed)
        return self._store_at(key, signed, choice, now, full=full)

    def _store_at(self, key: OwnKey, signed: Signed, choice: Choice, now: Now, *, full: bool) -> Effects:
        if not choice.nodes:
            self.published.settled(key, now, well=False)
            return self._tick_next(now)
        publication = _Publication(key, signed, choice.nodes[choice.enough :], full)
        return self._store(publication, choice.nodes[: choice.enough])

    def _store(self, publication: _Publication, nodes: Iterable[NodeId]) -> Effects:
        message = StoreRecord(self._domain.name, publication.signed)
        requests = [Request(self._new_request_id(), node_id, message, QUESTION_S) for node_id in nodes]
        publication.waiting = {each.request_id for each in requests}
        publication.asked += len(requests)
        self._publications.update(dict.fromkeys(publication.waiting, publication))
        return list(requests)

    def _store_rest(self, publication: _Publication | None) -> Effects:
        """To those whom a reader asks only when others fail; None when something newer took its place."""
        if publication is None:
            return []
        rest, publication.rest = publication.rest, ()
        return self._store(publication, rest)

    def _stored(self, publication: _Publication, event: Answered, now: Now) -> Effects:
        outcome = _outcome(event)
        publication.kept += outcome == "kept"
        publication.waiting.discard(event.request_id)
        effects: Effects = [_count("records_stored", outcome=outcome)]
        if publication.waiting:
            return effects
        if not publication.is_told:
            publication.is_told = True
            effects.append(Notify(RecordPublished(*publication.key, publication.kept, publication.asked)))
        if publication.rest:
            self._spare[publication.key] = publication
            return [*effects, Schedule((self.room, "spare", *publication.key), now.boot_s + SPARE_AFTER_S)]
        well = publication.full and 2 * publication.kept > publication.asked
        self.published.settled(publication.key, now, well=well)
        return [*effects, *self._tick_next(now)]

    # --- finding --------------------------------------------------------------------------------------------------

    def _find(self, wish: FindProviders, now: Now) -> Effects:
        search = self._search(f"find {wish.ref}", point_of(self._domain.name, wish.type, wish.subject), now)
        if search is None:
            return [Notify(ProvidersFound(wish.ref, wish.subject, ()))]
        search.wish = wish
        return self._begin(search, now)

    def _sound(self, now: Now) -> Effects:
        """Look up a chance point, at first this node's own: it makes this node known to its neighbours."""
        point = bytes(self._self_id) if not self._sounded else self._randomness.randbytes(NODE_ID_BYTES)
        self._sounded += 1
        pause_s = self._randomness.uniform(*(SOUND_S if self._sounded <= SOUND_AT_START else SOUND_EVERY_S))
        search = self._search(f"sound {self._sounded}", point, now)
        again = Schedule((self.room, "sound"), now.boot_s + pause_s)
        return [again, *(self._begin(search, now) if search is not None else [])]

    def _search(self, ref: str, point: bytes, now: Now) -> _Search | None:
        if ref in self._searches or len(self._searches) >= LOOKUPS_MAX:
            return None
        full = self.contacts.is_full(now)
        introduced: set[bytes] = set()

        def is_member(node_id: bytes) -> bool:
            return node_id in introduced or self._domain.key_of(node_id) is not None

        lookup = Lookup(Region(point, self.contacts.size()), self._everybody(), is_member, one_hop=full)
        self._searches[ref] = search = _Search(ref, lookup, names=not full, introduced=introduced)
        return search

    def _begin(self, search: _Search, now: Now) -> Effects:
        return [Schedule((self.room, "deadline", search.ref), now.boot_s + LOOKUP_S), *self._go_on(search, now)]

    def _go_on(self, search: _Search, now: Now) -> Effects:
        effects: Effects = []
        for peer in search.lookup.next():
            request_id = self._new_request_id()
            self._questions[request_id] = search.ref
            question = FindRecords(self._domain.name, search.lookup.region.point, self.contacts.digest, search.names)
            effects.append(Request(request_id, peer, question, QUESTION_S))
        return self._end(search, now) if not effects and search.lookup.done else effects

    def _answered(self, event: Answered, now: Now) -> Effects:
        effects: Effects = []
        if event.message is not None:
            effects += self._met(event.peer, now)
        elif self.contacts.failed(event.peer):
            effects += self._changed(event.peer, now, came=False)
        if event.request_id in self._copies:
            self._copies.discard(event.request_id)
            return [*effects, _count("records_handed_on", outcome=_outcome(event))]
        publication = self._publications.pop(event.request_id, None)
        if publication is not None:
            return [*effects, *self._stored(publication, event, now)]
        search = self._searches.get(self._questions.pop(event.request_id, ""))
        if search is None:
            return effects
        if isinstance(event.message, FoundRecords):
            effects += self._heard(search, event.peer, event.message, now)
        else:
            search.lookup.lost(event.peer)
        return [*effects, *self._go_on(search, now)]

    def _heard(self, search: _Search, peer: NodeId, answer: FoundRecords, now: Now) -> Effects:
        effects: Effects = []
        cards = answer.cards[:FOUND_NODES_MAX]
        strangers = [stranger for card in cards if (stranger := self.contacts.introduce(card, now)) is not None]
        if strangers:
            search.introduced.update(strangers)
            effects.append(Notify(SeedIntents(cards)))
        for signed in answer.records[:FOUND_RECORDS_MAX]:
            self._take(search, signed, now)
            newest = search.found.get(signed.signer)
            if search.own is not None and signed.signer == self._self_id and newest is not None and newest[0] == signed:
                search.fresh_s[peer] = self.published.left_fresh_s(search.own[0], signed, now)
        search.lookup.heard(peer, answer.nodes[:FOUND_NODES_MAX])
        return effects

    def _take(self, search: _Search, signed: Signed, now: Now) -> None:
        """Believe a record for its own signature, whoever handed it to us."""
        before = search.found.get(signed.signer)
        if before is not None and before[0] == signed:
            return
        try:
            record = open_record(self._crypto, self._domain, signed, now.wall_ms)
        except Untrusted:
            return
        if record.point != search.lookup.region.point:
            return
        search.lookup.satisfied = True
        if before is None or before[1].version < record.version:
            search.found[record.writer] = signed, record

    def _end(self, search: _Search, now: Now) -> Effects:
        del self._searches[search.ref]
        cancel = Cancel((self.room, "deadline", search.ref))
        self._questions = {key: ref for key, ref in self._questions.items() if ref != search.ref}
        if search.wish is not None:
            found = tuple(record for _, (_, record) in sorted(search.found.items()))
            nodes = tuple(NodeId(each.writer) for each in found)
            told = ProvidersFound(search.wish.ref, search.wish.subject, nodes, found)
            return [cancel, Notify(told), _count("lookups", outcome="found" if found else "empty")]
        if search.own is not None:
            return [cancel, *self._place(search, *search.own, now)]
        self.contacts.sound(search.lookup.region.point, search.lookup.known())
        return [cancel]

    # --- time -----------------------------------------------------------------------------------------------------

    def _timer(self, key: Any, now: Now) -> Effects:
        match key:
            case (_, "publish"):
                self._tick_s = float("inf")
                return self._publish_due(now)
            case (_, "spare", type_, subject):
                return self._store_rest(self._spare.pop((type_, subject), None))
            case (_, "sweep"):
                self.store.sweep(now)
                return [Schedule((self.room, "sweep"), now.boot_s + SWEEP_EVERY_S)]
            case (_, "handover"):
                return self._hand_over(now)
            case (_, "sound"):
                return self._sound(now)
            case (_, "deadline", str() as ref):
                search = self._searches.get(ref)
                return self._end(search, now) if search is not None else []
        return []


def _count(name: str, **labels: str) -> Notify:
    return Notify(Observed(name, labels))


def _outcome(event: Answered) -> str:
    if isinstance(event.message, RecordStored) and event.message.ok:
        return "kept"
    return "refused" if event.message is not None else "lost"
