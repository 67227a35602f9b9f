"""The long run: `python -m tests.fuzz --minutes 10`; also lists targets, replays an input, and keeps one."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.mutations import mutant
from tests.fuzz.target import Finding, Target, check
from tests.fuzz.targets import TARGETS

TURN = 40
"""Inputs that a target gets before it is the next one's turn."""
SHRINK_TRIES = 400
SHRINK_S = 10.0


def main(words: Sequence[str] | None = None) -> int:
    """0: no promise was broken; 1: some were, and the inputs are kept in the corpus."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to go on (default 1)")
    parser.add_argument("--target", action="append", default=[], help="only this target; may be said again")
    parser.add_argument("--seed", type=int, help="repeat a run (default: another one each time)")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--add", metavar="FILE", help="keep this file as an input of the one --target")
    options = parser.parse_args(words)
    unknown = sorted(set(options.target) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)} (see --list)")
    if options.list:
        print("\n".join(TARGETS))
        return 0
    if options.add:
        if len(options.target) != 1:
            parser.error("--add wants exactly one --target")
        print(f"kept as {corpus.keep(options.target[0], Path(options.add).read_bytes())}")
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    chosen = [TARGETS[name] for name in options.target] or list(TARGETS.values())
    return run(chosen, options.minutes * 60, random.Random(seed), seed)


def run(targets: Sequence[Target], seconds: float, chance: random.Random, seed: int) -> int:
    """Feed mutants to all targets in turn; a target that broke its promise is left out from there on."""
    print(f"{len(targets)} targets, seed {seed}", flush=True)
    end_s, counts, broken = time.monotonic() + seconds, dict.fromkeys((each.name for each in targets), 0), []
    waiting = list(targets)
    while waiting and time.monotonic() < end_s:
        for target in list(waiting):
            if time.monotonic() >= end_s:
                break
            seeds = [*target.seeds, *(data for _, data in corpus.kept(target.name))]
            try:
                for _ in range(TURN // 8 if target.slow else TURN):
                    counts[target.name] += 1
                    check(target, mutant(seeds, target.form, chance.randrange, target.head))
            except Finding as finding:
                waiting.remove(target)
                broken.append(target.name)
                smaller = shrunk(finding, chance)
                print(f"\nBROKEN {smaller}\nkept as {corpus.keep(target.name, smaller.data)}\n", flush=True)
    print(f"{sum(counts.values()):,} inputs: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    print(f"broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


def shrunk(finding: Finding, chance: random.Random) -> Finding:
    """The same break with fewer bytes, as far as a few hundred tries, or some seconds, get."""
    size, end_s = max(1, len(finding.data) // 2), time.monotonic() + SHRINK_S
    for _ in range(SHRINK_TRIES):
        if time.monotonic() > end_s:
            break
        data = finding.data
        at = chance.randrange(len(data) + 1)
        shorter = data[:at] + data[at + size :]
        if len(shorter) < len(data):
            try:
                check(finding.target, shorter)
            except Finding as smaller:
                if smaller.what.partition(":")[0] == finding.what.partition(":")[0]:
                    finding = smaller
                    size = min(size, max(1, len(finding.data) // 2))
                    continue
        size = max(1, size * 3 // 4)
    return finding


if __name__ == "__main__":
    sys.exit(main())
