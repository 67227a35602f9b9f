"""Tables of objects in Kubernetes' shapes: one set of columns for `kubectl` and for our own tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from beemesh.workloads.kubeshape import Json


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head, and the cell of an object at a time (wall ms). `wide` ones are shown on demand."""

    name: str
    cell: Callable[[Json, int], str | int]
    wide: bool = False
    type: str = "string"


def age(timestamp: str, now_ms: int) -> str:
    """How long ago an RFC 3339 time was, as kubectl shows it: `5s`, `3m`, `7h`, `12d`; `<unknown>` without one."""
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return "<unknown>"
    seconds = max(0, int(now_ms / 1000 - then.timestamp()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _get(item: Json, *path: str) -> Any:
    value: Any = item
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value if value is not None else ""


def _amount(name: str) -> Callable[[Json, int], str]:
    return lambda item, _: str(_get(item, "spec", name)) or "N/A"


def _age(item: Json, now_ms: int) -> str:
    return age(str(_get(item, "metadata", "creationTimestamp")), now_ms)


def _ready_containers(item: Json, _: int) -> str:
    statuses = _get(item, "status", "containerStatuses") or []
    wanted = len(_get(item, "spec", "containers") or statuses)
    return f"{sum(bool(status.get('ready')) for status in statuses)}/{wanted}"


def _pod_status(item: Json, _: int) -> str:
    return str(_get(item, "status", "reason") or _get(item, "status", "phase"))


def _restarts(item: Json, _: int) -> int:
    return sum(status.get("restartCount", 0) for status in _get(item, "status", "containerStatuses") or [])


def _endpoints(item: Json, _: int) -> str:
    found = [f"{entry['address']}:{entry['port']}" for entry in _get(item, "status", "endpoints") or []]
    return ",".join(found) or "<none>"


def _reachable(item: Json, _: int) -> str:
    found = [
        f"{address['ip']}:{port['port']}"
        for subset in _get(item, "subsets") or []
        for address in subset.get("addresses", [])
        for port in subset.get("ports", [])
    ]
    return ",".join(found) or "<none>"


def _unready(item: Json, _: int) -> int:
    return sum(len(subset.get("notReadyAddresses", [])) for subset in _get(item, "subsets") or [])


def _endpoint_nodes(item: Json, _: int) -> str:
    found = {address["nodeName"] for subset in _get(item, "subsets") or [] for address in subset.get("addresses", [])}
    return ",".join(sorted(found)) or "<none>"


def _node_status(item: Json, _: int) -> str:
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in _get(item, "status", "conditions") or []
    )
    cordoned = ",SchedulingDisabled" if _get(item, "spec", "unschedulable") else ""
    return ("Ready" if ready else "NotReady") + cordoned


def _roles(item: Json, _: int) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = [name.removeprefix(prefix) for name in _get(item, "metadata", "labels") or {} if name.startswith(prefix)]
    return ",".join(sorted(roles)) or "<none>"


def _at(*path: str) -> Callable[[Json, int], str | int]:
    def cell(item: Json, _: int) -> str | int:
        value = _get(item, *path)
        return value if isinstance(value, int) else str(value)

    return cell


def _used(item: Json, _: int) -> str:
    used, hard = _get(item, "status", "used") or {}, _get(item, "status", "hard") or {}
    return ", ".join(f"{key}: {used.get(key, 0)}/{limit}" for key, limit in hard.items())


def _number(*path: str) -> Callable[[Json, int], str | int]:
    return lambda item, _: int(_get(item, *path) or 0)


def _address(item: Json, _: int) -> str:
    entries = _get(item, "status", "addresses") or []
    return next((str(entry["address"]) for entry in entries if entry["type"] == "InternalIP"), "<none>")


def _object(item: Json, _: int) -> str:
    involved = _get(item, "involvedObject") or {}
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}" if involved.get("name") else "-"


def _deployment_ready(item: Json, _: int) -> str:
    return f"{_get(item, 'status', 'readyReplicas') or 0}/{_get(item, 'spec', 'replicas') or 0}"


def _node_selector(item: Json, _: int) -> str:
    selector = _get(item, "spec", "template", "spec", "nodeSelector") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items())) or "<none>"


def _job_status(item: Json, _: int) -> str:
    conditions = _get(item, "status", "conditions")
    return str(conditions[0]["type"]) if isinstance(conditions, list) and conditions else "Running"


def _job_completions(item: Json, _: int) -> str:
    return f"{_get(item, 'status', 'succeeded') or 0}/{_get(item, 'spec', 'completions') or 0}"


_NAME = Column("NAME", _at("metadata", "name"))
_AGE = Column("AGE", _age)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "Pod": (
        _NAME,
        Column("READY", _ready_containers),
        Column("STATUS", _pod_status),
        Column("RESTARTS", _restarts, type="integer"),
        _AGE,
        Column("NODE", lambda item, _: str(_get(item, "spec", "nodeName")) or "<none>"),
        Column("ENDPOINTS", _endpoints, wide=True),
        Column("MESSAGE", _at("status", "message"), wide=True),
    ),
    "Deployment": (
        _NAME,
        Column("READY", _deployment_ready),
        Column("UP-TO-DATE", _number("status", "updatedReplicas"), type="integer"),
        Column("AVAILABLE", _number("status", "availableReplicas"), type="integer"),
        _AGE,
        Column("ENDPOINTS", _endpoints, wide=True),
    ),
    "DaemonSet": (
        _NAME,
        Column("DESIRED", _number("status", "desiredNumberScheduled"), type="integer"),
        Column("CURRENT", _number("status", "currentNumberScheduled"), type="integer"),
        Column("READY", _number("status", "numberReady"), type="integer"),
        Column("UP-TO-DATE", _number("status", "updatedNumberScheduled"), type="integer"),
        Column("AVAILABLE", _number("status", "numberAvailable"), type="integer"),
        Column("NODE SELECTOR", _node_selector),
        _AGE,
        Column("ENDPOINTS", _endpoints, wide=True),
    ),
    "Job": (
        _NAME,
        Column("STATUS", _job_status),
        Column("COMPLETIONS", _job_completions),
        _AGE,
        Column("ACTIVE", _number("status", "active"), wide=True, type="integer"),
        Column("FAILED", _number("status", "failed"), wide=True, type="integer"),
    ),
    "Endpoints": (
        _NAME,
        Column("ENDPOINTS", _reachable),
        _AGE,
        Column("NOT READY", _unready, wide=True, type="integer"),
        Column("NODES", _endpoint_nodes, wide=True),
    ),
    "Node": (
        _NAME,
        Column("STATUS", _node_status),
        Column("ROLES", _roles),
        _AGE,
        Column("VERSION", _at("status", "nodeInfo", "kubeletVersion")),
        Column("PODS", _number("status", "pods"), type="integer"),
        Column("ADDRESS", _address, wide=True),
        Column("RUNTIME", _at("status", "nodeInfo", "containerRuntimeVersion"), wide=True),
    ),
    "Task": (
        Column("NAME", _at("spec", "taskID")),
        Column("WORKLOAD", _at("spec", "workload")),
        Column("REPLICA", _at("spec", "replica"), type="integer"),
        Column("STATE", _at("status", "state")),
        Column("NODE", lambda item, _: str(_get(item, "status", "node")) or "<none>"),
        _AGE,
        Column("REASON", _at("status", "reason"), wide=True),
    ),
    "Event": (
        Column("LAST SEEN", lambda item, now_ms: age(str(_get(item, "lastTimestamp")), now_ms)),
        Column("TYPE", _at("type")),
        Column("REASON", _at("reason")),
        Column("OBJECT", _object),
        Column("MESSAGE", _at("message")),
        Column("NODE", _at("source", "host"), wide=True),
    ),
    "PodDisruptionBudget": (
        _NAME,
        Column("MIN AVAILABLE", _amount("minAvailable")),
        Column("MAX UNAVAILABLE", _amount("maxUnavailable")),
        Column("ALLOWED DISRUPTIONS", _number("status", "disruptionsAllowed"), type="integer"),
        _AGE,
    ),
    "ResourceQuota": (
        _NAME,
        Column("USED", _used),
        _AGE,
    ),
    "PriorityClass": (
        _NAME,
        Column("VALUE", _number("value"), type="integer"),
        Column("GLOBAL-DEFAULT", lambda item, _: str(bool(_get(item, "globalDefault"))).lower()),
        Column("PREEMPTIONPOLICY", _at("preemptionPolicy")),
        _AGE,
    ),
    "ConfigMap": (_NAME, Column("REVISION", _at("metadata", "annotations", "beemesh.io/revision")), _AGE),
    "Secret": (
        _NAME,
        Column("TYPE", _at("type")),
        Column("REVISION", _at("metadata", "annotations", "beemesh.io/revision")),
        _AGE,
    ),
}
"""The columns of each kind, in kubectl's order and words where it has them."""


def rows(kind: str, items: Sequence[Json], now_ms: int, *, wide: bool = False) -> tuple[list[str], list[list[str]]]:
    """Heads and cells as texts, for a terminal."""
    columns = [column for column in COLUMNS[kind] if wide or not column.wide]
    cells = [[str(column.cell(item, now_ms)) for column in columns] for item in items]
    return [column.name for column in columns], cells


def table(kind: str, items: Sequence[Json], now_ms: int, *, resource_version: int = 0) -> Json:
    """A `meta.k8s.io/v1` Table: what kubectl asks a server for when it prints."""
    columns = COLUMNS[kind]
    definitions = [
        {
            "name": column.name.title(),
            "type": column.type,
            "format": "name" if column.name == "NAME" else "",
            "description": column.name.lower(),
            "priority": 1 if column.wide else 0,
        }
        for column in columns
    ]
    return {
        "apiVersion": "meta.k8s.io/v1",
        "kind": "Table",
        "metadata": {"resourceVersion": str(resource_version)},
        "columnDefinitions": definitions,
        "rows": [
            {
                "cells": [column.cell(item, now_ms) for column in columns],
                "object": {
                    "apiVersion": "meta.k8s.io/v1",
                    "kind": "PartialObjectMetadata",
                    "metadata": item.get("metadata", {}),
                },
            }
            for item in items
        ],
    }
