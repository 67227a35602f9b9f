"""Keeps what an agent holds in memory out of core files and away from other processes."""

from __future__ import annotations

import ctypes
import resource

PR_SET_DUMPABLE = 4
"""prctl(2)."""


def keep_memory_private() -> None:
    """No core file of this process is written, whatever pipe or pattern the kernel hands them to, and nobody but root
    may attach to it. What it starts inherits the limit, so containers leave no core files either."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
