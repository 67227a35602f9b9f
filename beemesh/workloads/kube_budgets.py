"""Disruption budgets in Kubernetes' shape, with what they allow now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beemesh.workloads.budgets import Budget, healthy_least
from beemesh.workloads.kubeshape import Json, PodView, metadata_of
from beemesh.workloads.record import Workload


def budget(found: Budget, seq: int, workloads: Iterable[Workload], pods: Iterable[PodView]) -> Json:
    """A `policy/v1` PodDisruptionBudget; `status` counts over all workloads that fall under it."""
    covered = [each for each in workloads if found.covers(each.namespace, each.pod_labels)]
    names = {each.workload_id for each in covered}
    expected = sum(each.replicas for each in covered)
    healthy = sum(1 for pod in pods if pod.workload_id in names and pod.ready and pod.phase == "Running")
    least = healthy_least(found, expected)
    metadata = metadata_of(
        found.name,
        "PodDisruptionBudget",
        namespace=found.namespace,
        labels=found.labels,
        annotations=found.annotations,
        created_ms=found.created_ms,
        resource_version=seq,
    )
    status = {
        "currentHealthy": healthy,
        "desiredHealthy": least,
        "disruptionsAllowed": max(0, healthy - least),
        "expectedPods": expected,
        "observedGeneration": seq,
    }
    shape: Json = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata}
    return {**shape, "spec": _spec(found), "status": status}


def _spec(found: Budget) -> Json:
    amounts = {"minAvailable": found.min_available, "maxUnavailable": found.max_unavailable}
    spec: Json = {name: _amount(value) for name, value in amounts.items() if value}
    if found.selects:
        expressions = [
            {"key": each.key, "operator": each.operator, **({"values": list(each.values)} if each.values else {})}
            for each in found.match_expressions
        ]
        terms: dict[str, Any] = {"matchLabels": dict(found.match_labels), "matchExpressions": expressions}
        spec["selector"] = {name: value for name, value in terms.items() if value}
    if found.evicts_unhealthy:
        spec["unhealthyPodEvictionPolicy"] = "AlwaysAllow"
    return spec


def _amount(text: str) -> int | str:
    return text if text.endswith("%") else int(text)
