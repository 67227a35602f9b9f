"""One bidder alone: what it believes, when it speaks, what it says about its silence."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from beemesh.effects import Asked, Broadcast, Effects, Notify, Now, Reply, Schedule, TimerFired
from beemesh.events import (
    BidHeard,
    Claim,
    Delivered,
    EventHeard,
    IntentChanged,
    LeaseDenied,
    Observed,
    ReleaseLease,
    ReservationsChanged,
    ResourcesObserved,
    TaskHeard,
)
from beemesh.identity.signing import Signed, decode_body, sign_statement
from beemesh.ids import Digest, NodeId, ulid
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.auction.belief import BIDS_BURST
from beemesh.scheduling.auction.bidding import LOOK_EVERY_S, Bidder
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.messages import (
    BID_KIND,
    TASK_KIND,
    TOPIC_PROPOSALS,
    TOPIC_TASKS,
    Bid,
    Event,
    SignedBid,
    SignedTask,
    SilenceAnswer,
    SilenceQuestion,
    Task,
)
from beemesh.scheduling.taskbook import TASKS_MAX, TaskBook
from beemesh.scheduling.tasks import BID_BYTES_MAX, TASK_BYTES_MAX, TASK_LIFETIME_MS, make_task
from beemesh.workloads.reconciler import StartReplica
from beemesh.workloads.record import Constraints, Requirements
from simulator.crypto import FakeCrypto
from tests.unit.scheduling.samples import (
    CA,
    MESH,
    WALL_MS,
    card,
    membership_intent,
    record,
    settings,
    tombstone,
    workload,
)

PLENTY = ResourcesObserved(4000, 4096, 50_000, 0.1, 3500, 40_000)


class Desk:
    """A bidder named `one` in a mesh with `two` and `three`, and somebody to hand it things."""

    def __init__(self, tasks_max: int = TASKS_MAX, **wanted: Any) -> None:
        self.now = Now(100.0, WALL_MS)
        self.crypto = {name: FakeCrypto(name.encode()) for name in ("one", "two", "three")}
        self.ids = {name: NodeId(crypto.signer_id) for name, crypto in self.crypto.items()}
        self.roster = Roster(MESH, CA.sign_key)
        for name in self.crypto:
            self.roster.apply(membership_intent(card(name)))
        self.view = View(self.ids["one"], self.roster)
        for name in ("two", "three"):
            self.view.set_status(self.ids[name], "alive")
        self.local = LocalWork(settings().reserve, settings().policies)
        self.local.observed = PLENTY
        self.intents: dict[str, tuple[Intent, Signed]] = {}
        judge = Judge(
            self.ids["one"],
            self.roster,
            self.view,
            settings(),
            self.local,
            self.intents.get,
            Disruption(lambda _prefix: ()),
        )
        self.bidder = Bidder(
            self.ids["one"],
            self.roster,
            self.view,
            self.crypto["one"],
            random.Random(1),
            settings(),
            judge,
            self.intents.get,
            TaskBook(tasks_max),
        )
        self.wanted = workload(**wanted)
        self.record = record(self.wanted)
        self.timers: dict[Any, float] = {}
        self.effects: Effects = []

    def know(self, found: tuple[Intent, Signed] | None = None) -> None:
        """The record reaches this node."""
        intent, signed = found or self.record
        self.intents[intent.key] = (intent, signed)
        self.hand(IntentChanged(intent, signed, None))

    def task(self, **changes: Any) -> Task:
        """A task for the record."""
        made = make_task(self.wanted, self.record[1], StartReplica(1, 0), self.now.wall_ms, random.Random(2))
        return msgspec.structs.replace(made, **changes)

    def publish(self, task: Task, by: str = "two") -> Effects:
        """The steward publishes it."""
        signed = sign_statement(self.crypto[by], TASK_KIND, task)
        return self.hand(Delivered(TOPIC_TASKS, SignedTask(signed), self.ids["two"]))

    def bid(self, task: Task, by: str, total: float) -> Effects:
        """Another node bids."""
        bid = Bid(task.task_id, self.ids[by], total, self.now.wall_ms, self.now.wall_ms + 1000, b"n")
        signed = sign_statement(self.crypto[by], BID_KIND, bid)
        return self.hand(Delivered(TOPIC_PROPOSALS, SignedBid(signed), self.ids[by]))

    def hand(self, event: Any) -> Effects:
        """Let the bidder handle something, and keep its timers."""
        effects = self.bidder.handle(event, self.now)
        for effect in effects:
            if isinstance(effect, Schedule):
                self.timers[effect.key] = effect.at_boot_s
        self.effects += effects
        return effects

    def wait(self, seconds: float) -> Effects:
        """Let time pass, and timers fire."""
        until_s = self.now.boot_s + seconds
        said: Effects = []
        while due := [key for key, at_s in self.timers.items() if at_s <= until_s]:
            key = min(due, key=lambda each: self.timers[each])
            at_s = max(self.now.boot_s, self.timers.pop(key))
            self.now = Now(at_s, WALL_MS + int((at_s - 100.0) * 1000))
            said += self.hand(TimerFired(key))
        self.now = Now(until_s, WALL_MS + int((until_s - 100.0) * 1000))
        return said

    def silence(self, task: Task) -> SilenceAnswer:
        """Why it kept silent."""
        (reply,) = self.hand(Asked(self.ids["two"], 1, SilenceQuestion(task.task_id)))
        assert isinstance(reply, Reply)
        assert isinstance(reply.message, SilenceAnswer)
        return reply.message


def told(effects: Effects, kind: type) -> list[Any]:
    """The notifications of a kind."""
    return [effect.event for effect in effects if isinstance(effect, Notify) and isinstance(effect.event, kind)]


def bids(effects: Effects) -> list[Bid]:
    """The bids that were published."""
    messages = [each.message for each in effects if isinstance(each, Broadcast)]
    return [decode_body(each.bid, Bid) for each in messages if isinstance(each, SignedBid)]


def counted(effects: Effects, metric: str) -> list[dict[str, str]]:
    """The labels of a metric's increments."""
    return [each.labels for each in told(effects, Observed) if each.metric == f"scheduler_{metric}_total"]


def test_a_fitting_task_is_bid_for_and_claimed() -> None:
    """It bids once, within the window, and claims the replica's lease when nobody better spoke."""
    desk = Desk()
    desk.know()
    task = desk.task()
    assert told(desk.publish(task), TaskHeard)[0].task == task
    said = desk.wait(0.35)

    (bid,) = bids(said)
    assert bid.node_id == desk.ids["one"]
    assert bid.reasons["crowd"] == 0
    assert told(said, BidHeard)[0].bid == bid
    (claim,) = told(said, Claim)
    assert (claim.key, claim.ttl_ms, claim.renew_ms) == ("lease/deployment/default/hello/0", 3000, 1000)
    assert claim.tentative_ok


def test_better_bids_keep_it_from_claiming() -> None:
    """A better bid, before or after its own, leaves the claim to the other; a worse one does not."""
    for total, claims in ((0.999, 0), (0.1, 1)):
        for late in (False, True):
            desk = Desk()
            desk.know()
            task = desk.task()
            desk.publish(task)
            while late and not bids(desk.effects):
                desk.wait(0.001)
            desk.bid(task, "two", total)
            assert len(told(desk.wait(0.4), Claim)) == claims, (total, late)


def test_three_better_bids_silence_it() -> None:
    """It does not add a fourth, and says why when it is asked."""
    desk = Desk()
    for number in range(3):
        desk.crypto[f"n{number}"] = FakeCrypto(f"n{number}".encode())
        desk.ids[f"n{number}"] = NodeId(desk.crypto[f"n{number}"].signer_id)
        desk.roster.apply(membership_intent(card(f"n{number}")))
    desk.know()
    task = desk.task()
    desk.publish(task)
    for number in range(3):
        desk.bid(task, f"n{number}", 0.99)

    assert bids(desk.wait(1)) == []
    assert desk.silence(task).reasons == ("3 better bids were heard before this node spoke",)


def test_when_all_have_spoken_it_claims_at_once() -> None:
    """The last bid of a live node closes the window early."""
    desk = Desk()
    desk.know()
    task = desk.task()
    desk.publish(task)
    desk.bid(task, "two", 0.2)
    while not bids(desk.effects):
        desk.wait(0.001)

    assert told(desk.bid(task, "three", 0.1), Claim)


def test_losers_claim_when_the_winner_is_silent() -> None:
    """Without `Deployed`, a loser claims after the lease's lifetime and a second; after it, never."""
    for deployed in (False, True):
        desk = Desk()
        desk.know()
        task = desk.task()
        desk.publish(task)
        desk.bid(task, "two", 0.999)
        assert not told(desk.wait(3.9), Claim)
        if deployed:
            event = Event("e", desk.ids["two"], "Deployed", WALL_MS, task.task_id, task.workload_id, "", 1, 0)
            desk.hand(EventHeard(event))
        assert len(told(desk.wait(3), Claim)) == (0 if deployed else 1)


@pytest.mark.parametrize("supported", [False, True])
def test_only_a_task_that_the_record_supports_takes_anothers_place(*, supported: bool) -> None:
    """Any member may publish one for the same replica."""
    desk = Desk()
    desk.know()
    first = desk.task()
    desk.publish(first)
    digest = first.record_digest if supported else Digest(bytes(32))
    later = desk.task(task_id="7" + "Z" * 25, record_digest=digest)
    desk.publish(later, by="three")
    claims = [each for each in told(desk.wait(1), Claim) if isinstance(each, Claim)]

    assert [each.task_id for each in claims] == [(later if supported else first).task_id]


@pytest.mark.parametrize(("status", "bid", "claims"), [("Deployed", 0, 0), ("Failed", 0, 0), ("Scheduled", 0, 1)])
def test_news_of_a_task_may_come_before_the_task(status: Any, bid: int, claims: int) -> None:
    """A repair brings the task when it is over, or in other hands: nobody starts it a second time; but whoever only
    holds it may die, and is succeeded."""
    desk = Desk()
    desk.know()
    task = desk.task()
    desk.hand(EventHeard(Event("e", desk.ids["two"], status, WALL_MS, task.task_id, task.workload_id, "", 1, 0)))

    desk.publish(task)

    assert not told(desk.wait(3.9), Claim)
    assert len(told(desk.wait(6), Claim)) == claims
    assert len(bids(desk.effects)) == bid


def test_a_refused_claim_is_tried_again_with_backoff() -> None:
    """A denied lease is claimed again within five seconds each time, and no more once the task's time is over."""
    desk = Desk()
    desk.know()
    task = desk.task()
    desk.publish(task)
    claims = []
    for _ in range(400):
        if told(desk.wait(0.1), Claim):
            claims.append(desk.now.boot_s)
            desk.hand(LeaseDenied("lease/deployment/default/hello/0", "held", desk.ids["two"], 99.0))
    gaps = [later - earlier for earlier, later in pairwise(claims)]

    assert len(claims) >= 5
    assert max(gaps) <= 5.2
    assert claims[-1] <= 100 + TASK_LIFETIME_MS / 1000


def test_the_record_may_come_later() -> None:
    """A task that is ahead of its record waits for it a moment; without it, the node stays silent and says so."""
    desk = Desk()
    task = desk.task()
    desk.publish(task)
    desk.wait(1)
    desk.know()
    assert bids(desk.wait(1))

    desk = Desk()
    desk.publish(task)
    assert not bids(desk.wait(5))
    assert desk.silence(task).reasons == ("this node does not hold the record that the task names",)


def test_a_task_is_held_against_the_operators_record() -> None:
    """What the record does not say counts for nothing, however well the steward signed it."""
    for changes, why in (
        ({"reqs": Requirements(cpu_m=1)}, "something else than the operator's record"),
        ({"constraints": Constraints(node_name="one")}, "something else than the operator's record"),
        ({"duplicate_tolerant": False}, "something else than the operator's record"),
        ({"replica": 1}, "replica 1 is surplus: 1 are wanted"),
        ({"replica": -1}, "replica -1 is surplus"),
        ({"revision": 2}, "revision 2 is not the current one (1)"),
        ({"manifest_ref": b"x" * 32}, "revision 1 is not the current one"),
        ({"workload_id": "deployment/default/other"}, "does not hold the record"),
        ({"namespace": "other"}, "another workload than its record"),
    ):
        desk = Desk()
        desk.know()
        task = desk.task(**changes)
        desk.publish(task)
        assert not bids(desk.wait(5))
        assert why in desk.silence(task).reasons[0]


def test_forged_and_stale_tasks_change_nothing() -> None:
    """Strangers, wrong signatures, wrong times and repeats are counted and forgotten."""
    desk = Desk()
    desk.know()
    task = desk.task()
    desk.crypto["stranger"] = FakeCrypto(b"stranger")
    signed = sign_statement(desk.crypto["two"], TASK_KIND, task)
    altered = Signed(TASK_KIND, signed.body + b"", signed.signer, b"\0" * 64)
    refused = [
        desk.publish(task, by="stranger"),
        desk.hand(Delivered(TOPIC_TASKS, SignedTask(altered), desk.ids["two"])),
        desk.publish(desk.task(issued_ms=WALL_MS - 100_000, expires_ms=WALL_MS - 70_001)),
        desk.publish(desk.task(issued_ms=WALL_MS + 31_000, expires_ms=WALL_MS + 40_000)),
        desk.publish(desk.task(expires_ms=WALL_MS + TASK_LIFETIME_MS + 1)),
        desk.publish(desk.task(task_id="short")),
    ]
    assert [counted(each, "tasks_refused") for each in refused] == [[{"reason": "untrusted"}]] * 6
    assert not bids(desk.wait(1))

    desk.publish(task)
    assert desk.publish(task) == []


def test_forged_bids_change_nothing() -> None:
    """A bid in somebody else's name, out of range, twice or too often is not weighed."""
    desk = Desk()
    desk.know()
    task = desk.task()
    desk.publish(task)
    lie = Bid(task.task_id, desk.ids["three"], 0.99, 0, 0, b"")
    signed = SignedBid(sign_statement(desk.crypto["two"], BID_KIND, lie))
    assert counted(desk.hand(Delivered(TOPIC_PROPOSALS, signed, desk.ids["two"])), "bids_refused")
    assert counted(desk.bid(task, "two", 1.5), "bids_refused")
    assert told(desk.bid(task, "two", 0.1), BidHeard)
    assert desk.bid(task, "two", 0.999) == []
    for _ in range(int(BIDS_BURST)):
        flood = desk.bid(task, "two", 0.5)
    assert counted(flood, "bids_refused") == [{"reason": "rate"}]
    assert told(desk.wait(0.4), Claim)


def test_a_bid_or_a_task_of_a_size_that_none_has_is_refused() -> None:
    """Thousands of them are remembered."""
    desk = Desk()
    desk.know()
    task = desk.task()
    desk.publish(desk.task(hints={"near": "x" * TASK_BYTES_MAX}))
    assert desk.bidder.book.get(task.task_id) is None
    desk.publish(task)
    bid = Bid(task.task_id, desk.ids["two"], 0.5, WALL_MS, WALL_MS + 1000, b"n", capabilities=("x" * BID_BYTES_MAX,))
    signed = sign_statement(desk.crypto["two"], BID_KIND, bid)

    said = desk.hand(Delivered(TOPIC_PROPOSALS, SignedBid(signed), desk.ids["two"]))

    assert counted(said, "bids_refused") == [{"reason": "size"}]
    entry = desk.bidder.book.get(task.task_id)
    assert entry is not None
    assert desk.ids["two"] not in entry.bids


def test_nobody_is_silenced_in_its_own_name() -> None:
    """Neither what others forge in a member's name nor what they repeat of it counts against it."""
    desk = Desk()
    desk.know()
    task = desk.task()
    signed = sign_statement(desk.crypto["two"], TASK_KIND, task)
    bid = Bid(task.task_id, desk.ids["two"], 0.1, WALL_MS, WALL_MS + 1000, b"n")
    offered = sign_statement(desk.crypto["two"], BID_KIND, bid)
    for true, wrap, topic in ((signed, SignedTask, TOPIC_TASKS), (offered, SignedBid, TOPIC_PROPOSALS)):
        for each in (*[msgspec.structs.replace(true, signature=bytes(64))] * 1_100, *[true] * 1_100):
            desk.hand(Delivered(topic, wrap(each), desk.ids["three"]))
    later = desk.task(task_id="7" + "Z" * 25)

    assert told(desk.publish(later), TaskHeard)
    assert told(desk.bid(later, "two", 0.1), BidHeard)


def test_bids_may_come_before_their_task() -> None:
    """A bid that overtook its task counts once the task is here."""
    desk = Desk()
    desk.know()
    task = desk.task()
    desk.bid(task, "two", 0.999)
    desk.publish(task)

    assert not told(desk.wait(1), Claim)


def test_silence_is_explained() -> None:
    """Why a node is not eligible can be asked; of a task that it never saw it says just that."""
    desk = Desk(requirements=Requirements(mem_mb=16_777_216))
    desk.know()
    task = desk.task()
    desk.publish(task)
    assert not bids(desk.wait(1))
    answer = desk.silence(task)
    assert answer.seen
    assert answer.reasons == ("needs 16777216 MiB of memory, this node has 3584 MiB, 3500 free",)
    assert desk.silence(desk.task(task_id="0" * 26)) == SilenceAnswer("0" * 26, seen=False)


def test_what_it_leads_in_counts_as_promised() -> None:
    """A node that is ahead for one task has no room for a second of the same size, until it loses the first."""
    desk = Desk(requirements=Requirements(mem_mb=3000), replicas=2)
    desk.know()
    first, second = desk.task(), desk.task(task_id="1" * 26, replica=1)
    desk.publish(first)
    while not bids(desk.effects):
        desk.wait(0.001)
    desk.publish(second)
    assert "3000 MiB" in desk.silence(second).reasons[0]
    desk.effects.clear()
    desk.bid(first, "two", 0.999)
    desk.wait(0.3)

    assert [bid.task_id for bid in bids(desk.effects)] == [second.task_id]


def test_a_withdrawn_workload_ends_the_auction() -> None:
    """A tombstone in mid-claim gives the lease up, and a late grant finds nobody."""
    desk = Desk()
    desk.know()
    task = desk.task()
    desk.publish(task)
    desk.wait(0.4)
    intent, signed = tombstone(desk.wanted)
    desk.intents[intent.key] = (intent, signed)

    assert told(desk.hand(IntentChanged(intent, signed, None)), ReleaseLease)
    assert not told(desk.wait(30), Claim)


def test_a_claim_that_a_burst_crowds_out_is_given_up() -> None:
    """Nobody would remember what a grant was for: it would be renewed for ever, and its room stay promised."""
    desk = Desk(tasks_max=20)
    desk.know()
    desk.hand(PLENTY)
    task = desk.task()
    desk.publish(task)
    (claim,) = told(desk.wait(0.5), Claim)

    effects = crowd(desk, task, 19)
    assert not told(effects, ReleaseLease)
    effects = crowd(desk, task, 20)
    assert [each.key for each in told(effects, ReleaseLease)] == [claim.key]
    assert desk.bidder.book.get(task.task_id) is None
    again = desk.task(task_id=ulid(desk.now.wall_ms + 500, b"x" * 10))
    desk.publish(again)
    assert told(desk.wait(0.5), Claim), "what the first one promised is free again"


def test_a_burst_takes_the_place_of_what_is_over() -> None:
    """Not of a claim that is under way, however old."""
    desk = Desk(tasks_max=20)
    desk.know()
    desk.hand(PLENTY)
    task = desk.task()
    desk.publish(task)
    assert told(desk.wait(0.5), Claim)
    for number in range(19):
        other = crowd_task(desk, task, number)
        desk.publish(other)
        over = Event("E1", desk.ids["two"], "Failed", WALL_MS, other.task_id, other.workload_id)
        desk.hand(EventHeard(over))

    assert not told(crowd(desk, task, 15, first=100), ReleaseLease)
    assert desk.bidder.book.get(task.task_id) is not None


def crowd_task(desk: Desk, task: Task, number: int) -> Task:
    """One of many later tasks, of a workload that nobody here knows."""
    later = ulid(task.issued_ms + number + 1, number.to_bytes(10, "big"))
    return msgspec.structs.replace(task, task_id=later, workload_id=f"deployment/default/x{number}")


def crowd(desk: Desk, task: Task, count: int, first: int = 0) -> Effects:
    """So many tasks come at once."""
    return [each for n in range(first, first + count) for each in desk.publish(crowd_task(desk, task, n))]


def test_a_crowd_of_changes_has_pending_tasks_judged_once() -> None:
    """The first change has them judged at once; all others of the next moment together, at its end, so that room that
    came with the last of them is seen."""
    desk = Desk(requirements=Requirements(cpu_m=3000, mem_mb=64))
    desk.know()
    desk.local.observed = ResourcesObserved(50, 1024, 50_000, 0.1, 800, 40_000)
    task = desk.task()
    desk.publish(task)
    changed = ReservationsChanged(0, 0, 0)

    judged = [count_of(desk.hand(changed), "scheduler_tasks_silent_total") for _ in range(10)]
    desk.local.observed = PLENTY
    judged.append(count_of(desk.hand(changed), "scheduler_tasks_silent_total"))
    assert judged == [1] + [0] * 10

    said = desk.wait(LOOK_EVERY_S)
    assert count_of(said, "scheduler_tasks_silent_total") == 0
    assert len(told(said + desk.wait(0.3), Claim)) == 1
    assert desk.hand(changed) == [], "nothing is pending any more"


def count_of(effects: Effects, metric: str) -> int:
    """How often something was counted."""
    return sum(each.metric == metric for each in told(effects, Observed))
