"""DaemonSets in the shape of Kubernetes: a record beside the nodes that it is for and what runs on them."""

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
from beemesh.workloads.rollout_report import FAILED_REASON, REVISION_NAMES


@dataclass(frozen=True, slots=True)
class DaemonSetView:
    """A DaemonSet's record beside what runs of it; every number counts nodes. `misscheduled` are those that run one and
    are not to, `updated` those with one of the current revision and none of an older one."""

    name: str
    namespace: str
    desired: int
    current: int = 0
    misscheduled: int = 0
    ready: int = 0
    updated: int = 0
    revision: int = 1
    generation: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    images: Sequence[str] = ()
    strategy: Strategy = field(default_factory=Strategy)
    history_limit: int = HISTORY_MAX
    failed: str = ""
    """Why the rollout of the current revision failed, if so, and the revision that runs in its place (0 for none)."""
    rolled_back_to: int = 0
    endpoints: Sequence[tuple[str, Endpoint]] = ()
    """Each reachable endpoint with the name of its pod."""
    problem: str = ""
    """Why a node has none, if so."""
    created_ms: int = 0
    resource_version: int = 0


def daemon_set(view: DaemonSetView) -> Json:
    """An `apps/v1` DaemonSet. Its template holds what members may see: labels, images, the node selector. Kubernetes
    has no conditions here; ours say how the rollout stands."""
    metadata = metadata_of(
        view.name,
        "DaemonSet",
        namespace=view.namespace,
        labels=view.labels,
        annotations={**view.annotations, REVISION_NAMES["DaemonSet"]: str(view.revision)},
        created_ms=view.created_ms,
        resource_version=view.resource_version,
    )
    metadata["uid"] = uid("DaemonSet", view.namespace, view.name)
    metadata["generation"] = view.generation
    pod_spec: Json = {"containers": containers_of(view.images)}
    if view.node_selector:
        pod_spec["nodeSelector"] = dict(view.node_selector)
    spec: Json = {
        "selector": {"matchLabels": dict(view.pod_labels)},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling_update_of(view.strategy)},
        "minReadySeconds": view.strategy.min_ready_s,
        "revisionHistoryLimit": view.history_limit,
        "template": {"metadata": {"labels": dict(view.pod_labels)}, "spec": pod_spec},
    }
    status: Json = {
        "observedGeneration": view.generation,
        "desiredNumberScheduled": view.desired,
        "currentNumberScheduled": view.current,
        "numberMisscheduled": view.misscheduled,
        "numberReady": view.ready,
        "updatedNumberScheduled": view.updated,
        "numberAvailable": view.ready,
        "numberUnavailable": max(0, view.desired - view.ready),
        "conditions": [_progress(view)],
        "endpoints": [endpoint(item, name) for name, item in view.endpoints],
    }
    if view.rolled_back_to:
        status["rolledBackTo"] = view.rolled_back_to
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec, "status": status}


def _progress(view: DaemonSetView) -> Json:
    settled = view.ready >= view.desired and view.updated >= view.desired and not view.misscheduled
    reason = "Complete" if settled else "Unschedulable" if view.problem else "Updating"
    why = view.failed or view.problem
    return condition_of("Progressing", not why, FAILED_REASON if view.failed else reason, why)
