"""`python -m simulator run --seeds 0..299`: trials on all cores, and how to see a failed one again."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from beemesh.errors import BeemeshError, InvalidInput
from simulator.batch import HUNT_SECONDS, KINDS, hunt, one, outcomes
from simulator.golden import difference, play, rewrite
from simulator.ordeal import Outcome
from simulator.scheduling_trial import SECONDS
from simulator.tally import OTHER_FLAG, Row, Tally, Trials, counted, exact, to_repeat

SIZES = {"mesh": (20, 60.0), "scheduling": (0, SECONDS)}
"""Kind of trial → how many nodes (0: drawn) and how many seconds, unless told otherwise."""

CORES = os.cpu_count() or 1


def carry_out(arguments: Sequence[str] | None = None) -> int:
    """0 when no trial violated an invariant, 1 when one did, 2 for what cannot be right. Raises `KeyboardInterrupt`,
    with what to do next."""
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
    if options.command == "hunt":
        return _hunt(options.seeds, options.seconds or HUNT_SECONDS, options.kind)
    return _run(options)


def _seeds(text: str) -> range:
    first, until, last = text.partition("..")
    seeds = range(_whole(first), _whole(last if until else first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text} are no seeds: expected the first and the last, such as 0..299")
    return seeds


def _whole(text: str, *, least: int = 0) -> int:
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least {least}")
    return int(text)


_count = partial(_whole, least=1)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, more than 0")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="many seeds; prints those that violate an invariant")
    run.add_argument("--seeds", type=_seeds, default="0..299", metavar="A..B", help="first and last seed")
    run.add_argument("--jobs", type=_count, default=CORES, help="trials at a time")
    run.add_argument("--done", type=Path, help="a file of finished seeds: an interrupted run goes on with the others")
    run.add_argument(
        "--again", type=Path, metavar="FILE", help="only the seeds of such a file: is their trace the same?"
    )
    run.add_argument(OTHER_FLAG, action="store_true", help="also rows count that came of other code than this")
    replay = commands.add_parser("replay", help="one seed, with its transcript")
    replay.add_argument("seed", type=_whole)
    hunts = commands.add_parser("hunt", help="small meshes of several sizes, until the first violation")
    hunts.add_argument("--seeds", type=_seeds, default="0..1999", metavar="A..B", help="first and last seed")
    plays = commands.add_parser("play", help="scenario files, each beside its golden transcript")
    plays.add_argument("files", type=Path, nargs="+", metavar="FILE.scenario")
    plays.add_argument("--rewrite", action="store_true", help="make what is told now the golden transcript")
    for each in (run, replay):
        each.add_argument("--nodes", type=_count, help="20, or 20 to 60 by seed where scheduling is tried")
    for each in (run, replay, hunts):
        each.add_argument("--seconds", type=_seconds, help="how long faults last, in simulated time")
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


def _run(options: argparse.Namespace) -> int:
    tally = _begun(options)
    asked = options.seeds if options.again is None else [seed for seed in options.seeds if seed in tally.before]
    waiting = [seed for seed in asked if seed not in tally.rows]
    started, is_interrupted = time.monotonic(), False
    for seed in tally.failed:
        print(f"seed {seed} violated an invariant before: {_again(seed, options)}", flush=True)
    for seed in tally.differ:
        _tell_other(tally, seed)
    try:
        for outcome in outcomes(waiting, options.nodes, options.seconds, options.jobs, options.kind):
            tally.add(outcome)
            _tell(outcome, tally, options)
    except KeyboardInterrupt:
        is_interrupted = True
    left = [seed for seed in waiting if seed not in tally.rows]
    now = {"kind": options.kind, "nodes": options.nodes, "simulated_s": options.seconds}
    now |= {"tried_now": len(waiting) - len(left), "left": len(left), "wall_s": round(time.monotonic() - started, 1)}
    print(json.dumps({**now, **tally.report()}), flush=True)
    if is_interrupted and left:
        raise KeyboardInterrupt(f"go on with: {_onward(left[0], options)}")
    return 1 if tally.failed or tally.differ else 0


def _begun(options: argparse.Namespace) -> Tally:
    """What earlier runs have left; raises `InvalidInput` for files that are about something else."""
    trials, done, again = Trials(options.kind, options.nodes, options.seconds), options.done, options.again
    before: dict[int, Row] = {}
    if again is not None:
        before = to_repeat(again, trials, options.seeds, other_code=options.also_other_code)
        if done is not None and done.exists() and done.samefile(again):
            raise InvalidInput(f"{done} would be compared with itself", hint="name another file after --done")
    seeds = options.seeds if again is None else before
    is_continued = done is not None and done.exists()
    rows = counted(done, trials, seeds, other_code=options.also_other_code) if is_continued else {}
    tally = Tally(done, before, rows)
    tally.begin(trials)
    return tally


def _tell(outcome: Outcome, tally: Tally, options: argparse.Namespace) -> None:
    if tally.differs(outcome.seed):
        _tell_other(tally, outcome.seed)
    if outcome.violations:
        print(f"seed {outcome.seed} {outcome.trace}: {len(outcome.violations)} violations, first of them:")
        print(f"  {outcome.violations[0]}")
        print(f"  see it again: {_again(outcome.seed, options)}", flush=True)


def _tell_other(tally: Tally, seed: int) -> None:
    print(f"seed {seed}: its trace was {tally.before[seed].trace}, and is {tally.rows[seed].trace} now", flush=True)


def _again(seed: int, options: argparse.Namespace) -> str:
    """The command that shows a trial again."""
    return f"python -m simulator replay {seed}{_sized(options.nodes, options.seconds, options.kind)}"


def _sized(nodes: int, seconds: float, kind: str) -> str:
    return f" --nodes {nodes}" * bool(nodes) + f" --seconds {exact(seconds)}" + f" --kind {kind}" * (kind != "mesh")


def _onward(first: int, options: argparse.Namespace) -> str:
    """The command that tries what an interrupted run has left: all from the first on, where nothing is remembered."""
    seeds = options.seeds if options.done is not None else range(first, options.seeds.stop)
    words = f"python -m simulator run --seeds {seeds[0]}..{seeds[-1]}"
    words += _sized(options.nodes, options.seconds, options.kind)
    words += f" --jobs {options.jobs}" * bool(options.jobs != CORES)
    for flag, file in (("--done", options.done), ("--again", options.again)):
        words += f" {flag} {shlex.quote(str(file))}" * (file is not None)
    return words + f" {OTHER_FLAG}" * bool(options.also_other_code)


def _hunt(seeds: range, seconds: float, kind: str) -> int:
    """Tells, as one line of JSON, the first seed that violates an invariant; 0 when there is one."""
    prey = hunt(seeds, seconds, kind)
    again = f"python -m simulator replay {prey.seed}{_sized(prey.nodes, prey.seconds, kind)}"
    print(json.dumps({**asdict(prey), "again": again if prey.violation else ""}))
    return 0 if prey.violation else 1
