"""`python -m simulator run --seeds 0..299`: trials on all cores, and how to see a failed one again."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from beemesh.errors import BeemeshError
from simulator.batch import HUNT_SECONDS, KINDS, hunt, one, outcomes
from simulator.golden import difference, play, rewrite
from simulator.scheduling_trial import SECONDS
from simulator.tally import Tally, read

SIZES = {"mesh": (20, 60.0), "scheduling": (0, SECONDS)}
"""Kind of trial → how many nodes (0: drawn) and how many seconds, unless told otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when no trial violated an invariant, 1 when one did."""
    options = _parser().parse_args(arguments)
    try:
        return _carry_out(options)
    except (BeemeshError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _carry_out(options: argparse.Namespace) -> int:
    if options.command == "play":
        return _play(options.files, rewritten=options.rewrite)
    if options.command != "hunt":
        nodes, seconds = SIZES[options.kind]
        options.nodes = nodes if options.nodes is None else options.nodes
        options.seconds = seconds if options.seconds is None else options.seconds
    if options.command == "replay":
        return _replay(options.seed, options)
    first, _, last = options.seeds.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    if options.command == "hunt":
        return _hunt(seeds, options.seconds or HUNT_SECONDS, options.kind)
    return _run(seeds, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="many seeds; prints those that violate an invariant")
    run.add_argument("--seeds", default="0..299", metavar="A..B", help="first and last seed")
    run.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time")
    run.add_argument("--done", type=Path, help="a file of finished seeds: an interrupted run goes on with the others")
    run.add_argument(
        "--again", type=Path, metavar="FILE", help="only the seeds of such a file: is their trace the same?"
    )
    replay = commands.add_parser("replay", help="one seed, with its transcript")
    replay.add_argument("seed", type=int)
    hunts = commands.add_parser("hunt", help="small meshes of several sizes, until the first violation")
    hunts.add_argument("--seeds", default="0..1999", metavar="A..B", help="first and last seed")
    plays = commands.add_parser("play", help="scenario files, each beside its golden transcript")
    plays.add_argument("files", type=Path, nargs="+", metavar="FILE.scenario")
    plays.add_argument("--rewrite", action="store_true", help="make what is told now the golden transcript")
    for each in (run, replay):
        each.add_argument("--nodes", type=int, help="20, or 20 to 60 by seed where scheduling is tried")
    for each in (run, replay, hunts):
        each.add_argument("--seconds", type=float, help="how long faults last, in simulated time")
        each.add_argument("--kind", choices=sorted(KINDS), default="mesh", help="what is tried (default: mesh)")
    return parser


def _replay(seed: int, options: argparse.Namespace) -> int:
    outcome = one(seed, nodes=options.nodes, seconds=options.seconds, kind=options.kind)
    print(f"seed {seed}: loss {outcome.plan.loss:.0%}, repeats {outcome.plan.repeat:.0%}, "
          f"delay up to {outcome.plan.delay_s[1] * 1000:.0f} ms")  # fmt: skip
    print(*outcome.transcript, sep="\n")
    print(f"{outcome.events} events, trace {outcome.trace}, {len(outcome.violations)} violations")
    return 1 if outcome.violations else 0


def _play(files: Sequence[Path], *, rewritten: bool) -> int:
    failed = 0
    for file in files:
        report = play(file)
        changed = difference(file, report)
        if rewritten and changed:
            rewrite(file, report)
        wrong = [*report.violations, *([] if rewritten or not changed else [changed])]
        failed += bool(wrong)
        print(f"{file}: {'failed' if wrong else 'rewritten' if changed else 'as ever'}", *wrong, sep="\n")
    return 1 if failed else 0


def _run(seeds: range, options: argparse.Namespace) -> int:
    nodes, seconds = options.nodes, options.seconds
    finished = {seed: row for seed, row in read(options.done).items() if seed in seeds}
    tally = Tally(options.done, read(options.again), dict(finished))
    waiting = [seed for seed in seeds if seed not in finished and (options.again is None or seed in tally.before)]
    started = time.monotonic()
    for seed in tally.failed:
        print(f"seed {seed} violated an invariant before: {_again(seed, nodes, seconds, options.kind)}", flush=True)
    for outcome in outcomes(waiting, nodes, seconds, options.jobs, options.kind):
        tally.add(outcome)
        if outcome.seed in tally.differ:
            was = tally.before[outcome.seed].trace
            print(f"seed {outcome.seed}: its trace was {was}, and is {outcome.trace} now", flush=True)
        if outcome.violations:
            print(f"seed {outcome.seed} {outcome.trace}: {len(outcome.violations)} violations, first of them:")
            print(f"  {outcome.violations[0]}")
            print(f"  see it again: {_again(outcome.seed, nodes, seconds, options.kind)}", flush=True)
    wall_s = round(time.monotonic() - started, 1)
    now = {"kind": options.kind, "nodes": nodes, "simulated_s": seconds, "tried_now": len(waiting), "wall_s": wall_s}
    print(json.dumps({**now, **tally.report()}))
    return 1 if tally.failed or tally.differ else 0


def _again(seed: int, nodes: int, seconds: float, kind: str) -> str:
    """The command that shows a trial again."""
    sized = f" --nodes {nodes}" if nodes else ""
    return f"python -m simulator replay {seed}{sized} --seconds {seconds:g}" + f" --kind {kind}" * (kind != "mesh")


def _hunt(seeds: range, seconds: float, kind: str) -> int:
    """Tells, as one line of JSON, the first seed that violates an invariant; 0 when there is one."""
    prey = hunt(seeds, seconds, kind)
    again = _again(prey.seed, prey.nodes, prey.seconds, kind)
    print(json.dumps({**asdict(prey), "again": again if prey.violation else ""}))
    return 0 if prey.violation else 1


if __name__ == "__main__":
    sys.exit(main())
