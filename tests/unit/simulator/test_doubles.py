"""The checker of duplicates knows how far an order to move excuses one: while its successor is not ready."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.events import PutIntent
from beemesh.intents.record import Cordon, Drain, Move, budget_key, cordon_key
from beemesh.workloads.budgets import Budget
from simulator.checkers.doubles import GONE_S, DoubleChecker
from simulator.mock_runtime import MockRuntime
from simulator.operator import deployment, submission
from simulator.world import World
from tests.unit.simulator.test_scheduling_checkers import AMPLE_S, WORK, meshed, run, task


def doubled(cordon: Cordon, *, ready: bool) -> list[str]:
    """What the checker says after a while if one replica runs on n0, about which there is an order, and on n1."""
    world, runtime = meshed()
    world.event(2, PutIntent(world.sign(world.operator, "cordon", cordon_key("n0"), cordon)))
    run(world, runtime, 0, task())
    run(world, runtime, 1, task(number=2))
    if not ready:
        pods = world.machines[1].pods
        pods["web-1-0"] = msgspec.structs.replace(pods["web-1-0"], ready=False)
    return said(world, runtime)


def said(world: World, runtime: MockRuntime) -> list[str]:
    """What a new checker says of the next seconds, if it begins in time."""
    checker, blamed = DoubleChecker(runtime), list[str]()
    cut = world.faults.cut({0}, {1, 2})
    checker.look(world, blamed.append)
    world.faults.heal(cut)
    for _ in range(int(GONE_S) + 1):
        world.run_for(1)
        checker.look(world, blamed.append)
    return blamed


DRAINED = Cordon("n0", True, drain=Drain())


@pytest.mark.parametrize(
    ("cordon", "ready", "is_blamed"),
    [
        (DRAINED, False, False),
        (DRAINED, True, True),
        (Cordon("n0", True), False, True),
        (Cordon("n0", False, moves=(Move(WORK, 0),), moves_until_ms=1 << 60), False, False),
        (Cordon("n0", False, moves=(Move(WORK, 0),), moves_until_ms=1 << 60), True, True),
        (Cordon("n0", False, moves=(Move(WORK, 1),), moves_until_ms=1 << 60), False, True),
        (Cordon("n0", False, moves=(Move(WORK, 0),), moves_until_ms=1), False, True),
    ],
)
def test_a_move_excuses_a_duplicate_until_the_successor_is_ready(cordon: Cordon, ready: bool, is_blamed: bool) -> None:
    """And only the replica that it is about, as long as it holds."""
    assert bool(doubled(cordon, ready=ready)) is is_blamed


def test_a_duplicate_that_begins_while_all_is_well_has_as_long() -> None:
    """Two starts may cross; both at once is no fault, and that both stay is one."""
    world, runtime = meshed()
    checker, blamed = DoubleChecker(runtime), list[str]()
    run(world, runtime, 0, task())
    checker.look(world, blamed.append)
    run(world, runtime, 1, task(number=2))
    for _ in range(int(GONE_S)):
        checker.look(world, blamed.append)
        world.run_for(1)
    assert not blamed
    world.run_for(1)
    checker.look(world, blamed.append)
    assert len(blamed) == 1


def test_a_budget_may_keep_what_moves() -> None:
    """As long as it does, both run; ten seconds later they do not."""
    world, runtime = meshed()
    _, command = submission(world, 0, deployment("web", 0), 1)
    world.event(0, command)
    world.event(2, PutIntent(world.sign(world.operator, "cordon", cordon_key("n0"), DRAINED)))
    world.run_for(AMPLE_S)
    for index in range(3):
        world.machines[index].composition.steward._hosted.clear()  # type: ignore[union-attr] # nobody looks after it
    run(world, runtime, 0, task())
    run(world, runtime, 1, task(number=2))
    for seq, least in enumerate(("2", "1"), 1):
        body = Budget("default", "most", min_available=least)
        world.event(0, PutIntent(world.sign(world.operator, "budget", budget_key("default", "most"), body, seq)))
        world.run_for(2)
        assert bool(said(world, runtime)) is (least == "1")
