"""What the events that an agent heard say of workloads: read once for a whole answer.

An answer may speak of ten thousand replicas. A look into the journal for each of them would keep the agent from its
peers' questions for so long that they took it for dead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from beemesh.scheduling.messages import Event
from beemesh.scheduling.telling import MANIFEST
from beemesh.workloads.record import Workload
from beemesh.workloads.rollout import mark_of


class Told:
    """Events by workload, and the last word on each replica. `events` are oldest first."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events: dict[str, list[Event]] = {}
        self._last: dict[tuple[str, int], Event] = {}
        for event in events:
            self._events.setdefault(event.workload_id, []).append(event)
            if event.status in ("Pending", "Failed"):
                self._last[event.workload_id, event.replica] = event

    def of(self, workload_id: str) -> Sequence[Event]:
        """Those of a workload, oldest first."""
        return self._events.get(workload_id, ())

    def last_word(self, workload_id: str, replica: int, since_ms: int) -> Event | None:
        """Why a replica does not run, as told since its record was signed."""
        event = self._last.get((workload_id, replica))
        return event if event is not None and event.issued_ms >= since_ms else None

    def failed_rollout(self, body: Workload) -> Event | None:
        """What the steward told of the current revision, if that has failed."""
        for event in reversed(self.of(body.workload_id)):
            about = event.details.get(MANIFEST) == mark_of(body.current).hex()
            if about and event.revision == body.current.number:
                return event if event.status in ("RolledBack", "Failed") else None
        return None
