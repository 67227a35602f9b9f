"""Lookups reach those that keep a key's records, whoever lies on the way."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.dht.lookup import ASKED_MAX, Lookup
from beemesh.dht.region import Region, distance
from beemesh.ids import NodeId
from simulator.routing_net import RoutingNet, node_id, point_of


def asked_of_all(nodes: list[NodeId], point: bytes, dead: Iterable[NodeId] = (), *, found: bool = False) -> Lookup:
    """A lookup of somebody who knows all of a network."""
    lookup = Lookup(Region(point, len(nodes)), nodes, lambda _: True, one_hop=True)
    lookup.satisfied = found
    while not lookup.done:
        for peer in lookup.next():
            if peer in dead:
                lookup.lost(peer)
            else:
                lookup.heard(peer, [])
    return lookup


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 60), seed=st.integers(0, 999), dead=st.floats(0, 0.6))
def test_with_a_full_view_it_is_the_dumb_twin(size: int, seed: int, dead: float) -> None:
    """Whoever knows everybody asks exactly those that the region is made of, each once, and nobody else."""
    nodes = [node_id(number, seed) for number in range(size)]
    gone = set(random.Random(seed).sample(nodes, int(size * dead)))
    point = point_of(seed)
    lookup = asked_of_all(nodes, point, gone)
    wanted = set(Region(point, size).choose(nodes).nodes)
    assert lookup.answered | lookup.failed == wanted
    assert lookup.failed == wanted & gone


def test_in_a_full_view_one_round_finds() -> None:
    """All questions of a lookup that finds something leave at once."""
    nodes = [node_id(number) for number in range(100)]
    lookup = Lookup(Region(point_of(1), 100), nodes, lambda _: True, one_hop=True)
    first = lookup.next()
    for peer in first:
        lookup.satisfied = True
        lookup.heard(peer, [])
    assert lookup.done
    assert len(first) == 8


@pytest.mark.parametrize("seed", range(5))
def test_from_partial_views_all_of_the_region_is_found(seed: int) -> None:
    """Among a thousand that know some sixty each: nine tenths of those that keep a key's records, and more."""
    net = RoutingNet(1_000, seed)
    point = point_of(seed)
    trip = net.look_up(net.random.choice(net.honest), point)
    nearest = sorted(net.nodes, key=lambda each: distance(each, point))[:10]
    assert len(set(nearest) & set(trip.keepers)) >= 9
    assert trip.asked <= ASKED_MAX


def test_dead_nodes_cost_a_question_each() -> None:
    """A quarter of all nodes is dead and still known: what is kept is found, by asking the others."""
    net = RoutingNet(500, 1, dead=0.25)
    for number in range(10):
        writer, reader = net.random.sample(net.honest, 2)
        holders = net.look_up(writer, point_of(number)).keepers
        assert net.look_up(reader, point_of(number), holders).found


def test_strangers_are_never_asked() -> None:
    """Invented nodes around the key are not members, and cost nothing."""
    nodes = [node_id(number) for number in range(20)]
    invented = [NodeId(point_of(1)[:31] + bytes([number])) for number in range(200)]
    lookup = Lookup(Region(point_of(1), 20), nodes, lambda raw: raw in nodes)
    while not lookup.done:
        for peer in lookup.next():
            assert peer in nodes
            lookup.heard(peer, [*invented, b"short"])
    assert lookup.answered <= set(nodes)


def test_late_and_repeated_answers_change_nothing() -> None:
    """Only who was asked, and once, is heard."""
    nodes = [node_id(number) for number in range(5)]
    lookup = Lookup(Region(point_of(2), 5), nodes, lambda _: True)
    first = lookup.next()
    lookup.heard(node_id(77), [node_id(78)])
    for peer in first:
        lookup.heard(peer, [])
        lookup.lost(peer)
    assert lookup.answered == set(first)
    assert not lookup.failed


@pytest.mark.parametrize("within", [0.05, 1.0])
def test_a_fifth_lies_and_a_crowd_stands_at_the_key(within: float) -> None:
    """1,000 nodes, 200 of them hostile, and 45 more right at the key: each record of an honest node is found by each
    honest node, for at most twice the questions of a plain lookup, which finds next to nothing."""
    net = RoutingNet(1_000, 3, hostile=0.2)
    asked = plain = lucky = 0
    for number in range(25):
        point = point_of(number)
        net.crowd_around(point, 45, within=within)
        writer, reader = net.random.sample(net.honest, 2)
        trip = net.look_up(reader, point, net.look_up(writer, point).keepers)
        assert trip.found, number
        asked += trip.asked
        usual = net.plain(reader, point)
        plain += usual.asked
        lucky += bool(set(usual.keepers) & set(net.plain(writer, point).keepers) & set(net.honest))
    assert asked <= 2 * plain, (asked, plain)
    assert lucky <= 5


def test_a_crowd_all_over_the_region_does_not_hide_a_record() -> None:
    """The worst place for 45 hostile nodes: as far from the key as those that keep its records."""
    net = RoutingNet(1_000, 4, hostile=0.2)
    for number in range(15):
        point = point_of(number)
        net.crowd_around(point, 45, within=16)
        writer, reader = net.random.sample(net.honest, 2)
        assert net.look_up(reader, point, net.look_up(writer, point).keepers).found, number
