"""Where an agent is away, the guard of its machine ends what must not be doubled before its run lease ends."""

from __future__ import annotations

import random

import pytest

from beemesh.scheduling.leases import RUN_LEASE_MARGIN_S
from simulator.guard import LATE_S, attend
from simulator.machine import Machine
from simulator.operator import deployment, submission
from simulator.plan import ABSENT_S, CRASH_S_MAX, draw, with_absences
from simulator.world import World
from tests.unit.simulator.test_scheduling_checkers import AMPLE_S, meshed

RUN_LEASE_S = 15.0


def placed(*, tolerant: bool) -> tuple[World, Machine]:
    """A mesh that runs one pod, and where."""
    world, _ = meshed()
    _, command = submission(world, 0, deployment("web", 1, tolerant=tolerant), 1)
    world.event(0, command)
    world.run_for(AMPLE_S)
    (machine,) = (each for each in world.machines if each.pods)
    return world, machine


@pytest.mark.parametrize("tolerant", [False, True])
def test_only_what_must_not_be_doubled_ends_without_its_agent(tolerant: bool) -> None:
    """Before its lease does, and nothing else ends because an agent is away."""
    world, machine = placed(tolerant=tolerant)
    assert bool(machine.run_rights) is not tolerant
    world.kill(machine.index)
    attend(world, machine)
    world.run_for(RUN_LEASE_S - RUN_LEASE_MARGIN_S + LATE_S)

    assert bool(machine.pods) is tolerant


def test_an_agent_that_is_back_in_time_keeps_its_pod() -> None:
    """The guard leaves it to the agent again."""
    world, machine = placed(tolerant=False)
    world.kill(machine.index)
    attend(world, machine)
    world.run_for(3)
    world.start(machine.index)
    world.run_for(2 * RUN_LEASE_S)

    assert machine.pods


def test_a_right_ends_with_its_pod_and_with_the_power() -> None:
    """What no longer runs has no deadline."""
    world, machine = placed(tolerant=False)
    _, command = submission(world, 0, deployment("web", 0, tolerant=False), 2)
    world.event(0, command)
    world.run_for(AMPLE_S)
    assert not machine.run_rights

    world, machine = placed(tolerant=False)
    world.kill(machine.index, power=True)
    assert not machine.run_rights


def test_some_crashes_outlast_every_lease() -> None:
    """They occur, and nothing else of a plan changes."""
    plans = [draw(random.Random(seed), 5, 30) for seed in range(300)]
    absent = [with_absences(plan, random.Random(f"{seed}")) for seed, plan in enumerate(plans)]
    longer = 0
    for plan, changed in zip(plans, absent, strict=True):
        for before, after in zip(plan.steps, changed.steps, strict=True):
            if before != after:
                assert (before.kind, before.at_s, before.machines) == (after.kind, after.at_s, after.machines)
                assert before.amount <= CRASH_S_MAX <= after.amount <= ABSENT_S[1]
                longer += 1
    assert longer > 50
