"""What nodes tell each other about what they run (streams, on request)."""

from __future__ import annotations

from typing import Literal

import msgspec

from beemesh.ids import NodeId
from beemesh.scheduling.messages import LeaseProof
from beemesh.workloads.record import Revision

PODS_LISTED_MAX = 2_000
"""Pods in one list: far above what one machine runs, and a bound on the answer's size."""

MANIFEST_MARK_BYTES = 16
"""How much of a manifest's address tells it from every other."""

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown", "Terminating"]


StopReason = Literal["deleted", "surplus", "outdated", "duplicate", "failed", "over", "drained"]


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a replica is reached from other machines."""

    address: str
    port: int
    container_port: int = 0
    protocol: str = "TCP"
    name: str = ""
    ready: bool = False


class ContainerReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One container's state, as its runtime tells it."""

    name: str
    image: str = ""
    state: str = ""
    ready: bool = False
    restarts: int = 0
    exit_code: int | None = None
    started_ms: int = 0
    reason: str = ""
    message: str = ""
    """What its probes complain of; never what they ask."""


class ReplicaReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica on one node. `pod` is its name; `attempt_reason` explains Pending and Failed."""

    pod: str
    workload_id: str
    namespace: str
    kind: str
    revision: int
    replica: int
    node_id: NodeId
    phase: Phase
    ready: bool = False
    task_id: str = ""
    fence: int = 0
    started_ms: int = 0
    reason: str = ""
    containers: tuple[ContainerReport, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    labels: dict[str, str] = {}
    manifest: bytes = b""
    """The first `MANIFEST_MARK_BYTES` of its manifest's address, empty where unknown; numbers may clash."""
    tentative: bool = False
    """No majority granted the lease that it was started by."""

    @property
    def order(self) -> tuple[bool, int, NodeId]:
        """Of two equal replicas the one with the greater order stays: majority, then fence, then node ID."""
        return (not self.tentative, self.fence, self.node_id)

    def is_of(self, revision: Revision) -> bool:
        """Whether it runs just this revision, as far as is known."""
        same = not self.manifest or self.manifest == revision.manifest[:MANIFEST_MARK_BYTES]
        return same and revision.covers(self.revision)


class ListReplicas(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ask a node what it runs; `workload_id` narrows it to one workload."""

    workload_id: str = ""


class ReplicaList(msgspec.Struct, frozen=True):
    """All that a node runs, or tries to."""

    node_id: NodeId
    replicas: tuple[ReplicaReport, ...]


class StopReplica(msgspec.Struct, frozen=True, omit_defaults=True):
    """A steward's order to stop one replica. The node checks that the sender holds the workload's steward lease
    (`proof`) and that its own newest record supports `reason`; of two equal replicas, that the other (`instead`, with
    `instead_fence` and `instead_tentative`) comes first by `ReplicaReport.order`, or that this one is not ready where
    two may run: the steward saw the other one ready."""

    workload_id: str
    replica: int
    revision: int
    task_id: str
    reason: StopReason
    proof: LeaseProof | None = None
    instead: NodeId | None = None
    instead_fence: int = 0
    grace_s: int = 30
    instead_tentative: bool = False
    rollback_to: int = 0
    """The older revision that takes the place of the current one, which failed; 0 when none does."""


class StopAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the node stops the replica, or why not."""

    accepted: bool
    reason: str = ""
