"""`python -m simulator run --seeds 0..299`: trials on all cores, and how to see a failed one again."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from simulator.trial import Outcome, Trial

NODES, SECONDS = 20, 60.0
HUNT_NODES, HUNT_SECONDS = (3, 8, 4, 5), 30.0
"""Small meshes find most bugs soonest: where two make a majority, one fault is enough."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when no trial violated an invariant, 1 when one did."""
    options = _parser().parse_args(arguments)
    if options.command == "replay":
        return _replay(options.seed, options.nodes, options.seconds)
    first, _, last = options.seeds.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    if options.command == "hunt":
        return _hunt(seeds, options.seconds, options.budget)
    return _run(seeds, options.nodes, options.seconds, options.jobs, options.done)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="many seeds; prints those that violate an invariant")
    run.add_argument("--seeds", default="0..299", metavar="A..B", help="first and last seed")
    run.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time")
    run.add_argument("--done", type=Path, help="a file of finished seeds: an interrupted run goes on with the others")
    replay = commands.add_parser("replay", help="one seed, with its transcript")
    replay.add_argument("seed", type=int)
    hunt = commands.add_parser("hunt", help="small meshes of several sizes, until the first violation")
    hunt.add_argument("--seeds", default="0..1999", metavar="A..B", help="first and last seed")
    hunt.add_argument("--budget", type=float, default=600.0, help="seconds after which to give up")
    hunt.add_argument("--seconds", type=float, default=HUNT_SECONDS, help="how long faults last, in simulated time")
    for each in (run, replay):
        each.add_argument("--nodes", type=int, default=NODES)
        each.add_argument("--seconds", type=float, default=SECONDS, help="how long faults last, in simulated time")
    return parser


def _one(seed: int, *, nodes: int, seconds: float) -> Outcome:
    return Trial(seed, nodes, seconds).run()


def _replay(seed: int, nodes: int, seconds: float) -> int:
    outcome = _one(seed, nodes=nodes, seconds=seconds)
    print(f"seed {seed}: loss {outcome.plan.loss:.0%}, repeats {outcome.plan.repeat:.0%}, "
          f"delay up to {outcome.plan.delay_s[1] * 1000:.0f} ms")  # fmt: skip
    print(*outcome.transcript, sep="\n")
    print(f"{outcome.events} events, trace {outcome.trace}, {len(outcome.violations)} violations")
    return 1 if outcome.violations else 0


def _run(seeds: range, nodes: int, seconds: float, jobs: int, done: Path | None) -> int:
    finished = _finished(done)
    waiting = [seed for seed in seeds if seed not in finished]
    started = time.monotonic()
    events, cpu_s, failed = 0, 0.0, []
    for outcome in _outcomes(waiting, nodes, seconds, jobs):
        events, cpu_s = events + outcome.events, cpu_s + outcome.wall_s
        if outcome.violations:
            failed.append(outcome.seed)
            print(f"seed {outcome.seed} {outcome.trace}: {len(outcome.violations)} violations, first of them:")
            print(f"  {outcome.violations[0]}")
            print(f"  see it again: python -m simulator replay {outcome.seed} --nodes {nodes} --seconds {seconds:g}")
        elif done is not None:
            with done.open("a") as file:
                file.write(f"{outcome.seed} {outcome.trace}\n")
    wall_s = time.monotonic() - started
    report = {
        "seeds": len(waiting),
        "nodes": nodes,
        "simulated_s": seconds,
        "failed": failed,
        "wall_s": round(wall_s, 1),
        "events": events,
        "events_per_core_second": round(events / cpu_s) if cpu_s else 0,
    }
    print(json.dumps(report))
    return 1 if failed else 0


def _hunt(seeds: range, seconds: float, budget_s: float) -> int:
    """Tells, as one line of JSON, the first seed that violates an invariant; 0 when there is one."""
    started = time.monotonic()
    tried = 0
    for seed in seeds:
        if time.monotonic() - started > budget_s:
            break
        tried += 1
        nodes = HUNT_NODES[seed % len(HUNT_NODES)]
        outcome = Trial(seed, nodes, seconds, until_first=True).run()
        if outcome.violations:
            again = f"python -m simulator replay {seed} --nodes {nodes} --seconds {seconds:g}"
            told = {"seed": seed, "seeds": tried, "violation": outcome.violations[0], "again": again}
            print(json.dumps(told))
            return 0
    print(json.dumps({"seed": -1, "seeds": tried, "violation": ""}))
    return 1


def _outcomes(seeds: list[int], nodes: int, seconds: float, jobs: int) -> Iterator[Outcome]:
    one = partial(_one, nodes=nodes, seconds=seconds)
    if jobs <= 1:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(one, seeds)


def _finished(done: Path | None) -> set[int]:
    if done is None or not done.is_file():
        return set()
    return {int(line.split()[0]) for line in done.read_text().splitlines() if line.strip()}


if __name__ == "__main__":
    sys.exit(main())
