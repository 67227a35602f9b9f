"""What a pod template asks of a node: amounts, ports and constraints, from checked Kubernetes fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from beemesh.workloads.node_keys import LABEL_HOSTNAME
from beemesh.workloads.placement_rules import PREFERRED, REQUIRED
from beemesh.workloads.quantities import mebibytes, millicores, parse_quantity
from beemesh.workloads.record import (
    Constraints,
    Expression,
    HostPort,
    PodTerm,
    Preference,
    Qos,
    Requirements,
    Toleration,
)
from beemesh.workloads.selectors import expressions_of, selector_of, selects
from beemesh.workloads.settings import WorkloadSettings

DEFAULT_CPU_M = 10
"""Reserved, in thousandths of a core, for a container that asks for nothing: enough for an idle process to count."""

DEFAULT_MEM_MB = 32
"""Reserved, in MiB, for a container that asks for nothing: so that a node cannot win such pods without end."""

WRITABLE_LAYER_MB = 64
"""Cap of a container's writable layer, in MiB, where `limits.ephemeral-storage` does not say another."""

SPREAD_WEIGHT = 100
"""What a spread that is only wished weighs, beside wishes of 1…100."""

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
        cpu_limit_m=_limit(main, "cpu", millicores),
        mem_limit_mb=_limit(main, "memory", mebibytes),
    )


def _limit(containers: list[Json], resource: str, measure: Callable[[Any], int]) -> int:
    limits = [container.get("resources", {}).get("limits", {}).get(resource) for container in containers]
    return 0 if None in limits else sum(measure(limit) for limit in limits)


def writable_layer_mb(container: Json) -> int:
    """The cap of a container's writable layer in MiB, never below 1."""
    resources = container.get("resources") or {}
    for group in ("limits", "requests"):
        amount = (resources.get(group) or {}).get("ephemeral-storage")
        if amount is not None:
            return max(1, mebibytes(amount))
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


def constraints_of(spec: Json, labels: Mapping[str, str]) -> Constraints:
    """Where a replica with these pod `labels` may run, and where it had rather."""
    affinity = spec.get("affinity", {})
    node = affinity.get("nodeAffinity", {})
    pod_terms = tuple(_pod_terms(spec))
    return Constraints(
        node_name=spec.get("nodeName", ""),
        node_selector=dict(spec.get("nodeSelector", {})),
        node_affinity=tuple(_node_term(term) for term in node.get(REQUIRED, {}).get("nodeSelectorTerms", [])),
        tolerations=tuple(
            Toleration(
                item.get("key", ""), item.get("operator", "Equal"), item.get("value", ""), item.get("effect", "")
            )
            for item in spec.get("tolerations", [])
        ),
        anti_affinity_hosts=any(
            term.topology == LABEL_HOSTNAME and selects(item.get("labelSelector", {}), labels)
            for item in affinity.get("podAntiAffinity", {}).get(REQUIRED, [])
            for term in (_pod_term("anti-affinity", item),)
        ),
        preferences=tuple(
            Preference(item["weight"], _node_term(item["preference"])) for item in node.get(PREFERRED, [])
        ),
        pod_terms=pod_terms,
    )


def _node_term(term: Json) -> tuple[Expression, ...]:
    return (*expressions_of(term.get("matchExpressions", [])), *expressions_of(term.get("matchFields", [])))


def _pod_terms(spec: Json) -> Iterator[PodTerm]:
    kinds: tuple[tuple[Literal["affinity", "anti-affinity"], str], ...] = (
        ("affinity", "podAffinity"),
        ("anti-affinity", "podAntiAffinity"),
    )
    for kind, field in kinds:
        terms = spec.get("affinity", {}).get(field, {})
        yield from (_pod_term(kind, item) for item in terms.get(REQUIRED, []))
        yield from (_pod_term(kind, item["podAffinityTerm"], item["weight"]) for item in terms.get(PREFERRED, []))
    for item in spec.get("topologySpreadConstraints", []):
        weight = SPREAD_WEIGHT if item["whenUnsatisfiable"] == "ScheduleAnyway" else 0
        yield _pod_term("spread", item, weight, item["maxSkew"])


def _pod_term(
    kind: Literal["affinity", "anti-affinity", "spread"], item: Json, weight: int = 0, max_skew: int = 0
) -> PodTerm:
    return PodTerm(kind, item["topologyKey"], selector_of(item.get("labelSelector", {})), weight, max_skew)


def qos_of(spec: Json, settings: WorkloadSettings) -> Qos:
    """What Kubernetes derives: the class over all containers' CPU and memory, and the name of the priority class, whose
    value only the mesh knows."""
    return msgspec.structs.replace(
        _class_of(spec),
        preemptible=settings.preemptible,
        priority_class=spec.get("priorityClassName", ""),
    )


def _class_of(spec: Json) -> Qos:
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
