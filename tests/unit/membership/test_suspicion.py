"""How suspicion shrinks, who may judge, and what an accuser may spend; local health; rumours."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.ids import NodeId
from beemesh.membership.claims import size_of
from beemesh.membership.local_health import SCORE_MAX, LocalHealth
from beemesh.membership.messages import Claim
from beemesh.membership.rumours import GOSSIP_BYTES_MAX, RUMOURS_MAX, Rumours, retransmit_limit
from beemesh.membership.suspicion import ACCUSATION_BURST, Suspicion, timeout_bounds_s, timeout_s, verdict
from beemesh.rates import Rates

CLAIM = Claim("suspect", b"x", b"y")
ME, OTHER, THIRD = (NodeId(bytes([value]) * 32) for value in (1, 2, 3))


def test_the_bounds_are_memberlists() -> None:
    """Shortest 4 · log10(n) intervals, and never below 4; longest six times that."""
    assert timeout_bounds_s(5, 1.0) == (4.0, 24.0)
    assert timeout_bounds_s(1_000, 1.0) == pytest.approx((12.0, 72.0))
    assert timeout_bounds_s(100, 0.5) == pytest.approx((4.0, 24.0))


@given(st.integers(0, 20), st.integers(0, 6), st.floats(0.1, 20), st.floats(1, 6))
def test_more_confirmations_never_take_longer(
    confirmations: int, wanted: int, shortest_s: float, factor: float
) -> None:
    """The timeout falls with every confirmation, from the longest to the shortest, and not below."""
    longest_s = shortest_s * factor
    now_s = timeout_s(confirmations, wanted, shortest_s, longest_s)

    assert shortest_s <= now_s <= longest_s + 1e-9
    assert timeout_s(confirmations + 1, wanted, shortest_s, longest_s) <= now_s
    if confirmations >= wanted:
        assert math.isclose(now_s, shortest_s)


def _suspicion(*accusers: NodeId) -> Suspicion:
    made = Suspicion(incarnation=1, since_s=0.0, wanted=2, shortest_s=4.0, longest_s=24.0)
    for accuser in accusers:
        made.add(accuser, CLAIM)
    return made


def test_an_accuser_counts_once() -> None:
    """Repeating an accusation brings death no nearer."""
    suspicion = _suspicion(OTHER)
    due_s = suspicion.due_s

    assert not suspicion.add(OTHER, CLAIM)
    assert suspicion.due_s == due_s == 24.0


def test_two_accusers_are_enough_and_one_is_not() -> None:
    """One word is not enough while somebody else could speak."""
    rule = {"self_id": ME, "failed_since": {}, "now_s": 100.0}

    assert not verdict(_suspicion(ME), possible=[OTHER], **rule)
    assert not verdict(_suspicion(OTHER), possible=[OTHER], **rule)
    assert verdict(_suspicion(ME, OTHER), possible=[OTHER], **rule)
    assert verdict(_suspicion(OTHER, THIRD), possible=[OTHER, THIRD], **rule)


def test_a_lone_survivor_judges_alone() -> None:
    """Members that failed our own probes for the whole suspicion time are nobody who could accuse; one that failed for
    less is; and hearsay is not enough for whoever is alone."""
    alone = {"self_id": ME, "possible": [OTHER], "now_s": 100.0}

    assert verdict(_suspicion(ME), failed_since={OTHER: 96.0}, **alone)
    assert not verdict(_suspicion(ME), failed_since={OTHER: 96.1}, **alone)
    assert verdict(_suspicion(ME), self_id=ME, possible=[], failed_since={}, now_s=100.0)
    assert not verdict(_suspicion(OTHER), self_id=ME, possible=[], failed_since={}, now_s=100.0)


def test_the_budget_refills_at_the_pace_of_probes() -> None:
    """A burst, then one accusation per interval; every accuser has its own."""
    budget = Rates(1.0, ACCUSATION_BURST)

    assert sum(budget.take(ME, 0.0) for _ in range(100)) == ACCUSATION_BURST
    assert budget.is_empty(ME, 0.9)
    assert budget.take(OTHER, 0.0)
    assert sum(budget.take(ME, 3.0) for _ in range(100)) == 3


@given(st.lists(st.sampled_from(["good", "bad", "nacked", "stall", "suspected"]), max_size=60))
def test_health_stays_within_its_bounds(history: list[str]) -> None:
    """Whatever happens, the factor is between 1 and the maximum; good probes bring it back to 1."""
    health = LocalHealth()
    for step in history:
        match step:
            case "good":
                health.probe_succeeded()
            case "bad":
                health.probe_failed(helpers=3, nacks=0)
            case "nacked":
                health.probe_failed(helpers=3, nacks=1)
            case "stall":
                health.stalled()
            case _:
                health.was_suspected()
        assert 1 <= health.factor <= SCORE_MAX + 1

    for _ in range(SCORE_MAX):
        health.probe_succeeded()
    assert health.factor == 1


def test_a_nack_says_that_the_fault_is_not_ours() -> None:
    """A failed probe that a helper confirms costs no health; one that nobody confirms costs one point."""
    health = LocalHealth()
    health.probe_failed(helpers=3, nacks=1)
    assert health.score == 0

    health.probe_failed(helpers=3, nacks=0)
    health.probe_failed(helpers=0, nacks=0)
    assert health.score == 2


def _claim(number: int, size: int = 100) -> Claim:
    return Claim("alive", number.to_bytes(4, "big") + bytes(size), bytes(64))


def _key(number: int) -> tuple[str, bytes, bytes]:
    return ("alive", number.to_bytes(4, "big"), b"")


def test_a_rumour_is_told_a_limited_number_of_times() -> None:
    """4 · ceil(log10(n + 1)) times, then never again."""
    assert [retransmit_limit(n) for n in (1, 9, 10, 99, 1_000)] == [4, 4, 8, 8, 16]
    rumours = Rumours()
    rumours.add(_key(1), _claim(1))

    assert sum(len(rumours.take(4)) for _ in range(10)) == 4
    assert len(rumours) == 0


def test_the_least_told_rumour_goes_first_and_the_newest_of_those() -> None:
    """News is not kept waiting by what everybody heard."""
    rumours = Rumours()
    for number in range(20):
        rumours.add(_key(number), _claim(number))
    first = rumours.take(8)
    rumours.add(_key(99), _claim(99))

    assert rumours.take(8)[0] == _claim(99)
    assert first[0] == _claim(19)


@given(st.lists(st.integers(0, 380), max_size=60), st.integers(1, 12))
def test_claims_fit_a_datagram_and_none_starves(sizes: list[int], limit: int) -> None:
    """Every take keeps to its budget; in the end each claim was told exactly as often as it may be."""
    rumours = Rumours()
    for number, size in enumerate(sizes):
        rumours.add(_key(number), _claim(number, size))
    told: dict[bytes, int] = {}
    for _ in range(len(sizes) * limit + 1):
        taken = rumours.take(limit)
        assert sum(size_of(claim) for claim in taken) <= GOSSIP_BYTES_MAX
        for claim in taken:
            told[claim.body] = told.get(claim.body, 0) + 1

    assert len(rumours) == 0
    assert told == {_claim(number, size).body: limit for number, size in enumerate(sizes)}


def test_what_concerns_the_listener_rides_first() -> None:
    """Claims named first are always there, once, and count as told."""
    rumours = Rumours()
    for number in range(20):
        rumours.add(_key(number), _claim(number))

    taken = rumours.take(1, first=(_claim(3),))

    assert taken[0] == _claim(3)
    assert taken.count(_claim(3)) == 1


def test_rumours_are_bounded() -> None:
    """A flood of claims pushes out what was told most, not the memory of the node."""
    rumours = Rumours()
    for number in range(RUMOURS_MAX + 100):
        rumours.add(_key(number), _claim(number, 1))

    assert len(rumours) == RUMOURS_MAX
    assert rumours.get(_key(RUMOURS_MAX + 99)) is not None


def test_patient_rumours_ride_along() -> None:
    """They are told as often as others, but are no reason to send anything."""
    rumours = Rumours()
    rumours.add(("summary", b"a", b""), CLAIM, patient=True)
    assert not rumours.has_urgent
    rumours.add(("suspect", b"b", b"c"), Claim("suspect", b"z", b"y"))
    assert rumours.has_urgent

    assert [len(rumours.take(2)) for _ in range(3)] == [2, 2, 0]
    rumours.add(("summary", b"a", b""), CLAIM, patient=True)
    assert not rumours.has_urgent
    rumours.add(("summary", b"a", b""), CLAIM)
    assert rumours.has_urgent


def test_what_does_not_count_is_not_told() -> None:
    """Claims on a message to somebody who may be dead wait as before."""
    rumours = Rumours()
    rumours.add(("suspect", b"b", b"c"), CLAIM)
    for _ in range(5):
        assert rumours.take(1, counts=False) == (CLAIM,)
    assert rumours.take(1) == (CLAIM,)
    assert rumours.take(1) == ()
