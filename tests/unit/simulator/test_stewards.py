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
