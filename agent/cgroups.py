"""What control groups leave this process of the machine: the tightest limit on the way up, in version 1 and 2.

An agent in a container or under a limited systemd unit has less than the machine shows. Limits of every group from its
own up to the root count, for a limit above bounds all below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

UNLIMITED_BYTES = 1 << 60
"""Version 1 writes no limit as a number near 2^63, rounded to pages."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`cpu_m` in thousandths of a core, memory in bytes; None where nothing limits. `memory_used` is what the group
    whose limit is the tightest has in use and cannot give back at once."""

    cpu_m: int | None = None
    memory: int | None = None
    memory_used: int = 0


def read_limits(root: Path = ROOT, membership: Path = MEMBERSHIP) -> Limits:
    """The limits of this process; none where control groups cannot be read."""
    paths = _paths(membership)
    unified = (root / "cgroup.controllers").exists()
    cpu = [root] if unified else [root / "cpu", root / "cpu,cpuacct"]
    memory = [root] if unified else [root / "memory"]
    quotas = [
        quota
        for group in _groups(cpu, paths.get("" if unified else "cpu", "/"))
        if (quota := _cpu_m(group)) is not None
    ]
    bounds = [
        (limit, _memory_used(group))
        for group in _groups(memory, paths.get("" if unified else "memory", "/"))
        if (limit := _memory(group)) is not None
    ]
    tightest, used = min(bounds, key=lambda bound: bound[0] - bound[1], default=(None, 0))
    least = min((limit for limit, _ in bounds), default=None)
    return Limits(min(quotas, default=None), least, _in_terms_of(least, tightest, used))


def _in_terms_of(least: int | None, tightest: int | None, used: int) -> int:
    """What is in use, so that `least` minus it is what the group with the least left has left."""
    return 0 if least is None or tightest is None else max(0, least - (tightest - used))


def _paths(membership: Path) -> dict[str, str]:
    """Controller → path of this process; version 2 has the empty name."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split(":", 2) for line in lines if line.count(":") >= 2)
    return {controller: path for _, names, path in fields for controller in names.split(",")}


def _groups(roots: list[Path], path: str) -> Iterator[Path]:
    """The process's own group and all above it. Inside a namespace the path may not be visible: then the root is."""
    for root in roots:
        group = root / path.lstrip("/")
        if ".." in group.parts or not group.is_relative_to(root):
            group = root
        while True:
            if group.is_dir():
                yield group
            if group == root:
                break
            group = group.parent


def _cpu_m(group: Path) -> int | None:
    quota = _text(group / "cpu.max").split()
    if len(quota) != 2:
        quota = [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
    try:
        allowed, period = int(quota[0]), int(quota[1])
    except ValueError:  # "max", or nothing there
        return None
    return max(1, allowed * 1000 // period) if allowed > 0 and period > 0 else None


def _memory(group: Path) -> int | None:
    text = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
    try:
        limit = int(text)
    except ValueError:
        return None
    return limit if 0 < limit < UNLIMITED_BYTES else None


def _memory_used(group: Path) -> int:
    """In use, without the file cache that the kernel gives back when it is asked."""
    text = _text(group / "memory.current") or _text(group / "memory.usage_in_bytes")
    cache = 0
    for line in _text(group / "memory.stat").splitlines():
        name, _, amount = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and amount.isdigit():
            cache = max(cache, int(amount))
    return max(0, int(text) - cache) if text.isdigit() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
