"""What an idle agent costs: resident memory and CPU of each agent of the demo mesh, and the CLI's start.

`make demo`, then `python bench/footprint.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
RSS_AIM_MIB, CPU_AIM_PERCENT, HELP_AIM_MS = 60, 1.0, 150
MIB = 1024 * 1024


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to look (default 30)")
    seconds = parser.parse_args().seconds
    home = Path(os.environ.get("BEEMESH_HOME", str(ROOT / ".demo"))).resolve()
    agents = [process for process in psutil.process_iter(["cmdline"]) if is_agent(process, home)]
    if not agents:
        print("needs a running mesh: run `make demo`, or name its folder in BEEMESH_HOME", file=sys.stderr)
        return 1
    before = {process.pid: cpu_s(process) for process in agents}
    time.sleep(seconds)
    rows = []
    for process in agents:
        percent = 100 * (cpu_s(process) - before[process.pid]) / seconds
        rows.append(
            {"pid": process.pid, "rss_mib": round(process.memory_info().rss / MIB, 1), "cpu_percent": round(percent, 2)}
        )
    help_ms = statistics.median(help_times_ms())
    for row in rows:
        memory = f"{row['rss_mib']:>6.1f} MiB (aim {RSS_AIM_MIB})"
        print(f"agent {row['pid']:<8} {memory}   {row['cpu_percent']:>5.2f} % (aim {CPU_AIM_PERCENT:g})")
    print(f"beemeshctl --help {help_ms:>6.0f} ms (aim {HELP_AIM_MS})")
    print(json.dumps({"agents": rows, "help_ms": round(help_ms, 1), "seconds": seconds}))
    return 0


def is_agent(process: psutil.Process, home: Path) -> bool:
    """An agent of that mesh itself, not its supervisor."""
    words = process.info["cmdline"] or []
    if not {"agent.main", "run", "--config-dir"} <= set(words) or "agent.supervise" in words:
        return False
    return Path(words[words.index("--config-dir") + 1]).resolve().is_relative_to(home)


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of the process and of the children that it has waited for."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def help_times_ms() -> list[float]:
    """Five starts of the CLI."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "beemeshctl.main", "--help"], cwd=ROOT, check=True, capture_output=True)
        times.append((time.perf_counter() - started) * 1000)
    return times


if __name__ == "__main__":
    sys.exit(main())
