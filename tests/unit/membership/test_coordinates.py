"""Network coordinates: estimates in simulated networks, and what liars can do to them."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.ids import NodeId
from beemesh.membership.coordinates import (
    ERROR_MAX,
    HEIGHT_MIN_S,
    STEP_MAX_S,
    Coordinate,
    Coordinates,
    decode,
    has_moved,
)

PROBE_S = 1
TELL_S = 10
"""Membership probes once a second, and looks every ten whether there is news to tell."""


def node_id(number: int) -> NodeId:
    """Any node's."""
    return NodeId(number.to_bytes(32, "big"))


class Network:
    """Nodes on a map with slow access lines; each knows of the others only what they told last."""

    def __init__(self, count: int, seed: int, *, span_s: float, noise: float = 0.1) -> None:
        self.rng = random.Random(seed)
        self.nodes = [Coordinates(node_id(number)) for number in range(count)]
        self.told = [each.own.encode() for each in self.nodes]
        self.tells = 0
        self.noise = noise
        centres = [(self.rng.uniform(0, span_s), self.rng.uniform(0, span_s)) for _ in range(5)]
        self.places = [tuple(self.rng.gauss(at, span_s / 20) for at in self.rng.choice(centres)) for _ in self.nodes]
        self.access_s = [self.rng.uniform(0.0002, 0.004) for _ in self.nodes]

    def rtt_s(self, one: int, other: int) -> float:
        """The true round trip."""
        return math.dist(self.places[one], self.places[other]) + self.access_s[one] + self.access_s[other]

    def run(self, seconds: int, liars: dict[int, bytes] | None = None) -> None:
        """Probe, and tell now and then."""
        for second in range(seconds):
            for number, node in enumerate(self.nodes):
                peer = self.rng.choice([each for each in range(len(self.nodes)) if each != number])
                late = self.rng.random() < 0.01
                sample_s = self.rtt_s(number, peer) * (1 + self.rng.expovariate(1 / self.noise)) + (0.3 if late else 0)
                node.heard(node_id(peer), (liars or {}).get(peer, self.told[peer]), sample_s)
            if second % TELL_S == TELL_S - 1:
                for number, node in enumerate(self.nodes):
                    if has_moved(node.own.encode(), self.told[number]):
                        self.told[number] = node.own.encode()
                        self.tells += 1

    def error(self, honest: range) -> float:
        """The median relative error of estimates by what is told."""
        errors = []
        for one in honest:
            for other in honest:
                if one != other:
                    estimate_s = self.nodes[one].rtt_s(self.told[other])
                    assert estimate_s is not None
                    errors.append(abs(estimate_s - self.rtt_s(one, other)) / self.rtt_s(one, other))
        return statistics.median(errors)


@pytest.mark.parametrize("span_s", [0.02, 0.1, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_two_minutes_of_probes_are_enough(span_s: float, seed: int) -> None:
    """In networks from a region to a continent, half of all estimates are right within a quarter after two minutes."""
    network = Network(50, seed, span_s=span_s)
    network.run(120)

    assert network.error(range(50)) <= 0.25


def test_what_stands_is_seldom_told() -> None:
    """Once places have settled, a node tells of a move at most three times in ten minutes (it renews its summary ten
    times in them); on a local network, where nobody is two milliseconds away, once at most, for a stray late answer."""
    network = Network(50, 1, span_s=0.1)
    network.run(300)
    before = network.tells
    network.run(600)
    assert (network.tells - before) / 50 <= 3

    local = Network(20, 1, span_s=0.0002)
    local.access_s = [each / 10 for each in local.access_s]
    local.run(300)
    assert local.tells <= 20


def test_a_few_liars_spoil_little() -> None:
    """When one in ten says to be somewhere else, the others' estimates of each other stay useful."""
    network = Network(50, 2, span_s=0.1)
    far = Coordinate((0.6, -0.6, 0.6, -0.6), 0.5, 0.0, 0.01).encode()
    network.run(180, dict.fromkeys(range(45, 50), far))

    assert network.error(range(45)) <= 0.6


@given(st.binary(max_size=20), st.floats(), st.binary(min_size=13, max_size=13))
def test_whatever_comes_moves_us_a_bounded_step(form: bytes, rtt_s: float, before: bytes) -> None:
    """Any bytes, any round trip: the place stays finite, and moves by a bounded step."""
    ours = Coordinates(node_id(1))
    ours.heard(node_id(3), before, 0.1)
    start = ours.own
    ours.heard(node_id(2), form, rtt_s)

    assert math.dist(start.vector, ours.own.vector) <= STEP_MAX_S * 1.01
    assert HEIGHT_MIN_S <= ours.own.height <= start.height + STEP_MAX_S * 1.01
    assert abs(ours.own.adjustment) <= STEP_MAX_S
    assert 0.0 < ours.own.error <= ERROR_MAX
    assert all(math.isfinite(part) for part in ours.own.vector)


@given(st.binary(min_size=13, max_size=13), st.binary(min_size=13, max_size=13))
def test_estimates_are_the_same_both_ways(one: bytes, other: bytes) -> None:
    """A distance has no direction, and is never negative; and what was decoded encodes to the same place."""
    here, there = decode(one), decode(other)
    assert here is not None
    assert there is not None
    assert here.rtt_s(there) == pytest.approx(there.rtt_s(here))
    assert here.rtt_s(there) > 0.0
    again = decode(here.encode())
    assert again is not None
    assert again.vector == pytest.approx(here.vector)


def test_nothing_is_estimated_of_the_unknown() -> None:
    """No coordinate there, or no sample here, is no estimate."""
    ours = Coordinates(node_id(1))
    assert ours.rtt_s(Coordinate().encode()) is None
    ours.heard(node_id(2), b"", 0.1)
    assert ours.own == Coordinate()
    ours.heard(node_id(2), Coordinate().encode(), 0.1)
    assert ours.rtt_s(b"") is None
    assert ours.rtt_s(Coordinate().encode()) is not None
