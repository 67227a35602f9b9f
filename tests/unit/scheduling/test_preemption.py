"""Whom a node would evict: the smallest harm, against a twin that tries every set."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.scheduling import preemption
from beemesh.scheduling.preemption import VICTIMS_MAX, Candidate, Shortage, cost, frees, victims
from beemesh.workloads.record import HostPort, Requirements


def pod(name: str, mem_mb: int = 100, **facts: int) -> Candidate:
    """A replica that might go."""
    return Candidate(name, Requirements(cpu_m=100, mem_mb=mem_mb), **facts)


def names(chosen: tuple[Candidate, ...] | None) -> str:
    """Who goes, in one word."""
    return "".join(each.name for each in chosen or ())


@pytest.mark.parametrize(
    ("candidates", "shortage", "who"),
    [
        ([pod("a"), pod("b", 300)], Shortage(mem_mb=200), "b"),  # one instead of two that would not do
        ([pod("a", 150), pod("b", 150), pod("c", 300, priority=5)], Shortage(mem_mb=300), "c"),  # fewest first
        ([pod("a", priority=3), pod("b", priority=1)], Shortage(mem_mb=1), "b"),  # then the least important
        ([pod("a", since_ms=5), pod("b", since_ms=9)], Shortage(mem_mb=1), "b"),  # then the youngest
        ([pod("b"), pod("a")], Shortage(mem_mb=1), "a"),  # then by name
        ([pod("a", 300, guarded=True), pod("b", 150), pod("c", 150)], Shortage(mem_mb=300), "bc"),
        ([pod("a", 300, guarded=True), pod("b", 150)], Shortage(mem_mb=300), "a"),  # nothing else is possible
        ([pod("a"), pod("b")], Shortage(cpu_m=150), "ab"),
        ([pod("a"), pod("b")], Shortage(pods=1), "a"),
        ([pod("a")], Shortage(mem_mb=101), ""),
        ([pod("a")], Shortage(), ""),
    ],
)
def test_golden_cases(candidates: list[Candidate], shortage: Shortage, who: str) -> None:
    """The order of what counts, case by case."""
    assert names(victims(candidates, shortage)) == who


def test_whoever_holds_the_port_has_to_go() -> None:
    """A host port is freed by nobody else, however many go."""
    held = Requirements(ports=(HostPort(80), HostPort(53, "UDP")))
    web = Candidate("web", held, priority=9)
    assert names(victims([pod("a"), web, pod("b")], Shortage(ports=frozenset({("UDP", 53)})))) == "web"
    assert victims([pod("a")], Shortage(ports=frozenset({("TCP", 80)}))) is None


def test_nothing_is_evicted_where_nothing_is_missing() -> None:
    """No shortage, no victims; and none at all where even all of them are too little."""
    assert victims([pod("a")], Shortage()) == ()
    assert victims([pod("a")], Shortage(mem_mb=500)) is None
    assert victims([], Shortage(pods=1)) is None
    many = [pod(f"p{number:02}", 1) for number in range(50)]
    assert victims(many, Shortage(mem_mb=VICTIMS_MAX + 1)) is None


amounts = st.integers(0, 4)


@st.composite
def crowds(draw: st.DrawFn) -> list[Candidate]:
    """Up to eight replicas of small needs, so that many sets come close."""
    return [
        Candidate(
            f"p{number}",
            Requirements(draw(amounts), draw(amounts), draw(amounts), draw(ports)),
            draw(st.integers(-1, 2)),
            draw(st.integers(0, 3)),
            draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 8)))
    ]


ports = st.lists(st.sampled_from([HostPort(1), HostPort(2)]), max_size=2, unique=True).map(tuple)
shortages = st.builds(
    Shortage,
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 2),
    st.frozensets(st.sampled_from([("TCP", 1), ("TCP", 2)])),
)


@settings(max_examples=300)
@given(crowds(), shortages)
def test_no_smaller_harm_exists(crowd: list[Candidate], shortage: Shortage) -> None:
    """The same harm as that of the best of all sets, tried one by one."""
    every = (chosen for size in range(len(crowd) + 1) for chosen in combinations(crowd, size))
    best = min((cost(chosen) for chosen in every if frees(chosen, shortage)), default=None)
    found = victims(crowd, shortage)
    assert (None if found is None else cost(found)) == best


@given(crowds(), shortages)
def test_also_when_the_search_is_cut_short_nobody_goes_in_vain(crowd: list[Candidate], shortage: Shortage) -> None:
    """A set found in haste makes room as well, and nobody of it can be spared."""
    found = preemption._spared(crowd, shortage)
    if found is None or not frees(crowd, shortage):
        return
    assert frees(found, shortage)
    assert not any(frees([each for each in found if each is not spare], shortage) for spare in found)


def test_a_crowded_node_is_searched_within_bounds() -> None:
    """A hundred replicas, no two alike, and much that is missing: an answer comes after bounded work."""
    crowd = [
        Candidate(f"p{number:03}", Requirements(100 + 7 * number, 500 - 3 * number, number), number % 7, number)
        for number in range(110)
    ]
    found = victims(crowd, Shortage(cpu_m=3000, mem_mb=3500, storage_mb=300))
    assert found is not None
    assert frees(found, Shortage(cpu_m=3000, mem_mb=3500, storage_mb=300))
