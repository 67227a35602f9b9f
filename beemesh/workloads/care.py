"""A pod's care as its manifest words it: probes, hooks and grace, small enough to travel with the pod as a label.

The manifest is sealed and gone once a pod runs, but its agent has to go on probing, and so has the next one after a
restart. What they need is kept where the container's own configuration is: in the runtime's store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from beemesh.undecodable import UNDECODABLE

Kind = Literal["startup", "liveness", "readiness"]
KINDS: tuple[Kind, ...] = ("startup", "liveness", "readiness")

DEFAULT_GRACE_S = 30
"""Seconds between asking a pod to end and ending it (Kubernetes)."""


class HttpGet(msgspec.Struct, frozen=True, omit_defaults=True, tag="http"):
    """Ask by HTTP; a status from 200 to 399 is good. A certificate is not verified (as a kubelet)."""

    port: int
    path: str = "/"
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()


class TcpSocket(msgspec.Struct, frozen=True, omit_defaults=True, tag="tcp"):
    """Open a connection; that it opens is good."""

    port: int


class Exec(msgspec.Struct, frozen=True, omit_defaults=True, tag="exec"):
    """Run a command inside the container; exit code 0 is good."""

    command: tuple[str, ...]


class Sleep(msgspec.Struct, frozen=True, omit_defaults=True, tag="sleep"):
    """Wait. Only for hooks."""

    seconds: int


Action = HttpGet | TcpSocket | Exec | Sleep


class ProbeSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One probe with Kubernetes' defaults."""

    kind: Kind
    action: Action
    initial_delay_s: int = 0
    period_s: int = 10
    timeout_s: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3
    grace_s: int | None = None


class ContainerCare(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the agent looks after in one container."""

    probes: tuple[ProbeSpec, ...] = ()
    pre_stop: Action | None = None
    ports: tuple[int, ...] = ()
    """The container's own ports."""

    @property
    def has_readiness(self) -> bool:
        """Whether the container itself says when it is ready."""
        return any(probe.kind == "readiness" for probe in self.probes)


class PodCare(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the agent looks after in one pod, by the names of its containers."""

    containers: dict[str, ContainerCare] = {}
    grace_s: int = DEFAULT_GRACE_S

    def encode(self) -> str:
        """As a label's value."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> PodCare:
        """From a label's value; a missing or damaged one means a pod without probes."""
        try:
            return msgspec.json.decode(text.encode(errors="replace"), type=cls)
        except UNDECODABLE:
            return cls()


def care_of(spec: Mapping[str, Any]) -> PodCare:
    """The care that a pod's spec asks for; its fields were checked when the manifest was."""
    return PodCare(
        containers={str(item["name"]): _container(item) for item in spec.get("containers", [])},
        grace_s=int(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)),
    )


def _container(item: Mapping[str, Any]) -> ContainerCare:
    named = {port["name"]: int(port["containerPort"]) for port in item.get("ports", []) if port.get("name")}
    hook = item.get("lifecycle", {}).get("preStop")
    return ContainerCare(
        probes=tuple(_probe(kind, item[f"{kind}Probe"], named) for kind in KINDS if item.get(f"{kind}Probe")),
        pre_stop=_action(hook, named) if hook else None,
        ports=tuple(int(port["containerPort"]) for port in item.get("ports", [])),
    )


def _probe(kind: Kind, probe: Mapping[str, Any], named: Mapping[str, int]) -> ProbeSpec:
    defaults = ProbeSpec(kind, _action(probe, named))
    return msgspec.structs.replace(
        defaults,
        initial_delay_s=int(probe.get("initialDelaySeconds", defaults.initial_delay_s)),
        period_s=max(int(probe.get("periodSeconds", defaults.period_s)), 1),
        timeout_s=max(int(probe.get("timeoutSeconds", defaults.timeout_s)), 1),
        success_threshold=max(int(probe.get("successThreshold", defaults.success_threshold)), 1),
        failure_threshold=max(int(probe.get("failureThreshold", defaults.failure_threshold)), 1),
        grace_s=probe.get("terminationGracePeriodSeconds"),
    )


def _action(handler: Mapping[str, Any], named: Mapping[str, int]) -> Action:
    if "httpGet" in handler:
        asked = handler["httpGet"]
        headers = tuple((str(each["name"]), str(each["value"])) for each in asked.get("httpHeaders", []))
        return HttpGet(_port(asked["port"], named), asked.get("path") or "/", asked.get("scheme", "HTTP"), headers)
    if "tcpSocket" in handler:
        return TcpSocket(_port(handler["tcpSocket"]["port"], named))
    if "sleep" in handler:
        return Sleep(int(handler["sleep"]["seconds"]))
    return Exec(tuple(str(word) for word in handler["exec"].get("command", [])))


def _port(port: Any, named: Mapping[str, int]) -> int:
    return named[port] if isinstance(port, str) and not port.isdecimal() else int(port)
