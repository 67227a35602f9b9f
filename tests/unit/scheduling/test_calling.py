"""A steward in a large mesh: whom it asks, whom it tells to claim, and what it does without a lease."""

from __future__ import annotations

import random

from beemesh.effects import Broadcast, Effects, Schedule, TimerFired
from beemesh.events import (
    EventHeard,
    IntentChanged,
    LeaseLost,
    MemberDown,
    MemberUp,
    OfferHeard,
    PublishTask,
    TaskUnplaced,
)
from beemesh.identity.signing import decode_body
from beemesh.membership.view import LARGE_ABOVE
from beemesh.scheduling.auction.calling import DIGEST_AFTER_S, LEASE_HEARD_S, Caller
from beemesh.scheduling.auction.sampling import ASKED
from beemesh.scheduling.leases import steward_key
from beemesh.scheduling.messages import (
    TOPIC_TASKS,
    Award,
    CallForBids,
    Event,
    Offer,
    SignedTask,
    SignedTaskDigest,
    Task,
    TaskDigest,
)
from beemesh.workloads.record import Constraints
from tests.unit.scheduling.large import Large, notes, sends
from tests.unit.scheduling.samples import settings, tombstone


class Desk(Large):
    """The steward `n0` and what it does."""

    def __init__(self, size: int = LARGE_ABOVE + 20) -> None:
        super().__init__(size)
        self.caller = Caller(
            self.ids["n0"], self.roster, self.view, self.crypto["n0"], random.Random(1), settings("n0")
        )
        self.called = self.task()

    def hand(self, event: object) -> Effects:
        """Something happens."""
        return self.caller.handle(event, self.now)

    def publish(self, task: Task | None = None) -> list[str]:
        """The task is wanted; the names of those that are asked."""
        task = task or self.called
        effects = self.hand(PublishTask(task, self.signed(task)))
        return [self.names[each.to] for each in sends(effects, CallForBids)]

    def offer(self, name: str, score: float | None, *reasons: str, wait_ms: int = 0) -> Effects:
        """A candidate answers."""
        bid = self.bid(self.called, name, score) if score is not None else None
        return self.hand(self.received(name, Offer(self.called.task_id, bid, reasons, wait_ms)))

    def fire(self, what: str) -> Effects:
        """A timer of the task is due."""
        return self.hand(TimerFired(("calling", what, self.called.task_id)))

    def awarded(self, effects: Effects) -> list[str]:
        """Who is told to claim."""
        return [self.names[each.to] for each in sends(effects, Award)]


def digests(effects: Effects) -> list[TaskDigest]:
    """The digests that are told to all."""
    told = [each.message for each in effects if isinstance(each, Broadcast) and each.topic == TOPIC_TASKS]
    return [decode_body(each.digest, TaskDigest) for each in told if isinstance(each, SignedTaskDigest)]


def test_in_a_small_mesh_everybody_hears_the_task() -> None:
    """Up to the threshold a task is published on its topic, and nobody is asked alone."""
    desk = Desk(LARGE_ABOVE)
    effects = desk.hand(PublishTask(desk.called, desk.signed(desk.called)))
    assert [type(each.message) for each in effects if isinstance(each, Broadcast)] == [SignedTask]
    assert not sends(effects, CallForBids)


def test_in_a_large_mesh_a_few_are_asked_and_the_best_is_told() -> None:
    """The last answer closes the window: the best bidder alone is told to claim."""
    desk = Desk()
    asked = desk.publish()
    assert len(asked) == ASKED
    for name in asked[:-1]:
        assert not desk.awarded(desk.offer(name, 0.5))
    assert desk.awarded(desk.offer(asked[-1], 0.7)) == [asked[-1]]


def test_silent_candidates_are_not_waited_for() -> None:
    """When the window is over the best of those that answered is told, without the others."""
    desk = Desk()
    asked = desk.publish()
    desk.offer(asked[0], 0.5)
    desk.offer(asked[1], 0.7)
    assert desk.awarded(desk.fire("close")) == [asked[1]]


def test_nearly_equal_bids_are_drawn() -> None:
    """Among bids within a hundredth of the best the task's hash chooses: over many tasks not always the same place."""
    places = set()
    for number in range(12):
        desk = Desk()
        desk.called = desk.task(number)
        asked = desk.publish()
        for place, name in enumerate(asked):
            told = desk.awarded(desk.offer(name, 0.70 + place * 0.0001))
        places.add(asked.index(told[0]))
    assert len(places) > 3


def test_a_bid_counts_no_more_than_its_summary() -> None:
    """A loaded node that claims to be idle loses against one whose summary bears out its bid."""
    desk = Desk()
    asked = desk.publish()
    desk.summarize(asked[0], cpu_load=0.95, cpu_m_reserved=3_500, mem_mb_free=500)
    desk.offer(asked[0], 0.999)
    desk.offer(asked[1], 0.75)
    assert desk.awarded(desk.fire("close")) == [asked[1]]


def test_the_next_best_follows_when_the_leader_declines_or_is_not_heard_of() -> None:
    """A refusal after the award passes it on at once, silence after a while."""
    desk = Desk()
    asked = desk.publish()
    for name, score in zip(asked[:3], (0.8, 0.7, 0.6), strict=True):
        desk.offer(name, score)
    assert desk.awarded(desk.fire("close")) == [asked[0]]
    assert desk.awarded(desk.offer(asked[0], None, "no room any more")) == [asked[1]]
    desk.later(LEASE_HEARD_S)
    assert desk.awarded(desk.fire("again")) == [asked[2]]


def test_a_held_lease_is_waited_for() -> None:
    """A denied claim names the time after which another may succeed: until then nobody is told to claim."""
    desk = Desk()
    asked = desk.publish()
    desk.offer(asked[0], 0.8)
    desk.offer(asked[1], 0.7)
    desk.fire("close")
    effects = desk.offer(asked[0], None, "another node holds it", wait_ms=2_500)
    assert not desk.awarded(effects)
    (again,) = [each for each in effects if isinstance(each, Schedule)]
    assert again.at_boot_s >= desk.now.boot_s + 2.5
    assert desk.awarded(desk.fire("again")) == [asked[1]]


def test_after_all_were_told_it_begins_again_later_and_later() -> None:
    """Bidders that never come to hold the lease are told again after pauses that grow."""
    desk = Desk()
    asked = desk.publish()
    desk.offer(asked[0], 0.8)
    desk.fire("close")
    pauses = []
    for _ in range(3):
        desk.later(LEASE_HEARD_S)
        (again,) = [each for each in desk.fire("again") if isinstance(each, Schedule)]
        pauses.append(again.at_boot_s - desk.now.boot_s)
        desk.later(pauses[-1])
        assert desk.awarded(desk.fire("again")) == [asked[0]]
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1]


def test_reasons_are_told_when_nobody_takes_it() -> None:
    """With only refusals the steward hears each node's reasons, once for each new one."""
    desk = Desk()
    asked = desk.publish()
    for name in asked[:-1]:
        assert not notes(desk.offer(name, None, "needs more memory"), TaskUnplaced)
    (told,) = notes(desk.offer(asked[-1], None, "is cordoned"), TaskUnplaced)
    assert {desk.names[node_id] for node_id, _ in told.reasons} == set(asked)
    assert dict(told.reasons)[desk.ids[asked[-1]]] == ("is cordoned",)
    assert not notes(desk.fire("close"), TaskUnplaced)


def test_a_task_that_nobody_can_be_asked_about_is_told_of() -> None:
    """No live node has the label that it asks for: nobody refuses it, and it is pending all the same."""
    desk = Desk()
    desk.called = desk.task(constraints=Constraints(node_selector={"disk": "none"}))
    assert desk.publish() == []
    (told,) = notes(desk.fire("close"), TaskUnplaced)
    assert told == TaskUnplaced(desk.called.task_id, ())


def test_what_nobody_takes_is_told_to_all_in_one_digest_with_a_growing_lot() -> None:
    """After a second one message has all such tasks; each next one asks a larger share, and in the end everybody."""
    desk = Desk()
    other = desk.task(5, replica=1)
    desk.publish()
    desk.publish(other)
    lots = []
    for _ in range(4):
        desk.later(DIGEST_AFTER_S)
        (digest,) = digests(desk.hand(TimerFired(("calling", "digest"))))
        assert {line.task_id for line in digest.tasks} == {desk.called.task_id, other.task_id}
        lots.append(digest.lot)
    assert lots == sorted(lots)
    assert lots[0] < 0.1
    assert lots[-1] == 1.0


def test_who_steps_in_gets_the_task_with_the_award() -> None:
    """An offer of a node that was not asked counts once a digest was told; its award carries the signed task."""
    desk = Desk()
    asked = desk.publish()
    stranger = next(name for name in desk.ids if name not in asked)
    assert not notes(desk.offer(stranger, 0.9), OfferHeard)
    for name in asked:
        desk.offer(name, None, "full")
    desk.later(DIGEST_AFTER_S)
    desk.hand(TimerFired(("calling", "digest")))
    (award,) = sends(desk.offer(stranger, 0.7), Award)
    assert desk.names[award.to] == stranger
    assert isinstance(award.message, Award)
    assert award.message.task is not None


def test_a_candidate_to_whom_the_call_was_lost_gets_the_task_too() -> None:
    """It hears of the task by the digest alone, and can claim nothing without the signed task."""
    desk = Desk()
    asked = desk.publish()
    desk.fire("close")
    desk.later(DIGEST_AFTER_S)
    desk.hand(TimerFired(("calling", "digest")))
    (award,) = sends(desk.offer(asked[0], 0.9), Award)
    assert award.message == Award(desk.called.task_id, desk.signed(desk.called))


def test_a_bid_in_anothers_name_counts_for_nothing() -> None:
    """An offer whose bid names another node, another task or no score of this world is not kept."""
    desk = Desk()
    asked = desk.publish()
    for bid in (
        desk.bid(desk.called, asked[1], 0.9),
        desk.bid(desk.task(9), asked[0], 0.9),
        desk.bid(desk.called, asked[0], 1.5),
    ):
        effects = desk.hand(desk.received(asked[0], Offer(desk.called.task_id, bid)))
        assert not notes(effects, OfferHeard)
    assert not desk.awarded(desk.fire("close"))


def test_a_call_ends_with_the_lease_the_record_or_the_stewardship() -> None:
    """Once it is scheduled, withdrawn or another's to host, nobody is told or asked any more."""
    for end in ("scheduled", "withdrawn", "lost"):
        desk = Desk()
        asked = desk.publish()
        desk.offer(asked[0], 0.8)
        if end == "scheduled":
            event = Event("e", desk.ids[asked[0]], "Scheduled", 0, task_id=desk.called.task_id)
            desk.hand(EventHeard(event))
        elif end == "withdrawn":
            intent, signed = tombstone(desk.wanted)
            desk.hand(IntentChanged(intent, signed, None))
        else:
            desk.hand(LeaseLost(steward_key(desk.called.workload_id), "gone"))
        assert not desk.awarded(desk.fire("close"))
        desk.later(DIGEST_AFTER_S)
        assert not digests(desk.hand(TimerFired(("calling", "digest"))))


def test_a_member_that_comes_is_asked() -> None:
    """Whoever joins while a task waits is asked for it at once."""
    desk = Desk()
    asked = desk.publish()
    newcomer = next(name for name in desk.ids if name not in asked)
    (call,) = sends(desk.hand(MemberUp(desk.ids[newcomer])), CallForBids)
    assert desk.names[call.to] == newcomer


def test_the_next_best_follows_a_holder_that_dies() -> None:
    """Who held the lease is lost before anything runs: when that lease is over the next bidder is told to claim."""
    desk = Desk()
    asked = desk.publish()
    desk.offer(asked[0], 0.8)
    desk.offer(asked[1], 0.7)
    desk.fire("close")
    holder = desk.ids[asked[0]]
    desk.hand(EventHeard(Event("e", holder, "Scheduled", 0, task_id=desk.called.task_id)))
    (again,) = [each for each in desk.hand(MemberDown(holder)) if isinstance(each, Schedule)]
    assert again.at_boot_s == desk.now.boot_s + 3.0
    assert desk.awarded(desk.fire("again")) == [asked[1]]


def test_a_deployed_task_is_called_for_no_more() -> None:
    """After `Deployed` a lost node changes nothing."""
    desk = Desk()
    asked = desk.publish()
    desk.offer(asked[0], 0.8)
    desk.offer(asked[1], 0.7)
    desk.fire("close")
    for status in ("Scheduled", "Deployed"):
        desk.hand(EventHeard(Event("e", desk.ids[asked[0]], status, 0, task_id=desk.called.task_id)))
    assert desk.hand(MemberDown(desk.ids[asked[0]])) == []
    assert desk.awarded(desk.fire("again")) == []


def test_a_call_for_the_new_record_goes_on() -> None:
    """The steward may have called for the new record before this node's word of it comes here."""
    desk = Desk()
    asked = desk.publish()
    desk.offer(asked[0], 0.8)
    desk.hand(IntentChanged(*desk.record, None))
    assert desk.awarded(desk.fire("close")) == [asked[0]]
