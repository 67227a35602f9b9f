"""Whoever takes over a workload from a steward that is gone leaves alone what runs."""

from __future__ import annotations

import pytest

from beemesh.events import LeaseGranted, TaskHeard
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import running, submit, world_of


def _steward(world: World) -> int:
    """The machine that took the workload's steward lease first."""
    for _, index, event in world.events:
        if isinstance(event, LeaseGranted) and event.key.startswith("steward/"):
            return index
    raise AssertionError("nobody hosts it")


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_stewards_end_moves_nothing_that_runs(seed: int, tolerant: bool) -> None:
    """It stands still some seconds after the apply: through the takeover the pods of the others run on, and no task is
    published for any of them, although the new steward has never seen one of them."""
    world = world_of(4, seed)
    assert submit(world, replicas=2, tolerant=tolerant).accepted
    assert world.run_until(lambda: running(world) == [0, 1], 5)
    world.run_for(7)  # the tasks of the apply are forgotten by the time of the takeover
    gone = _steward(world)
    before = {machine.index: set(machine.pods) for machine in world.machines if machine.index != gone}
    kept = {pod.replica for index in before for pod in world.machines[index].pods.values()}
    world.events.clear()

    world.pause(gone, 3600)
    world.run_for(60)

    assert all(pods <= set(world.machines[index].pods) for index, pods in before.items())
    assert not [event for _, _, event in world.events if isinstance(event, TaskHeard) and event.task.replica in kept]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("nodes", [3, 5])
def test_a_heal_moves_nothing_of_the_majority(nodes: int, seed: int) -> None:
    """A machine that was cut off for long ran doubles by itself; when it is back they drain, and what the others ran
    all the while runs on: neither its doubles nor its tasks replace any of it."""
    world = world_of(nodes, seed)
    assert submit(world, replicas=nodes).accepted
    assert world.run_until(lambda: running(world) == list(range(nodes)), 5)
    world.run_for(5)
    world.faults.cut({0}, set(range(1, nodes)))
    world.run_for(60)
    before = {machine.index: set(machine.pods) for machine in world.machines[1:]}
    assert {pod for pods in before.values() for pod in pods} == {f"hello-1-{replica}" for replica in range(nodes)}

    world.faults.heal()

    for _ in range(300):
        world.run_for(0.1)
        for index, pods in before.items():
            assert pods <= set(world.machines[index].pods), f"n{index} lost one of {pods}"
    assert running(world) == list(range(nodes))
