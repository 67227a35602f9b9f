"""What many placements cost: messages and processor time for each, and how both grow with the mesh.

`python bench/placements.py [--hosts 6100] [--placements 100000] [--scales 250,1000,2500]`. The state machines are the
agents' own; network, cryptography, membership, custody and runtime are modelled (see `simulator/placement_mesh.py`),
and so is the steward's reconciler. All runs in one process on one core: a placement's time is that of all nodes that
had a part in it, together. Pods stay, so the mesh fills up. Messages are all that leave a node, from the task to the
events and the release of the lease; a message to everybody counts once for each of the others. Up to 200 nodes all hear
every task (the first row), above that only a sample does.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import judged, quantile
from simulator.placement_load import machines, stream
from simulator.placement_mesh import PlacementMesh

MESSAGES_MOST = 60
"""Per placement: a must, on whichever machine it is measured."""
PER_SECOND_AIM = 300
"""Per second and core of a machine that does nothing else."""
SMALL_NODES, SMALL_PLACEMENTS = 100, 300


@dataclass(frozen=True)
class Cost:
    """One run."""

    hosts: int
    placements: int
    placed: int
    doubled: int
    messages: float
    """Per placement."""
    bids: float
    cpu_ms: float
    """Processor time per placement, of all nodes together."""
    per_cpu_s: float
    wall_s: float
    decided_p50_ms: float
    decided_p99_ms: float
    by_type: dict[str, float]


def main() -> int:
    """Measure, print a table, and JSON as the last line; fails when a must or the aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=6_100)
    parser.add_argument("--placements", type=int, default=100_000)
    parser.add_argument("--per-second", type=float, default=200.0, help="placements wanted per simulated second")
    parser.add_argument("--scales", default="250,1000,2500", help="smaller meshes, for the fit")
    parser.add_argument("--scale-placements", type=int, default=3_000, help="placements in each of those")
    given = parser.parse_args()
    gc.disable()  # nothing here makes cycles; a collection would look at each of some million objects
    print("hosts   placements  placed   msgs  bids  cpu ms  per cpu s  p50 ms  p99 ms")
    small = measure(SMALL_NODES, min(SMALL_PLACEMENTS, given.scale_placements), 20.0)
    runs = [measure(int(hosts), given.scale_placements, given.per_second) for hosts in given.scales.split(",") if hosts]
    runs.append(measure(given.hosts, given.scale_placements, given.per_second))
    fits = {what: fit(runs, what) for what in ("messages", "cpu_ms")}
    for what, (start, slope, power) in fits.items():
        print(
            f"fit from {runs[0].hosts} hosts: {what} = {start:.2f} + {slope:.3f}·log2(N); as a power of N: {power:+.3f}"
        )
    whole = measure(given.hosts, given.placements, given.per_second)
    rss_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{whole.per_cpu_s:.0f} placements per second and core, {whole.messages:.1f} messages each; ", end="")
    print(f"{whole.wall_s:.0f} s of wall time beside other work, {rss_gb:.1f} GiB")
    code = verdict(whole)
    told = {"small": asdict(small), "scales": [asdict(run) for run in runs], "fits": fits, "whole": asdict(whole)}
    print(json.dumps(told))
    return code


def verdict(whole: Cost) -> int:
    """Whether what must hold and what is aimed at does, in words; the exit code."""
    return judged(
        ("all are placed (a must)", whole.placed == whole.placements),
        (f"at most {MESSAGES_MOST} messages for each (a must)", whole.messages <= MESSAGES_MOST),
        (f"at least {PER_SECOND_AIM} per second and core", whole.per_cpu_s >= PER_SECOND_AIM),
    )


def measure(hosts: int, placements: int, per_second: float) -> Cost:
    """Fill a mesh."""
    mesh = PlacementMesh(machines(hosts))
    sent_before = mesh.messages()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in stream(mesh, placements, per_second):
        pass
    mesh.run(5.0)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    placed = list(mesh.placed())
    decided = [1000 * (each.granted_s - each.published_s) for each in placed]
    cost = Cost(
        hosts=hosts,
        placements=placements,
        placed=len(placed),
        doubled=sum(each.grants > 1 for each in placed),
        messages=round((mesh.messages() - sent_before) / placements, 2),
        bids=round(sum(each.bids for each in placed) / placements, 2),
        cpu_ms=round(1000 * cpu_s / placements, 3),
        per_cpu_s=round(placements / cpu_s, 1),
        wall_s=round(wall_s, 1),
        decided_p50_ms=round(quantile(decided, 0.5), 1),
        decided_p99_ms=round(quantile(decided, 0.99), 1),
        by_type={kind: round(count / placements, 2) for kind, count in mesh.sent.most_common()},
    )
    print(
        f"{hosts:<7} {placements:<11} {cost.placed:<8} {cost.messages:<5.1f} {cost.bids:<5.1f} {cost.cpu_ms:<7.2f} "
        f"{cost.per_cpu_s:<10.0f} {cost.decided_p50_ms:<7.1f} {cost.decided_p99_ms:<7.1f}",
        flush=True,
    )
    return cost


def fit(runs: list[Cost], what: str) -> tuple[float, float, float]:
    """Least squares of a cost over log2(N): (at N = 1, per doubling), and the exponent of a power law."""
    xs = [math.log2(run.hosts) for run in runs]
    ys = [float(getattr(run, what)) for run in runs]
    start, slope = line(xs, ys)
    return round(start, 3), round(slope, 4), round(line(xs, [math.log2(y) for y in ys])[1], 4)


def line(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """(intercept, slope) by least squares."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0
    return mean_y - slope * mean_x, slope


if __name__ == "__main__":
    sys.exit(main())
