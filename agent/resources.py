"""What this machine has and what is free, as schedulers count it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

from beemesh.events import ResourcesObserved

MIB = 1024 * 1024
CGROUP_LIMIT_FILES = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
CGROUP_QUOTA_FILE = "/sys/fs/cgroup/cpu.max"
LISTEN_STATE = "0A"
"""TCP state in /proc/net/tcp (include/net/tcp_states.h)."""


def observe(storage: Path) -> ResourcesObserved:
    """A reading of this moment; `storage` lies on the disk whose space counts."""
    memory = psutil.virtual_memory()
    disk = psutil.disk_usage(str(storage))
    total_mb = min(memory.total, _cgroup_memory_bytes()) // MIB
    return ResourcesObserved(
        cpu_m_total=_cpu_m(),
        mem_mb_total=total_mb,
        storage_mb_total=disk.total // MIB,
        cpu_load=min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)),
        mem_mb_free=min(memory.available // MIB, total_mb),
        storage_mb_free=disk.free // MIB,
        ports_in_use=listening_ports(),
    )


def _cpu_m() -> int:
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path(CGROUP_QUOTA_FILE).read_text().split()
        return min(cores * 1000, int(quota) * 1000 // int(period))
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return cores * 1000


def _cgroup_memory_bytes() -> int:
    for name in CGROUP_LIMIT_FILES:
        try:
            return int(Path(name).read_text())
        except (OSError, ValueError):
            continue
    return 1 << 62


def listening_ports() -> frozenset[int]:
    """TCP ports that something on this host listens on. Read from /proc: psutil would look at every process."""
    ports = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split(maxsplit=4)
            if fields[3] == LISTEN_STATE:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return frozenset(ports)


def machine_name() -> str:
    """The host's own name, for people."""
    return socket.gethostname()
