"""What a pod template asks of a node: amounts, ports and constraints, from checked Kubernetes fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from beemesh.workloads.quantities import mebibytes, millicores, parse_quantity
from beemesh.workloads.record import Constraints, Expression, HostPort, Qos, Requirements, Toleration
from beemesh.workloads.settings import WorkloadSettings

DEFAULT_CPU_M = 10
"""Reserved, in thousandths of a core, for a container that asks for nothing: enough for an idle process to count."""

DEFAULT_MEM_MB = 32
"""Reserved, in MiB, for a container that asks for nothing: so that a node cannot win such pods without end."""

WRITABLE_LAYER_MB = 64
"""Cap of a container's writable layer, in MiB, where `limits.ephemeral-storage` does not say another."""

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"

Json = Mapping[str, Any]


def requirements_of(spec: Json, settings: WorkloadSettings) -> Requirements:
    """What one replica needs. Per resource: the sum over containers, or the largest init container if that is more.

    A request stands for itself, a limit for a missing request, a small default for neither. Writable layers count as
    memory in `state: memory`, else as storage; so do `emptyDir` volumes with a `sizeLimit`, by their medium.
    """
    main, init = spec.get("containers", []), spec.get("initContainers", [])
    layers = sum(writable_layer_mb(container) for container in (*main, *init))
    memory_volumes, disk_volumes = _volume_mb(spec)
    in_memory = settings.state == "memory"
    return Requirements(
        cpu_m=max(sum(map(_cpu_m, main)), *map(_cpu_m, init), 0),
        mem_mb=max(sum(map(_mem_mb, main)), *map(_mem_mb, init), 0) + memory_volumes + (layers if in_memory else 0),
        storage_mb=disk_volumes + (0 if in_memory else layers),
        ports=tuple(host_ports(spec, publish_auto=settings.publish_auto)),
    )


def writable_layer_mb(container: Json) -> int:
    """The cap of a container's writable layer in MiB, never below 1."""
    resources = container.get("resources", {})
    for group in ("limits", "requests"):
        if "ephemeral-storage" in resources.get(group, {}):
            return max(1, mebibytes(resources[group]["ephemeral-storage"]))
    return WRITABLE_LAYER_MB


def _asked(container: Json, resource: str) -> Any:
    resources = container.get("resources", {})
    return resources.get("requests", {}).get(resource, resources.get("limits", {}).get(resource))


def _cpu_m(container: Json) -> int:
    asked = _asked(container, "cpu")
    return DEFAULT_CPU_M if asked is None else millicores(asked)


def _mem_mb(container: Json) -> int:
    asked = _asked(container, "memory")
    return DEFAULT_MEM_MB if asked is None else mebibytes(asked)


def _volume_mb(spec: Json) -> tuple[int, int]:
    """MiB of `emptyDir` volumes in memory and on disk, as far as they say a size."""
    memory = disk = 0
    for volume in spec.get("volumes", []):
        source = volume.get("emptyDir", {})
        size = mebibytes(source["sizeLimit"]) if "sizeLimit" in source else 0
        if source.get("medium") == "Memory":
            memory += size
        else:
            disk += size
    return memory, disk


def host_ports(spec: Json, *, publish_auto: bool) -> Iterator[HostPort]:
    """The ports that a replica publishes on its host; number 0 is any free one."""
    for container in (*spec.get("initContainers", []), *spec.get("containers", [])):
        for port in container.get("ports", []):
            if "hostPort" in port or publish_auto:
                yield HostPort(
                    port.get("hostPort", 0), port.get("protocol", "TCP"), port["containerPort"], port.get("name", "")
                )


def constraints_of(spec: Json) -> Constraints:
    """Where a replica may run."""
    affinity = spec.get("affinity", {})
    terms = affinity.get("nodeAffinity", {}).get(REQUIRED, {}).get("nodeSelectorTerms", [])
    return Constraints(
        node_name=spec.get("nodeName", ""),
        node_selector=dict(spec.get("nodeSelector", {})),
        node_affinity=tuple(
            tuple(
                Expression(item["key"], item["operator"], tuple(item.get("values", ())))
                for item in term.get("matchExpressions", [])
            )
            for term in terms
        ),
        tolerations=tuple(
            Toleration(
                item.get("key", ""), item.get("operator", "Equal"), item.get("value", ""), item.get("effect", "")
            )
            for item in spec.get("tolerations", [])
        ),
        anti_affinity_hosts=bool(affinity.get("podAntiAffinity", {}).get(REQUIRED)),
    )


def qos_of(spec: Json) -> Qos:
    """The Kubernetes class: Guaranteed, Burstable or BestEffort, over all containers, CPU and memory."""
    containers = [*spec.get("initContainers", []), *spec.get("containers", [])]
    asked = [_asked(container, name) for container in containers for name in ("cpu", "memory")]
    if all(amount is None or parse_quantity(amount) == 0 for amount in asked):
        return Qos(qos_class="BestEffort")
    guaranteed = all(_is_guaranteed(container, name) for container in containers for name in ("cpu", "memory"))
    return Qos(qos_class="Guaranteed" if guaranteed else "Burstable")


def _is_guaranteed(container: Json, resource: str) -> bool:
    limit = container.get("resources", {}).get("limits", {}).get(resource)
    return limit is not None and parse_quantity(_asked(container, resource)) == parse_quantity(limit)


def images_of(spec: Json) -> tuple[str, ...]:
    """Every image of the pod once, in a stable order."""
    containers = (*spec.get("initContainers", []), *spec.get("containers", []))
    return tuple(sorted({container["image"] for container in containers}))
