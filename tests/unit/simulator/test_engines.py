"""Container engines have their moods: one fails to end pods for a while, and pods are not always ready."""

from __future__ import annotations

import random
from typing import Any

import pytest

from beemesh.effects import JobFinished, Run
from beemesh.events import StopPod
from simulator import mock_runtime
from simulator.checkers.doubles import is_troubled
from simulator.mock_runtime import FLAP_S, FLAPPING_PART, STUCK_S, MockRuntime, conduct_of
from simulator.operator import deployment, submission
from simulator.plan import draw, with_stuck_engines
from simulator.world import World
from tests.unit.simulator.test_scheduling_checkers import AMPLE_S, WORK, meshed, run, task


@pytest.mark.parametrize(
    ("tolerant", "grace_s", "stays"), [(True, 30, True), (True, 0, True), (False, 30, True), (False, 0, False)]
)
def test_an_engine_that_is_stuck_ends_no_pod_and_says_so(
    tolerant: bool, grace_s: int, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it must kill what may not be doubled; meanwhile something is wrong with the machine."""
    world, runtime = meshed(1)
    run(world, runtime, 0, task(tolerant=tolerant))
    machine, told = world.machines[0], list[JobFinished]()
    tell = world.event

    def heard(index: int, event: Any) -> None:
        if isinstance(event, JobFinished) and event.job_id == "stop":
            told.append(event)
        tell(index, event)

    monkeypatch.setattr(world, "event", heard)
    assert not is_troubled(world)
    machine.stuck_until_s = world.now_s + 1
    assert is_troubled(world)
    runtime.carry_out(machine, Run("stop", StopPod("web-1-0", grace_s, "", "default")))
    world.run_for(STUCK_S + 0.1)
    assert ("web-1-0" in machine.pods) is stays
    assert [bool(each.error) for each in told] == [stays]
    assert not is_troubled(world)


def test_an_order_that_a_later_one_outdid_finishes_with_it() -> None:
    """The engine would have failed to end the pod gently, and it was killed meanwhile: both orders were carried out."""
    world, runtime = meshed(1)
    run(world, runtime, 0, task(tolerant=False))
    machine, told = world.machines[0], list[JobFinished]()
    world.event = lambda _index, event: told.append(event)  # type: ignore[method-assign]
    machine.stuck_until_s = world.now_s + 5
    runtime.carry_out(machine, Run("gently", StopPod("web-1-0", 30, "", "default")))
    runtime.carry_out(machine, Run("at once", StopPod("web-1-0", 0, "", "default")))
    world.run_for(STUCK_S + 0.1)
    finished = [each for each in told if isinstance(each, JobFinished)]
    assert {each.job_id: each.error for each in finished} == {"gently": "", "at once": ""}


def test_a_stop_that_failed_is_tried_until_the_pod_is_gone() -> None:
    """An agent that was told so goes on."""
    world, _ = meshed()
    _, command = submission(world, 0, deployment("web", 1), 1)
    world.event(0, command)
    world.run_for(AMPLE_S)
    (machine,) = (each for each in world.machines if each.pods)
    machine.stuck_until_s = world.now_s + 12
    _, command = submission(world, 0, deployment("web", 0), 2)
    world.event(0, command)
    world.run_for(10)
    assert machine.pods
    world.run_for(10)
    assert not machine.pods


def test_stuck_engines_are_drawn_beside_all_else() -> None:
    """They occur and are left out, and change nothing else of a plan."""
    plans = [draw(random.Random(seed), 5, 30) for seed in range(300)]
    stuck = [with_stuck_engines(plan, random.Random(f"{seed}"), 5, 30.0) for seed, plan in enumerate(plans)]
    for plan, with_them in zip(plans, stuck, strict=True):
        assert [step for step in with_them.steps if step.kind != "stuck"] == list(plan.steps)
    assert 30 < sum("stuck" in plan.kinds for plan in stuck) < 100


def test_some_pods_are_not_always_ready() -> None:
    """They are again soon, and stay so once all is calm; of the same revision all do or none."""
    flapping = [seed for seed in range(400) if conduct_of(seed, WORK, 1, once=False).flaps]
    assert abs(len(flapping) / 400 - FLAPPING_PART) < 0.05
    steady = (seed for seed in flapping if not _ends(seed))
    world = World(1)
    runtime = MockRuntime(world, next(steady))
    world.start_all()
    world.run_for(3)
    run(world, runtime, 0, task())
    pods, seen = world.machines[0].pods, list[bool]()
    for _ in range(600):
        world.run_for(0.1)
        seen.append(pods["web-1-0"].ready)
    assert 0.3 < sum(seen) / len(seen) < 0.95
    runtime.is_calm = True
    world.run_for(FLAP_S[1])
    assert all(pods["web-1-0"].ready for _ in range(100) if world.run_for(1) is None)


def _ends(seed: int) -> bool:
    conduct = conduct_of(seed, WORK, 1, once=False)
    return bool(conduct.fails or conduct.lives_s or conduct.pull_s)


def test_how_pods_flap_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is drawn of a revision, and by its engines, is the same as without."""
    without = [conduct_of(seed, WORK, 1, once=False) for seed in range(50)]
    monkeypatch.setattr(mock_runtime, "FLAPPING_PART", 1.0)
    every = [conduct_of(seed, WORK, 1, once=False) for seed in range(50)]
    assert all(each.flaps for each in every)
    same = ("pull_s", "start_s", "fails", "ready_s", "stop_s", "lives_s", "ends")
    assert [[getattr(each, name) for name in same] for each in every] == [
        [getattr(each, name) for name in same] for each in without
    ]
