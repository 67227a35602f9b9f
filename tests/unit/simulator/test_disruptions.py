"""The checker of disruptions bites: an order that leaves too few ready replicas is blamed, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from beemesh.effects import Run
from beemesh.events import PutIntent, StopPod
from beemesh.intents.record import Cordon, Drain, budget_key, cordon_key
from beemesh.workloads.budgets import Budget
from beemesh.workloads.record import Strategy
from simulator.checkers.disruptions import KNOWN_S, NEW_S, DisruptionChecker
from simulator.operator import deployment, submission
from tests.unit.simulator.test_scheduling_checkers import AMPLE_S, meshed


class Watched:
    """Three replicas run, and the checker sees it all."""

    def __init__(self, **more: Any) -> None:
        self.world, self.runtime = meshed()
        self.checker, self.blamed = DisruptionChecker(self.runtime), list[str]()
        self.world.watch = self._saw
        _, command = submission(self.world, 0, deployment("web", 3, **more), 1)
        self.world.event(0, command)
        self.wait(AMPLE_S)

    def wait(self, seconds: float) -> None:
        """Time passes; the checker looks every second."""
        for _ in range(round(seconds)):
            self.world.run_for(1)
            self.checker.look(self.world, self.blamed.append)

    def stop(self, replicas: int, reason: str) -> list[str]:
        """What is said when so many are ordered to end at once."""
        for replica in range(replicas):
            machine = next(each for each in self.world.machines if f"web-1-{replica}" in each.pods)
            self.runtime.carry_out(machine, Run("stop", StopPod(f"web-1-{replica}", 30, reason, "default")))
        return self.blamed

    def lose(self, replica: int) -> None:
        """One is gone, by itself."""
        for machine in self.world.machines:
            machine.pods.pop(f"web-1-{replica}", None)

    def budget(self, least: str) -> None:
        """So many must stay healthy."""
        body, world = Budget("default", "most", min_available=least), self.world
        world.event(0, PutIntent(world.sign(world.operator, "budget", budget_key("default", "most"), body)))

    def _saw(self, index: int, event: Any) -> None:
        if isinstance(event, self.checker.sees):
            self.checker.saw(self.world, self.world.now_s, index, event, self.blamed.append)


@pytest.mark.parametrize(("least", "may_go"), [("", 2), ("2", 1), ("0", 3)])
def test_a_drain_beyond_a_budget_is_blamed(least: str, may_go: int) -> None:
    """Where there is none, the last ready one stays."""
    watched = Watched()
    if least:
        watched.budget(least)
    watched.wait(KNOWN_S + 2)
    assert not watched.stop(may_go, "drained")
    if may_go < 3:
        assert "budgets want" in watched.stop(may_go + 1, "drained")[0]


def test_by_force_the_last_one_may_go() -> None:
    """Where no budget speaks against it."""
    watched = Watched()
    world, cordon = watched.world, Cordon("n9", True, drain=Drain(force=True))
    world.event(0, PutIntent(world.sign(world.operator, "cordon", cordon_key("n9"), cordon)))
    watched.wait(2)
    assert not watched.stop(3, "drained")


@pytest.mark.parametrize(
    ("unavailable", "tolerant", "kind", "may_go"),
    [
        (0, True, "RollingUpdate", 0),
        (1, True, "RollingUpdate", 1),
        (2, True, "RollingUpdate", 2),
        (0, False, "RollingUpdate", 1),
        (0, True, "Recreate", 3),
    ],
)
def test_a_rollout_beyond_its_strategy_is_blamed(unavailable: int, tolerant: bool, kind: Any, may_go: int) -> None:
    """What must not be doubled goes one by one at least, and `Recreate` promises nothing."""
    watched = Watched(strategy=Strategy(kind, max_unavailable=unavailable), tolerant=tolerant)
    watched.wait(KNOWN_S + 2)
    assert not watched.stop(may_go, "outdated")
    if may_go < 3:
        assert "its strategy wants" in watched.stop(may_go + 1, "outdated")[0]


def test_a_replica_that_has_just_got_ready_may_go_unseen() -> None:
    """Its steward asks a moment later; by then it knows."""
    strategy = Strategy("RollingUpdate", max_unavailable=0)
    watched = Watched(strategy=strategy)
    watched.wait(KNOWN_S + 2)
    watched.checker = DisruptionChecker(watched.runtime)  # it sees them for the first time
    assert not watched.stop(3, "outdated")

    watched = Watched(strategy=strategy)
    watched.wait(KNOWN_S + 2)
    watched.checker = DisruptionChecker(watched.runtime)
    watched.wait(NEW_S + 2)
    assert watched.stop(3, "outdated")


def test_what_a_steward_cannot_know_is_no_fault_of_its() -> None:
    """A budget that came a moment ago, a replica that has just gone by itself, an order that has another reason; or
    anything while something is wrong."""
    watched = Watched()
    watched.budget("2")
    watched.wait(2)
    assert not watched.stop(3, "drained"), "the budget is new"

    watched = Watched()
    watched.budget("2")
    watched.wait(KNOWN_S + 2)
    watched.lose(2)
    assert not watched.stop(1, "drained"), "one has just gone"

    watched = Watched()
    watched.wait(KNOWN_S + 2)
    assert not watched.stop(3, "preempted: by something more important")

    watched = Watched()
    watched.wait(KNOWN_S + 2)
    watched.world.faults.cut({0}, {1, 2})
    watched.checker.look(watched.world, watched.blamed.append)
    assert not watched.stop(3, "drained"), "something is wrong"


def test_a_budget_is_judged_once_everybody_may_know_of_it() -> None:
    """What has been gone for a while does not count as ready."""
    watched = Watched()
    watched.budget("2")
    watched.wait(KNOWN_S + 2)
    for machine in watched.world.machines:
        machine.composition.steward._hosted.clear()  # type: ignore[union-attr] # nobody looks after it
    watched.lose(2)
    watched.wait(KNOWN_S + 2)
    assert "[1] are ready without it" in watched.stop(1, "drained")[0]
