"""A candidate in a large mesh: it answers its steward, claims when it is told to, and steps in where a lot falls."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from beemesh.effects import Broadcast, Effects, Notify, Now
from beemesh.events import (
    Claim,
    Delivered,
    IntentChanged,
    LeaseDenied,
    LeaseGranted,
    OfferHeard,
    PublishTask,
    ReleaseLease,
    ResourcesObserved,
    TaskWon,
)
from beemesh.identity.signing import sign_statement
from beemesh.scheduling.auction.bidding import LOOK_EVERY_S, Bidder
from beemesh.scheduling.auction.candidacy import DIGESTS_BURST, OFFER_S
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.leases import lease_key
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.messages import (
    TASK_DIGEST_KIND,
    TOPIC_TASKS,
    Award,
    CallForBids,
    Lease,
    LeaseProof,
    Offer,
    SignedTask,
    SignedTaskDigest,
    TaskDigest,
    TaskLine,
)
from beemesh.workloads.record import Constraints, Requirements, Strategy, Terms
from tests.unit.scheduling.large import Large, notes, sends
from tests.unit.scheduling.samples import record, revision, settings

PLENTY = ResourcesObserved(4000, 4096, 50_000, 0.1, 3500, 40_000)
SCANT = ResourcesObserved(50, 1024, 50_000, 0.1, 800, 40_000)


class Desk(Large):
    """The candidate `n0`; its steward is `n1`."""

    def __init__(self, observed: ResourcesObserved = PLENTY, **wanted: Any) -> None:
        super().__init__(**wanted)
        self.local = LocalWork(settings().reserve, settings().policies)
        self.local.observed = observed
        judge = Judge(
            self.ids["n0"],
            self.roster,
            self.view,
            settings("n0"),
            self.local,
            self.intents.get,
            Disruption(lambda _prefix: ()),
        )
        self.bidder = Bidder(
            self.ids["n0"],
            self.roster,
            self.view,
            self.crypto["n0"],
            random.Random(1),
            settings("n0"),
            judge,
            self.intents.get,
        )
        self.called = self.task()

    def hand(self, event: object) -> Effects:
        """Something happens."""
        return self.bidder.handle(event, self.now)

    def call(self, by: str = "n1", sent_by: str = "n1") -> Effects:
        """A steward asks."""
        return self.hand(self.received(sent_by, CallForBids(self.signed(self.called, by))))

    def award(self, by: str = "n1", **more: Any) -> Effects:
        """It says that this node leads."""
        return self.hand(self.received(by, Award(self.called.task_id, **more)))

    def digest(self, lot: float = 1.0, by: str = "n1", signer: str = "n1", claims: str = "") -> Effects:
        """A digest with the task in it; one that only `claims` to be signed by somebody is forged."""
        line = TaskLine(self.called.task_id, self.called.workload_id, 1, 0)
        told = TaskDigest(self.ids[by], self.now.wall_ms, lot, (line,))
        signed = sign_statement(self.crypto[signer], TASK_DIGEST_KIND, told)
        signed = msgspec.structs.replace(signed, signer=self.ids[claims or signer])
        return self.hand(Delivered(TOPIC_TASKS, SignedTaskDigest(signed), self.ids["n2"]))


def offers(effects: Effects) -> list[Offer]:
    """What the steward is told."""
    return [msgspec.convert(each.message, Offer, from_attributes=True) for each in sends(effects, Offer)]


def test_a_called_node_answers_its_steward_alone_and_at_once() -> None:
    """One offer with its bid goes to the steward; nothing is published, and nothing claimed."""
    desk = Desk()
    effects = desk.call()
    (sent,) = sends(effects, Offer)
    assert sent.to == desk.ids["n1"]
    assert isinstance(sent.message, Offer)
    assert sent.message.bid is not None
    assert sent.message.bid.node_id == desk.ids["n0"]
    assert not [each for each in effects if isinstance(each, Broadcast)]
    assert not notes(effects, Claim)


def test_a_called_node_without_room_says_why_and_offers_itself_when_there_is() -> None:
    """The refusal has the reasons, once; when room appears the bid follows unasked."""
    desk = Desk(SCANT)
    (refusal,) = offers(desk.call())
    assert refusal.bid is None
    assert "CPU" in refusal.reasons[0]
    assert not offers(desk.hand(SCANT))
    desk.local.observed = PLENTY
    desk.now = Now(desk.now.boot_s + LOOK_EVERY_S, desk.now.wall_ms)
    (offer,) = offers(desk.hand(PLENTY))
    assert offer.bid is not None


def test_a_task_knows_whether_others_heard_it_too() -> None:
    """One that came by its topic was announced, and whatever ends it is; one that a steward asks about was not."""
    called, announced = Desk(), Desk()
    called.call()
    announced.hand(Delivered(TOPIC_TASKS, SignedTask(announced.signed(announced.called, "n1")), announced.ids["n1"]))
    known = [desk.bidder.book.get(desk.called.task_id) for desk in (called, announced)]
    assert [entry.is_announced for entry in known if entry is not None] == [False, True]


def test_a_call_that_another_relays_is_not_answered() -> None:
    """Only the steward that signed a task may ask for it."""
    desk = Desk()
    assert not offers(desk.call(by="n1", sent_by="n2"))


def test_the_same_question_gets_the_same_answer() -> None:
    """Asked again, a candidate repeats its bid instead of making another."""
    desk = Desk()
    (first,) = offers(desk.call())
    (second,) = offers(desk.call())
    assert first == second


def test_an_award_of_the_steward_is_claimed_and_anothers_is_not() -> None:
    """The steward's word leads to a claim of the replica's lease; any other member's to nothing."""
    desk = Desk()
    desk.call()
    assert not notes(desk.award(by="n2"), Claim)
    (claim,) = notes(desk.award(), Claim)
    assert claim.key == lease_key(desk.called.workload_id, 0)
    assert not notes(desk.award(), Claim)


def test_an_award_for_which_there_is_no_room_any_more_is_declined() -> None:
    """Judged again at the award: the steward hears the reasons and can go on."""
    desk = Desk()
    desk.call()
    desk.local.observed = SCANT
    effects = desk.award()
    (refusal,) = offers(effects)
    assert refusal.bid is None
    assert not notes(effects, Claim)


def test_a_granted_lease_is_a_won_task_and_a_denied_one_is_told() -> None:
    """Granted: won. Denied: the steward hears when another claim may succeed; nothing is claimed again by itself."""
    desk = Desk()
    desk.call()
    desk.award()
    key = lease_key(desk.called.workload_id, 0)
    effects = desk.hand(LeaseDenied(key, "another node holds it", desk.ids["n3"], 2.5))
    (refusal,) = offers(effects)
    assert refusal.wait_ms == 2_500
    desk.award()
    (won,) = notes(desk.hand(granted(desk, key)), TaskWon)
    assert won.task == desk.called


def test_an_award_that_comes_late_is_claimed_and_won_as_any_other() -> None:
    """A candidate that had given up waiting still knows what its claim is for when the lease comes."""
    desk = Desk()
    desk.call()
    late = desk.called
    desk.later(OFFER_S + 1)
    desk.called = desk.task(1, replica=1)
    desk.call()
    desk.hand(PLENTY)
    desk.called = late
    (claim,) = notes(desk.award(), Claim)
    (won,) = notes(desk.hand(granted(desk, claim.key)), TaskWon)
    assert won.task == late


def test_a_lease_that_nobody_waits_for_is_let_go() -> None:
    """It would be renewed for ever otherwise, and no other node could place the replica."""
    desk = Desk()
    key = lease_key(desk.called.workload_id, 0)
    desk.call()
    (released,) = notes(desk.hand(granted(desk, key)), ReleaseLease)
    assert released.key == key
    desk.award()
    assert not notes(desk.hand(granted(desk, key)), ReleaseLease)
    assert not notes(desk.hand(granted(desk, key)), ReleaseLease), "what was won is kept"
    assert not notes(desk.hand(granted(desk, "run/w/0")), ReleaseLease), "others claim other rights"


def granted(desk: Desk, key: str) -> LeaseGranted:
    """The replicas of a lease grant it."""
    lease = Lease(key, desk.ids["n0"], desk.called.task_id, 1, 3_000, 1, b"n")
    proof = LeaseProof(sign_statement(desk.crypto["n0"], "lease", lease), ())
    return LeaseGranted(key, proof, 1, desk.now.boot_s + 3)


def test_a_call_ahead_of_its_record_is_answered_when_the_record_comes() -> None:
    """Gossip may bring the record after the call: then the bid follows."""
    desk = Desk()
    found = desk.intents.pop(desk.record[0].key)
    assert not offers(desk.call())
    desk.intents[desk.record[0].key] = found
    (offer,) = offers(desk.hand(IntentChanged(found[0], found[1], None)))
    assert offer.bid is not None


def test_a_withdrawn_record_ends_a_claim() -> None:
    """When the operator deletes the workload, what was being claimed is given up."""
    desk = Desk()
    desk.call()
    desk.award()
    intent, signed = desk.intents.pop(desk.record[0].key)
    assert notes(desk.hand(IntentChanged(intent, signed, intent)), ReleaseLease)


def test_a_digest_is_answered_by_those_on_whom_the_lot_falls() -> None:
    """A lot of 1 has everybody who could take the task answer with a bid; one of 0 nobody."""
    assert not offers(Desk().digest(lot=0.0))
    desk = Desk()
    (offer,) = offers(desk.digest())
    assert offer.bid is not None
    assert len(offers(desk.digest())) == 1, "the first answer may have been lost"
    assert not offers(Desk(SCANT).digest())


NOWHERE = Constraints(node_selector={"disk": "sssd"})
TWO_CORES = Requirements(cpu_m=2000, mem_mb=64)
TOO_MUCH = Requirements(cpu_m=9000, mem_mb=64)


def with_history(terms: Terms, strategy: Strategy | None = None) -> Desk:
    """A desk where the task is of a kept revision that asked for `terms`; the current one fits no node."""
    old = msgspec.structs.replace(revision(1), terms=terms)
    return Desk(revisions=(revision(2), old), constraints=NOWHERE, strategy=strategy or Strategy())


@pytest.mark.parametrize(
    ("strategy", "offered"),
    [
        (Strategy(), 1),
        (Strategy(rollback="never"), 0),
        (Strategy(rollback="never", paused=True), 1),
        (Strategy(paused=True), 1),
    ],
)
def test_a_line_of_an_older_revision_is_answered_where_the_record_lets_it_start(
    strategy: Strategy, offered: int
) -> None:
    """While a rollout is taken back, or paused, every task names one; the award for it is claimed as any other."""
    desk = with_history(Terms(requirements=TWO_CORES), strategy)
    assert len(offers(desk.digest())) == offered
    assert len(notes(desk.award(task=desk.signed(desk.called, "n1")), Claim)) == offered


def test_a_line_of_an_older_revision_is_judged_by_what_that_one_asked_for() -> None:
    """Not by what the current one does; one that the record keeps no more is nobody's."""
    assert not offers(with_history(Terms(requirements=TOO_MUCH)).digest())
    assert not offers(with_history(Terms(constraints=NOWHERE)).digest())
    desk = with_history(Terms(requirements=TWO_CORES))
    desk.wanted = msgspec.structs.replace(desk.wanted, revisions=(revision(2),), constraints=Constraints())
    desk.record = record(desk.wanted)
    desk.intents[desk.record[0].key] = desk.record
    assert not offers(desk.digest())


def test_a_line_of_a_digest_is_remembered_until_there_is_room() -> None:
    """Who could not take it when all were asked offers itself as soon as it can."""
    desk = Desk(SCANT)
    desk.digest()
    desk.local.observed = PLENTY
    (offer,) = offers(desk.hand(PLENTY))
    assert offer.bid is not None


def test_who_stepped_in_claims_with_the_task_of_the_award() -> None:
    """The award brings the signed task; its record must support it, as that of any other."""
    desk = Desk()
    desk.digest()
    (claim,) = notes(desk.award(task=desk.signed(desk.called, "n1")), Claim)
    assert claim.task_id == desk.called.task_id


def test_nobody_makes_a_node_claim_what_it_was_not_asked_for() -> None:
    """An award with a task leads to nothing where no digest or call of its author was answered."""
    desk = Desk()
    assert not notes(desk.award(task=desk.signed(desk.called, "n1")), Claim)
    desk.digest(by="n2", signer="n2")
    assert not notes(desk.award(by="n1", task=desk.signed(desk.called, "n1")), Claim)


def test_a_forged_digest_is_not_answered() -> None:
    """A digest in another's name draws no answers to it."""
    assert not offers(Desk().digest(by="n1", signer="n2"))


def test_the_stewards_own_book_has_bids_and_reasons() -> None:
    """Who called for a task can tell each candidate's bid, and why the others did not bid."""
    desk = Desk()
    task = desk.called
    desk.hand(PublishTask(task, desk.signed(task, "n0")))
    desk.hand(OfferHeard(task.task_id, desk.ids["n3"], desk.bid(task, "n3", 0.7)))
    desk.hand(OfferHeard(task.task_id, desk.ids["n4"], None, ("is cordoned",)))
    entry = desk.bidder.book.get(task.task_id)
    assert entry is not None
    assert set(entry.bids) == {desk.ids["n3"]}
    assert entry.refusals == {desk.ids["n4"]: ("is cordoned",)}


def test_a_steward_that_is_its_own_candidate_bids_as_well() -> None:
    """The call to itself is answered like any other, although its book had the task first."""
    desk = Desk()
    desk.hand(PublishTask(desk.called, desk.signed(desk.called, "n0")))
    (offer,) = offers(desk.call(by="n0", sent_by="n0"))
    assert offer.bid is not None
    assert [each for each in desk.award(by="n0") if isinstance(each, Notify) and isinstance(each.event, Claim)]


def test_digests_forged_in_a_stewards_name_do_not_silence_it() -> None:
    """What it did not sign does not count against it."""
    desk = Desk()
    for _ in range(int(DIGESTS_BURST) + 5):
        assert not offers(desk.digest(signer="n2", claims="n1"))

    assert offers(desk.digest())
