"""Mounts that engines need: a memory-backed directory, and getting rid of everything below it again."""

from __future__ import annotations

import os
from pathlib import Path

from agent.runtime.command import call
from agent.runtime.contract import FailureReason, RuntimeFailure

MOUNT_TIMEOUT_S = 10.0


async def ensure_tmpfs(path: Path, size_bytes: int) -> None:
    """Make sure that `path` is a mount of its own: an existing one is taken as it is, else a tmpfs is mounted."""
    if _is_ready(path):
        return
    options = f"size={size_bytes},mode=0700"
    result = await call(["mount", "-t", "tmpfs", "-o", options, "beemesh", str(path)], timeout_s=MOUNT_TIMEOUT_S)
    if result.exit_code:
        raise RuntimeFailure(
            FailureReason.ENGINE_ERROR,
            f"cannot mount the memory-backed store at {path}: {result.error_text}",
            hint="the agent must run as root; or set runtime.state: disk, which writes secrets to the disk",
        )


def _is_ready(path: Path) -> bool:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.path.ismount(path)


async def unmount_all(path: Path) -> None:
    """Unmount `path` and everything below it."""
    for mounted in sorted(mounts_below(path), key=len, reverse=True):
        result = await call(["umount", mounted], timeout_s=MOUNT_TIMEOUT_S)
        if result.exit_code and "not mounted" not in result.error_text:
            raise RuntimeFailure(
                FailureReason.ENGINE_ERROR,
                f"cannot unmount {mounted}: {result.error_text}",
                hint=f"see who uses it with: fuser -vm {mounted}",
            )


def mounts_below(path: Path, table: Path = Path("/proc/self/mounts")) -> list[str]:
    """The mount points at `path` and below it."""
    found = []
    for line in table.read_text().splitlines():
        point = line.split()[1].replace("\\040", " ")
        if point == str(path) or point.startswith(f"{path}/"):
            found.append(point)
    return found


def filesystem_of(path: Path, table: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds `path`."""
    best, kind = "", ""
    resolved = str(path.resolve())
    for line in table.read_text().splitlines():
        _, point, this, *_ = line.split()
        point = point.replace("\\040", " ")
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, this
    return kind
