"""Whole nodes change their gossip key, and shut out whom the CA revokes."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.events import MemberDown, Observed, PutIntent
from beemesh.identity.grants import Revocation
from beemesh.identity.key_rotation import RING_KEY, KeyBox, commitment_of, epoch_of, rotation
from beemesh.identity.signing import Signed
from beemesh.intents.record import revoked_key
from simulator.operator import change_key
from simulator.world import MESH, World
from tests.unit.simulator.test_whole_nodes import world_of

NEW_KEY = b"new!" * 8
NEWER_KEY = b"more" * 8


def _rotation(world: World, key: bytes = NEW_KEY, *, to: int | None = None, urgent: bool = False) -> Signed:
    """An admin's record; with a box for the first `to` members."""
    members = [machine.membership for machine in world.machines][:to]
    body = rotation(world.operator, MESH, members, key, urgent=urgent)
    return world.sign(world.operator, "ring", RING_KEY, body)


def _keys(world: World, index: int) -> list[bytes]:
    return [known.key for known in world.node(index).keyring.ring.keys]


def _deaths(world: World) -> list[object]:
    return [event for _, _, event in world.events if isinstance(event, MemberDown)]


@pytest.mark.parametrize("boxes", [None, 1])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_key_is_changed_without_a_death(seed: int, boxes: int | None) -> None:
    """All nodes take a new key, send with it and forget the old one within 62 s, and nobody is held dead meanwhile;
    also when only one of them finds it in the record, and under loss."""
    world = world_of(6, seed, loss=0.1)

    world.event(0, PutIntent(_rotation(world, to=boxes)))

    assert world.run_until(lambda: all(NEW_KEY in _keys(world, index) for index in range(6)), 10)
    assert world.run_until(lambda: all(_keys(world, index) == [NEW_KEY] for index in range(6)), 62)
    world.run_for(20)
    assert not _deaths(world)


@pytest.mark.parametrize("in_the_box", [b"", NEWER_KEY], ids=["what does not open", "another key"])
def test_whoever_finds_no_key_in_its_box_asks_the_others(in_the_box: bytes) -> None:
    """A box of the record that does not open, or holds something else, is no worse than none: all have the new key
    within seconds, and in the end it alone."""
    world = world_of(4)
    members = [machine.membership for machine in world.machines]
    made = rotation(world.operator, MESH, members, NEW_KEY)
    spoiled = world.operator.seal_to(members[3].open_key, in_the_box) if in_the_box else made.boxes[2].box
    boxes = (*made.boxes[:3], KeyBox(members[3].node_id, spoiled))

    world.event(0, PutIntent(world.sign(world.operator, "ring", RING_KEY, msgspec.structs.replace(made, boxes=boxes))))

    assert world.run_until(lambda: all(NEW_KEY in _keys(world, index) for index in range(4)), 10)
    assert world.run_until(lambda: all(_keys(world, index) == [NEW_KEY] for index in range(4)), 62)
    assert not _deaths(world)


def test_a_node_that_was_away_comes_back_with_the_new_key() -> None:
    """A node whose key was removed everywhere meanwhile is alive for all, with the new key, 15 s after its return."""
    world = world_of(5)
    world.kill(4)
    world.event(0, PutIntent(_rotation(world, to=4)))
    world.run_for(100)

    world.start(4)

    assert world.run_until(lambda: _keys(world, 4) == [NEW_KEY], 15)
    assert world.run_until(lambda: all(len(world.node(index).view.alive()) == 5 for index in range(5)), 10)


def test_a_partition_heals_over_a_change_of_keys() -> None:
    """Two sides that spoke under different keys find each other again within 30 s."""
    world = world_of(6)
    world.faults.cut({0, 1, 2}, {3, 4, 5})
    world.event(0, PutIntent(_rotation(world)))
    world.run_for(200)
    assert all(_keys(world, index) == [NEW_KEY] for index in range(3))
    assert all(NEW_KEY not in _keys(world, index) for index in range(3, 6))

    world.faults.heal()

    assert world.run_until(lambda: all(len(world.node(index).view.alive()) == 6 for index in range(6)), 30)
    assert world.run_until(lambda: all(_keys(world, index) == [NEW_KEY] for index in range(6)), 70)


@pytest.mark.parametrize("before_s", [0.5, 3.0, 20.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_key_that_is_new_when_a_partition_heals_kills_nobody(seed: int, before_s: float) -> None:
    """One side has changed the key, and changes it again just before the two meet, who share none until then: all speak
    under it once it is five seconds old, or at once, and whoever comes back to life for somebody stays so."""
    world = world_of(6, seed)
    world.faults.cut({0, 1, 2}, {3, 4, 5})
    change_key(world, 0, NEW_KEY)
    world.run_for(100)
    change_key(world, 1, NEWER_KEY)
    world.run_for(before_s)
    seen = len(world.events)

    world.faults.heal()

    newest = epoch_of(commitment_of(NEWER_KEY))
    assert world.run_until(
        lambda: all(world.node(index).keyring.ring.active == newest for index in range(6)), max(3.0, 5.5 - before_s)
    )
    assert world.run_until(lambda: all(len(world.node(index).view.alive()) == 6 for index in range(6)), 10)
    world.run_for(20)
    assert not [event for _, _, event in world.events[seen:] if isinstance(event, MemberDown)]


def test_two_changes_at_once_end_in_one_key() -> None:
    """Two admins who change the key in the same moment leave one key, the same everywhere, and nobody dead."""
    world = world_of(5)

    world.event(0, PutIntent(_rotation(world)))
    world.event(4, PutIntent(_rotation(world, NEWER_KEY)))

    world.run_for(80)
    assert len({tuple(_keys(world, index)) for index in range(5)}) == 1
    assert len(_keys(world, 0)) == 1
    assert not _deaths(world)


def test_a_restart_keeps_the_ring() -> None:
    """A node that restarts in the middle of a change goes on with both keys, and has nothing readable on its disk."""
    world = world_of(3)
    world.event(0, PutIntent(_rotation(world)))
    world.run_for(10)
    world.kill(1)
    world.start(1)

    assert world.run_until(lambda: len(world.node(1).view.alive()) == 3, 3)
    assert world.run_until(lambda: all(_keys(world, index) == [NEW_KEY] for index in range(3)), 62)
    assert not _deaths(world)


def _revoke(world: World, index: int) -> Signed:
    member = world.machines[index].membership
    body = Revocation(MESH, "node", member.node_id, member.name, world.wall_ms)
    return world.sign_ca("revocation", revoked_key("node", member.node_id), body)


def test_a_revoked_node_is_shut_out_within_seconds() -> None:
    """Three seconds after its revocation nobody counts it, takes its datagrams or hands it the new key; 12 s after it
    nobody sends or accepts under the key that it knows."""
    world = world_of(6)
    outcast = world.machines[5].membership.node_id
    world.event(0, PutIntent(_revoke(world, 5)))
    world.event(0, PutIntent(_rotation(world, to=5, urgent=True)))

    world.run_for(3)
    assert all(outcast not in world.node(index).view.alive() for index in range(5))
    seen = len(world.events)
    world.run_for(9)

    refused = [event.labels["reason"] for _, index, event in world.events[seen:] if _refusal(event) and index != 5]
    assert refused and set(refused) <= {"unknown_sender", "key_epoch"}
    assert all(_keys(world, index) == [NEW_KEY] for index in range(5))
    assert NEW_KEY not in _keys(world, 5)


def _refusal(event: object) -> bool:
    return isinstance(event, Observed) and event.metric == "datagrams_refused"


def test_the_key_is_nowhere_on_a_disk() -> None:
    """What nodes save holds keys sealed to themselves only."""
    world = world_of(3)
    world.event(0, PutIntent(_rotation(world)))
    world.run_for(10)

    machine = world.machines[1]
    saved = {key: value for (table, key), value in machine.disk.items() if table == "keyring"}

    assert saved
    ring = msgspec.msgpack.decode(machine.crypto.open_box(saved[b"ring"]))
    assert {known["key"] for known in ring["keys"]} == {bytes(32), NEW_KEY}
