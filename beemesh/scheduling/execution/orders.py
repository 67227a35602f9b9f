"""Whether a node obeys a steward's order to stop one of its replicas. Pure: only the reply and the stop are effects."""

from __future__ import annotations

from collections.abc import Callable

from beemesh.errors import Untrusted
from beemesh.ids import NodeId
from beemesh.intents.record import Cordon
from beemesh.scheduling.execution.pods import ENDED
from beemesh.scheduling.leases import steward_key
from beemesh.scheduling.messages import Lease, LeaseProof
from beemesh.workloads.daemons import DAEMON_SET, may_have
from beemesh.workloads.observation import ReplicaReport, StopReplica
from beemesh.workloads.record import Workload

ProofCheck = Callable[[LeaseProof, str, int], tuple[Lease, bool]]
"""(proof, key, wall_ms) → the lease and whether a majority granted it; raises `Untrusted`. See `custody.proofs`."""


def objection_to(
    order: StopReplica,
    sender: NodeId,
    report: ReplicaReport,
    workload: Workload | None,
    check_proof: ProofCheck,
    wall_ms: int,
    cordon: Cordon | None = None,
    *,
    suits: bool = True,
) -> str:
    """Why the order is refused; empty when it stands. `workload` is this node's own newest record, None when the
    operator deleted it; `cordon` is what operators ordered about this node, `suits` whether its card is what the record
    asks for."""
    if order.proof is None:
        return "the order carries no lease proof"
    try:
        lease, has_majority = check_proof(order.proof, steward_key(order.workload_id), wall_ms)
    except Untrusted as error:
        return error.message
    if lease.holder != sender:
        return "the steward lease is another node's"
    if not has_majority and workload is not None and not workload.duplicate_tolerant:
        return "the steward lease is tentative, and this workload must not be doubled"
    if workload is not None and workload.kind == DAEMON_SET and order.reason == "surplus":
        own = suits and may_have(workload, report.replica, report.node_id)
        return "the record here wants one on this node" if own else ""
    return _unsupported(order, report, workload, cordon, wall_ms)


def _unsupported(
    order: StopReplica, report: ReplicaReport, workload: Workload | None, cordon: Cordon | None, wall_ms: int
) -> str:
    """Why the record and the pod do not support the reason that is given."""
    if workload is None:
        return ""
    match order.reason:
        case "deleted":
            return "the record here says that the workload stands"
        case "surplus" if report.replica < workload.replicas:
            return f"the record here wants {workload.replicas} replicas, this is number {report.replica}"
        case "outdated" if report.is_of(workload.current) and not _takes_back(order.rollback_to, workload):
            return f"revision {report.revision} is the current one of the record here"
        case "over" if workload.kind != "Job":
            return f"a {workload.kind} is never over"
        case "failed" if report.phase not in ENDED:
            return f"the replica is {report.phase} here"
        case "drained":
            moved = cordon and (cordon.drain or cordon.move_of(report.workload_id, report.replica, wall_ms))
            if not moved:
                return "no operator ordered that it leaves this node"
        case "duplicate":
            if order.instead is None:
                return "the order does not say which replica stays"
            if not _gives_way(order, order.instead, report, workload):
                return "the other replica does not come before this one"
    return ""


def _gives_way(order: StopReplica, instead: NodeId, report: ReplicaReport, workload: Workload) -> bool:
    """Whether this replica stops for the other one: a later one, or, where this one is not ready and both may run, one
    that is. That it is ready is the steward's word."""
    is_later = (not order.instead_tentative, order.instead_fence, instead) > report.order
    may_yield = workload.duplicate_tolerant and not report.ready and instead != report.node_id
    return is_later or (may_yield and order.instead_tentative == report.tentative)


def _takes_back(to: int, workload: Workload) -> bool:
    """Whether the record lets a steward go back to revision `to`. That the current one failed is the steward's word."""
    kept = any(revision.number == to for revision in workload.revisions[1:])
    return kept and workload.strategy.rollback == "auto"
