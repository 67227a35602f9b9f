"""What the operator wants of each host: rendered, checked values in typed form."""

from __future__ import annotations

import getpass
import ipaddress
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beemesh.errors import InvalidInput, Problem
from beemesh.settings import NAME_PATTERN, Endpoint
from beemeshctl.inventory.reader import MAX_PROBLEMS, Host, Inventory
from beemeshctl.inventory.schema import check_value
from beemeshctl.inventory.templating import Renderer, TemplateFailed, holds_template
from beemeshctl.inventory.variables import Variable, table


@dataclass(frozen=True, slots=True)
class JumpHost:
    """A machine that SSH goes through."""

    host: str
    user: str = ""
    port: int = 22


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How a host is reached. Passwords never show in `repr`."""

    kind: str
    host: str
    port: int
    user: str
    private_key_file: str = ""
    password: str = field(default="", repr=False)
    become: bool = False
    become_password: str = field(default="", repr=False)
    jump: tuple[JumpHost, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageArchive:
    """An image to bring along: a local archive, the SHA-256 it must have, and the name manifests use."""

    archive: Path
    sha256: str
    name: str


@dataclass(frozen=True, slots=True)
class DesiredNode:
    """One host's wishes. `settings` is the tree of `node.yaml` without what only the host can tell."""

    host: str
    name: str
    mesh: str
    connection: ConnectionSettings
    python: str
    address: str
    gossip_port: int
    api_port: int
    keeper: bool
    failure_domain: str
    caps: dict[str, Any]
    service: str
    images: tuple[ImageArchive, ...]
    settings: dict[str, Any]

    @property
    def data_dir(self) -> str:
        """Where the agent keeps its state on the host."""
        return str(self.settings["paths"]["data"])

    @property
    def config_dir(self) -> str:
        """Where the signed files go on the host."""
        return str(self.settings["paths"]["config"])

    @property
    def prefix(self) -> str:
        """Where the agent's program files go on the host."""
        return str(self.settings["paths"]["prefix"])


def desired_nodes(inventory: Inventory, hosts: Iterable[str]) -> list[DesiredNode]:
    """Typed wishes of the named hosts.

    Every host of the inventory is looked at, so that names and ports that clash are found whichever hosts are chosen.
    Raises `InvalidInput` with every problem found.
    """
    problems: list[Problem] = []
    nodes: dict[str, DesiredNode] = {}
    for host in inventory.hosts.values():
        node = _Reading(inventory, host).node(problems)
        if node is not None:
            nodes[host.name] = node
    if not problems:
        problems += _clashes(inventory, nodes)
    if problems:
        unique = {(item.file, item.line, item.column, item.message): item for item in problems}
        shown = tuple(unique.values())[:MAX_PROBLEMS]
        raise InvalidInput(f"{inventory.file} is not a valid inventory: {len(unique)} problem(s)", problems=shown)
    return [nodes[name] for name in hosts]


class _Reading:
    """Renders and checks one host's variables."""

    def __init__(self, inventory: Inventory, host: Host) -> None:
        self._inventory = inventory
        self._host = host
        self._problems: list[Problem] = []
        raw = {name: value.raw for name, value in host.vars.items()}
        self._renderer = Renderer(
            raw,
            {
                "inventory_hostname": host.name,
                "inventory_hostname_short": host.name.split(".")[0],
                "inventory_file": str(inventory.file),
                "inventory_dir": str(inventory.file.resolve().parent),
                "group_names": host.groups,
                "groups": inventory.groups,
            },
        )

    def node(self, problems: list[Problem]) -> DesiredNode | None:
        values = {name: self._value(row) for name, row in table().items()}
        node = None if self._problems else self._build(values)
        problems += self._problems
        return None if self._problems else node

    def _value(self, row: Variable) -> Any:
        written = self._host.vars.get(row.name)
        if written is None:
            return row.default
        try:
            value = self._renderer.variable(row.name)
        except TemplateFailed as error:
            self._problems.append(written.problem(f"{row.name} of host {self._host.name}: {error}"))
            return row.default
        if holds_template(written.raw):
            value = _coerced(value, row)
            for inside, message in check_value(row, value):
                text = f"{message} (rendered for host {self._host.name})"
                self._problems.append(written.problem(text, inside=inside, hint=row.description))
        return value

    def _complain(self, variable: str, message: str, *, hint: str = "") -> None:
        written = self._host.vars.get(variable)
        if written is not None:
            self._problems.append(written.problem(message, hint=hint))
        else:
            self._problems.append(Problem(message, file=str(self._inventory.file), hint=hint))

    def _build(self, values: dict[str, Any]) -> DesiredNode | None:
        name = values["beemesh_name"] or self._host.name
        if not re.match(NAME_PATTERN, name):
            self._complain(
                "beemesh_name",
                f"host {self._host.name}: the name cannot be a node's name",
                hint="set beemesh_name: lower-case letters, digits and hyphens, at most 63",
            )
            return None
        if values["beemesh_gossip_port"] == values["beemesh_api_port"]:
            self._complain(
                "beemesh_api_port", f"host {self._host.name}: beemesh_api_port and beemesh_gossip_port are equal"
            )
        connection = self._connection(values)
        if connection is None or self._problems:
            return None
        return DesiredNode(
            host=self._host.name,
            name=name,
            mesh=values["beemesh_mesh"],
            connection=connection,
            python=values["ansible_python_interpreter"],
            address=self._address(values, connection),
            gossip_port=values["beemesh_gossip_port"],
            api_port=values["beemesh_api_port"],
            keeper=values["beemesh_keeper"],
            failure_domain=values["beemesh_failure_domain"] or "",
            caps=values["beemesh_caps"],
            service=values["beemesh_service"],
            images=self._images(values["beemesh_images"]),
            settings=_settings(values, name),
        )

    def _connection(self, values: dict[str, Any]) -> ConnectionSettings | None:
        try:
            jump = parse_jump(values["ansible_ssh_common_args"])
        except InvalidInput as error:
            self._complain("ansible_ssh_common_args", f"ansible_ssh_common_args: {error.message}", hint=error.hint)
            return None
        key_file = values["ansible_ssh_private_key_file"] or ""
        return ConnectionSettings(
            kind=values["ansible_connection"],
            host=values["ansible_host"] or self._host.name,
            port=values["ansible_port"],
            user=values["ansible_user"] or getpass.getuser(),
            private_key_file=str(self._beside(key_file)) if key_file else "",
            password=values["ansible_password"] or values["ansible_ssh_pass"] or "",
            become=values["ansible_become"],
            become_password=values["ansible_become_password"] or values["ansible_become_pass"] or "",
            jump=jump,
        )

    def _address(self, values: dict[str, Any], connection: ConnectionSettings) -> str:
        """The address others use, as far as the inventory tells it; empty means the host has to say."""
        text = values["beemesh_address"] or ""
        if text:
            if not _is_ip(text):
                self._complain("beemesh_address", f"beemesh_address: {text!r} is not an IP address")
            return str(text)
        if connection.kind == "ssh" and _is_ip(connection.host) and not connection.jump:
            return connection.host
        all_local = all(_is_local(host) for host in self._inventory.hosts.values())
        return "127.0.0.1" if all_local else ""

    def _images(self, rows: list[dict[str, Any]]) -> tuple[ImageArchive, ...]:
        images = []
        for row in rows:
            archive = self._beside(row["archive"])
            if not archive.is_file():
                self._complain("beemesh_images", f"beemesh_images: {archive} does not exist or is no file")
            images.append(ImageArchive(archive, row["sha256"].removeprefix("sha256:"), row["name"]))
        return tuple(images)

    def _beside(self, text: str) -> Path:
        path = Path(text).expanduser()
        return path if path.is_absolute() else (self._inventory.file.parent / path)


def parse_jump(arguments: str) -> tuple[JumpHost, ...]:
    """The jump hosts in `ansible_ssh_common_args`; raises `InvalidInput` for any other argument."""
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise InvalidInput(f"{arguments!r} cannot be split into arguments: {error}") from None
    jumps: list[JumpHost] = []
    while words:
        word = words.pop(0)
        if word in ("-J", "-o") and words:
            word += words.pop(0)
        match = re.fullmatch(r"-J(.+)|-o\s*ProxyJump[= ](.+)", word)
        if not match:
            raise InvalidInput(
                f"{word!r} is not supported", hint="only -J user@host:port and -o ProxyJump=user@host:port are read"
            )
        jumps += [_jump_host(text) for text in (match[1] or match[2]).split(",")]
    return tuple(jumps)


def _jump_host(text: str) -> JumpHost:
    match = re.fullmatch(r"(?:ssh://)?(?:([^@\s]+)@)?(\[[0-9a-fA-F:]+\]|[^:\s\[\]]+)(?::(\d{1,5}))?", text.strip())
    if not match:
        raise InvalidInput(f"{text!r} is not a jump host", hint="write user@host:port")
    return JumpHost(match[2].strip("[]"), match[1] or "", int(match[3] or 22))


def _settings(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The tree of `node.yaml` as far as the inventory decides it."""
    tree: dict[str, Any] = {}
    for row in table().values():
        if row.setting:
            *parents, leaf = row.setting.split(".")
            spot = tree
            for parent in parents:
                spot = spot.setdefault(parent, {})
            spot[leaf] = values[row.name]
    tree["node"]["name"] = name
    listen = str(values["beemesh_listen_address"])
    tree["listen"] = {
        "gossip": str(Endpoint(listen, values["beemesh_gossip_port"])),
        "api": str(Endpoint(listen, values["beemesh_api_port"])),
        **({"metrics": values["beemesh_metrics_listen"]} if values["beemesh_metrics_listen"] else {}),
    }
    return tree


def _clashes(inventory: Inventory, nodes: dict[str, DesiredNode]) -> Iterable[Problem]:
    """Values that are fine for each host and wrong for the mesh."""
    file = str(inventory.file)
    meshes = sorted({node.mesh for node in nodes.values()})
    if len(meshes) > 1:
        yield Problem(
            f"hosts name different meshes: {', '.join(meshes)}", file=file, hint="set beemesh_mesh once, in all.vars"
        )
    taken: dict[tuple[object, ...], str] = {}
    for node in nodes.values():
        machine = ("local",) if node.connection.kind == "local" else (node.connection.host, node.connection.port)
        claims: list[tuple[tuple[object, ...], str]] = [
            (("name", node.name), f"the node name {node.name}"),
            ((*machine, "port", node.gossip_port), f"port {node.gossip_port} on the same machine"),
            ((*machine, "port", node.api_port), f"port {node.api_port} on the same machine"),
            ((*machine, "data", node.data_dir), f"the data directory {node.data_dir} on the same machine"),
            ((*machine, "config", node.config_dir), f"the config directory {node.config_dir} on the same machine"),
        ]
        for key, what in claims:
            if key in taken:
                yield Problem(f"hosts {taken[key]} and {node.host} both use {what}", file=file)
            taken.setdefault(key, node.host)


def _coerced(value: Any, row: Variable) -> Any:
    """A template's text as the number or flag that the variable wants, where it reads as one."""
    wanted = row.schema.get("type")
    if isinstance(value, str):
        text = value.strip()
        if wanted == "integer" and re.fullmatch(r"-?\d{1,12}", text):
            return int(text)
        if wanted == "boolean" and text.lower() in ("true", "false", "yes", "no"):
            return text.lower() in ("true", "yes")
    if wanted == "string" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_local(host: Host) -> bool:
    value = host.vars.get("ansible_connection")
    return value is not None and value.raw == "local"
