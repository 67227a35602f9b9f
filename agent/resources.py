"""What this machine has and what is free, as schedulers count it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

from agent.cgroups import read_limits
from beemesh.events import ResourcesObserved

MIB = 1024 * 1024
LISTEN_STATE = "0A"
"""TCP state in /proc/net/tcp (include/net/tcp_states.h)."""


def observe(storage: Path) -> ResourcesObserved:
    """A reading of this moment, within the limits of control groups; `storage` lies on the disk whose space counts."""
    memory = psutil.virtual_memory()
    disk = psutil.disk_usage(str(storage))
    limits = read_limits()
    total = memory.total if limits.memory is None else min(memory.total, limits.memory)
    free = memory.available if limits.memory is None else min(memory.available, limits.memory - limits.memory_used)
    cores = len(os.sched_getaffinity(0))
    return ResourcesObserved(
        cpu_m_total=min(cores * 1000, limits.cpu_m or cores * 1000),
        mem_mb_total=total // MIB,
        storage_mb_total=disk.total // MIB,
        cpu_load=min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)),
        mem_mb_free=max(0, min(free, total)) // MIB,
        storage_mb_free=disk.free // MIB,
        ports_in_use=listening_ports(),
    )


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
