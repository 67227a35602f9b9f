"""Renders what goes to a host from the templates in `playbooks/templates`, and checks it as the agent will."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from beemesh import settings as node_settings
from beemesh.settings import NodeSettings
from beemeshctl.inventory.desired import DesiredNode

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

SYSTEMD_FOLDER = "/etc/systemd/system"

_UNESCAPED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.")


def settings_of(node: DesiredNode, *, manager: str, seeds: Sequence[str]) -> NodeSettings:
    """The complete settings of a node; raises `InvalidInput` when the values contradict each other."""
    tree = {**node.settings, "seeds": list(seeds), "service": {"manager": manager}}
    return node_settings.decode(tree, file=f"the configuration of {node.host}")


def node_yaml(settings: NodeSettings) -> bytes:
    """The text of `node.yaml`, read back and compared, so that no template can change a value."""
    from beemeshctl.inventory.positions import parse_document

    text = _render("node.yaml.j2", msgspec.to_builtins(settings))
    again = node_settings.decode(parse_document(text, "node.yaml").data)
    if again != settings:
        raise AssertionError("node.yaml.j2 does not render the settings that it was given")
    return text.encode()


def launcher(python: str, prefix: str) -> bytes:
    """`bin/beemesh-agent`: runs whatever release is current on the host's Python."""
    return (
        "#!/bin/sh\n"
        "# Starts the agent of this prefix; written by `beemeshctl bootstrap`.\n"
        f'exec {shlex.quote(python)} -I {shlex.quote(prefix)}/current/launch.py "$@"\n'
    ).encode()


def systemd_units(settings: NodeSettings, unit: str) -> dict[str, bytes]:
    """The unit files of an agent by path; the store's mount comes with podman's memory-backed state."""
    values: dict[str, Any] = msgspec.to_builtins(settings)
    mount = ""
    units: dict[str, bytes] = {}
    if settings.runtime.engine == "podman" and settings.runtime.state == "memory":
        mount = mount_unit(settings.paths.state)
        units[f"{SYSTEMD_FOLDER}/{mount}"] = _render("state.mount.j2", values).encode()
    units[f"{SYSTEMD_FOLDER}/{unit}"] = _render("beemesh-agent.service.j2", {**values, "mount_unit": mount}).encode()
    return units


def mount_unit(path: str) -> str:
    """The name systemd insists on for the mount unit of a path (`systemd-escape --path --suffix=mount`)."""
    parts = [part for part in path.split("/") if part]
    escaped = "-".join(
        "".join(
            character
            if character in _UNESCAPED and not (character == "." and index == 0 and part == parts[0])
            else code
            for index, character in enumerate(part)
            for code in ["".join(f"\\x{byte:02x}" for byte in character.encode())]
        )
        for part in parts
    )
    return f"{escaped}.mount"


def _render(template: str, values: Mapping[str, Any]) -> str:
    return str(_environment().get_template(template).render(values))


@cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    import playbooks

    folder = Path(next(iter(playbooks.__path__))) / "templates"
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment
