"""What `doctor` tells about a machine's runtime: facts looked up, and how to mend what is wrong."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Protocol

from agent.runtime.command import CallResult
from agent.runtime.contract import Finding, RuntimeFailure, Severity, StorageState
from agent.runtime.mounts import filesystem_of
from agent.runtime.podman_setup import PodmanSetup, has_cgroups_v2, oci_runtime

OLDEST_PODMAN = (4, 3)
VERSION_TIMEOUT_S = 10.0
LEAST_FREE_PART = 0.1  # below this part of the store free, the next pod may find no room
NEEDED = ("conmon", "netavark", "catatonit")
HELPER_DIRS = ("/usr/libexec/podman", "/usr/lib/podman", "/usr/local/libexec/podman")
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.\d+)?")


class PodmanCall(Protocol):
    """Runs podman with these words."""

    def __call__(self, words: list[str], *, timeout_s: float) -> Awaitable[CallResult]:
        """See `PodmanRuntime`."""
        ...


async def podman_findings(setup: PodmanSetup, podman: PodmanCall) -> list[Finding]:
    """Everything about podman on this machine that a person should know."""
    return [*await _version(podman), *_programs(), *_store(setup), *swap_findings(), *_image_store(setup)]


async def _version(podman: PodmanCall) -> list[Finding]:
    try:
        result = await podman(["--version"], timeout_s=VERSION_TIMEOUT_S)
    except RuntimeFailure as failure:
        return [Finding("podman", Severity.ERROR, failure.message, failure.hint)]
    text = result.stdout.decode("utf-8", "replace").strip()
    match = _VERSION.search(text)
    if result.exit_code or match is None:
        return [Finding("podman", Severity.ERROR, f"podman does not tell its version: {result.error_text[:200]}")]
    if (int(match.group(1)), int(match.group(2))) < OLDEST_PODMAN:
        wanted = ".".join(map(str, OLDEST_PODMAN))
        return [Finding("podman", Severity.ERROR, f"{text}; expected {wanted} or later", "upgrade podman")]
    return [Finding("podman", Severity.OK, text)]


def _programs() -> Iterator[Finding]:
    runtime = oci_runtime()
    places = os.pathsep.join([os.environ.get("PATH", ""), *HELPER_DIRS, "/usr/sbin", "/sbin"])
    for name in (runtime, *NEEDED):
        if shutil.which(name, path=places) is None:
            yield Finding("podman-parts", Severity.ERROR, f"{name} is not installed", f"apt-get install {name}")
    if not has_cgroups_v2() and runtime != "runc":
        yield Finding(
            "cgroups", Severity.ERROR, "cgroups v1 or hybrid, which crun does not take", "apt-get install runc"
        )


def _store(setup: PodmanSetup) -> Iterator[Finding]:
    if setup.settings.state is StorageState.DISK:
        yield Finding(
            "store",
            Severity.WARNING,
            f"{setup.root}: container state is kept on disk, with env values and secrets in the clear",
            "set runtime.state: memory",
        )
        return
    if not setup.is_mounted():
        yield Finding(
            "store",
            Severity.ERROR,
            f"{setup.root}: the memory-backed store is not mounted",
            "restart the agent, which mounts it; it must run as root",
        )
        return
    if filesystem_of(setup.root) != "tmpfs":
        yield Finding(
            "store",
            Severity.ERROR,
            f"{setup.root}: expected a tmpfs, found {filesystem_of(setup.root)}: plaintext would reach a disk",
            "unmount it and restart the agent",
        )
        return
    room = os.statvfs(setup.root)
    free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    severity = Severity.OK if free > size * LEAST_FREE_PART else Severity.WARNING
    yield Finding(
        "store",
        severity,
        f"{setup.root}: tmpfs, {free >> 20} of {size >> 20} MiB free",
        "" if severity is Severity.OK else "raise runtime.state_size_mb, or remove pods",
    )


def _image_store(setup: PodmanSetup) -> Iterator[Finding]:
    path = setup.settings.image_store
    if not path.is_dir():
        yield Finding("images", Severity.ERROR, f"{path}: there is no image store", "restart the agent")
        return
    if filesystem_of(path) == "overlay":
        yield Finding(
            "images",
            Severity.ERROR,
            f"{path}: lies on an overlay file system, which podman's overlay cannot use",
            "put paths.data on ext4, xfs or btrfs (inside a container: on a volume)",
        )
        return
    room = os.statvfs(path)
    yield Finding("images", Severity.OK, f"{path}: {room.f_bavail * room.f_frsize >> 20} MiB free")


def swap_findings(table: Path = Path("/proc/swaps"), blocks: Path = Path("/sys/class/block")) -> list[Finding]:
    """Swap to a disk in the clear would write out what the memory-backed store holds."""
    try:
        devices = [line.split()[0] for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    plain = [device for device in devices if not _safe_swap(Path(device), blocks)]
    if not plain:
        return [Finding("swap", Severity.OK, "no swap, or only zram and encrypted swap")]
    return [
        Finding(
            "swap",
            Severity.ERROR,
            f"swap on {', '.join(plain)} is not encrypted: memory with secrets may be written to it",
            "swapoff it, use zram, or put it on dm-crypt",
        )
    ]


def _safe_swap(device: Path, blocks: Path) -> bool:
    name = device.resolve().name
    if name.startswith("zram"):
        return True
    uuid = blocks / name / "dm" / "uuid"
    return uuid.is_file() and uuid.read_text().startswith("CRYPT")
