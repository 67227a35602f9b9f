"""How well a large mesh places: beside a scheduler that knows everything, and with nodes that lie.

`python bench/placement.py [--hosts 1000] [--tasks 1000]`. The state machines are the agents' own; network, membership,
custody and runtime are modelled (see `simulator/placement_mesh.py`). Links take 5 ms; summaries are 2 s old.

**Quality.** Whenever a lease is granted, every host judges the same task by its true state at that moment; the share of
winners within 2 % of the best score of all is what counts. That scheduler costs nothing, and is never late.

**Liars.** Every pod is work that takes `--work` seconds at full speed. A host's pods share the cores that its owner's
own work leaves (0 to 60 % of them are busy with that): where they ask for more, all get slower in proportion. A host's
own admission counts promises against all of its cores, so it does take more than it can run at full speed. A fifth of
the hosts, drawn at random, bid as if they were idle, whatever they run. Mean completion, from publishing to the end of
the work, is compared with the same machines and the same stream where all are honest. The second figure is for liars
whose public summaries lie as well, which this version does not defend against beyond asking some nodes at random.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import quantile
from simulator.placement_host import Machine
from simulator.placement_load import machines, stream
from simulator.placement_mesh import PlacementMesh

NEAR, NEAR_AIM = 0.98, 0.95
BIDS_PER_DOUBLING_AIM = 4
P50_AIM_MS, P99_AIM_MS = 300, 1_000
LIARS, SLOWER_AIM = 0.2, 0.08


@dataclass(frozen=True)
class Quality:
    """Winners beside the best node of all."""

    tasks: int
    placed: int
    near: float
    """Share of winners within 2 % of the best."""
    worst: float
    bids_mean: float
    bids_most: int
    decided_p50_ms: float
    decided_p99_ms: float
    messages: float
    wall_s: float


@dataclass(frozen=True)
class Work:
    """A stream of work on honest or lying machines."""

    finished: int
    mean_s: float
    p99_s: float
    on_liars: float
    """Share of the tasks that ran on hosts of the fifth that lies, or would."""


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=1_000)
    parser.add_argument("--tasks", type=int, default=1_000, help="tasks compared with the all-knowing scheduler")
    parser.add_argument("--per-second", type=float, default=50.0)
    parser.add_argument("--work", type=float, default=8.0, help="seconds of work of each pod of the liars' part")
    parser.add_argument("--work-tasks", type=int, default=4_000)
    parser.add_argument("--busy", type=float, default=0.3, help="share of all cores that the work asks for")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    good = quality(given.hosts, given.tasks, given.per_second, given.seed)
    bids_aim = BIDS_PER_DOUBLING_AIM * math.log2(given.hosts)
    print(f"{given.hosts} hosts, {good.tasks} tasks, {good.placed} placed")
    print(f"within 2 % of the best node        {good.near:.1%} (aim {NEAR_AIM:.0%}), the worst at {good.worst:.3f}")
    print(f"bids per task                      {good.bids_mean:.1f}, at most {good.bids_most} (aim {bids_aim:.0f})")
    print(f"published to lease granted         p50 {good.decided_p50_ms:.0f} ms, p99 {good.decided_p99_ms:.0f} ms")
    works = {}
    for name, liars, in_summaries in (("honest", False, False), ("bids", True, False), ("summaries", True, True)):
        works[name] = work(given, liars=liars, in_summaries=in_summaries)
    honest = works["honest"]
    print("                                   mean s   p99 s   tasks on the fifth that lies")
    for name, title in (("honest", "all honest"), ("bids", "a fifth lies in bids"), ("summaries", "and in summaries")):
        each = works[name]
        slower = each.mean_s / honest.mean_s - 1
        print(f"{title:<34} {each.mean_s:<8.2f} {each.p99_s:<7.2f} {each.on_liars:<6.1%} {slower:+.1%}")
    slower = works["bids"].mean_s / honest.mean_s - 1
    told = {"quality": asdict(good), "work": {name: asdict(each) for name, each in works.items()}, "slower": slower}
    print(json.dumps(told))
    met = good.near >= NEAR_AIM and good.bids_most <= bids_aim and slower <= SLOWER_AIM
    return 0 if met and good.decided_p50_ms <= P50_AIM_MS and good.decided_p99_ms <= P99_AIM_MS else 1


def quality(hosts: int, tasks: int, per_second: float, seed: int) -> Quality:
    """Place a stream of Deployments, each winner beside the best of all."""
    started = time.perf_counter()
    mesh = PlacementMesh(machines(hosts, seed), seed, all_knowing=True)
    for _ in stream(mesh, tasks, per_second):
        pass
    mesh.run(5.0)
    placed = list(mesh.placed())
    ratios = [each.score / each.best for each in placed if each.best]
    decided = [1000 * (each.granted_s - each.published_s) for each in placed]
    return Quality(
        tasks=tasks,
        placed=len(placed),
        near=round(sum(ratio >= NEAR for ratio in ratios) / len(ratios), 4),
        worst=round(min(ratios), 4),
        bids_mean=round(sum(each.bids for each in placed) / len(placed), 2),
        bids_most=max(each.bids for each in placed),
        decided_p50_ms=round(quantile(decided, 0.5), 1),
        decided_p99_ms=round(quantile(decided, 0.99), 1),
        messages=round(mesh.messages() / tasks, 2),
        wall_s=round(time.perf_counter() - started, 1),
    )


def work(given: argparse.Namespace, *, liars: bool, in_summaries: bool) -> Work:
    """Run a stream of work; the same machines and the same tasks whoever lies."""
    drawn = machines(given.hosts, given.seed, liars=LIARS)
    fifth = {index for index, machine in enumerate(drawn) if machine.lies}
    made = drawn if liars else [_honest(machine) for machine in drawn]
    mesh = PlacementMesh(made, given.seed, work_s=given.work, liars_lie_in_summaries=in_summaries)
    cores_m = sum(machine.cpu_m for machine in made)
    each_m = 1_000
    per_second = given.busy * cores_m / each_m / given.work
    for _ in stream(mesh, given.work_tasks, per_second, cpu_m=(each_m,), mem_mb=(256,)):
        pass
    mesh.run(10 * given.work)
    done = [each for each in mesh.placed() if each.finished_s >= 0]
    took = [each.finished_s - each.published_s for each in done]
    return Work(
        finished=len(done),
        mean_s=round(sum(took) / len(took), 3),
        p99_s=round(quantile(took, 0.99), 3),
        on_liars=round(sum(each.winner in fifth for each in done) / len(done), 4),
    )


def _honest(machine: Machine) -> Machine:
    return Machine(machine.cpu_m, machine.mem_mb, machine.busy, machine.mem_free_mb)


if __name__ == "__main__":
    sys.exit(main())
