"""Fewer machines than it takes to open a manifest: what was sealed to a machine runs there, and nobody makes noise."""

from __future__ import annotations

from beemesh.events import EventHeard
from beemesh.scheduling.messages import Event
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import running, submit, world_of

GONE = frozenset({0, 1})


def _lonely_world(**more: object) -> World:
    """Three machines with a replica each, of which two lose power."""
    world = world_of(3)
    assert submit(world, replicas=3, **more).accepted
    assert world.run_until(lambda: running(world) == [0, 1, 2], 5)
    for index in GONE:
        world.kill(index, power=True)
    return world


def _failures(world: World) -> list[Event]:
    heard = [event.event for _, index, event in world.events if index == 2 and isinstance(event, EventHeard)]
    return [event for event in heard if event.status == "Failed"]


def test_the_last_of_three_runs_everything_from_its_own_copy() -> None:
    """It holds the manifest sealed to itself, since it runs a replica: no custodian is needed for the others."""
    world = _lonely_world()

    assert world.run_until(lambda: running(world) == [0, 1, 2], 30)


def test_without_a_copy_it_says_who_is_missing_and_does_not_hammer() -> None:
    """`restart: with-peers` keeps no copy: each replica is tried again every ten seconds, with the missing named."""
    world = _lonely_world(restart="with-peers")
    own = [pod.replica for pod in world.machines[2].pods.values()]
    world.run_for(80)

    failures = _failures(world)

    assert running(world) == own
    assert 2 <= len(failures) <= 2 * 12
    assert failures[-1].details["message"] == "1 of the 2 shares that open it: n0, n1 not in reach"


def test_what_waited_for_a_custodian_runs_soon_after_it_came() -> None:
    """One of the two comes back: what was tried in vain for long is tried at once."""
    world = _lonely_world(restart="with-peers")
    world.run_for(80)

    world.start(1, knows=[])

    assert world.run_until(lambda: running(world) == [0, 1, 2], 8)
