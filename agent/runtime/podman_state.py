"""What podman says about its containers, turned into `PodStatus`; and what its error messages mean."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from agent.runtime.contract import (
    LABEL_POD,
    ContainerState,
    ContainerStatus,
    FailureReason,
    PodPhase,
    PodSpec,
    PodStatus,
    PortStatus,
    RuntimeFailure,
)
from agent.runtime.images import failure_of
from agent.runtime.logfile import time_ms
from agent.runtime.odd import ODD_SHAPE

LABEL_ENGINE = "beemesh.io/engine"
"""What the engine must know again after a restart, as JSON: no value of it is secret."""

RESTARTING = "Restarting"
RESTING = "CrashLoopBackOff"
"""Kubernetes' word for a container that ends so often that it has to wait before its next start."""
_PORT = re.compile(r":(\d+): bind: address already in use|port (\d+)\S* (?:is )?already allocated")


Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class EngineNote:
    """The content of `LABEL_ENGINE`."""

    restart_policy: str
    images: Mapping[str, str]
    ports: tuple[PortStatus, ...]

    def encode(self) -> str:
        """As the label's value."""
        ports = [[port.container_port, port.host_port, port.protocol, port.name] for port in self.ports]
        return json.dumps({"restart": self.restart_policy, "images": dict(self.images), "ports": ports})

    @classmethod
    def decode(cls, text: str) -> EngineNote:
        """From the label's value; a damaged one counts as empty."""
        try:
            body = json.loads(text)
            return cls(
                restart_policy=str(body["restart"]),
                images={str(name): str(image) for name, image in body["images"].items()},
                ports=tuple(PortStatus(int(p[0]), int(p[1]), str(p[2]), str(p[3])) for p in body["ports"]),
            )
        except ODD_SHAPE:
            return cls("Always", {}, ())


def note_of(spec: PodSpec, ports: Iterable[PortStatus]) -> EngineNote:
    """What to remember of a pod."""
    listed = (spec.pod.get("spec") or {}).get("containers") or []
    return EngineNote(
        restart_policy=spec.restart_policy,
        images={str(item["name"]): str(item["image"]) for item in listed},
        ports=tuple(ports),
    )


@dataclass(frozen=True, slots=True)
class PodmanContainer:
    """One container as `podman ps` and `podman container inspect` show it."""

    container_id: str
    podman_pod: str
    name: str
    labels: Mapping[str, str]
    state: str
    pid: int
    exit_code: int
    started_at_ms: int
    finished_at_ms: int
    created_at_ms: int
    infra: bool
    restarts: int = 0
    oom: bool = False
    ip: str = ""
    last_exit_code: int | None = None
    """How its run before this one ended, where it was started again."""

    @property
    def pod_id(self) -> str:
        """The beemesh pod it belongs to; empty for what is not ours."""
        return self.labels.get(LABEL_POD, "")


def parse_ps(output: bytes) -> list[PodmanContainer]:
    """The containers of `podman ps -a --format json`; raises `RuntimeFailure` when it is something else."""
    return _read(
        output,
        lambda item: PodmanContainer(
            container_id=str(item["Id"]),
            podman_pod=str(item.get("Pod") or ""),
            name=str((item.get("Names") or [""])[0]),
            labels={str(key): str(value) for key, value in (item.get("Labels") or {}).items()},
            state=str(item.get("State") or ""),
            pid=int(item.get("Pid") or 0),
            exit_code=int(item.get("ExitCode") or 0),
            started_at_ms=max(int(item.get("StartedAt") or 0), 0) * 1000,
            finished_at_ms=max(int(item.get("ExitedAt") or 0), 0) * 1000,
            created_at_ms=max(int(item.get("Created") or 0), 0) * 1000,
            infra=bool(item.get("IsInfra")),
        ),
    )


def with_details(container: PodmanContainer, details: Mapping[str, Any]) -> PodmanContainer:
    """The container with what only `podman container inspect` tells: exact times, restarts, address, end by OOM.
    Raises `RuntimeFailure` when it tells something else."""
    try:
        return _with_details(container, details)
    except ODD_SHAPE as error:
        raise _odd(error) from error


def _with_details(container: PodmanContainer, details: Mapping[str, Any]) -> PodmanContainer:
    state = details.get("State") or {}
    network = details.get("NetworkSettings") or {}
    addresses = [str(one.get("IPAddress") or "") for one in (network.get("Networks") or {}).values()]
    return replace(
        container,
        started_at_ms=max(time_ms(str(state.get("StartedAt") or "").encode()), 0) or container.started_at_ms,
        restarts=restarts_of(details),
        oom=bool(state.get("OOMKilled")),
        ip=next((address for address in addresses if address), str(network.get("IPAddress") or "")),
    )


def parse_inspect(output: bytes) -> dict[str, Mapping[str, Any]]:
    """The details of `podman container inspect`, by the container's id; raises `RuntimeFailure`."""
    return dict(_read(output, lambda item: (str(item["Id"]), dict(item))))


def restarts_of(details: Mapping[str, Any]) -> int:
    """How often podman started a container again; raises `RuntimeFailure` when it does not say."""
    try:
        return int(details.get("RestartCount") or 0)
    except ODD_SHAPE as error:
        raise _odd(error) from error


def parse_pods(output: bytes) -> list[str]:
    """The names in `podman pod ps --format json`; raises `RuntimeFailure`."""
    return _read(output, lambda item: str(item.get("Name")))


def pod_statuses(
    found: Iterable[PodmanContainer], stopped: Iterable[str], resting: Iterable[str] = ()
) -> dict[str, PodStatus]:
    """The pods that these containers make up.

    `stopped` names the pods that were asked to stop, `resting` the containers that fail so often that they must wait.
    """
    groups: dict[str, list[PodmanContainer]] = {}
    addresses: dict[str, str] = {}
    for container in found:
        if container.infra:
            addresses[container.podman_pod] = container.ip
        elif container.pod_id:
            groups.setdefault(container.pod_id, []).append(container)
    halted, waiting = set(stopped), set(resting)
    return {
        pod_id: _pod_status(pod_id, members, pod_id in halted, waiting, addresses.get(members[0].podman_pod, ""))
        for pod_id, members in groups.items()
    }


def _pod_status(pod_id: str, members: list[PodmanContainer], stopped: bool, resting: set[str], ip: str) -> PodStatus:
    note = EngineNote.decode(members[0].labels.get(LABEL_ENGINE, ""))
    statuses = tuple(
        _container_status(member, pod_id, note, stopped, member.container_id in resting)
        for member in sorted(members, key=lambda member: member.name)
    )
    started = [status.started_at_ms for status in statuses if status.started_at_ms]
    phase = phase_of(statuses)
    return PodStatus(
        pod_id=pod_id,
        labels={key: value for key, value in members[0].labels.items() if key != LABEL_ENGINE},
        phase=phase,
        containers=statuses,
        ports=note.ports,
        started_at_ms=min(started, default=0),
        reason=next((status.reason for status in statuses if status.reason), ""),
        ip=ip,
    )


def _container_status(
    member: PodmanContainer, pod_id: str, note: EngineNote, stopped: bool, resting: bool
) -> ContainerStatus:
    name = member.name.removeprefix(f"{pod_id}-")
    ended = member.state in ("exited", "stopped", "dead")
    state, reason = ContainerState.EXITED, ""
    if member.state in ("running", "paused", "stopping"):
        state = ContainerState.RUNNING
    elif member.state in ("created", "configured", "initialized", "unknown", ""):
        state, reason = ContainerState.WAITING, "Created"
    elif will_restart(note.restart_policy, member.exit_code) and not stopped:
        state, reason = ContainerState.WAITING, RESTING if resting else RESTARTING
    else:
        reason = exit_reason(member.exit_code, oom=member.oom, stopped=stopped)
    return ContainerStatus(
        name=name,
        image=note.images.get(name, ""),
        state=state,
        exit_code=member.exit_code if ended else member.last_exit_code,
        restarts=member.restarts,
        started_at_ms=member.started_at_ms,
        finished_at_ms=member.finished_at_ms if ended or member.restarts else 0,
        reason=reason,
        pid=member.pid if state is ContainerState.RUNNING else 0,
    )


def will_restart(policy: str, exit_code: int) -> bool:
    """Whether a container that ended with this code is started again under the policy."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def exit_reason(exit_code: int, *, oom: bool, stopped: bool) -> str:
    """Kubernetes' word for an end."""
    if oom:
        return "OOMKilled"
    if stopped:
        return "Stopped"
    return "Completed" if exit_code == 0 else "Error"


def phase_of(statuses: Iterable[ContainerStatus]) -> PodPhase:
    """The phase that Kubernetes derives from containers in these states."""
    listed = list(statuses)
    if any(status.state is ContainerState.RUNNING or status.reason in (RESTARTING, RESTING) for status in listed):
        return PodPhase.RUNNING
    if not listed or any(status.state is ContainerState.WAITING for status in listed):
        return PodPhase.PENDING
    return PodPhase.FAILED if any(status.exit_code for status in listed) else PodPhase.SUCCEEDED


def start_failure(pod_id: str, text: str) -> RuntimeFailure:
    """The typed failure behind a `podman kube play` that did not work."""
    if match := _PORT.search(text):
        port = match.group(1) or match.group(2)
        return RuntimeFailure(
            FailureReason.PORT_IN_USE,
            f"pod {pod_id}: port {port} of this host is taken",
            hint=f"see by whom with: ss -lnp | grep :{port}; or ask for any free one with beemesh.io/publish: auto",
        )
    if "image not known" in text or "no such image" in text:
        return RuntimeFailure(
            FailureReason.IMAGE_NOT_FOUND,
            f"pod {pod_id}: its image is not in the store any more",
            hint="load it again (beemesh_images), or let it be pulled (imagePullPolicy: IfNotPresent)",
        )
    if "cannot allocate memory" in text or "out of memory" in text.lower():
        return RuntimeFailure(
            FailureReason.OUT_OF_MEMORY,
            f"pod {pod_id}: there is not enough memory to start it",
            hint="raise resources.limits.memory, or free memory on the node",
        )
    failure = failure_of(text, f"pod {pod_id} did not start")
    if failure.reason is FailureReason.ENGINE_ERROR:
        command = re.search(r'exec: "([^"]+)": (.+?)(?:: OCI|$)', text, re.MULTILINE)
        detail = f"cannot run {command.group(1)!r}: {command.group(2)}" if command else failure.message
        return RuntimeFailure(
            FailureReason.START_FAILED,
            f"pod {pod_id}: {detail}" if command else detail,
            hint="check command, args and image of its containers",
        )
    return failure


def lost_a_race(failure: RuntimeFailure) -> bool:
    """Whether a start failed only because another engine of this host set its network up in the same moment.

    netavark looks for its firewall chains and then makes them; podman's lock keeps only its own engine from that.
    """
    return "Chain already exists" in failure.message


def _read(output: bytes, read: Callable[[Any], Read]) -> list[Read]:
    """Every entry of a JSON list that podman put out."""
    try:
        listed = json.loads(output or b"[]") or []
        return [read(item) for item in listed] if isinstance(listed, list) else []
    except ODD_SHAPE as error:
        raise _odd(error) from error


def _odd(error: Exception) -> RuntimeFailure:
    return RuntimeFailure(
        FailureReason.ENGINE_ERROR,
        f"podman answered with something that is not its JSON: {type(error).__name__}: {error}",
        hint="is it podman 4.3 or later?",
    )
