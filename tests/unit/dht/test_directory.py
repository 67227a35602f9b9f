"""Records on whole nodes: what is published is found from anywhere, outlives machines, and dies with its writer."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.custody.custodians import TABLE_MANIFESTS
from beemesh.dht.messages import RecordStored, StoreRecord
from beemesh.dht.publisher import TTL_MS
from beemesh.dht.records import RECORD_KIND, Record, RecordType
from beemesh.effects import Now
from beemesh.events import FindProviders, ProvidersFound
from beemesh.identity.signing import sign_statement
from beemesh.ids import NodeId, to_text
from beemesh.workloads.record import Workload
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import KEY, running, submit, world_of


def providers(world: World, index: int, kind: RecordType, subject: str) -> set[int]:
    """Who is found from one node, by machine index."""
    ref = f"{index} {kind} {subject} {world.now_s}"
    world.event(index, FindProviders(ref, kind, subject))
    told: list[ProvidersFound] = []

    def answered() -> bool:
        told[:] = [event for _, _, event in world.events if isinstance(event, ProvidersFound) and event.ref == ref]
        return bool(told)

    assert world.run_until(answered, 10)
    return {world.index_of(node_id) for node_id in told[0].nodes}


def node_id(world: World, index: int) -> NodeId:
    """The ID of a machine."""
    return world.machines[index].membership.node_id


def workload(world: World) -> Workload:
    """The record that stands."""
    found = world.node(0).intents.get(KEY)
    assert found is not None
    return msgspec.msgpack.decode(found[0].body, type=Workload)


@pytest.mark.parametrize("nodes", [1, 3, 12, 30])
def test_everybody_is_present_to_everybody(nodes: int) -> None:
    """Some seconds after the start each node finds the presence record of each."""
    world = world_of(nodes)
    world.run_for(5)
    for index in range(0, nodes, 5):
        for other in range(0, nodes, 7):
            assert providers(world, index, "presence", to_text(node_id(world, other))) == {other}


def test_who_keeps_and_who_runs_is_found() -> None:
    """Holders of a ciphertext, custodians of its key's shares, and the node of each replica."""
    world = world_of(6)
    submit(world, replicas=2)
    assert world.run_until(lambda: running(world) == [0, 1], 5)
    world.run_for(3)
    revision = workload(world).current
    holders = {world.index_of(each) for each in revision.holders}
    custodians = {world.index_of(ticket.custodian) for ticket in revision.sealing.tickets}
    assert providers(world, 5, "manifest", revision.manifest.hex()) == holders
    assert providers(world, 5, "share", revision.manifest.hex()) == custodians
    for replica in (0, 1):
        runner = {
            machine.index for machine in world.machines for pod in machine.pods.values() if pod.replica == replica
        }
        assert providers(world, 4, "runs", f"deployment/default/hello/{replica}") == runner


def test_a_ciphertext_that_lost_its_holders_is_found_where_it_was_copied() -> None:
    """No holder that the record names has it any more: whoever published that it keeps the ciphertext is asked."""
    world = world_of(8)
    submit(world, replicas=1)
    assert world.run_until(lambda: running(world) == [0], 5)
    revision = workload(world).current
    runner = next(machine.index for machine in world.machines if machine.pods)
    holders = [world.index_of(each) for each in revision.holders]
    spare = next(index for index in range(8) if index not in (*holders, runner))
    table = TABLE_MANIFESTS, bytes(revision.manifest)
    world.machines[spare].disk[table] = world.machines[holders[0]].disk[table]
    for index in range(8):
        world.kill(index, power=True)
    for index in holders:
        del world.machines[index].disk[table]
    for index in range(8):
        if index != runner:  # it could start its replica alone
            world.start(index, knows=[])

    assert world.run_until(lambda: running(world, dead=frozenset({runner})) == [0], 90)


def test_records_outlive_their_keepers_and_not_their_writer() -> None:
    """Half of the mesh dies: what the others published is found within a life; a dead writer's records end."""
    world = world_of(12)
    world.run_for(5)
    for index in range(6):
        world.kill(index, power=True)
    world.run_for(TTL_MS / 1000)
    for other in range(6, 12):
        assert providers(world, 6, "presence", to_text(node_id(world, other))) == {other}
    assert providers(world, 6, "presence", to_text(node_id(world, 0))) == set()


def test_a_store_far_away_refuses() -> None:
    """A record is kept near its key alone, so nobody can fill a node that it likes."""
    world = world_of(40)
    machine = world.machines[0]
    own = machine.crypto
    taken = []
    for number in range(30):
        body = Record("sim", "manifest", f"m{number}", own.signer_id, 0, 1, world.wall_ms, 60_000)
        store = StoreRecord("sim", sign_statement(own, RECORD_KIND, body))
        now = Now(world.now_s, world.wall_ms)
        effects = world.node(1).node.asked(machine.membership.node_id, 1_000 + number, store, now)
        taken += [each.message.ok for each in effects if isinstance(getattr(each, "message", None), RecordStored)]
    assert 0 < sum(taken) < 30
