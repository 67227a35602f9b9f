"""Mesh state in the shapes of Kubernetes: what the API serves, and what `-o json` prints. Pure functions over views.

What Kubernetes has no field for is under `status.endpoints` (where a replica is reached) and in `beemesh.io/` labels
and annotations. Times are wall milliseconds in the views and RFC 3339 in the output; 0 means unknown and is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from beemesh.identity.membership_card import Taint
from beemesh.workloads.observation import ContainerReport, Endpoint
from beemesh.workloads.record import Strategy

Json = dict[str, Any]

TASK_API_VERSION = "beemesh.io/v1alpha1"
WALL_MS_MAX = 253_402_300_799_000
"""The end of the year 9999, the last that RFC 3339 can write."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One replica as the mesh sees it: running, or wanted and `Pending` with a reason (then `node` is empty)."""

    name: str
    namespace: str
    workload_id: str
    owner_kind: str
    owner_name: str
    revision: int = 0
    replica: int = 0
    node: str = ""
    phase: str = "Pending"
    ready: bool = False
    reason: str = ""
    message: str = ""
    task_id: str = ""
    host_ip: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    containers: Sequence[ContainerReport] = ()
    endpoints: Sequence[Endpoint] = ()
    images: Sequence[str] = ()
    created_ms: int = 0
    started_ms: int = 0
    resource_version: int = 0


@dataclass(frozen=True, slots=True)
class NodeView:
    """One member of the mesh as the answering agent sees it."""

    name: str
    node_id: str
    ready: bool = True
    state: str = "alive"
    cordoned: bool = False
    addresses: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Taint] = ()
    roles: Sequence[str] = ()
    site: str = ""
    zone: str = ""
    org: str = ""
    cpu_m: int = 0
    mem_mb: int = 0
    storage_mb: int = 0
    free_cpu_m: int = 0
    free_mem_mb: int = 0
    free_storage_mb: int = 0
    pods: int = 0
    version: str = ""
    runtime: str = ""
    warnings: Sequence[str] = ()
    created_ms: int = 0
    seen_ms: int = 0
    resource_version: int = 0


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task of the scheduler: who should start which replica, and how far that is."""

    task_id: str
    workload_id: str
    namespace: str
    revision: int
    replica: int
    attempt: int = 1
    state: str = "Pending"
    node: str = ""
    reason: str = ""
    bids: int = 0
    created_ms: int = 0


@dataclass(frozen=True, slots=True)
class EventView:
    """One signed event of the mesh."""

    event_id: str
    status: str
    node: str
    namespace: str = ""
    kind: str = ""
    name: str = ""
    reason: str = ""
    message: str = ""
    task_id: str = ""
    at_ms: int = 0
    warning: bool = False
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigView:
    """A ConfigMap or Secret on the mesh: its name and revision; its content is sealed and not here."""

    kind: str
    name: str
    namespace: str
    revision: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    type: str = ""
    size_bytes: int = 0
    created_ms: int = 0
    resource_version: int = 0


def timestamp(wall_ms: int) -> str:
    """Wall milliseconds as RFC 3339 in UTC with whole seconds, as Kubernetes writes times."""
    return datetime.fromtimestamp(min(max(wall_ms, 0), WALL_MS_MAX) // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def uid(*parts: str) -> str:
    """A stable UID in the form of a UUID: the same for the same parts, on every agent."""
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"


def containers_of(images: Sequence[str]) -> list[Json]:
    """What members may see of a template's containers: their images."""
    return [{"name": f"container-{index}", "image": image} for index, image in enumerate(images)]


def rolling_update_of(strategy: Strategy) -> Json:
    """The bounds of a rolling update, as percentages where they were given so."""
    surge, unavailable = strategy.surge_percent, strategy.unavailable_percent
    return {
        "maxSurge": f"{surge}%" if surge else strategy.max_surge,
        "maxUnavailable": f"{unavailable}%" if unavailable else strategy.max_unavailable,
    }


def metadata_of(
    name: str,
    kind: str,
    *,
    namespace: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    created_ms: int = 0,
    resource_version: int = 0,
) -> Json:
    """An object's `metadata`."""
    metadata: Json = {
        "name": name,
        "uid": uid(kind, namespace, name, str(created_ms)),
        "resourceVersion": str(resource_version),
    }
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    if created_ms:
        metadata["creationTimestamp"] = timestamp(created_ms)
    return metadata


def endpoint(view: Endpoint, pod: str = "") -> Json:
    """Where a replica is reached."""
    shape: Json = {"address": view.address, "port": view.port, "protocol": view.protocol, "ready": view.ready}
    if view.container_port:
        shape["targetPort"] = view.container_port
    if view.name:
        shape["name"] = view.name
    if pod:
        shape["pod"] = pod
    return shape


def condition_of(kind: str, value: bool, reason: str = "", message: str = "", at_ms: int = 0) -> Json:
    """A condition of an object's `status`."""
    shape: Json = {"type": kind, "status": "True" if value else "False"}
    if reason:
        shape["reason"] = reason
    if message:
        shape["message"] = message
    if at_ms:
        shape["lastTransitionTime"] = timestamp(at_ms)
    return shape


def _container_status(report: ContainerReport) -> Json:
    state: Json
    if report.state == "running":
        state = {"running": {"startedAt": timestamp(report.started_ms)} if report.started_ms else {}}
    elif report.state == "exited":
        code = report.exit_code or 0
        state = {"terminated": {"exitCode": code, "reason": report.reason or ("Error" if code else "Completed")}}
    else:
        state = {"waiting": {"reason": report.reason or "ContainerCreating"}}
    return {
        "name": report.name,
        "image": report.image,
        "imageID": "",
        "ready": report.ready,
        "restartCount": report.restarts,
        "started": report.state == "running",
        "state": state,
    }


def pod(view: PodView) -> Json:
    """A `v1` Pod. Its spec holds what members may see: node, names and images of its containers."""
    labels = {
        **view.labels,
        "beemesh.io/workload": view.owner_name,
        "beemesh.io/revision": str(view.revision),
        "beemesh.io/replica": str(view.replica),
    }
    annotations = {"beemesh.io/workload-id": view.workload_id}
    if view.task_id:
        annotations["beemesh.io/task"] = view.task_id
    metadata = metadata_of(
        view.name,
        "Pod",
        namespace=view.namespace,
        labels=labels,
        annotations=annotations,
        created_ms=view.created_ms,
        resource_version=view.resource_version,
    )
    metadata["uid"] = uid("Pod", view.workload_id, view.name, view.node, str(view.created_ms))  # names may be shared
    if view.owner_kind and view.owner_kind != "Pod":
        owner = {"apiVersion": "apps/v1", "kind": view.owner_kind, "name": view.owner_name, "controller": True}
        metadata["ownerReferences"] = [{**owner, "uid": uid(view.owner_kind, view.namespace, view.owner_name)}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _pod_spec(view), "status": _status(view)}


def _pod_spec(view: PodView) -> Json:
    containers = [{"name": report.name, "image": report.image} for report in view.containers]
    if not containers:
        containers = containers_of(view.images)
    spec: Json = {"containers": containers}
    if view.node:
        spec["nodeName"] = view.node
    return spec


def _status(view: PodView) -> Json:
    terminating = view.phase == "Terminating"
    status: Json = {
        "phase": "Running" if terminating else view.phase,
        "conditions": [
            condition_of("PodScheduled", bool(view.node), "" if view.node else "Unschedulable", view.message),
            condition_of("ContainersReady", view.ready, at_ms=view.started_ms),
            condition_of("Ready", view.ready, at_ms=view.started_ms),
        ],
        "containerStatuses": [_container_status(report) for report in view.containers],
        "endpoints": [endpoint(item) for item in view.endpoints],
    }
    for name, value in (("reason", view.reason), ("message", view.message), ("hostIP", view.host_ip)):
        if value:
            status[name] = value
    if terminating:
        status["reason"] = "Terminating"
    if view.started_ms:
        status["startTime"] = timestamp(view.started_ms)
    return status


def node(view: NodeView) -> Json:
    """A `v1` Node; a cordoned one is unschedulable, one that is not alive is not Ready."""
    labels = {**view.labels, "kubernetes.io/hostname": view.name}
    for name, value in (
        ("topology.kubernetes.io/zone", view.zone),
        ("beemesh.io/site", view.site),
        ("beemesh.io/org", view.org),
    ):
        if value:
            labels[name] = value
    labels.update({f"node-role.kubernetes.io/{role}": "" for role in view.roles})
    metadata = metadata_of(
        view.name,
        "Node",
        labels=labels,
        annotations={"beemesh.io/node-id": view.node_id},
        created_ms=view.created_ms,
        resource_version=view.resource_version,
    )
    spec: Json = {"providerID": f"beemesh://{view.node_id}"}
    if view.cordoned:
        spec["unschedulable"] = True
    if view.taints:
        spec["taints"] = [{"key": item.key, "value": item.value, "effect": item.effect} for item in view.taints]
    conditions = [condition_of("Ready", view.ready, "AgentReady" if view.ready else "AgentUnreachable", view.state)]
    conditions += [condition_of("Warning", True, "NeedsAttention", text) for text in view.warnings]
    if view.seen_ms:
        conditions[0]["lastHeartbeatTime"] = timestamp(view.seen_ms)
    addresses = [{"type": "InternalIP", "address": address} for address in view.addresses]
    status = {
        "capacity": _amounts(view.cpu_m, view.mem_mb, view.storage_mb),
        "allocatable": _amounts(view.cpu_m, view.mem_mb, view.storage_mb),
        "free": _amounts(view.free_cpu_m, view.free_mem_mb, view.free_storage_mb),
        "pods": view.pods,
        "addresses": [*addresses, {"type": "Hostname", "address": view.name}],
        "conditions": conditions,
        "nodeInfo": {"kubeletVersion": view.version, "containerRuntimeVersion": view.runtime},
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec, "status": status}


def _amounts(cpu_m: int, mem_mb: int, storage_mb: int) -> Json:
    return {"cpu": f"{cpu_m}m", "memory": f"{mem_mb}Mi", "ephemeral-storage": f"{storage_mb}Mi"}


def task(view: TaskView) -> Json:
    """A Beemesh Task."""
    metadata = metadata_of(view.task_id.lower(), "Task", namespace=view.namespace, created_ms=view.created_ms)
    spec = {"workload": view.workload_id, "revision": view.revision, "replica": view.replica, "taskID": view.task_id}
    status = {"state": view.state, "attempt": view.attempt, "node": view.node, "reason": view.reason, "bids": view.bids}
    return {"apiVersion": TASK_API_VERSION, "kind": "Task", "metadata": metadata, "spec": spec, "status": status}


def event(view: EventView) -> Json:
    """A `v1` Event."""
    shape: Json = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": metadata_of(
            view.event_id.lower(), "Event", namespace=view.namespace or "default", created_ms=view.at_ms
        ),
        "type": "Warning" if view.warning else "Normal",
        "reason": view.reason or view.status,
        "message": view.message,
        "action": view.status,
        "count": 1,
        "source": {"component": "beemesh", "host": view.node},
        "reportingComponent": "beemesh.io/agent",
        "reportingInstance": view.node,
        "involvedObject": {"kind": view.kind, "namespace": view.namespace, "name": view.name},
    }
    if view.at_ms:
        shape["firstTimestamp"] = shape["lastTimestamp"] = timestamp(view.at_ms)
    details = {**view.details, **({"task": view.task_id} if view.task_id else {})}
    if details:
        shape["details"] = details
    return shape


def config(view: ConfigView) -> Json:
    """A `v1` ConfigMap or Secret without its content, which is sealed."""
    metadata = metadata_of(
        view.name,
        view.kind,
        namespace=view.namespace,
        labels=view.labels,
        annotations={"beemesh.io/revision": str(view.revision), "beemesh.io/sealed-bytes": str(view.size_bytes)},
        created_ms=view.created_ms,
        resource_version=view.resource_version,
    )
    shape: Json = {"apiVersion": "v1", "kind": view.kind, "metadata": metadata}
    if view.type:
        shape["type"] = view.type
    return shape


def object_list(
    items: Iterable[Json], *, kind: str = "List", api_version: str = "v1", resource_version: int = 0
) -> Json:
    """A list of objects, `kind: List` unless a typed one (such as `PodList`) is asked for."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"resourceVersion": str(resource_version)},
        "items": list(items),
    }


REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
"""Kubernetes' machine-readable reasons by HTTP status."""


def status(
    code: int,
    message: str,
    *,
    hint: str = "",
    kind: str = "",
    name: str = "",
    causes: Sequence[Json] = (),
    keepers: Sequence[str] = (),
) -> Json:
    """A `v1` Status: the answer to what failed (or, below 400, to what succeeded without an object). `keepers` and
    `hint` are words of ours among its details."""
    failed = code >= 400
    shape: Json = {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure" if failed else "Success",
        "message": message,
        "code": code,
    }
    if failed:
        shape["reason"] = REASONS.get(code, "InternalError" if code >= 500 else "BadRequest")
    details = {"name": name, "kind": kind, "causes": list(causes), "hint": hint, "keepers": list(keepers)}
    if any(details.values()):
        shape["details"] = {key: value for key, value in details.items() if value}
    return shape
