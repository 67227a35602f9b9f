"""Jobs in the shape of Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from beemesh.workloads.kubeshape import Json, condition_of, containers_of, metadata_of, timestamp, uid
from beemesh.workloads.record import JobTerms


@dataclass(frozen=True, slots=True)
class JobView:
    """A job's record beside what became of it. `over` is Complete or Failed once it is."""

    name: str
    namespace: str
    completions: int
    terms: JobTerms = field(default_factory=JobTerms)
    active: int = 0
    ready: int = 0
    succeeded: int = 0
    failed: int = 0
    over: str = ""
    reason: str = ""
    message: str = ""
    over_ms: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    images: Sequence[str] = ()
    created_ms: int = 0
    resource_version: int = 0


def job(view: JobView) -> Json:
    """A `batch/v1` Job. Its template holds what members may see: labels and images."""
    metadata = metadata_of(
        view.name,
        "Job",
        namespace=view.namespace,
        labels=view.labels,
        annotations=view.annotations,
        created_ms=view.created_ms,
        resource_version=view.resource_version,
    )
    metadata["uid"] = uid("Job", view.namespace, view.name)
    spec: Json = {
        "completions": view.completions,
        "parallelism": view.terms.parallelism,
        "backoffLimit": view.terms.backoff_limit,
        "completionMode": "NonIndexed",
        "template": {"metadata": {"labels": dict(view.pod_labels)}, "spec": {"containers": containers_of(view.images)}},
    }
    if view.terms.active_deadline_s:
        spec["activeDeadlineSeconds"] = view.terms.active_deadline_s
    status: Json = {
        "active": view.active,
        "ready": view.ready,
        "succeeded": view.succeeded,
        "failed": view.failed,
        "conditions": [],
    }
    if view.created_ms:
        status["startTime"] = timestamp(view.created_ms)
    if view.over:
        status["conditions"] = [condition_of(view.over, True, view.reason, view.message, view.over_ms)]
    if view.over == "Complete" and view.over_ms:
        status["completionTime"] = timestamp(view.over_ms)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec, "status": status}
