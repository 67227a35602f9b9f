"""What an agent holds in memory stays there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, signal, sys
from agent.privacy import keep_memory_private
if sys.argv[1] == "private":
    keep_memory_private()
print(*open("/proc/self/limits"), sep="")
os.kill(os.getpid(), signal.SIGABRT)
"""
ROOT = Path(__file__).resolve().parents[3]


def crashed(folder: Path, how: str) -> tuple[str, bool]:
    """(limits, whether the kernel wrote a core or handed one on) of a process that aborts."""
    command = ["/bin/sh", "-c", 'ulimit -c 1024 2>/dev/null; exec "$@"', "sh", sys.executable, "-c", PROGRAM, how]
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    output, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGABRT
    return output, any(folder.iterdir())


def test_a_crash_leaves_no_core_file(tmp_path: Path) -> None:
    """An abort writes nothing, and the limit that children inherit is zero."""
    limits, dumped = crashed(tmp_path, "private")
    (line,) = (line.split() for line in limits.splitlines() if line.startswith("Max core file size"))
    assert line[4:6] == ["0", "0"]
    assert not dumped
