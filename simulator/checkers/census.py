"""What really came up in a trial: promises about what never happens hold in vain. Blames nobody."""

from __future__ import annotations

from collections import Counter
from typing import Any

from beemesh.events import EventHeard, StopPod, Submitted
from beemesh.scheduling.messages import Event
from simulator.checkers import Blame
from simulator.mock_runtime import PodStarted
from simulator.world import World

STOPS = {"surplus": "scaled down", "outdated": "rolled out", "drained": "drained", "deleted": "deleted"}
"""Why a steward ends a pod → what that is called here."""

KINDS = {"DaemonSet": "daemons", "Job": "jobs"}


class Census:
    """Counts what a trial is about, by names that tests and transcripts use."""

    name = "census"
    sees: tuple[type, ...] = (EventHeard, PodStarted, StopPod, Submitted)

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._known: set[str] = set()
        """Events that were counted: each is heard by many."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """One more of something."""
        match event:
            case Submitted():
                self.counts["accepted" if event.accepted else "refused"] += 1
                self.counts["over quota"] += "quota" in event.reason
            case EventHeard(event=told) if told.event_id not in self._known:
                self._known.add(told.event_id)
                self._told(told)
            case StopPod() if event.reason in STOPS:
                self.counts[STOPS[event.reason]] += 1
            case PodStarted(task=task):
                self.counts["started"] += 1
                self.counts["important"] += task.qos.priority > 0
                self.counts["stored"] += task.reqs.storage_mb > 0
                self.counts["spread"] += any(term.kind == "spread" for term in task.constraints.pod_terms)
                if task.kind in KINDS:
                    self.counts[KINDS[task.kind]] += 1

    def _told(self, event: Event) -> None:
        self.counts["preempted"] += event.status == "Preempted"
        self.counts["over quota"] += event.status == "Pending" and "quota" in event.reason

    def look(self, world: World, blame: Blame) -> None:
        """Everything is an event."""

    def at_end(self, world: World, blame: Blame) -> None:
        """Nothing is wrong with any number here."""
