"""Who is evicted may be, and by whom: by something more important of another workload, which may evict at all."""

from __future__ import annotations

from typing import Any

from beemesh.events import EventHeard, TaskHeard, TaskWon
from beemesh.scheduling.messages import Event, Task
from simulator.checkers import Blame
from simulator.world import World


class PreemptionChecker:
    """Compares the two tasks that an eviction names."""

    name = "preemptions"
    sees: tuple[type, ...] = (EventHeard, TaskHeard, TaskWon)

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._judged: set[str] = set()
        """Events that were looked at: each is heard by many."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A task, or the end of a pod that made room."""
        if isinstance(event, TaskHeard | TaskWon):  # a steward hears of no task of its own, but may win it
            self._tasks.setdefault(event.task.task_id, event.task)
        elif event.event.status == "Preempted" and event.event.event_id not in self._judged:
            self._judged.add(event.event.event_id)
            self._judge(world, event.event, blame)

    def _judge(self, world: World, event: Event, blame: Blame) -> None:
        victim, by = self._tasks.get(event.task_id), self._tasks.get(event.details.get("by_task", ""))
        what = f"n{world.index_of(event.node_id)} evicts {event.workload_id}/{event.replica}"
        if victim is None or by is None:
            blame(f"{what}, and nobody has heard of {'it' if victim is None else 'the one that it does that for'}")
            return
        what += f" (priority {victim.qos.priority}) for {by.workload_id}/{by.replica} (priority {by.qos.priority})"
        if not victim.qos.preemptible:
            blame(f"{what}, which may not be evicted")
        if victim.qos.priority >= by.qos.priority or not by.qos.preempts or victim.workload_id == by.workload_id:
            blame(f"{what}, which may not evict it")

    def look(self, world: World, blame: Blame) -> None:
        """Evictions are events."""

    def at_end(self, world: World, blame: Blame) -> None:
        """Each was judged when it came."""
