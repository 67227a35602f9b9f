"""Regions, tables and copies: who keeps a key, whom a node knows, and who gets a copy when nodes come and go."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.dht.handover import SENDERS, Handover
from beemesh.dht.records import MACHINE_RECORDS, RECORD_KIND, Record, point_of
from beemesh.dht.region import GOOD, LIMITS, SPREAD, K, Region, distance
from beemesh.dht.routing_table import FAILURES_MAX, RoutingTable, size_by
from beemesh.dht.store import RecordStore
from beemesh.effects import Now
from beemesh.identity.signing import sign_statement
from beemesh.ids import NodeId
from simulator.crypto import FakeCrypto
from simulator.routing_net import node_id

WALL_MS = 1_800_000_000_000
NOW = Now(0.0, WALL_MS)
WRITER = FakeCrypto(b"writer")


def nodes(count: int, seed: int = 0) -> list[NodeId]:
    """Members."""
    return [node_id(number, seed) for number in range(count)]


def crowd(point: bytes, count: int) -> list[NodeId]:
    """Identities that differ from a point in the last bits alone."""
    return [NodeId(point[:30] + number.to_bytes(2, "big")) for number in range(count)]


@settings(deadline=None)
@given(size=st.integers(1, 400), seed=st.integers(0, 99))
def test_the_size_of_a_region_does_not_depend_on_that_of_the_network(size: int, seed: int) -> None:
    """Some sixteen nodes keep a record, all in a small mesh; a reader asks eight of them; the order of the nodes that
    are handed in does not matter."""
    point, members = node_id(seed, 77), nodes(size, seed)
    choice = Region(point, size).choose(members)
    assert min(size, GOOD) <= len(choice.nodes) <= sum(LIMITS)
    assert min(size, K) <= choice.enough <= len(choice.nodes)
    random.Random(seed).shuffle(members)
    assert Region(point, size).choose(members) == choice
    if size <= SPREAD // 2:
        assert set(choice.nodes) == set(members)


@pytest.mark.parametrize("count", [45, 500])
def test_a_crowd_at_the_key_takes_nobodys_place(count: int) -> None:
    """However many stand at a key: those that keep it without them keep it with them, and are asked first."""
    point, members = node_id(1, 77), nodes(300)
    without = Region(point, 300).choose(members).nodes
    choice = Region(point, 300).choose([*members, *crowd(point, count)])
    kept = [each for each in without if each in choice.nodes]
    assert len(kept) >= 0.9 * len(without)
    assert set(choice.nodes[:K]) <= set(members)


def test_a_table_keeps_those_that_answer() -> None:
    """Newcomers push nobody out, however many; who fails twice in a row makes room for the one seen last."""
    table = RoutingTable(NodeId(bytes(32)))
    far = [NodeId(bytes([255]) + bytes([number]) * 31) for number in range(200)]
    assert [table.seen(each) for each in far] == [True] * K + [False] * (200 - K)
    assert list(table) == far[:K]
    assert [table.failed(far[0]) for _ in range(FAILURES_MAX)] == [False] * (FAILURES_MAX - 1) + [True]
    assert far[0] not in table
    assert far[-1] in table
    assert not table.seen(NodeId(bytes(32))), "nobody is its own contact"


def test_an_answer_wipes_out_a_failure() -> None:
    """Only failures in a row count: one lost question is nothing."""
    table = RoutingTable(NodeId(bytes(32)))
    far = [NodeId(bytes([255]) + bytes([number]) * 31) for number in range(20)]
    for each in far:
        table.seen(each)
    for _ in range(5):
        assert not table.failed(far[3])
        table.seen(far[3])
    assert far[3] in table


@pytest.mark.parametrize("size", [50, 1_000, 5_000])
def test_the_size_is_measured_where_nobody_chose(size: int) -> None:
    """Within a factor of two by the density at five chance places, also for a node that is surrounded."""
    members = nodes(size)
    own = NodeId(members[0][:31] + b"\0")
    table = RoutingTable(own)
    for each in [*crowd(own, 60), *members]:
        table.seen(each)
    chance = random.Random(1)
    for _ in range(5):
        point = chance.randbytes(32)
        table.sound(point, sorted(members, key=lambda each: distance(each, point))[:40])
    assert size / 2 <= table.size() <= size * 2


def test_nobody_is_a_network_of_one() -> None:
    """Who knows nobody is alone; who stands at the point does not count."""
    assert size_by(node_id(1), []) == 1
    assert size_by(node_id(1), [node_id(1)]) == 1


@settings(deadline=None, max_examples=40)
@given(size=st.integers(12, 90), seed=st.integers(0, 999), came=st.integers(0, 6), went=st.integers(0, 6))
def test_after_every_change_all_keepers_have_it(size: int, seed: int, came: int, went: int) -> None:
    """Whoever is new in a region gets each record, at most twice, from nodes that kept it and are still there; nobody
    else gets anything."""
    chance = random.Random(seed)
    members = nodes(size + came, seed)
    newcomers = set(chance.sample(members, came))
    before = [each for each in members if each not in newcomers]
    gone = set(chance.sample(before, went))
    after = [each for each in members if each not in gone]
    record = Record("home", "manifest", f"m{seed}", WRITER.signer_id, 0, 1, WALL_MS, 60_000)
    signed = sign_statement(WRITER, RECORD_KIND, record)
    had = set(Region(record.point, len(before)).choose(before).nodes)
    copies: list[NodeId] = []
    for holder in sorted(had - gone):
        store = RecordStore()
        store.put(record, signed, NOW)
        handover = Handover(holder, store)
        wanted = [handover.came(each) for each in sorted(newcomers)] + [handover.went(each) for each in sorted(gone)]
        assert wanted == ([True] + [False] * (len(wanted) - 1) if wanted else [])
        while handover.is_due:
            copies += [each.to for each in handover.batch(after, len(before), NOW)]
    assert all(copies.count(each) <= SENDERS for each in copies)
    region = Region(record.point, len(before))
    if any(region.tolerates(each) for each in newcomers | gone):
        assert had - gone | set(copies) >= set(region.choose(after).nodes)
    assert set(copies) <= set(after) - had


def test_who_comes_and_goes_at_once_costs_nothing() -> None:
    """A node that flaps between two rounds is no change, and an empty store has nothing to hand on."""
    store = RecordStore()
    handover = Handover(node_id(0), store)
    assert not handover.came(node_id(1))
    record = Record("home", "manifest", "m", WRITER.signer_id, 0, 1, WALL_MS, 60_000)
    store.put(record, sign_statement(WRITER, RECORD_KIND, record), NOW)
    assert handover.came(node_id(1))
    assert not handover.went(node_id(1))
    assert handover.batch([node_id(0), node_id(1)], 2, NOW) == []
    assert not handover.is_due


def test_points_are_spread() -> None:
    """Keys of one node's records lie all over the place, so that their keepers share the work."""
    firsts = sorted({point_of("home", kind, f"{number}")[0] for kind in MACHINE_RECORDS for number in range(500)})
    assert max(after - before for before, after in pairwise(firsts)) <= 4
