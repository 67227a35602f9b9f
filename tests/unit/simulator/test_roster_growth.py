"""Keepers are added on one side of a partition."""

from __future__ import annotations

from beemesh.events import Claim, LeaseDenied, LeaseGranted
from simulator.turnover import join, leave_out
from simulator.world import World

KEY = "run/deployment/default/db/0"
CLAIM = Claim(key=KEY, ttl_ms=15_000, renew_ms=5_000, workload_id="deployment/default/db")


def _granted(world: World, index: int) -> list[LeaseGranted]:
    return [told for _, at, told in world.events if at == index and isinstance(told, LeaseGranted) and told.key == KEY]


def test_a_partition_cannot_grow_a_majority() -> None:
    """Of three keepers one is cut off, and two new ones join it, one after the other: with them it is three of five,
    but the other two renew what they hold, and know nothing of that. It is granted once all are together again."""
    world = World(5, seed=3, age_s=86_400.0)
    leave_out(world, [3, 4])
    world.start_all()
    world.run_for(45)
    world.event(0, CLAIM)
    world.run_for(3)
    assert _granted(world, 0)
    world.faults.cut({0, 1}, {2, 3, 4})
    for index in (3, 4):
        world.run_for(60)
        join(world, world.machines[index], lambda _text: None)
    world.run_for(60)

    world.event(2, CLAIM)
    world.run_for(10)
    assert not _granted(world, 2)
    assert any(isinstance(told, LeaseDenied) for _, at, told in world.events if at == 2)

    world.kill(0)
    world.faults.heal()
    world.run_for(60)
    world.event(3, CLAIM)
    world.run_for(5)
    assert _granted(world, 3), "the new ones vote, too"
