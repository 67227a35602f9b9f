"""Affinity to pods, anti-affinity and spread: what a node and a steward make of them."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.identity.membership_card import Membership
from beemesh.ids import NodeId
from beemesh.scheduling.eligibility import node_labels
from beemesh.scheduling.messages import Event, Occupancy
from beemesh.scheduling.neighbours import Neighbour, Newcomer, Verdict, judge
from beemesh.scheduling.stewardship.ledger import TaskLedger
from beemesh.scheduling.stewardship.surroundings import VALUES_MAX, in_turn, occupancy, takes_turns
from beemesh.scheduling.tasks import make_task
from beemesh.workloads.node_keys import LABEL_HOSTNAME, LABEL_ORG, LABEL_ZONE
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.reconciler import Action, Observed, StartReplica
from beemesh.workloads.record import Constraints, Expression, PodTerm, Preference, Workload
from tests.unit.scheduling.samples import WALL_MS, card, record, revision, workload

WEB = (Expression("app", "In", ("web",)),)
CACHE = (Expression("app", "In", ("cache",)),)
HERE = {LABEL_HOSTNAME: "one", LABEL_ZONE: "attic", LABEL_ORG: "family"}


def newcomer(*terms: PodTerm, known: tuple[Occupancy, ...] = (), app: str = "web", apart: bool = False) -> Newcomer:
    """Replica 0 of a workload."""
    return Newcomer("default", f"deployment/default/{app}", 0, {"app": app}, terms, known, apart)


def neighbour(app: str, replica: int = 1, namespace: str = "default", repels: tuple[PodTerm, ...] = ()) -> Neighbour:
    """A pod that runs here."""
    return Neighbour(namespace, f"deployment/{namespace}/{app}", replica, {"app": app}, repels)


@pytest.mark.parametrize(
    ("term", "known", "here", "words"),
    [
        (PodTerm("affinity", LABEL_HOSTNAME, CACHE), Occupancy(), [], "wants pods with app In (cache), and none"),
        (PodTerm("affinity", LABEL_HOSTNAME, CACHE), Occupancy(), [neighbour("cache")], ""),
        (PodTerm("affinity", LABEL_HOSTNAME, CACHE), Occupancy(), [neighbour("cache", namespace="other")], "none is"),
        (PodTerm("affinity", LABEL_ZONE, WEB), Occupancy(), [], ""),  # the first of its kind may go anywhere
        (PodTerm("affinity", LABEL_ZONE, WEB), Occupancy({"cellar": 1}, 0, 1), [], "none is at"),
        (PodTerm("affinity", LABEL_ZONE, WEB), Occupancy({"attic": 1}, 0, 1), [], ""),
        (PodTerm("affinity", "rack", WEB), Occupancy({"r1": 1}, 0, 1), [], "which this node has not"),
        (PodTerm("anti-affinity", LABEL_HOSTNAME, CACHE), Occupancy(), [neighbour("cache")], "1 at kubernetes.io"),
        (PodTerm("anti-affinity", LABEL_ORG, WEB), Occupancy({"family": 1}), [], "1 at beemesh.io/org=family"),
        (PodTerm("anti-affinity", LABEL_ORG, WEB), Occupancy({"club": 1}), [], ""),
        (PodTerm("anti-affinity", "rack", WEB), Occupancy({"r1": 1}), [], ""),
        (PodTerm("anti-affinity", LABEL_ZONE, WEB), Occupancy(), [neighbour("web")], "1 at topology"),
        (PodTerm("spread", LABEL_ZONE, WEB, 0, 1), Occupancy({"attic": 1}, 0, 1), [], "one more here makes it 2"),
        (PodTerm("spread", LABEL_ZONE, WEB, 0, 2), Occupancy({"attic": 1}, 0, 1), [], ""),
        (PodTerm("spread", LABEL_ZONE, WEB, 0, 1), Occupancy({"attic": 1, "b": 1}, 1, 2), [], ""),
        (PodTerm("spread", "rack", WEB, 0, 1), Occupancy(), [], "which this node has not"),
    ],
)
def test_conditions(term: PodTerm, known: Occupancy, here: list[Neighbour], words: str) -> None:
    """Each kind of condition, with what the task tells and with what runs here, as Kubernetes decides."""
    against = judge(newcomer(term, known=(known,)), here, 0, HERE).against
    assert len(against) == bool(words)
    assert words in "".join(against)


def test_the_copy_that_is_replaced_is_no_neighbour() -> None:
    """During a roll-out a replica may take its own predecessor's place."""
    term = PodTerm("anti-affinity", LABEL_HOSTNAME, WEB)
    assert judge(newcomer(term), [neighbour("web", 0)], 0, HERE) == Verdict()
    assert judge(newcomer(term), [neighbour("web", 1)], 0, HERE).against
    assert judge(newcomer(term), [], 1, HERE).against, "a sibling that this node is about to win counts too"


def test_who_is_here_may_refuse_company() -> None:
    """Anti-affinity holds in both directions, within a namespace."""
    alone = (PodTerm("anti-affinity", LABEL_HOSTNAME, WEB),)
    assert "cache runs here" in judge(newcomer(), [neighbour("cache", repels=alone)], 0, HERE).against[0]
    assert judge(newcomer(), [neighbour("cache", namespace="other", repels=alone)], 0, HERE).against == ()
    assert judge(newcomer(app="db"), [neighbour("cache", repels=alone)], 0, HERE).against == ()


def test_wishes_come_true_by_weight() -> None:
    """Preferred terms never refuse; each counts by its weight."""
    near_cache = PodTerm("affinity", LABEL_HOSTNAME, CACHE, weight=30)
    ssd = Preference(10, (Expression("disk", "In", ("ssd",)),))
    assert judge(newcomer(near_cache), [], 0, HERE, (ssd,)) == Verdict((), 0.0, 0)
    assert judge(newcomer(near_cache), [neighbour("cache")], 0, HERE, (ssd,)) == Verdict((), 0.75, 0)
    assert judge(newcomer(near_cache), [], 0, {**HERE, "disk": "ssd"}, (ssd,)) == Verdict((), 0.25, 0)
    apart = PodTerm("anti-affinity", LABEL_ZONE, WEB, weight=1)
    assert judge(newcomer(apart, known=(Occupancy({"attic": 3}),)), [], 0, HERE).wished == 0.25
    spread = PodTerm("spread", LABEL_ZONE, WEB, weight=100, max_skew=1)
    assert judge(newcomer(spread, known=(Occupancy({"attic": 3}, 1, 4),)), [], 0, HERE).uneven == 2


def report(node_id: NodeId, replica: int, revision: int = 1, phase: str = "Running") -> ReplicaReport:
    """A replica of `web` on a node."""
    facts = ("deployment/default/web", "default", "Deployment", revision, replica, node_id, phase)
    return ReplicaReport(f"web-{revision}-{replica}", *facts)  # type: ignore[arg-type]


def web(*terms: PodTerm, **changes: object) -> Workload:
    """A workload with these terms."""
    return workload("web", pod_labels={"app": "web"}, constraints=Constraints(pod_terms=terms), replicas=9, **changes)


CARDS = [card(name, zone=zone) for name, zone in (("a", "x"), ("b", "x"), ("c", "y"), ("d", ""))]
ZONES = PodTerm("spread", LABEL_ZONE, WEB, 0, 1)


def test_a_task_tells_where_the_others_are() -> None:
    """Ordinals are counted once, at the newest copy; what ends, what is replaced and dead nodes do not count."""
    a, b, c, _ = (each.node_id for each in CARDS)
    dead = card("dead", zone="y").node_id
    reports = [
        report(a, 0),
        report(a, 1, revision=1),
        report(c, 1, revision=2),
        report(b, 2),
        report(a, 3, phase="Terminating"),
        report(dead, 4),
    ]
    assert occupancy(web(ZONES), 0, reports, (), CARDS) == (Occupancy({"y": 1, "x": 1}, 1, 3),)
    assert occupancy(web(ZONES), 1, reports, (), CARDS) == (Occupancy({"x": 2}, 0, 3),)
    other = PodTerm("affinity", LABEL_HOSTNAME, CACHE)
    assert occupancy(web(other), 0, reports, (), CARDS) == (Occupancy(),), "pods of others are the node's to know"
    assert occupancy(web(), 0, reports, (), CARDS) == ()


def test_what_a_task_tells_is_bounded() -> None:
    """Of very many values only the fullest are told."""
    cards = [card(f"n{number}") for number in range(VALUES_MAX + 20)]
    reports = [report(each.node_id, number) for number, each in enumerate(cards)]
    (told,) = occupancy(web(PodTerm("spread", LABEL_HOSTNAME, WEB, 100, 1)), 10_000, reports, (), cards)
    assert len(told.counts) == VALUES_MAX


def test_replicas_that_depend_on_each_other_take_turns() -> None:
    """With a condition among its own replicas a workload starts one, and the next when it has a place; others do not
    wait."""
    wanted = web(ZONES)
    starts = [StartReplica(1, ordinal) for ordinal in range(3)]
    ledger = TaskLedger()

    def let_through(starts: list[StartReplica], **observed: Any) -> list[Action]:
        return in_turn(starts, wanted, ledger.of(wanted.workload_id), Observed(**observed))

    assert let_through(starts) == starts[:1]
    assert let_through(starts, in_vain={(1, 0): 9.0, (1, 2): 8.0}) == starts[1:2], "what was not tried yet is first"
    assert let_through(starts, in_vain={(1, 0): 9.0, (1, 1): 9.0, (1, 2): 8.0}) == starts[2:]

    task = make_task(wanted, record(wanted)[1], starts[0], WALL_MS, random.Random(1))
    ledger.heard(task, record(wanted)[1], 0.0)
    assert let_through(starts[1:]) == []
    ledger.told(Event("e", CARDS[0].node_id, "Scheduled", WALL_MS, task_id=task.task_id), 1.0)
    assert let_through(starts[1:]) == starts[1:2]
    assert occupancy(wanted, 1, (), ledger.of(wanted.workload_id), CARDS)[0].counts == {"x": 1}
    assert in_turn(starts, web(), (), Observed()) == starts


def test_an_older_revision_takes_turns_where_it_asked_for_it() -> None:
    """What is started of a revision goes by what that one asked for: while a rollout is taken back or paused the record
    itself says what the newer one does."""
    spread, plain = web(ZONES), web()
    starts = [StartReplica(1, 0), StartReplica(1, 1), StartReplica(2, 2), StartReplica(2, 3)]

    def let_through(before: Workload, after: Workload) -> list[Action]:
        old = msgspec.structs.replace(revision(1), terms=before.terms)
        return in_turn(starts, msgspec.structs.replace(after, revisions=(revision(2), old)), (), Observed())

    assert let_through(spread, plain) == [starts[0], *starts[2:]]
    assert let_through(plain, spread) == [*starts[:2], starts[2]]
    assert let_through(spread, spread) == starts[:1]


@pytest.mark.parametrize(
    ("term", "turns"),
    [
        (PodTerm("anti-affinity", LABEL_HOSTNAME, WEB), False),
        (PodTerm("anti-affinity", LABEL_ZONE, WEB), True),
        (PodTerm("affinity", LABEL_HOSTNAME, WEB), True),
        (PodTerm("affinity", LABEL_HOSTNAME, CACHE), False),
        (PodTerm("spread", LABEL_ZONE, WEB, 100, 1), False),
    ],
)
def test_who_takes_turns(term: PodTerm, turns: bool) -> None:
    """Only conditions that the next replica's place depends on; two on one host is seen by the host itself."""
    assert takes_turns(web(term).constraints, {"app": "web"}) is turns


@given(st.lists(st.sampled_from("xyz"), min_size=1, max_size=8), st.integers(1, 12), st.integers(1, 2), st.randoms())
def test_a_spread_is_kept_whoever_wins(zones: list[str], replicas: int, skew: int, chance: random.Random) -> None:
    """Placed one after the other, on any of the nodes that take it, replicas never break the skew, and all find a
    place."""
    cards = [card(f"n{number}", zone=zone) for number, zone in enumerate(zones)]
    wanted = web(PodTerm("spread", LABEL_ZONE, WEB, 0, skew))
    reports: list[ReplicaReport] = []
    for ordinal in range(replicas):
        known = occupancy(wanted, ordinal, reports, (), cards)
        takers = [each for each in cards if not _judged(wanted, ordinal, known, each, reports).against]
        assert takers
        reports.append(report(chance.choice(takers).node_id, ordinal))
        counts = _by_zone(cards, reports)
        assert max(counts.values()) - min(counts.values()) <= skew


@given(st.lists(st.sampled_from("xyz"), min_size=1, max_size=8), st.integers(1, 12))
def test_a_wished_spread_comes_true_even_at_once(zones: list[str], replicas: int) -> None:
    """Tasks that are published together suppose where those before them go: when each goes where it is least uneven,
    zones differ by one at most."""
    cards = [card(f"n{number}", zone=zone) for number, zone in enumerate(zones)]
    wanted = web(PodTerm("spread", LABEL_ZONE, WEB, 100, 1))
    ledger = TaskLedger()
    reports: list[ReplicaReport] = []
    for ordinal in range(replicas):
        known = occupancy(wanted, ordinal, (), ledger.of(wanted.workload_id), cards)
        best = min(cards, key=lambda each: _judged(wanted, ordinal, known, each, []).uneven)
        reports.append(report(best.node_id, ordinal))
        start = StartReplica(1, ordinal)
        task = make_task(wanted, record(wanted)[1], start, WALL_MS + ordinal, random.Random(ordinal))
        ledger.heard(task, record(wanted)[1], 0.0)
    counts = _by_zone(cards, reports)
    assert max(counts.values()) - min(counts.values()) <= 1


def _judged(
    wanted: Workload, ordinal: int, known: tuple[Occupancy, ...], member: Membership, reports: list[ReplicaReport]
) -> Verdict:
    """What a node says to a replica of `wanted`."""
    replica = Newcomer("default", wanted.workload_id, ordinal, {"app": "web"}, wanted.constraints.pod_terms, known)
    here = [neighbour("web", each.replica) for each in reports if each.node_id == member.node_id]
    return judge(replica, here, 0, node_labels(member))


def _by_zone(cards: list[Membership], reports: list[ReplicaReport]) -> dict[str, int]:
    """How many replicas each zone has."""
    zone_of = {each.node_id: each.zone for each in cards}
    return {zone: sum(1 for each in reports if zone_of[each.node_id] == zone) for zone in set(zone_of.values())}
