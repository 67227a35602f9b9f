"""A roster that changes: who joins is known to all, who is removed is shut out and stops what may not be doubled."""

from __future__ import annotations

import random

import pytest

from beemesh.crypto import KEY_BYTES
from beemesh.intents.record import Intent
from simulator.checkers.run_leases import WAKING_S
from simulator.demand import Demand
from simulator.fleet import KEEPERS_MIN
from simulator.operator import deployment, grant_operator, is_alone, may_be_lost, submission
from simulator.script import Desk
from simulator.trial import Trial
from simulator.turnover import Removal, Turnover, draw_turnover, join, leave_out, rotate, take_out
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import world_of

RUN_LEASE_S = 20.0
"""More than a run lease lasts, and the comparison by which a removal is heard of."""


def told(_: str) -> None:
    """Nobody listens."""


def alive(world: World) -> set[int]:
    """How many members each agent holds alive."""
    return {
        len(machine.composition.view.alive())
        for machine in world.machines
        if machine.composition is not None and machine.is_member
    }


def test_every_kind_of_change_is_drawn_and_the_same_seed_draws_the_same() -> None:
    """Nothing is removed where disks are lost anyhow, and small meshes stay as they are."""
    drawn = [draw_turnover(random.Random(seed), 20, 60, forgetful=False) for seed in range(50)]
    assert any(each.joins for each in drawn)
    assert any(each.removals for each in drawn)
    assert any(each.rotations for each in drawn)
    assert any(each == Turnover() for each in drawn)
    assert drawn == [draw_turnover(random.Random(seed), 20, 60, forgetful=False) for seed in range(50)]
    assert not any(draw_turnover(random.Random(seed), 20, 60, forgetful=True).removals for seed in range(50))
    assert {draw_turnover(random.Random(seed), KEEPERS_MIN, 60, forgetful=False) for seed in range(50)} == {Turnover()}


def test_who_joins_is_known_to_all() -> None:
    """Until then nobody has heard of it; also where the gossip key changed before."""
    world = World(6)
    grant_operator(world)
    leave_out(world, [5])
    world.start_all()
    world.run_for(3)
    assert alive(world) == {5}
    assert world.machines[5].membership.node_id not in {card.node_id for card in world.node(0).roster.members()}
    rotate(world, 2, b"k" * KEY_BYTES, told)
    world.run_for(100)
    join(world, world.machines[5], told)
    assert world.run_until(lambda: alive(world) == {6}, 20)


def test_who_went_on_after_its_removal_is_started_again_until_it_is_unplugged() -> None:
    """A supervisor knows nothing of rosters; but nobody starts what has not joined, or is gone."""
    world = World(6)
    grant_operator(world)
    leave_out(world, [5])
    world.start_all()
    assert [machine.has_agent for machine in world.machines] == [True] * 5 + [False]
    world.run_for(1)
    take_out(world, Removal(0, 1, 3.0, b"k" * KEY_BYTES), told)
    world.kill(0)
    assert world.machines[0].has_agent
    world.run_for(4)
    assert not world.machines[0].has_agent


@pytest.mark.parametrize(("forgetful", "taken"), [(True, False), (False, True)])
def test_what_one_disk_alone_would_have_is_not_handed_in_where_disks_are_lost(forgetful: bool, taken: bool) -> None:
    """It is accepted by a node that sees nobody else, and rightly lost with that node's disk."""
    world = world_of(2)
    world.kill(1)
    assert world.run_until(lambda: is_alone(world, 0), 30)
    submitted: dict[int, Intent] = {}
    desk = Desk(world, submitted, told, 1.0, Demand(random.Random(1)), [], forgetful=forgetful)
    chance = random.Random(1)
    for _ in range(8):  # some of them at the machine that is down
        desk.hand_in(deployment("web", 1), chance)
    assert bool(submitted) is taken


def test_who_sees_nobody_else_is_not_removed_and_takes_nothing_once_it_is() -> None:
    """What it accepts is on its own disk alone, and goes with that."""
    world = world_of(3)
    world.faults.cut({0}, {1, 2})
    assert world.run_until(lambda: is_alone(world, 0), 60)
    assert not may_be_lost(world, 0, forgetful=False)
    assert may_be_lost(world, 0, forgetful=True)
    removal = Removal(0, 1, 100.0, b"k" * KEY_BYTES)
    assert not take_out(world, removal, told)
    world.faults.heal()
    assert world.run_until(lambda: not is_alone(world, 0), 30)
    assert take_out(world, removal, told)
    world.faults.cut({0}, {1, 2})
    assert world.run_until(lambda: is_alone(world, 0), 60)
    assert may_be_lost(world, 0, forgetful=False)


def test_a_trial_loses_nothing_that_one_disk_alone_had() -> None:
    """The seed by which it was found: three machines, of which one accepts alone and then loses its disk."""
    assert not Trial(352, 3, 30).run().violations


@pytest.mark.parametrize("seed", range(3))
def test_who_is_removed_is_shut_out_and_stops_what_may_not_be_doubled(seed: int) -> None:
    """Its replica runs elsewhere, and no longer there though its agent lives, before anybody unplugs it."""
    world = world_of(6, seed)
    _, command = submission(world, 0, deployment("web", 1, tolerant=False), 1)
    world.event(0, command)
    assert world.run_until(lambda: any(machine.pods for machine in world.machines), 10)
    gone = next(machine for machine in world.machines if machine.pods)
    removal = Removal(gone.index, (gone.index + 1) % 6, 2 * RUN_LEASE_S, b"k" * KEY_BYTES)

    assert take_out(world, removal, told)
    assert not take_out(world, removal, told)

    assert world.run_until(lambda: alive(world) == {5}, 10)
    assert world.run_until(lambda: not gone.pods, RUN_LEASE_S + WAKING_S)
    assert gone.is_up
    assert world.run_until(lambda: any(machine.pods for machine in world.machines if machine.is_member), 10)
    world.run_for(2 * RUN_LEASE_S)
    assert not gone.is_up
