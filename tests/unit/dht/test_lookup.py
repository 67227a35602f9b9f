"""Lookups reach the nearest nodes, whoever lies on the way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.dht.lookup import ASKED_MAX, K, Lookup, distance
from beemesh.dht.messages import FOUND_NODES_MAX
from beemesh.ids import NodeId


def node(number: int) -> NodeId:
    """A node ID; nobody chooses its own."""
    return NodeId(hashlib.sha256(f"node {number}".encode()).digest())


def point(number: int) -> bytes:
    """Where some record lies."""
    return hashlib.sha256(f"key {number}".encode()).digest()


def closest(nodes: Iterable[NodeId], where: bytes, count: int = K) -> list[NodeId]:
    """The dumb twin: sort them all."""
    return sorted(nodes, key=lambda each: distance(each, where))[:count]


class Net:
    """Routing alone: who knows whom, who is dead, and who lies. Hostile nodes name each other, the nearest first."""

    def __init__(self, size: int, known: int, seed: int, hostile: float = 0.0):
        self.random = random.Random(seed)
        self.nodes = [node(number) for number in range(size)]
        self.hostile = set(self.random.sample(self.nodes, int(size * hostile)))
        self.members = set(self.nodes)
        self.dead: set[NodeId] = set()
        self.views = {each: self._view(each, known) for each in self.nodes}
        self.liars = sorted(self.hostile)

    def _view(self, owner: NodeId, known: int) -> list[NodeId]:
        """Some nodes at random, and the nearest to oneself: what Kademlia's buckets hold."""
        near = closest((each for each in self.random.sample(self.nodes, min(len(self.nodes), known * 8))), owner, known)
        return [*near, *self.random.sample(self.nodes, min(len(self.nodes), known))]

    def answer(self, asked: NodeId, where: bytes) -> list[NodeId]:
        """What a node says."""
        if asked in self.hostile:
            return closest(self.liars, where, FOUND_NODES_MAX)
        return closest(self.views[asked], where, FOUND_NODES_MAX)

    def look_up(self, where: bytes, start: Iterable[NodeId], *, paths: int = 3) -> tuple[Lookup, int]:
        """A whole lookup, and how many questions it took."""
        lookup = Lookup(where, start, lambda raw: raw in self.members, paths=paths)
        asked, pending = 0, []
        while not lookup.done:
            pending += lookup.next()
            assert pending, "it neither asks nor ends"
            asked += 1
            peer = pending.pop(self.random.randrange(len(pending)))
            if peer in self.dead:
                lookup.lost(peer)
            else:
                lookup.heard(peer, self.answer(peer, where))
        return lookup, asked


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 60), seed=st.integers(0, 999), dead=st.floats(0, 0.6))
def test_with_a_full_view_it_is_the_dumb_twin(size: int, seed: int, dead: float) -> None:
    """Whoever knows everybody gets exactly the k nearest that live, in about as many questions."""
    net = Net(size, size, seed)
    net.dead = set(net.random.sample(net.nodes, int(size * dead)))
    where = point(seed)
    lookup, asked = net.look_up(where, net.nodes)
    live = [each for each in net.nodes if each not in net.dead]
    assert list(lookup.nearest()) == closest(live, where)
    assert asked <= 2 * K + 6 + 3 * len(net.dead)


@pytest.mark.parametrize("seed", range(20))
def test_from_partial_views_the_nearest_are_found(seed: int) -> None:
    """A thousand nodes that know some thirty each: the very nearest is found, and most of the k nearest."""
    net = Net(1_000, 16, seed)
    start = net.random.sample(net.nodes, 8)
    where = point(seed)
    lookup, asked = net.look_up(where, start)
    found = lookup.nearest()
    wanted = closest(net.nodes, where)
    assert len(set(found) & set(wanted)) >= K // 2, (found, wanted)
    assert asked <= ASKED_MAX


def test_strangers_are_never_asked() -> None:
    """Invented nodes around the key are not members, and cost nothing."""
    nodes = [node(number) for number in range(20)]
    invented = [NodeId(point(1)[:31] + bytes([number])) for number in range(200)]
    lookup = Lookup(point(1), nodes, lambda raw: raw in nodes)
    while not lookup.done:
        for peer in lookup.next():
            assert peer in nodes
            lookup.heard(peer, [*invented, b"short"])
    assert list(lookup.nearest()) == closest(nodes, point(1))


def test_late_and_repeated_answers_change_nothing() -> None:
    """Only who was asked, and once, is heard."""
    nodes = [node(number) for number in range(5)]
    lookup = Lookup(point(2), nodes, lambda _: True)
    first = lookup.next()
    lookup.heard(node(77), [node(78)])
    for peer in first:
        lookup.heard(peer, [])
        lookup.lost(peer)
    assert lookup.answered == set(first)
    assert not lookup.failed


def test_a_fifth_of_all_nodes_lie() -> None:
    """Hostile nodes name each other alone: a reader that knows some nodes still reaches an honest holder each time, for
    at most twice the questions of a lookup among the honest."""
    reached = plain = asked = 0
    trials = 60
    for trial in range(trials):
        where = point(trial)
        net = Net(1_000, 16, trial, hostile=0.2)
        honest = [each for each in net.nodes if each not in net.hostile]
        holders = set(closest(net.nodes, where)) - net.hostile
        start = net.random.sample(net.nodes, 24)
        lookup, questions = net.look_up(where, start)
        asked += questions
        reached += bool(holders & lookup.answered)
        net.hostile = set()
        net.views = {each: [other for other in view if other in honest] for each, view in net.views.items()}
        plain += net.look_up(where, [each for each in start if each in honest])[1]
    assert reached == trials
    assert asked <= 2 * plain, (asked / trials, plain / trials)
