"""The checker of quotas bites: what is won beyond one that has stood for long is blamed."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.events import PutIntent, TaskWon
from beemesh.intents.record import quota_key
from beemesh.scheduling.messages import LeaseProof
from beemesh.workloads.policies import Quota
from simulator.checkers.quotas import KNOWN_S, QuotaChecker
from simulator.operator import deployment, submission
from simulator.world import World
from tests.unit.simulator.test_scheduling_checkers import SIGNED, meshed, task


def lowered(*, stands_s: float) -> tuple[World, QuotaChecker]:
    """Three replicas are wanted, and for so long two are allowed."""
    world, _ = meshed()
    _, command = submission(world, 0, deployment("web", 3), 1)
    world.event(0, command)
    checker = QuotaChecker()
    watch(world, checker, KNOWN_S)
    body = Quota("default", "most", {"pods": 2})
    world.event(0, PutIntent(world.sign(world.operator, "quota", quota_key("default", "most"), body)))
    watch(world, checker, stands_s)
    return world, checker


def watch(world: World, checker: QuotaChecker, seconds: float) -> None:
    """Time passes, and the checker looks."""
    for _ in range(round(seconds)):
        world.run_for(1)
        checker.look(world, [].append)


@pytest.mark.parametrize(
    ("stands_s", "replica", "kind", "is_blamed"),
    [
        (KNOWN_S + 3, 2, "Deployment", True),
        (KNOWN_S + 3, 1, "Deployment", False),
        (KNOWN_S + 3, 2, "DaemonSet", False),
        (KNOWN_S - 3, 2, "Deployment", False),
    ],
)
def test_a_replica_beyond_a_quota_is_blamed(stands_s: float, replica: int, kind: str, is_blamed: bool) -> None:
    """A task that was published before may be won as long as it lives; what a quota cannot count it does not bound."""
    world, checker = lowered(stands_s=stands_s)
    won = TaskWon(
        msgspec.structs.replace(task(), replica=replica, kind=kind), "lease/x", LeaseProof(SIGNED, ()), 1, 0.0
    )
    blamed: list[str] = []
    checker.saw(world, world.now_s, 0, won, blamed.append)
    assert bool(blamed) is is_blamed


def test_a_quota_that_was_raised_a_moment_ago_is_known() -> None:
    """A replica is won before the checker has looked again."""
    world, checker = lowered(stands_s=KNOWN_S + 3)
    body = Quota("default", "most", {"pods": 3})
    world.event(0, PutIntent(world.sign(world.operator, "quota", quota_key("default", "most"), body, 2)))
    world.run_for(0.5)
    blamed: list[str] = []
    won = TaskWon(msgspec.structs.replace(task(), replica=2), "lease/x", LeaseProof(SIGNED, ()), 1, 0.0)
    checker.saw(world, world.now_s, 0, won, blamed.append)
    assert not blamed


def test_while_something_is_wrong_nobody_is_blamed() -> None:
    """A steward on the other side of a partition may know nothing of a quota."""
    world, checker = lowered(stands_s=KNOWN_S + 3)
    world.faults.cut({0}, {1, 2})
    checker.look(world, [].append)
    blamed: list[str] = []
    won = TaskWon(msgspec.structs.replace(task(), replica=2), "lease/x", LeaseProof(SIGNED, ()), 1, 0.0)
    checker.saw(world, world.now_s, 0, won, blamed.append)
    assert not blamed
