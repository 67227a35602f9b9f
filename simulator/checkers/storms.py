"""No storm: however much goes wrong, a replica is not started over and over, and tasks are not published in floods."""

from __future__ import annotations

from collections import deque
from typing import Any

from beemesh.events import DeployPod, TaskHeard
from simulator.checkers import Blame
from simulator.world import World

WINDOW_S = 10.0
STARTS_MAX = 8
"""Starts of one replica, of any revision, in any ten seconds: after a failure a steward waits 1, 2, 4 s, and each
change of the record begins anew. One more for each partition that lasts meanwhile: every side starts its own."""

TASKS_MAX = 12
"""Tasks of one replica in any ten seconds, from whichever steward; one more for each partition."""

Counts = dict[tuple[str, int], deque[tuple[float, int]]]
"""(workload, replica) → when it happened, and how many partitions there were then."""


class StormChecker:
    """Counts by replica."""

    name = "storms"
    sees: tuple[type, ...] = (DeployPod, TaskHeard)

    def __init__(self) -> None:
        self._starts: Counts = {}
        self._tasks: Counts = {}
        self._known: set[str] = set()
        self._blamed: set[tuple[str, int]] = set()

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """One more start, or the first word of a task."""
        slot = (event.task.workload_id, event.task.replica)
        parts = len(world.faults.cuts)
        if isinstance(event, DeployPod):
            self._count(self._starts, slot, (at_s, parts), STARTS_MAX, "was started", blame)
        elif event.task.task_id not in self._known:
            self._known.add(event.task.task_id)
            self._count(self._tasks, slot, (at_s, parts), TASKS_MAX, "was published", blame)

    def _count(
        self, counts: Counts, slot: tuple[str, int], now: tuple[float, int], most: int, what: str, blame: Blame
    ) -> None:
        lately = counts.setdefault(slot, deque())
        lately.append(now)
        while lately[0][0] < now[0] - WINDOW_S:
            lately.popleft()
        if len(lately) > most + max(parts for _, parts in lately) and slot not in self._blamed:
            self._blamed.add(slot)
            blame(f"{slot[0]}/{slot[1]} {what} {len(lately)} times in {WINDOW_S:.0f} s")

    def look(self, world: World, blame: Blame) -> None:
        """Starts are events."""

    def at_end(self, world: World, blame: Blame) -> None:
        """Nothing more."""
