"""Rolling updates on whole nodes, with faults meanwhile: the revision arrives, and the old one is gone."""

from __future__ import annotations

import random

import pytest

from simulator.operator import deployment, submission
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import running, submit, world_of


def revisions(world: World) -> list[int]:
    """The revisions of all pods that run."""
    return sorted(pod.revision for machine in world.machines for pod in machine.pods.values())


def update(world: World, index: int) -> None:
    """Hand a new revision of the same workload to a machine."""
    _, submit_ = submission(world, index, deployment("hello", 3, annotations={"v": "2"}), 77)
    world.event(index, submit_)


@pytest.mark.parametrize("seed", range(6))
def test_a_rolling_update_under_faults_ends(seed: int) -> None:
    """While three replicas are replaced one by one, machines stand still or are cut off, one after the other; in the
    end exactly three run, all of the new revision."""
    world = world_of(5, seed)
    assert submit(world, replicas=3).accepted
    assert world.run_until(lambda: running(world) == [0, 1, 2], 10)
    world.run_for(5)
    chance = random.Random(seed)
    update(world, chance.randrange(5))
    world.run_for(0.3)
    for _ in range(4):
        one = chance.randrange(5)
        match chance.choice(("pause", "cut")):
            case "pause":
                world.pause(one, chance.uniform(1.0, 20.0))
                world.run_for(chance.uniform(1.0, 20.0))
            case _:
                world.faults.cut({one}, set(range(5)) - {one})
                world.run_for(chance.uniform(1.0, 20.0))
                world.faults.heal()

    assert world.run_until(lambda: running(world) == [0, 1, 2] and revisions(world) == [2, 2, 2], 240)
    world.run_for(30)
    assert revisions(world) == [2, 2, 2]


@pytest.mark.parametrize("seed", range(3))
def test_without_faults_no_replica_is_missed(seed: int) -> None:
    """At no moment do fewer than three run, nor more than four."""
    world = world_of(5, seed)
    assert submit(world, replicas=3).accepted
    assert world.run_until(lambda: running(world) == [0, 1, 2], 10)
    world.run_for(5)
    update(world, 0)
    counts = []
    while revisions(world) != [2, 2, 2] and len(counts) < 600:
        world.run_for(0.1)
        counts.append(len(revisions(world)))

    assert revisions(world) == [2, 2, 2]
    assert min(counts) >= 3
    assert max(counts) <= 4
