"""What processes use, read from their cgroups (v1, hybrid or v2), or from the processes where there is no own group."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

from agent.runtime.contract import PodStats

CGROUP_ROOT = Path("/sys/fs/cgroup")
NANOSECONDS = 1e9
MICROSECONDS = 1e6


def usage_of(pod_id: str, pids: Iterable[int]) -> PodStats:
    """CPU seconds since the start and memory now of the groups that these processes lead."""
    cpu_s, memory = 0.0, 0
    for pid in pids:
        groups = _groups(pid)
        cpu_s += _cpu_s(groups)
        memory += _memory(groups)
    return PodStats(pod_id, cpu_s, memory)


def usage_of_processes(pod_id: str, pids: Iterable[int]) -> PodStats:
    """The same for these processes and their descendants, without cgroups."""
    cpu_s, memory = 0.0, 0
    for pid in pids:
        try:
            leader = psutil.Process(pid)
            family = [leader, *leader.children(recursive=True)]
        except psutil.Error:
            continue
        for process in family:
            try:
                times = process.cpu_times()
                cpu_s += times.user + times.system
                memory += process.memory_info().rss
            except psutil.Error:
                continue
    return PodStats(pod_id, cpu_s, memory)


def _groups(pid: int) -> dict[str, str]:
    """The process's cgroup path by controller; the unified hierarchy's is under the empty name."""
    found: dict[str, str] = {}
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return found
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _cpu_s(groups: dict[str, str]) -> float:
    if "cpuacct" in groups:
        return _number(CGROUP_ROOT / "cpuacct" / groups["cpuacct"].lstrip("/") / "cpuacct.usage") / NANOSECONDS
    try:
        stat = (CGROUP_ROOT / groups.get("", "").lstrip("/") / "cpu.stat").read_text()
    except OSError:
        return 0.0
    fields = dict(line.split(maxsplit=1) for line in stat.splitlines() if " " in line)
    return int(fields.get("usage_usec", "0")) / MICROSECONDS


def _memory(groups: dict[str, str]) -> int:
    if "memory" in groups:
        return _number(CGROUP_ROOT / "memory" / groups["memory"].lstrip("/") / "memory.usage_in_bytes")
    return _number(CGROUP_ROOT / groups.get("", "").lstrip("/") / "memory.current")


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
