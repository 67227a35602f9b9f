"""Quotas and priority classes in Kubernetes' shape."""

from __future__ import annotations

from collections.abc import Iterable

from beemesh.workloads.kubeshape import Json, metadata_of
from beemesh.workloads.policies import PriorityClass, Quota, amount_text, usage
from beemesh.workloads.record import Workload


def quota(found: Quota, seq: int, workloads: Iterable[Workload]) -> Json:
    """A `v1` ResourceQuota; `status.used` counts what the namespace's workloads declare."""
    declared = [usage(each) for each in workloads if each.namespace == found.namespace]
    hard = {key: amount_text(key, amount) for key, amount in found.hard.items()}
    used = {key: amount_text(key, sum(each[key] for each in declared)) for key in found.hard}
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": _metadata("ResourceQuota", found, seq),
        "spec": {"hard": hard},
        "status": {"hard": hard, "used": used},
    }


def priority_class(found: PriorityClass, seq: int) -> Json:
    """A `scheduling.k8s.io/v1` PriorityClass."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": _metadata("PriorityClass", found, seq),
        "value": found.value,
        "globalDefault": found.global_default,
        "preemptionPolicy": "PreemptLowerPriority" if found.preempts else "Never",
        **({"description": found.description} if found.description else {}),
    }


def _metadata(kind: str, found: Quota | PriorityClass, seq: int) -> Json:
    return metadata_of(
        found.name,
        kind,
        namespace=found.namespace,
        labels=found.labels,
        annotations=found.annotations,
        created_ms=found.created_ms,
        resource_version=seq,
    )
