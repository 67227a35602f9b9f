"""A `PodSpec` checked, and turned into what `podman kube play` reads: one place that knows the shape of a pod."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from agent.runtime.contract import MAX_POD_ID_CHARS, FileVolume, PodSpec, PortStatus, PullPolicy, StorageState
from beemesh.secret import SecretText
from beemesh.workloads.quantities import whole_bytes
from beemesh.workloads.requirements import writable_layer_mb

RESTART_POLICIES = ("Always", "OnFailure", "Never")
PROTOCOLS = ("TCP", "UDP", "SCTP")
MAX_HOSTNAME_CHARS = 63  # a DNS label
MAX_PORT = 65535

_POD_ID = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ENV_NAME = re.compile(r"[^=\0]+")
_QUANTITIES = (("limits", "memory"), ("limits", "ephemeral-storage"), ("requests", "ephemeral-storage"))
_PASSED_ON = ("command", "args", "workingDir", "securityContext", "tty", "stdin")
_POD_PASSED_ON = ("hostNetwork", "hostAliases", "securityContext", "shareProcessNamespace", "hostPID", "hostIPC")


def containers(spec: PodSpec) -> list[Mapping[str, Any]]:
    """The containers of the pod, as plain data."""
    return list(_pod_spec(spec).get("containers") or [])


def env_of(container: Mapping[str, Any]) -> dict[str, str]:
    """The container's environment with its values revealed."""
    return {str(item["name"]): _revealed(item.get("value")) for item in container.get("env") or []}


def problems(spec: PodSpec) -> list[str]:
    """What is wrong with a spec for any engine, in plain words; never quotes a value of the environment or a file."""
    found: list[str] = []
    if not _POD_ID.fullmatch(spec.pod_id) or len(spec.pod_id) > MAX_POD_ID_CHARS:
        found.append(f"pod id {spec.pod_id!r}: expected at most {MAX_POD_ID_CHARS} of a-z, 0-9, '-' and '.'")
    if spec.restart_policy not in RESTART_POLICIES:
        found.append(f"restart policy {spec.restart_policy!r}: expected one of {', '.join(RESTART_POLICIES)}")
    if _pod_spec(spec).get("initContainers"):
        found.append("initContainers: not supported by this runtime; put the step at the start of the command")
    known = {volume.volume for volume in spec.files} | set(_other_volumes(spec))
    found += [text for volume in spec.files for text in _file_problems(volume)]
    items = containers(spec)
    if not items:
        found.append("containers: expected at least one")
    names = [str(item.get("name", "")) for item in items]
    found += [f"containers: two are named {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    for item in items:
        found += [f"container {item.get('name', '')!r}: {text}" for text in _container_problems(item, known)]
    return found


@dataclass(frozen=True, slots=True)
class PortWish:
    """A port that a container wants published; `host_port` 0 asks for any free one."""

    container: str
    container_port: int
    host_port: int
    protocol: str
    name: str


def published_ports(spec: PodSpec) -> list[PortWish]:
    """The ports with a `hostPort`, in the order of the spec; under `hostNetwork` every port is the host's own."""
    host_network = bool(_pod_spec(spec).get("hostNetwork"))
    return [
        PortWish(
            container=str(item["name"]),
            container_port=int(port["containerPort"]),
            host_port=int(port["containerPort"] if host_network else port["hostPort"]),
            protocol=str(port.get("protocol", "TCP")),
            name=str(port.get("name", "")),
        )
        for item in containers(spec)
        for port in item.get("ports") or []
        if host_network or port.get("hostPort") is not None
    ]


def decided(wishes: Iterable[PortWish], chosen: Iterable[int]) -> list[PortStatus]:
    """The wishes with the host ports that were chosen for them, in the same order."""
    return [
        PortStatus(wish.container_port, host_port, wish.protocol, wish.name)
        for wish, host_port in zip(wishes, chosen, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class VolumePlaces:
    """Where the engine keeps a pod's volumes on this host."""

    files: Path
    disk: Path
    memory: Path


def empty_dirs(spec: PodSpec, places: VolumePlaces) -> dict[str, Path]:
    """The directory of each emptyDir volume."""
    return {
        name: (places.memory if (source.get("emptyDir") or {}).get("medium") == "Memory" else places.disk) / name
        for name, source in _other_volumes(spec).items()
        if "hostPath" not in source
    }


def sources(spec: PodSpec, places: VolumePlaces) -> dict[str, Path]:
    """The directory or file on this host behind every volume of the pod."""
    found = {
        name: Path(source["hostPath"]["path"]) for name, source in _other_volumes(spec).items() if "hostPath" in source
    }
    found.update(empty_dirs(spec, places))
    found.update({volume.volume: places.files / volume.volume for volume in spec.files})
    return found


@dataclass(frozen=True, slots=True)
class Mount:
    """One path of the host that appears in a container."""

    source: Path
    target: str
    read_only: bool


def mounts(spec: PodSpec, container: Mapping[str, Any], places: VolumePlaces) -> list[Mount]:
    """The mounts of one container; those of ConfigMaps and Secrets are always read-only."""
    known = sources(spec, places)
    fixed = {volume.volume for volume in spec.files}
    return [
        Mount(
            source=known[mount["name"]] / str(mount.get("subPath", "")),
            target=str(mount["mountPath"]),
            read_only=bool(mount.get("readOnly")) or mount["name"] in fixed,
        )
        for mount in container.get("volumeMounts") or []
    ]


def kube_document(
    spec: PodSpec,
    *,
    labels: Mapping[str, str],
    images: Mapping[str, str],
    host_ports: Iterable[int],
    places: VolumePlaces,
) -> dict[str, Any]:
    """The Pod that podman is given: images by the name found in the store, ports decided, volumes bound by path.

    `images` says for each container's name which image to run; `host_ports` follow the order of `published_ports`.
    """
    chosen = iter(host_ports)
    document_volumes: list[dict[str, Any]] = []
    host_network = bool(_pod_spec(spec).get("hostNetwork"))
    items = [
        _kube_container(spec, item, images[str(item["name"])], chosen, places, document_volumes, host_network)
        for item in containers(spec)
    ]
    body = {key: _pod_spec(spec)[key] for key in _POD_PASSED_ON if key in _pod_spec(spec)}
    body |= {
        "hostname": str(_pod_spec(spec).get("hostname") or spec.pod_id)[:MAX_HOSTNAME_CHARS].strip("-."),
        "restartPolicy": "Never",  # the agent restarts, see `podman_table`
        "containers": items,
        "volumes": document_volumes,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": spec.pod_id, "labels": dict(labels)},
        "spec": body,
    }


def memory_limit_bytes(spec: PodSpec, container: Mapping[str, Any]) -> int:
    """The container's memory limit, with the cap of its writable layer added where that is memory; 0 for no limit.

    Of each container just its own, as its node reserved it."""
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    if limit is None:
        return 0
    layer_bytes = writable_layer_mb(container) * 2**20 if spec.state is StorageState.MEMORY else 0
    return whole_bytes(limit) + layer_bytes


def _kube_container(
    spec: PodSpec,
    item: Mapping[str, Any],
    image: str,
    chosen: Iterator[int],
    places: VolumePlaces,
    volumes: list[dict[str, Any]],
    host_network: bool,
) -> dict[str, Any]:
    made: dict[str, Any] = {key: item[key] for key in _PASSED_ON if item.get(key) is not None}
    made |= {"name": item["name"], "image": image, "imagePullPolicy": "Never"}
    made["env"] = [{"name": name, "value": value} for name, value in env_of(item).items()]
    limits = dict((item.get("resources") or {}).get("limits") or {})
    if memory := memory_limit_bytes(spec, item):
        limits["memory"] = str(memory)
    if limits:
        made["resources"] = {"limits": {key: limits[key] for key in ("cpu", "memory") if key in limits}}
    made["ports"] = (
        []
        if host_network
        else [
            {
                "containerPort": int(port["containerPort"]),
                "hostPort": next(chosen),
                "protocol": str(port.get("protocol", "TCP")),
                **({"hostIP": port["hostIP"]} if port.get("hostIP") else {}),
            }
            for port in item.get("ports") or []
            if port.get("hostPort") is not None
        ]
    )
    made["volumeMounts"] = []
    for mount in mounts(spec, item, places):
        name = f"v{len(volumes)}"
        volumes.append({"name": name, "hostPath": {"path": str(mount.source)}})
        made["volumeMounts"].append({"name": name, "mountPath": mount.target, "readOnly": mount.read_only})
    return made


def _pod_spec(spec: PodSpec) -> Mapping[str, Any]:
    body = spec.pod.get("spec") or {}
    return body if isinstance(body, Mapping) else {}


def _other_volumes(spec: PodSpec) -> dict[str, Mapping[str, Any]]:
    """The volumes that the pod itself describes, without those whose files were resolved."""
    resolved = {volume.volume for volume in spec.files}
    listed = _pod_spec(spec).get("volumes") or []
    return {str(volume["name"]): volume for volume in listed if volume.get("name") not in resolved}


def _file_problems(volume: FileVolume) -> Iterator[str]:
    if not _NAME.fullmatch(volume.volume):
        yield f"volume {volume.volume!r}: expected a name of a-z, 0-9 and '-'"
    for key in volume.files:
        path = PurePosixPath(key)
        if not key or path.is_absolute() or ".." in path.parts or "\0" in key:
            yield f"volume {volume.volume!r}: file {key!r} would lie outside of the volume"


def _container_problems(item: Mapping[str, Any], volumes: set[str]) -> Iterator[str]:
    if not _NAME.fullmatch(str(item.get("name", ""))):
        yield "expected a name of a-z, 0-9 and '-'"
    if not item.get("image"):
        yield "has no image"
    if (policy := item.get("imagePullPolicy")) not in (None, "", *PullPolicy):
        yield f"imagePullPolicy {policy!r}: expected one of {', '.join(PullPolicy)}"
    for entry in item.get("env") or []:
        if "valueFrom" in entry:
            yield f"env {entry.get('name')!r} is not resolved"
        if not _ENV_NAME.fullmatch(str(entry.get("name", ""))):
            yield f"env {entry.get('name')!r}: expected a name without '='"
    for port in item.get("ports") or []:
        yield from _port_problems(port)
    for mount in item.get("volumeMounts") or []:
        if mount.get("name") not in volumes:
            yield f"mounts volume {mount.get('name')!r}, which the pod does not have"
        if not str(mount.get("mountPath", "")).startswith("/"):
            yield f"mount path {mount.get('mountPath')!r}: expected an absolute path"
        if ".." in PurePosixPath(str(mount.get("subPath", ""))).parts:
            yield f"subPath {mount.get('subPath')!r} would lie outside of the volume"
    for group, resource in _QUANTITIES:
        try:
            if (amount := ((item.get("resources") or {}).get(group) or {}).get(resource)) is not None:
                whole_bytes(amount)
        except (ValueError, TypeError):
            yield f"resources.{group}.{resource} {amount!r}: expected a quantity such as 64Mi"


def _port_problems(port: Mapping[str, Any]) -> Iterator[str]:
    inside, outside = port.get("containerPort"), port.get("hostPort", 0)
    if not isinstance(inside, int) or not 1 <= inside <= MAX_PORT:
        yield f"containerPort {inside!r}: expected 1 to {MAX_PORT}"
    if outside is not None and (not isinstance(outside, int) or not 0 <= outside <= MAX_PORT):
        yield f"hostPort {outside!r}: expected 0 (any free one) to {MAX_PORT}"
    if port.get("protocol", "TCP") not in PROTOCOLS:
        yield f"protocol {port.get('protocol')!r}: expected one of {', '.join(PROTOCOLS)}"


def _revealed(value: Any) -> str:
    if isinstance(value, SecretText):
        return value.reveal()
    return "" if value is None else str(value)
