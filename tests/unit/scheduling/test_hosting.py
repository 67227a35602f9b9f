"""What a steward remembers, and what a node demands before it obeys one."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest

from beemesh.effects import Answered, Effects, Notify, Request, TimerFired
from beemesh.errors import Untrusted
from beemesh.events import EmitEvent, IntentChanged, LeaseGranted, PublishTask
from beemesh.identity.signing import sign_statement
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.execution.orders import objection_to
from beemesh.scheduling.line import CANDIDATES, stewards_in_line
from beemesh.scheduling.messages import LEASE_KIND, TASK_KIND, Event, Lease, LeaseProof
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.stewardship.ledger import OUTSTANDING_MAX, TaskLedger
from beemesh.scheduling.stewardship.steward import Steward
from beemesh.scheduling.stewardship.upkeep import Upkeep
from beemesh.workloads.backoff import STEADY_S
from beemesh.workloads.observation import ReplicaList, ReplicaReport, StopReplica
from beemesh.workloads.reconciler import EXHAUSTED_RETRY_S
from beemesh.workloads.record import Strategy
from simulator.crypto import FakeCrypto
from tests.unit.scheduling.large import Large
from tests.unit.scheduling.samples import (
    CA,
    MESH,
    WALL_MS,
    card,
    membership_intent,
    record,
    revision,
    settings,
    workload,
)
from tests.unit.scheduling.test_eligibility import task

ONE, TWO = (NodeId(bytes([number]) * 32) for number in (1, 2))
KEY = "steward/deployment/default/hello"
REPORT = ReplicaReport(
    "hello-1-2", "deployment/default/hello", "default", "Deployment", 1, 2, ONE, "Running", ready=True, fence=3
)
ORDER = StopReplica("deployment/default/hello", 2, 1, "", "surplus")


def proof(holder: NodeId = TWO, *, tentative: bool = False) -> LeaseProof:
    """A steward lease of `holder`."""
    lease = Lease(KEY, holder, "", 1, 15_000, 1, b"n")
    return LeaseProof(sign_statement(FakeCrypto(b"x"), LEASE_KIND, lease), (), tentative)


def check(shown: LeaseProof, key: str, wall_ms: int) -> tuple[Lease, bool]:
    """As `custody.proofs`, without grants."""
    lease = msgspec.msgpack.decode(shown.lease.body, type=Lease)
    if lease.key != key:
        raise Untrusted("the proof is for another key")
    return lease, not shown.tentative


def objection(order: StopReplica, *, report: ReplicaReport = REPORT, sender: NodeId = TWO, **wanted: object) -> str:
    """What the node says."""
    return objection_to(order, sender, report, workload(**wanted), check, WALL_MS)


def test_a_proven_order_that_the_record_supports_is_obeyed() -> None:
    """Surplus, outdated, failed and duplicate replicas stop when their steward shows its lease."""
    proven = msgspec.structs.replace(ORDER, proof=proof())
    duplicate = msgspec.structs.replace(proven, reason="duplicate", instead=TWO, instead_fence=3)

    assert objection(proven, replicas=2) == ""
    assert objection(msgspec.structs.replace(proven, reason="outdated"), number=2) == ""
    assert objection(duplicate, replicas=3) == ""
    failed = msgspec.structs.replace(REPORT, phase="Failed")
    assert objection(msgspec.structs.replace(proven, reason="failed"), report=failed) == ""
    assert objection_to(msgspec.structs.replace(proven, reason="deleted"), TWO, REPORT, None, check, WALL_MS) == ""


def test_what_is_not_ready_gives_way_to_an_earlier_one_that_is() -> None:
    """Not where two must never run, not to one without a majority, nor for itself, and not once it is ready too."""
    unready = msgspec.structs.replace(REPORT, ready=False)
    earlier = msgspec.structs.replace(ORDER, proof=proof(), reason="duplicate", instead=TWO, instead_fence=1)
    tentative = msgspec.structs.replace(earlier, instead_tentative=True)
    itself = msgspec.structs.replace(earlier, instead=unready.node_id)

    assert objection(earlier, report=unready) == ""
    assert "does not come before" in objection(earlier)
    assert "does not come before" in objection(tentative, report=unready)
    assert "does not come before" in objection(itself, report=unready)
    assert "does not come before" in objection(earlier, report=unready, duplicate_tolerant=False)


@pytest.mark.parametrize(
    ("order", "replicas", "why"),
    [
        (ORDER, 2, "no lease proof"),
        (msgspec.structs.replace(ORDER, proof=proof(ONE)), 2, "another node's"),
        (msgspec.structs.replace(ORDER, proof=proof(), workload_id="deployment/default/x"), 2, "another key"),
        (msgspec.structs.replace(ORDER, proof=proof()), 3, "wants 3 replicas"),
        (msgspec.structs.replace(ORDER, proof=proof(), reason="outdated"), 3, "is the current one"),
        (msgspec.structs.replace(ORDER, proof=proof(), reason="deleted"), 3, "the workload stands"),
        (msgspec.structs.replace(ORDER, proof=proof(), reason="failed"), 3, "is Running here"),
        (msgspec.structs.replace(ORDER, proof=proof(), reason="duplicate"), 3, "which replica stays"),
        (
            msgspec.structs.replace(
                ORDER, proof=proof(), reason="duplicate", instead=TWO, instead_fence=9, instead_tentative=True
            ),
            3,
            "does not come before",
        ),
        (
            msgspec.structs.replace(ORDER, proof=proof(), reason="duplicate", instead=TWO, instead_fence=2),
            3,
            "does not come before",
        ),
    ],
)
def test_an_order_without_right_or_reason_is_refused(order: StopReplica, replicas: int, why: str) -> None:
    """The refusal says what is missing."""
    assert why in objection(order, replicas=replicas)


def test_a_tentative_steward_stops_nothing_that_must_not_be_doubled() -> None:
    """In a minority only duplicate-tolerant replicas are stopped."""
    order = msgspec.structs.replace(ORDER, proof=proof(tentative=True))

    assert objection(order, replicas=2) == ""
    assert "tentative" in objection(order, replicas=2, duplicate_tolerant=False)


def test_an_answer_from_before_a_deployment_does_not_hide_it() -> None:
    """What a node said before it deployed is not taken for its word after that."""
    hosted = Hosted("deployment/default/hello", workload(), record(workload())[1])
    hosted.asked[ONE] = 7
    told = Event("e", ONE, "Deployed", WALL_MS, "t", "deployment/default/hello", "default", 1, 0, "", {"fence": "4"})
    hosted.deployed(told)
    hosted.deployed(told)

    assert hosted.asked == {}
    assert [(each.replica, each.fence, each.phase) for each in hosted.reports[ONE]] == [(0, 4, "Pending")]


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_failures_are_forgotten_once_it_has_run_well_since(kind: str) -> None:
    """Not while a successor of what runs fails again and again, and never of a Job, which has a limit over all."""
    wanted, slot = workload(kind=kind, replicas=3), (1, 2)
    hosted = Hosted(wanted.workload_id, wanted, record(wanted)[1])
    hosted.reports[ONE] = (msgspec.structs.replace(REPORT, ready=True),)
    hosted.exhausted.add(slot)

    def left(at_s: float) -> int:
        observed = hosted.observed((), lambda _: True, at_s)
        return observed.failures[slot].count if slot in observed.failures else 0

    for turn in range(10):
        at_s = turn * EXHAUSTED_RETRY_S
        hosted.told_of(Event("e", TWO, "Failed", WALL_MS, revision=1, replica=2), at_s)
        assert left(at_s) == turn + 1
    assert left(at_s + STEADY_S - 1) == 10
    assert hosted.exhausted
    assert left(at_s + STEADY_S) == (10 if kind == "Job" else 0)
    assert bool(hosted.exhausted) == (kind == "Job")


def test_candidates_are_few_and_agree() -> None:
    """Every node ranks the live keepers alike, in whatever order it heard of them; only the nearest few stand in line,
    and where one is away, the next moves up."""
    cards = [membership_intent(card(f"n{number}")) for number in range(20)]
    lines = []
    for heard in (cards, cards[::-1]):
        roster = Roster(MESH, CA.sign_key)
        for each in heard:
            roster.apply(each)
        view = View(ONE, roster)
        for node_id in roster.keeper_ids():
            view.set_status(node_id, "alive")
        lines.append(stewards_in_line("w", roster, view))
    assert lines[0] == lines[1]
    assert len(set(lines[0])) == CANDIDATES

    view.set_status(lines[0][0], "dead")
    assert stewards_in_line("w", roster, view)[: CANDIDATES - 1] == lines[0][1:]


def test_the_ledger_follows_a_task() -> None:
    """It is outstanding until its holder says how it ended; others' failures and older tasks do not count."""
    ledger = TaskLedger()
    first, second = task(task_id="0" * 26), task(task_id="1" * 26)
    signed = sign_statement(FakeCrypto(b"one"), TASK_KIND, first)
    ledger.heard(second, signed, 0.0)
    ledger.heard(first, signed, 0.0)
    assert [each.task for each in ledger.of(first.workload_id)] == [second]
    ledger.told(Event("e", ONE, "Scheduled", 0, second.task_id), 1.0)
    ledger.told(Event("e", TWO, "Failed", 0, second.task_id), 2.0)
    assert ledger.find(second.task_id)
    ledger.told(Event("e", ONE, "Failed", 0, second.task_id), 3.0)
    assert list(ledger.of(first.workload_id)) == []


def test_the_ledger_knows_whose_tasks_are_whose() -> None:
    """Each workload has its own, oldest first, and forgets its own alone; one without any leaves nothing behind."""
    ledger = TaskLedger()
    signed = sign_statement(FakeCrypto(b"one"), TASK_KIND, task())
    names = ("deployment/default/a", "deployment/default/b")
    tasks = [task(task_id=f"{each:026}", replica=each, workload_id=names[each % 2]) for each in range(6)]
    for each in tasks:
        ledger.heard(each, signed, 0.0)
    mine, other = ([each for each in tasks if each.workload_id == name] for name in names)

    ledger.drop(mine[0])
    assert [each.task for each in ledger.of(names[0])] == mine[1:]
    ledger.drop_all(names[0])

    assert list(ledger.of(names[0])) == []
    assert [each.task for each in ledger.of(names[1])] == other
    assert list(ledger._of) == [names[1]]


def test_a_flood_of_tasks_costs_nobody_but_its_author() -> None:
    """Whoever signs many has its own oldest ones forgotten, and takes nobody's place."""
    ledger, mine = TaskLedger(), task(task_id="0" * 26)
    ledger.heard(mine, sign_statement(FakeCrypto(b"one"), TASK_KIND, mine), 0.0)
    signed = sign_statement(FakeCrypto(b"two"), TASK_KIND, mine)
    for replica in range(OUTSTANDING_MAX + 5):
        ledger.heard(task(task_id=f"1{replica:025}", replica=replica), signed, 1.0)
    ledger.heard(task(task_id=mine.task_id, replica=7), signed, 1.0)

    found = ledger.find(mine.task_id)
    assert found is not None
    assert found.task == mine
    assert len(list(ledger.of(mine.workload_id))) == OUTSTANDING_MAX


class Successor:
    """The node `n0` of a large mesh, which saw a record's second revision come, and takes the steward lease over later
    without having been told of a rollout. Its replicas run, all but the last."""

    def __init__(self, strategy: Strategy) -> None:
        revisions = (revision(2), revision(1))
        self.mesh = mesh = Large(replicas=3, strategy=strategy)
        upkeep = Upkeep(mesh.roster, lambda prefix: (), Disruption(lambda prefix: ()))
        tools = (mesh.crypto["n0"], random.Random(1), settings("n0"), lambda: [mesh.record], upkeep)
        self.steward = Steward(mesh.ids["n0"], mesh.roster, mesh.view, *tools, itertools.count(1).__next__)
        self.steward.start(mesh.now)
        wanted = workload(replicas=3, strategy=strategy, revisions=revisions)
        after = record(wanted, 2)
        self.steward.handle(IntentChanged(*after, mesh.record[0]), mesh.now)
        self.reports = {
            mesh.ids[f"n{number}"]: msgspec.structs.replace(
                REPORT, revision=2, replica=number, node_id=mesh.ids[f"n{number}"], ready=True, task_id=f"{number}"
            )
            for number in range(2)
        }

    def host(self, seconds: int) -> list[Any]:
        """It holds the lease for so long, and asks who runs what; the notifications of that time."""
        mesh = self.mesh
        effects = self.steward.handle(LeaseGranted(KEY, proof(mesh.ids["n0"]), 1, 1e9, renewed=False), mesh.now)
        told = self._answered(effects)
        for _ in range(seconds):
            mesh.later(1.0)
            told += self._answered(self.steward.handle(TimerFired(("steward", "step", ORDER.workload_id)), mesh.now))
        return told

    def _answered(self, effects: Effects) -> list[Any]:
        told = []
        for effect in effects:
            if isinstance(effect, Notify):
                told.append(effect.event)
            elif isinstance(effect, Request):
                found = ReplicaList(effect.to, tuple(filter(None, [self.reports.get(effect.to)])))
                answer = Answered(effect.request_id, effect.to, found)
                told += self._answered(self.steward.handle(answer, self.mesh.now))
        return told


def test_a_steward_that_was_never_told_takes_back_nothing_that_was_complete() -> None:
    """Few hear in a large mesh that a rollout is complete. Whoever follows when they are lost repairs what is missing,
    however long it takes."""
    told = Successor(Strategy(progress_deadline_s=60)).host(200)

    assert {each.task.revision for each in told if isinstance(each, PublishTask)} == {2}
    assert not [each for each in told if isinstance(each, EmitEvent) and each.event.status == "RolledBack"]


def test_a_steward_that_was_never_told_repairs_what_is_paused_as_it_runs() -> None:
    """Nor does it start another revision than the one that all run."""
    told = Successor(Strategy(paused=True)).host(5)

    assert {each.task.revision for each in told if isinstance(each, PublishTask)} == {2}
