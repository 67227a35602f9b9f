"""What a host told about itself: the question, the answer, and what in it forbids a bootstrap. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import msgspec

from beemesh.errors import BeemeshError
from beemesh.settings import parse_endpoint
from beemesh.undecodable import UNDECODABLE
from beemeshctl.bundle import MIN_PYTHON, Target
from beemeshctl.inventory.desired import DesiredNode

MIN_PODMAN = (4, 3)
"""The oldest podman tried: Debian 12's."""

MIN_FREE_BYTES = 512 * 1024 * 1024
"""The agent's release takes 40 MiB unpacked; below this much a host fails at the first image."""

MIN_MEMORY_BYTES = 256 * 1024 * 1024
"""Agent, podman and one small pod fit; less is killed sooner or later."""

MAX_CLOCK_SKEW_MS = 30_000
"""Datagrams are refused beyond it (DESIGN section 4), so a node could never join."""

ARCHITECTURES = ("x86_64", "aarch64", "armv7l", "ppc64le", "s390x", "riscv64")


class Disk(msgspec.Struct, frozen=True):
    """Room and rights where a path is, or would be."""

    free_bytes: int
    total_bytes: int
    writable: bool
    error: str = ""


class Port(msgspec.Struct, frozen=True):
    """Whether a port can be had, and who has it if not."""

    free: bool
    error: str = ""
    pid: int = 0
    command: str = ""


class FileState(msgspec.Struct, frozen=True):
    """What a file holds and who may read it."""

    sha256: str
    mode: int


class Podman(msgspec.Struct, frozen=True):
    """podman and the low-level runtime it would use; empty where missing."""

    path: str
    version: str
    runtime: str


class SwapArea(msgspec.Struct, frozen=True):
    """A swap device; `kind` is zram, encrypted or plain."""

    device: str
    kind: str


class ServiceState(msgspec.Struct, frozen=True):
    """What systemd says about the agent's unit."""

    active: bool
    enabled: bool
    reload: bool


class Facts(msgspec.Struct, frozen=True):
    """A host as it was found."""

    python: tuple[int, int, int]
    implementation: str
    executable: str
    gil_disabled: bool
    uid: int
    arch: str
    libc: tuple[str, int, int]
    hostname: str
    machine_id: str
    kernel: str
    systemd: bool
    cpus: int
    memory_bytes: int
    swap: tuple[SwapArea, ...]
    address: str
    podman: Podman
    disks: dict[str, Disk]
    ports: dict[str, Port]
    files: dict[str, FileState | None]
    release: str
    keys: bool
    service: ServiceState
    supervised: bool
    wall_ms: int

    @property
    def target(self) -> Target:
        """What a bundle for this host has to fit."""
        kind, major, minor = self.libc
        return Target((self.python[0], self.python[1]), self.arch, kind, (major, minor))

    @property
    def machine(self) -> str:
        """A name for the machine, the same for all agents on it, that gives its id away to nobody."""
        return hashlib.sha256(f"beemesh-machine:{self.machine_id}:{self.hostname}".encode()).hexdigest()[:24]


def unit_name(node: DesiredNode) -> str:
    """The agent's systemd unit; several agents on one host are told apart by name."""
    return "beemesh-agent.service" if node.config_dir == "/etc/beemesh" else f"beemesh-agent-{node.name}.service"


def question(node: DesiredNode, files: list[str]) -> str:
    """The argument for the facts script."""
    gossip, api = (parse_endpoint(node.settings["listen"][name]) for name in ("gossip", "api"))
    return json.dumps(
        {
            "paths": [node.data_dir, node.prefix, node.config_dir],
            "ports": {
                "gossip UDP": [gossip.host, gossip.port, True],
                "gossip TCP": [gossip.host, gossip.port, False],
                "api TCP": [api.host, api.port, False],
            },
            "files": files,
            "release_link": f"{node.prefix}/current",
            "key_file": f"{node.data_dir}/keys/x25519",
            "lock_file": f"{node.data_dir}/service.lock",
            "unit": unit_name(node),
        }
    )


def parse(output: bytes) -> Facts:
    """Facts from the script's output; raises `BeemeshError` when the host's Python said something else."""
    start = output.find(b"{")
    try:
        return msgspec.json.decode(output[max(start, 0) :], type=Facts)
    except UNDECODABLE as error:
        raise BeemeshError(
            f"the host's answer to the first question cannot be read: {error}",
            hint="does its login shell print something of its own? It said: " + output[:200].decode("utf-8", "replace"),
        ) from None


def clock_skew_ms(remote_ms: int, asked_ms: int, answered_ms: int) -> int:
    """How far a host's clock is off at least, given when we asked and when the answer was here; signed."""
    if remote_ms < asked_ms:
        return remote_ms - asked_ms
    return max(0, remote_ms - answered_ms)


def problems(node: DesiredNode, facts: Facts, skew_ms: int) -> Iterator[str]:
    """Everything that forbids a bootstrap of this host, each with what to do."""
    yield from _python(node, facts)
    yield from _rights(node, facts)
    yield from _engine(node, facts)
    yield from _room(node, facts)
    if abs(skew_ms) > MAX_CLOCK_SKEW_MS:
        direction = "behind" if skew_ms < 0 else "ahead"
        yield (
            f"its clock is {abs(skew_ms) / 1000:.0f} s {direction} of this machine's, at most "
            f"{MAX_CLOCK_SKEW_MS // 1000} s are allowed: run `timedatectl set-ntp true` there, or check the clock here"
        )
    for name, port in facts.ports.items():
        if not port.free and not _is_ours(node, port):
            holder = f"taken by {port.command[:80]} (pid {port.pid})" if port.command else port.error
            number = node.api_port if name.startswith("api") else node.gossip_port
            variable = "beemesh_api_port" if name.startswith("api") else "beemesh_gossip_port"
            yield f"port {number} ({name}) cannot be had, {holder}: stop that, or set {variable}"
    if node.service == "systemd" and not facts.systemd:
        yield "beemesh_service is systemd, and systemd does not run there: set it to auto or supervised"


def warnings(node: DesiredNode, facts: Facts) -> Iterator[str]:
    """What works and should be known."""
    plain = [area.device for area in facts.swap if area.kind == "plain"]
    admission = node.settings["policies"]["admission"]
    if plain and not admission["allow_plain_swap"] and node.settings["runtime"]["engine"] == "podman":
        yield (
            f"swap on {', '.join(plain)} is not encrypted: sealed work will be refused there until it is off "
            "(swapoff -a), encrypted or zram, or beemesh_allow_plain_swap is true"
        )
    if node.settings["runtime"]["engine"] == "process":
        yield "beemesh_runtime is process: pods run as processes of the host, with few walls between them"


def address_of(node: DesiredNode, facts: Facts, peer_address: str) -> str:
    """Where others reach the node: as written, else as we reached it, else as the host sees itself."""
    return node.address or peer_address or facts.address


def service_manager(node: DesiredNode, facts: Facts) -> str:
    """`systemd` or `supervised`."""
    if node.service == "auto":
        return "systemd" if facts.systemd and facts.uid == 0 else "supervised"
    return node.service


def _python(node: DesiredNode, facts: Facts) -> Iterator[str]:
    version = ".".join(map(str, facts.python))
    if facts.python[:2] < MIN_PYTHON:
        yield (
            f"Python {version} is too old, {MIN_PYTHON[0]}.{MIN_PYTHON[1]} is needed: install a newer one beside it "
            "and set ansible_python_interpreter"
        )
    if facts.implementation != "cpython" or facts.gil_disabled:
        yield f"{node.python} is no ordinary CPython: set ansible_python_interpreter to one"
    if facts.libc[0] == "unknown" or facts.arch not in ARCHITECTURES:
        yield f"no wheels exist for {facts.arch} with this C library: use {', '.join(ARCHITECTURES)} on glibc or musl"


def _rights(node: DesiredNode, facts: Facts) -> Iterator[str]:
    podman = node.settings["runtime"]["engine"] == "podman"
    if facts.uid != 0 and (podman or node.service == "systemd"):
        yield "the agent has to be root's here: log in as root, or set ansible_become: true"
        return
    for path, disk in facts.disks.items():
        if not disk.writable:
            yield f"{path} cannot be written: log in as root, or set {_variable_of(node, path)}"


def _engine(node: DesiredNode, facts: Facts) -> Iterator[str]:
    if node.settings["runtime"]["engine"] != "podman":
        return
    if not facts.podman.path:
        yield "podman is not installed: apt-get install podman (or dnf), or set beemesh_runtime: process"
        return
    version = tuple(int(part) for part in facts.podman.version.split(".")[:2] if part.isdecimal())
    if version < MIN_PODMAN:
        wanted = ".".join(map(str, MIN_PODMAN))
        yield f"podman {facts.podman.version or 'of an unknown version'} is too old, {wanted} is needed: upgrade it"
    if not facts.podman.runtime:
        yield "podman has no runtime: apt-get install crun (or runc)"


def _room(node: DesiredNode, facts: Facts) -> Iterator[str]:
    for path in (node.data_dir, node.prefix):
        disk = facts.disks[path]
        if disk.free_bytes < MIN_FREE_BYTES:
            free, wanted = disk.free_bytes // 1048576, MIN_FREE_BYTES // 1048576
            yield f"{path} has {free} MiB free, {wanted} are needed: make room, or set {_variable_of(node, path)}"
    if 0 < facts.memory_bytes < MIN_MEMORY_BYTES:
        yield f"{facts.memory_bytes // 1048576} MiB of memory are too little, {MIN_MEMORY_BYTES // 1048576} are needed"


def _is_ours(node: DesiredNode, port: Port) -> bool:
    """Whether the port is held by the very agent that is being set up."""
    words = port.command.split()
    ours = any("launch.py" in word or word == "agent.main" for word in words)
    return ours and node.config_dir in words


def _variable_of(node: DesiredNode, path: str) -> str:
    names = {node.data_dir: "beemesh_data_dir", node.prefix: "beemesh_prefix", node.config_dir: "beemesh_config_dir"}
    return names[path]
