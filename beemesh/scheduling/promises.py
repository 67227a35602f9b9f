"""What a node holds for a replica, made from its task or from what is found running, and the operator's record."""

from __future__ import annotations

from beemesh.intents.record import workload_key
from beemesh.scheduling.local_work import Promise
from beemesh.scheduling.messages import Task
from beemesh.scheduling.tasks import IntentLookup, workload_of
from beemesh.workloads.node_keys import LABEL_HOSTNAME
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.record import Constraints, PodTerm, Qos, Requirements, Workload


def promise_of(task: Task, intent_for: IntentLookup, *, started: bool) -> Promise:
    """For a task of this node; `started` once what it needs shows in the machine's own figures."""
    workload = workload_of(intent_for(workload_key(task.workload_id)))
    return Promise(
        workload_id=task.workload_id,
        revision=task.revision,
        replica=task.replica,
        reqs=task.reqs,
        started=started,
        namespace=task.namespace,
        labels=workload.pod_labels if workload else {},
        repels=_repels(task.constraints),
        qos=task.qos,
        since_ms=task.issued_ms,
    )


def promise_found(report: ReplicaReport, workload: Workload | None) -> Promise:
    """For a pod that runs here and whose task is not known: what its record says, the best guess there is."""
    return Promise(
        workload_id=report.workload_id,
        revision=report.revision,
        replica=report.replica,
        reqs=workload.requirements if workload else Requirements(),
        started=True,
        namespace=report.namespace,
        labels=workload.pod_labels if workload else {},
        repels=_repels(workload.constraints) if workload else (),
        qos=workload.qos if workload else Qos(),
        since_ms=report.started_ms,
    )


def _repels(constraints: Constraints) -> tuple[PodTerm, ...]:
    """What a replica must not have beside it on its host."""
    return tuple(
        term
        for term in constraints.pod_terms
        if term.kind == "anti-affinity" and not term.weight and term.topology == LABEL_HOSTNAME
    )
