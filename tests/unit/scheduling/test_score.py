"""How places rank: golden cases, and what holds for all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.ids import NodeId
from beemesh.scheduling.eligibility import Resources
from beemesh.scheduling.messages import Bid
from beemesh.scheduling.preemption import Candidate
from beemesh.scheduling.score import Place, better, nearness, score
from beemesh.settings.model import Weights
from beemesh.workloads.record import Requirements

REQS = Requirements(cpu_m=1000, mem_mb=1000)
IDLE = Resources(4000, 4000, 50_000, 4000, 4000, 50_000)
BUSY = Resources(4000, 4000, 50_000, 2000, 1500, 50_000, cpu_load=0.6)


@pytest.mark.parametrize(
    ("resources", "place", "weights", "total"),
    [
        (IDLE, Place(), Weights(), 0.912088),
        (BUSY, Place(), Weights(), 0.740384),
        (IDLE, Place(crowd=1), Weights(), 0.470696),
        (IDLE, Place(crowd=2), Weights(), 0.318681),
        (IDLE, Place(site="a", wished_site="b"), Weights(), 0.762238),
        (IDLE, Place(zone="a", wished_zone="b"), Weights(), 0.837163),
        (IDLE, Place(softly_repelled=True), Weights(), 0.837163),
        (IDLE, Place(reliability=1.0), Weights(), 0.937063),
        (IDLE, Place(near=0.5), Weights(), 0.837163),
        (IDLE, Place(wished=0.25), Weights(), 0.7997),
        (IDLE, Place(uneven=1), Weights(), 0.318681),
        (IDLE, Place(failed=True), Weights(), 0.009884),
        (IDLE, Place(victims=(Candidate("a", REQS),)), Weights(), 6.0081481933577446e-05),
        (IDLE, Place(victims=(Candidate("a", REQS, 5),)), Weights(), 6.0081481931357e-05),
        (BUSY, Place(), Weights(fit=1.0, locality=0.0, reliability=0.0, qos=0.0), 0.593656),
        (BUSY, Place(), Weights(fit=0.0, locality=0.0, reliability=0.0, qos=0.0), 0.593656),
    ],
)
def test_golden_cases(resources: Resources, place: Place, weights: Weights, total: float) -> None:
    """These very numbers: two versions of Beemesh in one mesh must rank alike."""
    assert score(REQS, resources, place, weights).total == total


def test_the_parts_are_told() -> None:
    """A bid shows what its score is made of."""
    result = score(REQS, BUSY, Place(crowd=2), Weights())

    assert result.fit == {"cpu": 0.25, "memory": 0.125}
    assert result.parts == {"fit": 0.1875, "locality": 1.0, "reliability": 0.5, "qos": 0.375, "crowd": 2.0}


def test_small_noise_changes_nothing() -> None:
    """A load or a round trip that wavers a little gives the very same score."""
    steady = {
        score(REQS, Resources(4000, 4000, 1, 4000, 4000, 1, load), Place(), Weights()).total
        for load in (0.24, 0.25, 0.26)
    }
    assert len(steady) == 1
    assert nearness(0.0200) == nearness(0.0205) == 0.5
    assert nearness(0.0) == 1.0
    assert nearness(None) == 0.0
    assert nearness(0.005) > nearness(0.050) > nearness(0.5)


def bid(total: float, node: int) -> Bid:
    """A bid of a node."""
    return Bid("t", NodeId(bytes([node]) * 32), total, 0, 0, b"")


def test_ties_go_to_the_higher_node_id() -> None:
    """Score first, then node ID; nobody beats itself."""
    assert better(bid(0.6, 1), bid(0.5, 2))
    assert better(bid(0.5, 2), bid(0.5, 1))
    assert not better(bid(0.5, 1), bid(0.5, 1))


amounts = st.integers(0, 100_000)
unit = st.floats(0, 1)


@st.composite
def machines(draw: Any) -> Resources:
    """Any machine."""
    totals = [draw(amounts) for _ in range(3)]
    return Resources(*totals, *(draw(st.integers(0, max(each, 0))) for each in totals), cpu_load=draw(unit))


@given(machines(), machines(), st.integers(0, 50), st.integers(1, 50), unit, unit)
def test_the_emptier_of_siblings_always_leads(
    one: Resources, other: Resources, crowd: int, more: int, trust: float, distrust: float
) -> None:
    """Whatever the parts say, a node with fewer replicas of the workload ranks before one with more; and every score
    lies between 0 and 1."""
    few = score(REQS, one, Place(crowd=crowd, reliability=trust), Weights()).total
    many = score(REQS, other, Place(crowd=crowd + more, reliability=distrust), Weights()).total

    assert 0.0 <= many < few <= 1.0


@given(machines(), amounts, st.integers(1, 1000))
def test_needing_more_never_scores_better(machine: Resources, need: int, more: int) -> None:
    """A larger replica leaves less behind."""
    small = score(Requirements(cpu_m=need, mem_mb=need), machine, Place(), Weights()).total
    large = score(Requirements(cpu_m=need + more, mem_mb=need + more), machine, Place(), Weights()).total

    assert large <= small


@given(machines(), machines(), st.integers(0, 99), unit, unit)
def test_where_it_failed_comes_last(
    one: Resources, other: Resources, crowd: int, trust: float, distrust: float
) -> None:
    """A crowded node where the replica never failed ranks before an empty one where it did."""
    crowded = score(REQS, one, Place(crowd=crowd, reliability=distrust), Weights())
    failed = score(REQS, other, Place(failed=True, reliability=trust), Weights())

    assert 0.0 < failed.total < crowded.total
    assert failed.parts["failed"] == 1.0
    assert "failed" not in crowded.parts
