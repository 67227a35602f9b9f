"""What of a pod's change its node tells the mesh: that it may be sent requests, or not any more, and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from beemesh.scheduling.messages import EventStatus
from beemesh.workloads.observation import ReplicaReport


@dataclass(frozen=True, slots=True)
class News:
    """The words of one event about a pod."""

    status: EventStatus
    reason: str
    details: dict[str, str] = field(default_factory=dict)


def news_of(before: ReplicaReport, after: ReplicaReport) -> Iterator[News]:
    """What happened between two looks at the same pod; nothing about one that ended, which is told elsewhere."""
    earlier = {container.name: container for container in before.containers}
    for container in after.containers:
        was = earlier.get(container.name)
        if was is not None and container.restarts > was.restarts:
            code = f" after exit code {container.exit_code}" if container.exit_code is not None else ""
            complaint = was.message or container.message  # a quick restart leaves no look in between
            why = f": {complaint}" if complaint else ""
            yield News(
                "Restarted",
                f"container {container.name} was started again{code}{why}",
                {"container": container.name, "restarts": str(container.restarts)},
            )
    if before.ready and not after.ready:
        messages = [each.message or each.reason for each in after.containers if each.message or each.reason]
        yield News("NotReady", "; ".join(messages) or after.reason)
    elif after.ready and not before.ready:
        yield News("Ready", "")
