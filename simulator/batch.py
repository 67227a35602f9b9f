"""Many trials: on all cores, and until the first of several sizes that finds something.

A module of its own, since a process that is spawned cannot import what stands in `__main__`.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from simulator.ordeal import Outcome
from simulator.scheduling_trial import SchedulingTrial
from simulator.trial import Trial

KINDS: dict[str, type[Trial] | type[SchedulingTrial]] = {"mesh": Trial, "scheduling": SchedulingTrial}
"""What a trial is about, by the name that the command line knows."""

HUNT_SECONDS = 30.0
HUNT_NODES = {"mesh": (3, 8, 4, 5), "scheduling": (6, 4, 10, 8, 5, 12)}
"""Small meshes find most bugs soonest: where two make a majority, one fault is enough."""


def one(seed: int, *, nodes: int, seconds: float, kind: str = "mesh", until_first: bool = False) -> Outcome:
    """The whole trial of a seed, or until its first violation.

    Without the cycle collector, which takes a twentieth of the time and finds next to nothing while a mesh lives: what
    is left of it goes at the end."""
    gc.disable()
    try:
        return KINDS[kind](seed, nodes, seconds, until_first=until_first).run()
    finally:
        gc.enable()
        gc.collect()


def outcomes(seeds: Sequence[int], nodes: int, seconds: float, jobs: int, kind: str = "mesh") -> Iterator[Outcome]:
    """The trials of `seeds`, `jobs` at a time, in the order in which they end."""
    trial = partial(one, nodes=nodes, seconds=seconds, kind=kind)
    if jobs <= 1:
        yield from map(trial, seeds)
        return
    # Ctrl-C reaches all processes of a terminal, and the one that waits for the others ends them. A new process ignores
    # what its parent ignores, from its first moment on.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = multiprocessing.get_context("spawn").Pool(jobs)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    with pool:
        yield from pool.imap_unordered(trial, seeds)


@dataclass(frozen=True, slots=True)
class Prey:
    """What a hunt came back with: `seed` is -1, and `violation` empty, when no trial found anything."""

    seed: int
    nodes: int
    seconds: float
    seeds: int
    """Trials until then."""
    cpu_s: float
    """Seconds of one core that they took."""
    violation: str


def hunt(seeds: Sequence[int], seconds: float, kind: str = "mesh") -> Prey:
    """Trials of meshes of several sizes, until one violates an invariant."""
    cpu_s, sizes = 0.0, HUNT_NODES[kind]
    for tried, seed in enumerate(seeds, 1):
        nodes = sizes[seed % len(sizes)]
        outcome = one(seed, nodes=nodes, seconds=seconds, kind=kind, until_first=True)
        cpu_s += outcome.cpu_s
        if outcome.violations:
            return Prey(seed, nodes, seconds, tried, cpu_s, outcome.violations[0])
    return Prey(-1, 0, seconds, len(seeds), cpu_s, "")
