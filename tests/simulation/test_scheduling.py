"""Scheduling trials: every promise holds on a lane of seeds, they repeat, and their checkers bite."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from scripts.plant_bugs import Hunt, hunt
from simulator.batch import outcomes
from simulator.scheduling_trial import SchedulingTrial
from simulator.script import ACTIONS

ROOT = Path(__file__).resolve().parents[2]
SMALL = range(40)
"""Seeds of meshes of a few nodes: where two make a majority one fault is enough, so they find most."""
LARGE = range(3)
"""Seeds of meshes of the size that the seed draws, 20 to 60 nodes."""
SECONDS = 20
LONG = range(3, 4)
LONG_SECONDS = 60
"""In three times the time three times as much is handed in, and cuts last until all are parted from all: what everybody
does for everybody when they meet again shows here."""
BUSY = (21, 26, 28, 99, 119)
"""Seeds of meshes of eight in which much happens."""
COMES_UP = (
    "accepted", "refused", "important", "preempted", "scaled down", "rolled out", "drained", "deleted", "over quota",
    "daemons", "jobs", "stored", "spread",
)  # fmt: skip
PREEMPTED_MIN = 5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("seeds", "fresh", "nodes", "seconds"),
    [(SMALL, 0, 6, SECONDS), (LARGE, 3, 0, SECONDS), (LONG, 0, 0, LONG_SECONDS)],
    ids=["small", "large", "long"],
)
def test_every_promise_of_scheduling_holds(seeds: range, fresh: int, nodes: int, seconds: int) -> None:
    """Nothing accepted is lost, doubled or overbooked, and all of it comes to an end or can say why not; some of the
    seeds are fresh in each run. The message says how to see a failed one again."""
    drawn = [secrets.randbelow(10**9) for _ in range(fresh)]
    sized = f" --nodes {nodes}" if nodes else ""
    failed = [
        f"python -m simulator replay {outcome.seed} --kind scheduling{sized} --seconds {seconds}"
        f"   # {outcome.violations[0]}"
        for outcome in outcomes([*seeds, *drawn], nodes, seconds, os.cpu_count() or 1, "scheduling")
        if outcome.violations
    ]
    assert not failed, "\n".join(failed)


def test_a_scheduling_trace_repeats_across_processes() -> None:
    """The same seed gives the same trace in another process, whatever its hash seed; another seed does not."""
    program = (
        "from simulator.scheduling_trial import SchedulingTrial; import sys; "
        "print(SchedulingTrial(int(sys.argv[1]), 8, 10).run().trace)"
    )
    traces = [
        subprocess.run(
            [sys.executable, "-c", program, seed], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed, hash_seed in (("3", "1"), ("3", "2"), ("4", "1"))
    ]  # fmt: skip
    assert traces[0] == traces[1] != traces[2]


def test_meshes_are_of_all_sizes_and_operators_do_everything() -> None:
    """Twenty to sixty nodes, and over a few seeds each action of the table has its turn."""
    trials = [SchedulingTrial(seed, 0, 30) for seed in range(30)]
    sizes = [len(trial.world.machines) for trial in trials]
    assert 20 <= min(sizes) < 30
    assert 45 < max(sizes) <= 60
    done = {action.name for trial in trials for _, action, _ in trial.script}
    assert done == {action.name for action in ACTIONS}


def test_what_the_promises_are_about_really_comes_up() -> None:
    """Over a few seeds of small meshes each kind of thing happens, or the checkers would watch over nothing."""
    counts: Counter[str] = Counter()
    for seed in BUSY:
        trial = SchedulingTrial(seed, 8, SECONDS)
        assert not trial.run().violations
        counts += trial.census.counts
    missing = [name for name in COMES_UP if counts[name] <= 0]
    assert not missing, f"never in {list(BUSY)}: {missing}; there was {dict(counts)}"
    assert counts["preempted"] >= PREEMPTED_MIN


@pytest.mark.parametrize("name", ["forgotten-tasks", "uncounted-cpu"])
def test_a_planted_bug_of_scheduling_is_found(name: str) -> None:
    """Within some seeds, in a copy of the code that has it."""
    assert hunt(Hunt(name), seeds=40, state=None).violation
