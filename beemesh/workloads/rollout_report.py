"""What commands tell of rollouts: how far one is, and which revisions a workload has. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from beemesh.workloads.record import Revision, Workload

State = Literal["complete", "progressing", "paused", "failed"]

FAILED_REASON = "ProgressDeadlineExceeded"
"""How the condition `Progressing` says that a rollout has failed, whatever the cause; kubectl looks for it."""


REVISION_NAMES = {"Deployment": "deployment.kubernetes.io/revision", "DaemonSet": "beemesh.io/revision"}
"""The annotation that tells the current revision."""


class RolloutReport(msgspec.Struct, frozen=True, rename="camel"):
    """How far a workload is on the way to its current revision. `available` counts replicas of any revision."""

    kind: str
    namespace: str
    name: str
    revision: int
    state: State
    replicas: int
    updated: int
    available: int
    old: int
    message: str
    rolled_back_to: int = 0
    """The revision that runs in the place of the current one, which failed; 0 for none."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.state in ("complete", "failed")


class RevisionLine(msgspec.Struct, frozen=True, rename="camel"):
    """One revision of a workload's history. `aliases` are numbers that it had before an undo."""

    revision: int
    current: bool
    change_cause: str
    since_ms: int
    images: tuple[str, ...]
    shares: str
    manifest: str
    aliases: tuple[int, ...] = ()


class History(msgspec.Struct, frozen=True, rename="camel"):
    """The kept revisions of a workload, oldest first, as `rollout history` shows them."""

    kind: str
    namespace: str
    name: str
    limit: int
    revisions: tuple[RevisionLine, ...]


def report_of(item: Mapping[str, Any]) -> RolloutReport:
    """From a Deployment or a DaemonSet as the API serves it."""
    metadata, spec, status = item["metadata"], item["spec"], item["status"]
    wanted, updated, available, running = _counts(item["kind"], spec, status)
    old = max(0, running - updated)
    progressing: Mapping[str, Any] = next(
        (each for each in status.get("conditions", ()) if each["type"] == "Progressing"), {}
    )
    failed = progressing.get("reason") == FAILED_REASON
    state: State = "failed" if failed else "paused" if spec.get("paused") else "progressing"
    if not failed and updated >= wanted and not old and available >= wanted:
        state = "complete"
    return RolloutReport(
        kind=item["kind"],
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        revision=int(metadata.get("annotations", {}).get(REVISION_NAMES[item["kind"]], 0)),
        state=state,
        replicas=wanted,
        updated=updated,
        available=available,
        old=old,
        message=progressing.get("message", ""),
        rolled_back_to=int(status.get("rolledBackTo", 0)),
    )


def _counts(kind: str, spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """How many are wanted, up to date, available, and there at all."""
    if kind == "DaemonSet":
        names = ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable", "currentNumberScheduled")
        wanted, updated, available, running = (int(status.get(name, 0)) for name in names)
        return wanted, updated, available, running + int(status.get("numberMisscheduled", 0))
    wanted = int(spec.get("replicas", 1))
    return wanted, status.get("updatedReplicas", 0), status.get("availableReplicas", 0), status.get("replicas", 0)


def line_of(report: RolloutReport) -> str:
    """One line for people, in kubectl's words where it has some."""
    what = f'{report.kind.lower()} "{report.name}"'
    if report.state == "complete":
        return f"{what} successfully rolled out"
    if report.state == "failed":
        back = f"; revision {report.rolled_back_to} runs in its place" if report.rolled_back_to else ""
        return f"{what}: revision {report.revision} failed{back}: {report.message}"
    if report.updated < report.replicas:
        rest = f"{report.updated} out of {report.replicas} new replicas have been updated"
    elif report.old:
        rest = f"{report.old} old replicas are pending termination"
    else:
        rest = f"{report.available} of {report.updated} updated replicas are available"
    why = f": {report.message}" if report.message else ""
    paused = " (paused)" if report.state == "paused" else ""
    return f"Waiting for {what} rollout to finish{paused}: {rest}{why}"


def history_of(workload: Workload) -> History:
    """The history in a record."""
    lines = tuple(_line(workload, revision) for revision in reversed(workload.revisions))
    return History(workload.kind, workload.namespace, workload.name, workload.history_limit, lines)


def _line(workload: Workload, revision: Revision) -> RevisionLine:
    asked = workload.as_of(revision.number) or workload
    return RevisionLine(
        revision=revision.number,
        current=revision is workload.current,
        change_cause=revision.cause,
        since_ms=revision.since_ms,
        images=asked.images,
        shares=f"{revision.sealing.k} of {revision.sealing.n}",
        manifest=revision.manifest.hex()[:16],
        aliases=revision.aliases,
    )
