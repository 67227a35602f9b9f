"""Of an ordinal that must not be doubled one runs at most at every moment, by the engines, whatever agents hold."""

from __future__ import annotations

from typing import Any

from beemesh.scheduling.messages import Task
from simulator.checkers import Blame
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime, PodStarted
from simulator.world import World

WAKING_S = 1.0
"""Pods of a machine that stands still do not run either; once awake it has so long to stop what it lost meanwhile."""


class OrdinalChecker:
    """Looks at each start, and from time to time."""

    name = "ordinals"
    sees: tuple[type, ...] = (PodStarted,)

    def __init__(self, runtime: MockRuntime) -> None:
        self._runtime = runtime
        self._blamed: set[tuple[str, int]] = set()

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A start beside another one."""
        if isinstance(event, PodStarted) and not event.task.duplicate_tolerant:
            self._count(world, blame)

    def look(self, world: World, blame: Blame) -> None:
        """A machine may have woken up."""
        self._count(world, blame)

    def _count(self, world: World, blame: Blame) -> None:
        found: dict[tuple[str, int], list[tuple[Machine, Task]]] = {}
        for machine, _, task in self._runtime.running():
            if not task.duplicate_tolerant and is_awake(world, machine):
                found.setdefault((task.workload_id, task.replica), []).append((machine, task))
        for slot, runners in found.items():
            if len(runners) > 1 and slot not in self._blamed:
                self._blamed.add(slot)
                where = ", ".join(f"n{machine.index} (revision {task.revision})" for machine, task in runners)
                blame(f"{len(runners)} of {slot[0]}/{slot[1]} run, which must not be doubled: {where}")

    def at_end(self, world: World, blame: Blame) -> None:
        """The last look said it all."""


def is_awake(world: World, machine: Machine) -> bool:
    """Whether what runs on a machine has run for long enough to be held against it."""
    return machine.paused_until_s < world.now_s - WAKING_S
