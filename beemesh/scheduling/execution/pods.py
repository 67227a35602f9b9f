"""The pods of this node as the executor keeps them: on their way, placed, and as the runtime last saw them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from beemesh.ids import NodeId
from beemesh.scheduling.messages import LeaseProof, Task
from beemesh.scheduling.tasks import pod_key
from beemesh.secret import SecretBytes
from beemesh.start_right import StartRight
from beemesh.workloads.observation import MANIFEST_MARK_BYTES, PODS_LISTED_MAX, Phase, ReplicaReport

TABLE = "placements"

GRACE_S = 30
"""Seconds between asking a pod to end and ending it, where nobody says another."""

ENDED = frozenset({"Succeeded", "Failed"})
"""Phases of a pod that does nothing any more."""


class Placement(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pod that was deployed here, as it is saved."""

    pod: str
    task: Task
    fence: int
    tentative: bool = False
    ending: bool = False
    """It was asked to end: an agent that starts meanwhile goes on with that."""

    @property
    def name(self) -> str:
        """`<namespace>/<pod name>`: one pod on this node."""
        return pod_key(self.task.namespace, self.pod)


Step = Literal["queued", "evicting", "leasing", "clearing", "opening", "deploying", "cancelled"]


@dataclass(slots=True)
class Deploying:
    """A won task on its way to a running pod. `lease` is '' when no placement lease is held (a restart alone, or
    one that was given up)."""

    placement: Placement
    lease: str
    proof: LeaseProof | None
    step: Step
    won_s: float
    plaintext: SecretBytes | None = None
    why: str = ""
    awaited: frozenset[str] = frozenset()
    """Pods that have to be gone before it begins, by name."""
    right: StartRight = field(default_factory=StartRight)
    """What the runtime asks right before it starts anything."""
    grace_s: int = GRACE_S
    """How long the pod has to end, should it have begun when the deployment is cancelled."""


def restarts_alone(task: Task) -> bool:
    """Whether the machine may start the pod again by itself: only such as may be doubled for a moment."""
    return task.restart == "alone" and task.duplicate_tolerant


def name_of(report: ReplicaReport) -> str:
    """`<namespace>/<pod name>` of a report."""
    return pod_key(report.namespace, report.pod)


@dataclass(slots=True)
class Stopping:
    """A pod that is being ended: why, how long its processes have at most, and how many jobs of the runtime are at it:
    a later one cuts the time of an earlier one short."""

    reason: str
    grace_s: int
    jobs: int = 0


class PodTable:
    """What this node runs, tries to run, or is ending, by pod."""

    def __init__(self, self_id: NodeId) -> None:
        self._self_id = self_id
        self.seen: dict[str, ReplicaReport] = {}
        """As the runtime reported last."""
        self.placed: dict[str, Placement] = {}
        self.deploying: dict[str, Deploying] = {}
        self.recovering: dict[str, Placement] = {}
        self.stopping: dict[str, Stopping] = {}
        """Pods that are being ended."""
        self.deployed_s: dict[str, float] = {}
        """When a pod was started by this agent: the runtime's list may lag behind that."""

    def by_task(self, task_id: str) -> Deploying | None:
        """The deployment of a task."""
        return next((each for each in self.deploying.values() if each.placement.task.task_id == task_id), None)

    def active(self, name: str) -> bool:
        """Whether the pod is there and not at its end."""
        report = self.seen.get(name)
        return report is not None and report.phase not in ENDED and name not in self.stopping

    def has(self, task: Task) -> bool:
        """Whether the very replica of a task is here, or on its way. It is told by what it is: a pod of its name may
        be another workload's, and an earlier version may have given it another name."""
        slot = (task.workload_id, task.revision, task.replica)
        for deploying in self.deploying.values():
            coming = deploying.placement.task
            same = (coming.workload_id, coming.revision, coming.replica) == slot
            if same and coming.manifest_ref == task.manifest_ref and deploying.step != "cancelled":
                return True
        marks = (b"", task.manifest_ref[:MANIFEST_MARK_BYTES])
        return any(
            (report.workload_id, report.revision, report.replica) == slot and report.manifest in marks
            for name, report in self.seen.items()
            if name not in self.deploying and self.active(name)
        )

    def owner(self, name: str) -> str:
        """The workload whose pod of that name is here, or on its way, and not at its end; empty where there is none.
        What was placed here counts as well: an agent that has just started has not seen it yet."""
        if name in self.deploying:
            return self.deploying[name].placement.task.workload_id
        if self.active(name):
            return self.seen[name].workload_id
        return self.placed[name].task.workload_id if name in self.placed else ""

    def reports(self, workload_id: str = "") -> tuple[ReplicaReport, ...]:
        """Everything, as other nodes are told; at most `PODS_LISTED_MAX`."""
        reports = [each for each in self.listed() if not workload_id or each.workload_id == workload_id]
        return tuple(reports[:PODS_LISTED_MAX])

    def listed(self) -> Iterator[ReplicaReport]:
        """What runs, what is ending, and what is on its way."""
        for name, report in self.seen.items():
            if name in self.stopping:
                why = self.stopping[name].reason
                yield msgspec.structs.replace(report, phase="Terminating", ready=False, reason=why)
            elif name not in self.deploying:
                yield self.told(report)
        for name, deploying in self.deploying.items():
            if name not in self.stopping or name not in self.seen:
                phase: Phase = "Terminating" if deploying.step == "cancelled" else "Pending"
                yield self._on_its_way(deploying.placement, phase, deploying.why or deploying.step)
        for placement in self.recovering.values():
            yield self._on_its_way(placement, "Pending", "restarting after the machine was off")

    def told(self, report: ReplicaReport) -> ReplicaReport:
        """The runtime's report with what the runtime does not know."""
        placement = self.placed.get(name_of(report))
        tentative = placement is not None and placement.tentative
        return msgspec.structs.replace(report, tentative=True) if tentative else report

    def _on_its_way(self, placement: Placement, phase: Phase, reason: str) -> ReplicaReport:
        task = placement.task
        return ReplicaReport(
            pod=placement.pod,
            workload_id=task.workload_id,
            namespace=task.namespace,
            kind=task.kind,
            revision=task.revision,
            replica=task.replica,
            node_id=self._self_id,
            phase=phase,
            task_id=task.task_id,
            fence=placement.fence,
            reason=reason,
            tentative=placement.tentative,
        )
