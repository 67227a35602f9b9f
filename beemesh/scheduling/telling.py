"""How a node words what happened to a replica."""

from __future__ import annotations

import msgspec

from beemesh.effects import Notify, Now, Randomness
from beemesh.events import EmitEvent
from beemesh.ids import ULID_RANDOM_BYTES, NodeId, ulid
from beemesh.scheduling.messages import Event, EventStatus, Task
from beemesh.workloads.observation import MANIFEST_MARK_BYTES
from beemesh.workloads.record import Revision, Workload
from beemesh.workloads.rollout import mark_of

REASON_CHARS_MAX = 1_000
"""A reason for a person; an engine's whole output belongs into its log."""

RETRYABLE = "retryable"
"""In `details` of a Failed event: the replica itself is not to blame, so it does not count as an attempt."""

FINISHED = "finished"
"""In `details` of a Stopped event: the pod ran to its own end, as it should."""

FINAL = "final"
"""In `details` of a Failed event: the steward's summary after the last attempt."""

MANIFEST = "manifest"
TARGET = "target"
"""In `details` of RolledOut and RolledBack events: the beginning of the revision's manifest address (hexadecimal), by
which a revision is told from another of its number; and the revision that takes a failed one's place."""

POD_MANIFEST = "pod_manifest"
"""In `details` of what is told of one pod: the same of its own manifest. A workload that was deleted and applied anew
begins with revision 1 again, and what became of pods of before says nothing of it."""

ROLLOUT_EVENTS = ("RolledOut", "RolledBack", "Completed")
"""What stewards tell of a whole workload (`Completed`: of a Job): none of its replicas is meant."""


def revision_told_of(event: Event, workload: Workload) -> Revision | None:
    """The kept revision that a word of a whole workload is about; None for another of its number."""
    revision = workload.covering(event.revision)
    return revision if revision is not None and mark_of(revision).hex() == event.details.get(MANIFEST) else None


def is_of_another(event: Event, workload: Workload) -> bool:
    """Whether a word of one pod is known to be about a manifest that `workload` does not keep."""
    mark = event.details.get(POD_MANIFEST)
    return mark is not None and all(mark_of(revision).hex() != mark for revision in workload.revisions)


class Teller:
    """Makes one node's events."""

    def __init__(self, self_id: NodeId, randomness: Randomness) -> None:
        self._self_id = self_id
        self._randomness = randomness

    def again(self, event: Event, now: Now) -> Notify:
        """What another node told, in this one's name."""
        event_id = ulid(now.wall_ms, self._randomness.randbytes(ULID_RANDOM_BYTES))
        return Notify(
            EmitEvent(msgspec.structs.replace(event, event_id=event_id, node_id=self._self_id, issued_ms=now.wall_ms))
        )

    def about_task(
        self, status: EventStatus, task: Task, now: Now, reason: str = "", details: dict[str, str] | None = None
    ) -> Notify:
        """Something happened to a task, or to the pod that it led to."""
        return self.about(
            status,
            now,
            reason,
            {POD_MANIFEST: task.manifest_ref[:MANIFEST_MARK_BYTES].hex(), **(details or {})},
            task_id=task.task_id,
            workload_id=task.workload_id,
            namespace=task.namespace,
            revision=task.revision,
            replica=task.replica,
        )

    def about(
        self,
        status: EventStatus,
        now: Now,
        reason: str = "",
        details: dict[str, str] | None = None,
        *,
        task_id: str = "",
        workload_id: str = "",
        namespace: str = "",
        revision: int = 0,
        replica: int = 0,
    ) -> Notify:
        """Something happened."""
        return Notify(
            EmitEvent(
                Event(
                    event_id=ulid(now.wall_ms, self._randomness.randbytes(ULID_RANDOM_BYTES)),
                    node_id=self._self_id,
                    status=status,
                    issued_ms=now.wall_ms,
                    task_id=task_id,
                    workload_id=workload_id,
                    namespace=namespace,
                    revision=revision,
                    replica=replica,
                    reason=reason[:REASON_CHARS_MAX],
                    details={key: value[:REASON_CHARS_MAX] for key, value in (details or {}).items()},
                )
            )
        )
