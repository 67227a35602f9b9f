"""DaemonSets on whole nodes: custody, leases and calls for bids as they are, in a small mesh and in a large one."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.custody.custodians import revisions_of
from beemesh.custody.messages import ReleaseAnswer, ReleaseRequest
from beemesh.effects import Reply
from beemesh.events import Claim, LeaseGranted, Submitted
from beemesh.intents.record import workload_key
from beemesh.scheduling.leases import lease_key
from beemesh.scheduling.messages import LeaseProof
from beemesh.workloads.daemons import ordinal_of
from beemesh.workloads.record import Strategy
from simulator.operator import deployment, submission
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import world_of

KEY = workload_key("daemonset/default/hello")


def submit(world: World, *, tolerant: bool = True) -> None:
    """An operator applies a DaemonSet, and has it accepted."""
    draft = deployment("hello", 0, tolerant=tolerant, strategy=Strategy(max_surge=0, max_unavailable=1))
    _, command = submission(world, 0, msgspec.structs.replace(draft, kind="DaemonSet"), token=7)
    world.event(0, command)
    assert world.run_until(lambda: any(isinstance(event, Submitted) for _, _, event in world.events), 15)
    assert all(event.accepted for _, _, event in world.events if isinstance(event, Submitted))


def everywhere(world: World) -> bool:
    """Whether each machine runs exactly its own."""
    return all(
        [pod.replica for pod in machine.pods.values()] == [ordinal_of(machine.membership.node_id)]
        for machine in world.machines
    )


@pytest.mark.parametrize(("nodes", "tolerant"), [(1, True), (3, True), (3, False), (12, True)])
def test_each_node_runs_its_own(nodes: int, tolerant: bool) -> None:
    """Within seconds, also where it must not be doubled; and nothing more happens."""
    world = world_of(nodes)
    submit(world, tolerant=tolerant)
    assert world.run_until(lambda: everywhere(world), 10)
    world.run_for(30)
    assert everywhere(world)


def test_custodians_open_it_to_each_node_for_its_own_alone() -> None:
    """Not even a majority's lease of the replica of another node, which is dead, opens anything."""
    world = world_of(3)
    submit(world)
    assert world.run_until(lambda: everywhere(world), 10)
    found = world.node(0).intents.get(KEY)
    assert found is not None
    (revision,) = revisions_of(found[0])
    dead, thief = world.machines[2].membership.node_id, world.machines[1].membership.node_id
    world.kill(2, power=True)
    world.run_for(30)
    claim = Claim(lease_key(KEY.removeprefix("workload/"), ordinal_of(dead)), 3_000, 1_000)
    world.event(1, claim)
    proofs: list[LeaseProof] = []

    def granted() -> bool:
        mine = (event for _, index, event in world.events if index == 1 and isinstance(event, LeaseGranted))
        proofs[:] = [event.proof for event in mine if event.key == claim.key]
        return bool(proofs)

    assert world.run_until(granted, 30)
    request = ReleaseRequest(KEY, revision.manifest, revision.sealing.epoch, replica=ordinal_of(dead), proof=proofs[-1])
    effects = world.node(0).node.asked(thief, 991, request, world.now_of(world.machines[0]))
    (answer,) = (effect.message for effect in effects if isinstance(effect, Reply))
    assert isinstance(answer, ReleaseAnswer)
    assert (answer.released, answer.reason) == (False, "replica_out_of_range")
