"""Rules of a pod that take more than one field to see: names that must fit, things named twice, sums that cannot be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from beemesh.workloads.objects import Finding, Path, path_text, shown
from beemesh.workloads.placement_rules import placement_findings
from beemesh.workloads.probe_rules import probe_findings
from beemesh.workloads.quantities import parse_quantity
from beemesh.workloads.schema import did_you_mean

FIELD_PATHS = ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName")
"""What `fieldRef` may name, besides `metadata.labels['x']` and `metadata.annotations['x']`."""

KEYED_FIELD = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")

CONTAINERS_MAX = 50
"""Containers of one pod: far above what people write, and a bound on what one task starts."""

VOLUME_SOURCES = ("emptyDir", "configMap", "secret")
_ENV_SOURCES = ("configMapKeyRef", "fieldRef", "secretKeyRef")

Rules = Iterator[Finding]


def pod_findings(spec: Mapping[str, Any], labels: Mapping[str, str], path: Path, *, deployment: bool) -> Rules:
    """Everything wrong with a pod's spec (as `structure` left it), with places below `path`."""
    containers = _containers(spec, path)
    if spec.get("containers") == []:
        yield Finding(path, f"{path_text((*path, 'containers'))} must name at least one container")
    if len(containers) > CONTAINERS_MAX:
        yield Finding((*path, "containers"), f"a pod may have at most {CONTAINERS_MAX} containers")
    policy = spec.get("restartPolicy", "Always")
    if deployment and policy != "Always":
        yield Finding((*path, "restartPolicy"), "these pods always restart: restartPolicy must be Always")
    yield from _twice(((place, container.get("name")) for place, container in containers), "container name")
    yield from _host_ports(containers)
    yield from _volumes(spec, path)
    names = [volume.get("name", "") for volume in spec.get("volumes", [])]
    pod_security = spec.get("securityContext", {})
    yield from _non_root(pod_security, {}, (*path, "securityContext"))
    for place, container in containers:
        yield from _container(container, place, names, pod_security)
    yield from placement_findings(spec, labels, path)


def _containers(spec: Mapping[str, Any], path: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    return [
        ((*path, group, index), container)
        for group in ("initContainers", "containers")
        for index, container in enumerate(spec.get(group, []))
    ]


def _twice(entries: Iterable[tuple[Path, Any]], what: str, field: str = "name") -> Rules:
    """Findings for each value (but empty ones) that came before."""
    seen: dict[Any, Path] = {}
    for place, value in entries:
        if value in (None, ""):
            continue
        if value in seen:
            message = f"{what} {shown(value)} is used twice: also at {path_text(seen[value])}"
            yield Finding((*place, field), message)
        else:
            seen[value] = place


def _container(container: Mapping[str, Any], path: Path, volumes: list[str], pod_security: Mapping[str, Any]) -> Rules:
    yield from _environment(container, path)
    yield from _ports(container, path)
    yield from probe_findings(container, path)
    yield from _resources(container, path)
    yield from _mounts(container, path, volumes)
    yield from _non_root(container.get("securityContext", {}), pod_security, (*path, "securityContext"))
    for field in ("command", "args"):
        for index, word in enumerate(container.get(field, [])):
            if "\0" in word:
                yield Finding((*path, field, index), f"{path_text((*path, field, index))} must not hold a zero byte")


def _environment(container: Mapping[str, Any], path: Path) -> Rules:
    env = container.get("env", [])
    yield from _twice((((*path, "env", index), item.get("name")) for index, item in enumerate(env)), "variable")
    for index, item in enumerate(env):
        place = (*path, "env", index)
        if "\0" in item.get("value", ""):
            yield Finding((*place, "value"), f"{path_text((*place, 'value'))} must not hold a zero byte")
        source = item.get("valueFrom")
        if source is None:
            continue
        if item.get("value"):
            yield Finding((*place, "valueFrom"), f"{path_text(place)} has both value and valueFrom", "keep one")
        if len(source) != 1:
            yield Finding((*place, "valueFrom"), f"{path_text((*place, 'valueFrom'))} must have one of {_ENV_SOURCES}")
        if "fieldRef" in source:
            yield from _field_reference(source["fieldRef"], (*place, "valueFrom", "fieldRef"))
    for index, item in enumerate(container.get("envFrom", [])):
        if ("configMapRef" in item) == ("secretRef" in item):
            place = (*path, "envFrom", index)
            yield Finding(place, f"{path_text(place)} must have one of configMapRef, secretRef")


def _field_reference(reference: Mapping[str, Any], path: Path) -> Rules:
    name = reference.get("fieldPath")
    if name is None or name in FIELD_PATHS or KEYED_FIELD.fullmatch(name):
        return
    known = ", ".join((*FIELD_PATHS, "metadata.labels['x']", "metadata.annotations['x']"))
    hint = did_you_mean(name, FIELD_PATHS) or f"known ones: {known}"
    yield Finding((*path, "fieldPath"), f"fieldPath {shown(name)} is not supported by beemesh", hint)


def _ports(container: Mapping[str, Any], path: Path) -> Rules:
    ports = container.get("ports", [])
    places = [(*path, "ports", index) for index in range(len(ports))]
    yield from _twice(((place, port.get("name")) for place, port in zip(places, ports, strict=True)), "port name")
    numbers = (
        (port["containerPort"], port.get("protocol", "TCP"), port.get("hostPort"), port.get("hostIP"))
        if "containerPort" in port
        else None
        for port in ports
    )
    seen: set[Any] = set()
    for place, number in zip(places, numbers, strict=True):
        if number in seen:
            message = f"container port {number[0] if number else 0} is listed twice"
            yield Finding((*place, "containerPort"), message)
        elif number:
            seen.add(number)


def _host_ports(containers: list[tuple[Path, Mapping[str, Any]]]) -> Rules:
    taken: list[tuple[int, str, str]] = []
    for path, container in containers:
        for index, port in enumerate(container.get("ports", [])):
            if "hostPort" not in port:
                continue
            wanted = (port["hostPort"], port.get("protocol", "TCP"), port.get("hostIP", ""))
            wide = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
            clash = any(
                number == wanted[0] and proto == wanted[1] and (ip == wanted[2] or ip in wide or wanted[2] in wide)
                for number, proto, ip in taken
            )
            if clash:
                place = (*path, "ports", index, "hostPort")
                yield Finding(place, f"host port {wanted[0]} is asked for twice by this pod")
            taken.append(wanted)


def _resources(container: Mapping[str, Any], path: Path) -> Rules:
    resources = container.get("resources", {})
    limits = resources.get("limits", {})
    for name, asked in resources.get("requests", {}).items():
        if name in limits and parse_quantity(asked) > parse_quantity(limits[name]):
            place = (*path, "resources", "requests", name)
            yield Finding(place, f"{path_text(place)} {shown(asked)} is more than its limit {shown(limits[name])}")
    memory = limits.get("memory")
    if memory is not None and parse_quantity(memory) < 1024 * 1024:
        place = (*path, "resources", "limits", "memory")
        hint = "write 64Mi for 64 MiB; 'm' is a thousandth of a byte"
        yield Finding(place, f"{path_text(place)} {shown(memory)} is less than 1 MiB", hint)


def _mounts(container: Mapping[str, Any], path: Path, volumes: list[str]) -> Rules:
    mounts = container.get("volumeMounts", [])
    places = [(*path, "volumeMounts", index) for index in range(len(mounts))]
    paths = ((place, _plain(mount.get("mountPath", ""))) for place, mount in zip(places, mounts, strict=True))
    yield from _twice(paths, "mount path", "mountPath")
    for place, mount in zip(places, mounts, strict=True):
        name = mount.get("name")
        if name is not None and name not in volumes:
            hint = did_you_mean(name, volumes) or "add it to the pod's volumes"
            yield Finding((*place, "name"), f"no volume of the pod is named {shown(name)}", hint)
        if _plain(mount.get("mountPath", "")) == "/":
            yield Finding((*place, "mountPath"), "a volume cannot be mounted over the whole container (/)")
        if ":" in mount.get("mountPath", ""):
            yield Finding((*place, "mountPath"), f"{path_text((*place, 'mountPath'))} must not contain ':'")


def _plain(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in ("", ".")) if path else ""


def _volumes(spec: Mapping[str, Any], path: Path) -> Rules:
    volumes = spec.get("volumes", [])
    places = [(*path, "volumes", index) for index in range(len(volumes))]
    yield from _twice(
        ((place, volume.get("name")) for place, volume in zip(places, volumes, strict=True)), "volume name"
    )
    for place, volume in zip(places, volumes, strict=True):
        sources = [name for name in VOLUME_SOURCES if name in volume]
        if len(sources) > 1:
            yield Finding(place, f"{path_text(place)} has {len(sources)} sources: {', '.join(sources)}", "keep one")
        for source in sources:
            items = volume[source].get("items", []) if source != "emptyDir" else []
            entries = (((*place, source, "items", index), item.get("path")) for index, item in enumerate(items))
            yield from _twice(entries, "path", "path")


def _non_root(own: Mapping[str, Any], pod: Mapping[str, Any], path: Path) -> Rules:
    """`runAsNonRoot` needs a user that is known not to be root: images are not looked into."""
    if own.get("runAsNonRoot") and not own.get("runAsUser", pod.get("runAsUser", 0)):
        hint = "add runAsUser with a number other than 0; beemesh does not look into the image for its user"
        yield Finding((*path, "runAsNonRoot"), "runAsNonRoot needs a runAsUser that is not root", hint)
