"""Deployments in the shape of Kubernetes: a record beside what runs of it, and how its rollout stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from beemesh.workloads.kubeshape import (
    Json,
    condition_of,
    containers_of,
    endpoint,
    metadata_of,
    rolling_update_of,
    uid,
)
from beemesh.workloads.observation import Endpoint
from beemesh.workloads.record import HISTORY_MAX, Strategy
from beemesh.workloads.rollout_report import FAILED_REASON


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """A deployment's record beside what runs of it. `generation` is the record's, `observed_generation` the newest that
    its reconciler acted on; `ready` counts replicas of any revision, `updated` those of the current one."""

    name: str
    namespace: str
    replicas: int
    revision: int = 1
    running: int = 0
    ready: int = 0
    updated: int = 0
    generation: int = 1
    observed_generation: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    images: Sequence[str] = ()
    strategy: Strategy = field(default_factory=Strategy)
    history_limit: int = HISTORY_MAX
    failed: str = ""
    """Why the rollout of the current revision failed, if so, and the revision that runs in its place (0 for none)."""
    rolled_back_to: int = 0
    endpoints: Sequence[tuple[str, Endpoint]] = ()
    """Each reachable endpoint with the name of its pod."""
    problem: str = ""
    """Why it does not get on, if so (such as the reasons that no node bid)."""
    created_ms: int = 0
    resource_version: int = 0


def deployment(view: DeploymentView) -> Json:
    """An `apps/v1` Deployment. Its template holds what members may see: labels and images."""
    metadata = metadata_of(
        view.name,
        "Deployment",
        namespace=view.namespace,
        labels=view.labels,
        annotations={**view.annotations, "deployment.kubernetes.io/revision": str(view.revision)},
        created_ms=view.created_ms,
        resource_version=view.resource_version,
    )
    metadata["uid"] = uid("Deployment", view.namespace, view.name)
    metadata["generation"] = view.generation
    available = view.ready >= view.replicas
    why = view.failed or view.problem
    settled = available and view.updated >= view.replicas and view.running <= view.replicas
    spec: Json = {
        "replicas": view.replicas,
        "selector": {"matchLabels": dict(view.pod_labels)},
        "strategy": _strategy(view.strategy),
        "minReadySeconds": view.strategy.min_ready_s,
        "progressDeadlineSeconds": view.strategy.progress_deadline_s,
        "revisionHistoryLimit": view.history_limit,
        "template": {"metadata": {"labels": dict(view.pod_labels)}, "spec": {"containers": containers_of(view.images)}},
    }
    if view.strategy.paused:
        spec["paused"] = True
    status: Json = {
        "observedGeneration": view.observed_generation,
        "replicas": view.running,
        "readyReplicas": view.ready,
        "updatedReplicas": view.updated,
        "availableReplicas": view.ready,
        "unavailableReplicas": max(0, view.replicas - view.ready),
        "conditions": [
            condition_of(
                "Available", available, "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable"
            ),
            condition_of("Progressing", not (view.failed or view.problem), _progress(view, settled=settled), why),
        ],
        "endpoints": [endpoint(item, name) for name, item in view.endpoints],
    }
    if view.rolled_back_to:
        status["rolledBackTo"] = view.rolled_back_to
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec, "status": status}


def _strategy(strategy: Strategy) -> Json:
    if strategy.type == "Recreate":
        return {"type": "Recreate"}
    return {"type": strategy.type, "rollingUpdate": rolling_update_of(strategy)}


def _progress(view: DeploymentView, *, settled: bool) -> str:
    if view.failed:
        return FAILED_REASON
    if view.strategy.paused and not settled:
        return "DeploymentPaused"
    if view.problem:
        return "Unschedulable"
    return "NewReplicaSetAvailable" if settled else "ReplicaSetUpdated"
