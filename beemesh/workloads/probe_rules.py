"""What is wrong with a container's probes and hooks, beyond what the field tables see."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from beemesh.workloads.objects import Finding, Path, path_text, shown
from beemesh.workloads.schema import did_you_mean

PORT_MAX = 65535
HANDLERS = ("exec", "httpGet", "tcpSocket")
HOOK_HANDLERS = ("exec", "httpGet", "sleep")
CARE_BYTES_MAX = 64 * 1024
"""Probes and hooks of one container: they travel with the pod as a label of its containers."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_CONTROL_BUT_SPACE = re.compile(r"[\x00-\x1f\x7f]")


def probe_findings(container: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    """Everything wrong with the probes and the `preStop` hook of one container."""
    ports = [port["name"] for port in container.get("ports", []) if port.get("name")]
    cared = {name: container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe") if name in container}
    for name, probe in cared.items():
        place = (*path, name)
        yield from _handler(probe, HANDLERS, ports, place)
        if name != "readinessProbe" and probe.get("successThreshold", 1) != 1:
            yield Finding((*place, "successThreshold"), f"{path_text((*place, 'successThreshold'))} must be 1")
        if name == "readinessProbe" and "terminationGracePeriodSeconds" in probe:
            field = (*place, "terminationGracePeriodSeconds")
            yield Finding(
                field, f"{path_text(field)} means nothing: an unready container is not restarted", "remove it"
            )
    hook = container.get("lifecycle", {}).get("preStop")
    if hook is not None:
        yield from _handler(hook, HOOK_HANDLERS, ports, (*path, "lifecycle", "preStop"))
    if sum(len(str(value)) for value in (*cared.values(), hook or "")) > CARE_BYTES_MAX:
        yield Finding(path, f"the probes and hooks of {path_text(path)} have more than {CARE_BYTES_MAX} bytes")


def _handler(handler: Mapping[str, Any], known: tuple[str, ...], ports: list[str], path: Path) -> Iterator[Finding]:
    named = [name for name in known if name in handler]
    if len(named) != 1:
        yield Finding(path, f"{path_text(path)} must have one of {', '.join(known)}")
    if "exec" in handler:
        place = (*path, "exec", "command")
        words = handler["exec"].get("command", [])
        if not words or not words[0]:
            yield Finding((*path, "exec"), f"{path_text(place)} must name a command")
        if any("\0" in word for word in words):
            yield Finding(place, f"{path_text(place)} must not hold a zero byte")
    for name in ("httpGet", "tcpSocket"):
        if name in handler and "port" in handler[name]:
            yield from _port(handler[name]["port"], ports, (*path, name, "port"))
    if "httpGet" in handler:
        yield from _request(handler["httpGet"], (*path, "httpGet"))


def _port(port: str | int, ports: list[str], path: Path) -> Iterator[Finding]:
    if isinstance(port, str) and not port.isdecimal():
        if port not in ports:
            hint = did_you_mean(port, ports) or "give the port this name in the container's ports, or write its number"
            yield Finding(path, f"no port of the container is named {shown(port)}", hint)
    elif not 1 <= int(port) <= PORT_MAX:
        yield Finding(path, f"{path_text(path)} {shown(port)} must be from 1 to {PORT_MAX}")


def _request(request: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    if _CONTROL.search(request.get("path", "")):
        place = (*path, "path")
        yield Finding(place, f"{path_text(place)} must not hold blanks or control characters", "write them as %20")
    for index, header in enumerate(request.get("httpHeaders", [])):
        place = (*path, "httpHeaders", index)
        if "name" in header and not _TOKEN.fullmatch(header["name"]):
            yield Finding((*place, "name"), f"{path_text((*place, 'name'))} is no name of an HTTP header")
        if _CONTROL_BUT_SPACE.search(header.get("value", "")):
            yield Finding((*place, "value"), f"{path_text((*place, 'value'))} must not hold control characters")
