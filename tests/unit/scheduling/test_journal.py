"""The journal: believed once, kept for a while, found again after a restart."""

from __future__ import annotations

from typing import Any

import msgspec

from beemesh.effects import (
    Asked,
    Broadcast,
    Effects,
    Erase,
    Notify,
    Now,
    Received,
    Reply,
    Request,
    Save,
    Schedule,
    TimerFired,
)
from beemesh.events import Delivered, EmitEvent, EventHeard, IntentChanged, Observed
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import NodeId, ulid
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.scheduling.audience import Audience
from beemesh.scheduling.journal import EVENT_BYTES_MAX, EVENTS_BURST, EVENTS_MAX, LISTED_MAX, TABLE, Journal
from beemesh.scheduling.messages import (
    EVENT_KIND,
    EVENT_WATCH_KIND,
    TOPIC_EVENTS,
    Event,
    EventList,
    EventStatus,
    EventTaken,
    EventWatch,
    ListEvents,
    SignedEvent,
    SignedEventWatch,
)
from beemesh.scheduling.reading import EventsTold, EventsWatched
from beemesh.scheduling.taskbook import Entry
from beemesh.scheduling.telling import MANIFEST
from beemesh.scheduling.verdicts import VERDICTS_MAX
from beemesh.workloads.record import Workload
from beemesh.workloads.rollout import mark_of
from simulator.crypto import FakeCrypto
from tests.unit.scheduling.large import Large, sends
from tests.unit.scheduling.samples import (
    CA,
    MESH,
    WALL_MS,
    card,
    membership_intent,
    record,
    revision,
    tombstone,
    workload,
)

NOW = Now(10.0, WALL_MS)
ONE, TWO = FakeCrypto(b"one"), FakeCrypto(b"two")


def journal(records: dict[str, tuple[Intent, Signed]] | None = None) -> Journal:
    """The journal of `one`, in a mesh with `two`; these records stand."""
    roster = Roster(MESH, CA.sign_key)
    for name in ("one", "two"):
        roster.apply(membership_intent(card(name)))
    return Journal(NodeId(ONE.signer_id), roster, ONE, intent_for=({} if records is None else records).get)


def event(number: int, status: EventStatus = "Deployed", by: FakeCrypto = TWO, **more: Any) -> Event:
    """An event of node `two`."""
    event_id = ulid(WALL_MS + number, number.to_bytes(10, "big"))
    return Event(event_id, NodeId(by.signer_id), status, WALL_MS + number, **{"workload_id": "w", **more})


def hear(book: Journal, told: Event, by: FakeCrypto = TWO, now: Now = NOW) -> Effects:
    """It comes over the topic."""
    signed = SignedEvent(sign_statement(by, EVENT_KIND, told))
    return book.handle(Delivered(TOPIC_EVENTS, signed, told.node_id), now)


def heard(effects: Effects) -> list[Event]:
    """What other protocols are told."""
    return [each.event.event for each in effects if isinstance(each, Notify) and isinstance(each.event, EventHeard)]


def test_own_events_are_published_and_kept() -> None:
    """What this node tells leaves signed, and other protocols hear it at once."""
    book = journal()
    mine = event(1, by=ONE)
    effects = book.handle(EmitEvent(mine), NOW)

    (broadcast,) = [each for each in effects if isinstance(each, Broadcast)]
    assert broadcast.topic == TOPIC_EVENTS
    assert heard(effects) == [mine]
    assert book.events() == (mine,)
    assert isinstance(broadcast.message, SignedEvent)
    assert book.handle(Delivered(TOPIC_EVENTS, broadcast.message, mine.node_id), NOW) == []


def test_others_are_heard_once() -> None:
    """A repeated event is news to nobody."""
    book = journal()
    assert heard(hear(book, event(1))) == [event(1)]
    assert hear(book, event(1)) == []


def test_forged_events_are_refused() -> None:
    """An event in another node's name, of a stranger or without an id leaves no trace but a count."""
    book = journal()
    refused = [
        hear(book, event(1), by=FakeCrypto(b"stranger")),
        hear(book, event(1, by=ONE), by=TWO),
        hear(book, Event("no ulid", NodeId(TWO.signer_id), "Deployed", WALL_MS)),
    ]

    for effects in refused:
        (counted,) = effects
        assert isinstance(counted, Notify)
        assert isinstance(counted.event, Observed)
    assert book.events() == ()


def test_a_flood_is_cut() -> None:
    """One member cannot push everybody else's events out in an instant."""
    book = journal()
    for number in range(EVENTS_MAX):
        hear(book, event(number))

    assert len(book.events()) == int(EVENTS_BURST)


def test_what_is_too_large_to_be_read_is_kept_by_nobody() -> None:
    """However it comes, and where an older version kept it, it goes with what is written next."""
    book = journal()
    huge = event(1, workload_id="x" * EVENT_BYTES_MAX)
    signed = sign_statement(TWO, EVENT_KIND, huge)
    for came in (
        Delivered(TOPIC_EVENTS, SignedEvent(signed), huge.node_id),
        Asked(huge.node_id, 3, SignedEvent(signed)),
        EventsTold((signed,)),
    ):
        assert heard(book.handle(came, NOW)) == []
    book.restore(TABLE, [(huge.event_id.encode(), msgspec.msgpack.encode(signed))], NOW)

    assert book.events() == ()
    hear(book, event(2, reason="x" * 1_000, details={str(number): "x" * 1_000 for number in range(12)}))
    assert [each.reason for each in book.events()] == ["x" * 1_000]
    written = book.handle(TimerFired(("journal", "flush")), NOW)
    assert [each.key for each in written if isinstance(each, Erase)] == [huge.event_id.encode()]


def test_nobody_is_silenced_in_its_own_name() -> None:
    """Neither what others forge in a member's name nor what they repeat of it counts against it."""
    book, true = journal(), sign_statement(TWO, EVENT_KIND, event(0))
    forged = msgspec.structs.replace(true, signature=bytes(64))
    for signed in (*[forged] * (EVENTS_MAX // 2), *[true] * (EVENTS_MAX // 2)):
        book.handle(Received(NodeId(ONE.signer_id), SignedEvent(signed)), NOW)
    hear(book, event(1))

    assert len(book.events()) == 2


def test_it_is_saved_in_batches_and_bounded_on_disk_too() -> None:
    """Events of one second are one batch; what no longer counts is erased; a restart finds the rest."""
    book = journal()
    disk: dict[bytes, bytes] = {}
    for number in range(EVENTS_MAX + 50):
        effects = hear(book, event(number), now=Now(10.0 + number, WALL_MS))
        assert not any(isinstance(each, Save) for each in effects)
        assert any(isinstance(each, Schedule) for each in effects)
        for write in book.handle(TimerFired(("journal", "flush")), NOW):
            if isinstance(write, Save):
                assert write.table == TABLE
                disk[write.key] = write.value
            elif isinstance(write, Erase):
                del disk[write.key]

    assert len(disk) == EVENTS_MAX
    again = journal()
    again.restore(TABLE, disk.items(), NOW)
    assert again.events() == book.events()
    assert again.events()[0] == event(50)


def test_questions() -> None:
    """Events are found by task, workload and namespace, newest last; limits keep the newest."""
    book = journal()
    told = [event(1, namespace="a", task_id="t1"), event(3, namespace="b"), event(2, namespace="a")]
    for each in told:
        hear(book, each)

    assert book.events() == (told[0], told[2], told[1])
    assert book.events(limit=1) == (told[1],)
    assert book.events(limit=0) == ()
    assert book.events(namespace="a") == (told[0], told[2])
    assert book.events(task_id="t1") == (told[0],)
    assert book.events(workload_id="x") == ()


def test_why_a_replica_is_pending() -> None:
    """The last word about a replica counts: a later deployment makes an older complaint void."""
    book = journal()
    hear(book, event(1, "Pending", replica=0, reason="no room"))
    found = book.pending("w", 0, 0)
    assert found is not None
    assert found.reason == "no room"
    assert book.pending("w", 0, 1) is None
    hear(book, event(2, "Deployed", replica=0))
    assert book.pending("w", 0, 0) is None
    hear(book, event(3, "Failed", replica=0, reason="Timeout"))
    assert book.pending("w", 0, 0) is not None


class Kept:
    """A journal with its disk, and the records that stand."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[Intent, Signed]] = {}
        self.disk: dict[bytes, bytes] = {}
        self.told = 0
        self.boot()

    def boot(self) -> None:
        """The agent starts (again)."""
        self.journal = journal(self.records)
        self.journal.restore(TABLE, self.disk.items(), NOW)
        self.journal.start(NOW)

    def put(self, found: tuple[Intent, Signed]) -> None:
        """A record stands from now on."""
        before = self.records.get(found[0].key)
        self.records[found[0].key] = found
        self.journal.handle(IntentChanged(*found, before[0] if before else None), NOW)

    def hear(self, told: Event) -> Event:
        """An event comes, and is saved."""
        hear(self.journal, told, now=Now(10.0 + self.told, WALL_MS))
        for write in self.journal.handle(TimerFired(("journal", "flush")), NOW):
            if isinstance(write, Save):
                self.disk[write.key] = write.value
            elif isinstance(write, Erase):
                del self.disk[write.key]
        return told

    def next(self, status: EventStatus = "Pending", **more: Any) -> Event:
        """The next event."""
        self.told += 1
        return self.hear(event(self.told, status, **more))

    def end(self, wanted: Workload, status: EventStatus, number: int = 0) -> Event:
        """What a steward tells of a revision, the current one unless `number` says another."""
        about = wanted.revision(number) or wanted.current
        details = {MANIFEST: mark_of(about).hex()}
        return self.next(status, workload_id=wanted.workload_id, revision=about.number, details=details)

    def fill(self) -> None:
        """As many events come as are ever kept."""
        for _ in range(EVENTS_MAX):
            self.next()

    def left(self, *told: Event) -> list[bool]:
        """Which of them are still known, in memory and on disk alike."""
        assert len(self.journal.events()) == len(self.disk) <= EVENTS_MAX
        assert {each.event_id.encode() for each in self.journal.events()} == self.disk.keys()
        return [each in self.journal.events() for each in told]


def test_what_later_stewards_depend_on_is_not_pushed_out() -> None:
    """The end of a Job, the failure of a revision and which one was complete before it stay, with the bound that holds
    for all, however much is told of others, and over restarts."""
    kept = Kept()
    done, failed = workload("done", kind="Job"), workload("failed", kind="Job")
    back = workload("back", revisions=(revision(2), revision(1)))
    for each in (done, failed, back):
        kept.put(record(each))
    last = [
        kept.end(done, "Completed"),
        kept.end(failed, "Failed"),
        kept.end(back, "RolledOut", 1),
        kept.end(back, "RolledBack"),
    ]
    passing = kept.next()
    for _ in range(2):
        kept.fill()
        assert kept.left(*last, passing) == [True] * 4 + [False]
        kept.boot()
    assert len(kept.disk) == EVENTS_MAX


def test_what_is_spared_ages_once_no_record_asks_for_it() -> None:
    """A deleted workload, another revision, a newer word: what was said before goes with the rest."""
    kept = Kept()
    deleted, renewed, repeated = (workload(name) for name in ("deleted", "renewed", "repeated"))
    for each in (deleted, renewed, repeated):
        kept.put(record(each))
    old = [kept.end(each, "RolledBack") for each in (deleted, renewed, repeated)]
    kept.put(tombstone(deleted))
    kept.put(record(workload("renewed", revisions=(revision(2), revision(1))), 2))
    new = kept.end(repeated, "RolledBack")
    kept.fill()
    assert kept.left(*old, new) == [False, False, False, True]


def test_only_what_an_operator_signed_is_spared() -> None:
    """Words on a workload that never was, or on another revision of that number, age like any other; one that came
    before its record counts from then on; one that comes late does not count for more than a newer one."""
    kept = Kept()
    known, late, clash = (workload(name) for name in ("known", "late", "clash"))
    kept.put(record(known))
    kept.put(record(clash))
    made_up = kept.end(workload("unknown"), "RolledBack")
    other = kept.next("RolledBack", workload_id=clash.workload_id, revision=1, details={MANIFEST: "00"})
    early = kept.end(late, "Completed")
    kept.put(record(late))
    newest = kept.end(known, "RolledBack")
    before = kept.hear(msgspec.structs.replace(newest, event_id=ulid(WALL_MS, bytes(10)), issued_ms=WALL_MS))
    kept.fill()
    assert kept.left(made_up, other, early, newest, before) == [False, False, True, True, False]


def test_what_is_spared_is_bounded_too() -> None:
    """However many workloads end, others are told of as well; complete rollouts go first, then the oldest end."""
    kept = Kept()
    jobs = [workload(f"job-{number}", kind="Job") for number in range(VERDICTS_MAX + 10)]
    complete = workload("complete")
    for each in (complete, *jobs):
        kept.put(record(each))
    ends = [kept.end(each, "Completed") for each in jobs[:VERDICTS_MAX]]
    rolled_out = kept.end(complete, "RolledOut")
    ends += [kept.end(each, "Completed") for each in jobs[VERDICTS_MAX:]]
    kept.fill()
    assert kept.left(rolled_out, *ends) == [False] * 11 + [True] * VERDICTS_MAX
    assert kept.left(kept.next()) == [True]


def test_what_others_depend_on_is_not_left_out_of_an_answer() -> None:
    """Whoever asks for what was told of a workload gets the last word on it, however much was told since."""
    kept = Kept()
    ended = workload("ended", kind="Job")
    kept.put(record(ended))
    last = kept.end(ended, "Completed")
    newer = [kept.next(workload_id=ended.workload_id) for _ in range(LISTED_MAX)]
    (reply,) = kept.journal.handle(Asked(NodeId(TWO.signer_id), 5, ListEvents((ended.workload_id,))), NOW)
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, EventList)
    told = tuple(sign_statement(TWO, EVENT_KIND, each) for each in (last, *newer[1:]))
    assert reply.message.events == told


class LargeJournal(Large):
    """The journal of `n0` in a large mesh; `n5` called for the task that it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.known = self.task()
        self.entry = Entry(self.known, self.signed(self.known, "n5"), 0.0, 0, 30.0)
        books = {self.known.task_id: self.entry}
        self.audience = Audience(self.ids["n0"], self.roster, self.view, books.get)
        self.journal = Journal(self.ids["n0"], self.roster, self.crypto["n0"], self.audience, lambda: 7)

    def emit(self, namespace: str = "default", status: EventStatus = "Deployed") -> Effects:
        """Something happens to the task."""
        told = event(1, status, by=self.crypto["n0"], task_id=self.known.task_id, namespace=namespace)
        return self.journal.handle(EmitEvent(told), self.now)

    def told(self, effects: Effects) -> set[str]:
        """Who is told without being asked for an answer."""
        return {self.names[each.to] for each in sends(effects, SignedEvent)}

    def watch(self, by: str, namespace: str = "", for_ms: int = 60_000, signer: str = "") -> None:
        """Somebody watches at a node."""
        watch = EventWatch(self.ids[by], self.now.wall_ms, for_ms, namespace)
        signed = sign_statement(self.crypto[signer or by], EVENT_WATCH_KIND, watch)
        self.journal.handle(Delivered(TOPIC_EVENTS, SignedEventWatch(signed), self.ids["n1"]), self.now)


def test_in_a_large_mesh_the_steward_is_told_until_it_answers() -> None:
    """Nothing is published: the steward gets a question, those that would follow it get the event."""
    mesh = LargeJournal()
    effects = mesh.emit()
    assert not [each for each in effects if isinstance(each, Broadcast)]
    (asked,) = [each for each in effects if isinstance(each, Request)]
    assert mesh.names[asked.to] == "n5"
    assert len(mesh.told(effects)) == 3


def test_how_an_announced_task_ends_is_told_to_all_who_heard_it_though_the_mesh_is_large_by_now() -> None:
    """Whoever watches another take it would claim it in turn else; what comes after that is no matter of theirs."""
    mesh = LargeJournal()
    mesh.entry.is_announced = True
    for status in ("Scheduled", "Deployed", "Failed", "Cancelled"):
        assert isinstance(mesh.emit(status=status)[0], Broadcast), status
    assert not [each for each in mesh.emit(status="Ready") if isinstance(each, Broadcast)]


def test_who_watches_a_large_mesh_is_told_while_it_watches() -> None:
    """A watch of one namespace or of all, for its time, in one's own name alone."""
    mesh = LargeJournal()
    before = mesh.told(mesh.emit())
    watchers = [name for name in mesh.ids if name not in before and name not in ("n0", "n5")][:4]
    mesh.watch(watchers[0])
    mesh.watch(watchers[1], namespace="other")
    mesh.watch(watchers[2], signer=watchers[3])
    assert mesh.told(mesh.emit()) - before == {watchers[0]}
    mesh.later(61)
    assert mesh.told(mesh.emit()) == before


def test_an_event_that_comes_as_a_question_is_answered_and_kept() -> None:
    """The steward says that it has it, also the second time, and keeps it once."""
    mesh = LargeJournal()
    told = event(3, by=mesh.crypto["n9"])
    question = Asked(mesh.ids["n9"], 4, SignedEvent(sign_statement(mesh.crypto["n9"], EVENT_KIND, told)))
    first, second = mesh.journal.handle(question, mesh.now), mesh.journal.handle(question, mesh.now)
    assert Reply(4, EventTaken(told.event_id)) in first
    assert Reply(4, EventTaken(told.event_id)) in second
    assert heard(first) == [told]
    assert heard(second) == []


def test_a_watch_of_this_agent_is_told_to_all() -> None:
    """Whoever watches here is announced on the topic, signed."""
    mesh = LargeJournal()
    (told,) = [each for each in mesh.journal.handle(EventsWatched(30.0), mesh.now) if isinstance(each, Broadcast)]
    assert isinstance(told.message, SignedEventWatch)


def test_in_a_large_mesh_others_are_asked_for_what_they_heard() -> None:
    """The newest of the workloads that are asked about, as they were signed; each is checked before it is kept, and
    none is news."""
    there, here = LargeJournal(), LargeJournal()
    about = [event(number, by=there.crypto["n9"]) for number in range(4)]
    other = msgspec.structs.replace(event(9, by=there.crypto["n9"]), workload_id="other")
    for each in (*about, other):
        hear(there.journal, each, there.crypto["n9"], there.now)
    (reply,) = there.journal.handle(Asked(there.ids["n0"], 5, ListEvents(("w", "none"))), there.now)
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, EventList)

    forged = msgspec.structs.replace(reply.message.events[0], signature=bytes(64))
    effects = here.journal.handle(EventsTold((forged, *reply.message.events)), here.now)
    assert here.journal.events(workload_id="w") == tuple(about)
    assert heard(effects) == []
    assert here.journal.handle(EventsTold(reply.message.events), here.now) == []
    saved = [each.key for each in here.journal.handle(TimerFired(("journal", "flush")), here.now)]
    assert len(saved) == len(about)
