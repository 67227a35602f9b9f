"""The checker of outcomes bites: what ended by itself is to be started again, and few words are reasons why not."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.events import EmitEvent
from beemesh.scheduling.messages import Event, EventStatus
from beemesh.settings.model import Scheduler
from beemesh.workloads.record import Constraints
from simulator.asking import STANDS_S, why_pending
from simulator.checkers.outcomes import OutcomeChecker
from simulator.mock_runtime import MockRuntime, conduct_of
from simulator.operator import deployment, grant_operator, submission
from simulator.spec import machine
from simulator.world import World
from tests.unit.simulator.test_scheduling_checkers import AMPLE_S, WORK, meshed, steady


def mortal() -> int:
    """A seed by which the pods of `WORK` start, and end by themselves."""
    conducts = ((seed, conduct_of(seed, WORK, 1, once=False)) for seed in range(999))
    return next(seed for seed, conduct in conducts if conduct.lives_s and not conduct.fails)


def abandoned() -> tuple[World, MockRuntime, OutcomeChecker]:
    """One replica runs on three machines, of which none hosts its workload any more."""
    world, runtime = meshed()
    _, command = submission(world, 0, deployment("web", 1), 1)
    world.event(0, command)
    world.run_for(AMPLE_S)
    for index in range(3):
        world.machines[index].composition.steward._hosted.clear()  # type: ignore[union-attr] # nobody looks after it
    return world, runtime, OutcomeChecker(runtime, mortal())


def end(world: World, *, phase: str) -> None:
    """The one pod ends by itself; where `phase` is empty it vanishes from its runtime."""
    (machine,) = (each for each in world.machines if each.pods)
    name, report = machine.pods.popitem()
    if phase:
        machine.pods[name] = msgspec.structs.replace(report, phase=phase, ready=False, reason="it ended")
    world.tell_pods(machine)
    world.run_for(2)


@pytest.mark.parametrize("announce_up_to", [1, 100])
def test_of_what_no_machine_is_fit_for_an_agent_can_tell_why(announce_up_to: int) -> None:
    """Also where tasks go to a few candidates alone, and there is none."""
    timing = Scheduler(announce_up_to=announce_up_to)
    world = World([machine(f"n{index}", {"scheduler": timing}) for index in range(3)], 1)
    MockRuntime(world, steady())
    grant_operator(world)
    world.start_all()
    world.run_for(3)
    draft = deployment("web", 1, constraints=Constraints(node_selector={"disk": "ssd"}))
    _, command = submission(world, 0, draft, 1)
    world.event(0, command)
    world.run_for(10)
    reasons = [why_pending(world, each, WORK, 1, 0) for each in world.machines]
    assert all("labels" in reason or "wants disk=ssd" in reason for reason in reasons)


def word(world: World, status: EventStatus, number: int) -> Event:
    """What somebody tells of the replica now."""
    node_id = world.machines[0].membership.node_id
    return Event(f"{number:026}", node_id, status, world.wall_ms + number, "", WORK, "default", 1, 0, "because")


@pytest.mark.parametrize("phase", ["", "Failed"])
def test_what_ended_by_itself_and_stays_away_is_blamed(phase: str) -> None:
    """That it ended is no reason for that, whatever it does by nature; after a failure there is a pause, no more."""
    world, _, checker = abandoned()
    blamed: list[str] = []
    checker.at_end(world, blamed.append)
    assert not blamed
    end(world, phase=phase)
    checker.at_end(world, blamed.append)
    assert ("has room" if phase else "cannot tell why") in blamed[0]
    world.run_for(STANDS_S)
    checker.at_end(world, blamed.append)
    assert "cannot tell why" in blamed[1]


@pytest.mark.parametrize(
    ("status", "times", "ago_s", "is_reason"),
    [
        ("Pending", 1, 80, True),
        ("Failed", 1, 10, True),
        ("Failed", 1, 80, False),
        ("Failed", 5, 80, True),
        ("Cancelled", 1, 1, False),
        ("Preempted", 1, 1, False),
        ("Stopped", 1, 1, False),
        ("Deployed", 1, 1, False),
    ],
)
def test_only_some_words_are_reasons(status: EventStatus, times: int, ago_s: int, is_reason: bool) -> None:
    """A word that it waits, or that it failed: in the pause after that, or where that was the last attempt."""
    world, _, _ = abandoned()
    end(world, phase="")
    machine = world.machines[0]
    for number in range(times):
        world.event(0, EmitEvent(word(world, status, number)))
    world.run_for(ago_s)
    assert bool(why_pending(world, machine, WORK, 1, 0)) is is_reason


def test_who_gave_up_is_not_blamed_for_room() -> None:
    """After the last attempt the next comes minutes later."""
    world, _, checker = abandoned()
    end(world, phase="")
    for number in range(5):
        for index in range(3):
            world.event(index, EmitEvent(word(world, "Failed", number)))
    blamed: list[str] = []
    checker.at_end(world, blamed.append)
    assert (blamed, checker.counts["pending"]) == ([], 1)
