"""Two operators who want different things under one name: each hears the truth, and what stands can be opened."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.custody.sealing import SealedContent, place_of, plan_custody, seal
from beemesh.events import Submit, Submitted
from beemesh.ids import digest_of
from beemesh.intents.map import IntentMap
from beemesh.intents.record import Intent
from beemesh.workloads.record import Workload
from simulator.world import MESH, World
from tests.unit.simulator.test_whole_nodes import KEY, running, world_of


def wish(world: World, who: int, seq: int) -> Submit:
    """One operator's version of the workload, sealed with a key of its own."""
    plan = plan_custody(world.node(0).roster.keepers(), place_of(KEY))
    content = SealedContent(f"version of {who}".encode())
    key = digest_of(bytes([who, seq]))
    sealed = seal(world.operator, key, content, plan, mesh=MESH, intent_key=KEY, number=seq, fingerprint=bytes([who]))
    workload = Workload(kind="Deployment", namespace="default", name="hello", replicas=1, revisions=(sealed.revision,))
    record = world.sign(world.operator, "workload", KEY, workload, seq)
    return Submit(100 * seq + who, record, sealed.ciphertext, sealed.boxes)


def outcomes(world: World, wishes: list[Submit]) -> dict[int, Submitted]:
    """The outcome of each wish by its token, once all have one."""
    tokens = {each.token for each in wishes}

    def found() -> dict[int, Submitted]:
        told = [event for _, _, event in world.events if isinstance(event, Submitted)]
        return {event.token: event for event in told if event.token in tokens}

    assert world.run_until(lambda: len(found()) == len(wishes), 15)
    return found()


@pytest.mark.parametrize("seed", range(6))
def test_at_one_agent_exactly_one_is_accepted(seed: int) -> None:
    """The agent compares and sets: of several wishes for one number it takes one, and the rest hear of the conflict."""
    world = world_of(3, seed)
    for seq in (1, 2, 3):
        wishes = [wish(world, who, seq) for who in range(4)]
        for each in wishes:
            world.event(0, each)
        told = outcomes(world, wishes).values()
        assert sorted(each.accepted for each in told) == [False, False, False, True]
        assert all(each.conflict for each in told if not each.accepted)
        assert world.run_until(lambda seq=seq: runs_what_stands(world, seq), 30), seq


@pytest.mark.parametrize("seed", range(6))
def test_at_many_agents_what_stands_runs(seed: int) -> None:
    """Agents that do not know of each other may both accept; one wins everywhere, and its seal was lost by nobody."""
    world = world_of(5, seed)
    for seq in (1, 2, 3):
        wishes = [wish(world, who, seq) for who in range(4)]
        for index, each in enumerate(wishes):
            world.event(index, each)
        assert any(each.accepted for each in outcomes(world, wishes).values())
        assert world.run_until(lambda seq=seq: runs_what_stands(world, seq), 30), seq


def runs_what_stands(world: World, seq: int) -> bool:
    """Whether all hold the same record of that number, and just what it seals runs, once."""
    maps: list[IntentMap] = [world.node(machine.index).intents for machine in world.machines]
    standing = {found[1].body for each in maps if (found := each.get(KEY)) is not None and found[0].seq == seq}
    if len(standing) != 1:
        return False
    (body,) = standing
    current = msgspec.msgpack.decode(msgspec.msgpack.decode(body, type=Intent).body, type=Workload).current
    pods = [pod for machine in world.machines for pod in machine.pods.values()]
    return running(world) == [0] and all(pod.is_of(current) and pod.manifest for pod in pods)
