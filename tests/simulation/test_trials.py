"""Trials: the simulator repeats itself, it bites, and a fixed lane of seeds is clean."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from beemesh.dht import claims
from simulator.__main__ import main
from simulator.batch import outcomes
from simulator.plan import Step, draw
from simulator.tally import Row, read
from simulator.trial import Trial

ROOT = Path(__file__).resolve().parents[2]
FIXED = range(300)
"""Seeds of every run; the first 100 of them hold several with a hostile member."""
FRESH = 6
"""Seeds that were never tried before, in each run."""
NODES, SECONDS = 8, 30


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tormented_meshes_recover() -> None:
    """No invariant is violated, while faults last and after: on a fixed lane of seeds, and on some that nobody ever
    tried. The message says how to see a failed one again."""
    seeds = [*FIXED, *(secrets.randbelow(10**9) for _ in range(FRESH))]
    failed = [
        f"python -m simulator replay {outcome.seed} --nodes {NODES} --seconds {SECONDS}   # {outcome.violations[0]}"
        for outcome in outcomes(seeds, NODES, SECONDS, os.cpu_count() or 1)
        if outcome.violations
    ]
    assert not failed, "\n".join(failed)


def test_the_lane_holds_hostile_members() -> None:
    """Faults are drawn: enough of the fixed seeds have a member that lies, replays, floods or forges."""
    assert sum("hostile" in draw(random.Random(seed), NODES, SECONDS).kinds for seed in FIXED) >= 20


def test_a_trace_repeats_across_processes() -> None:
    """The same seed gives the same trace in another process, whatever its hash seed; another seed does not."""
    program = "from simulator.trial import Trial; import sys; print(Trial(int(sys.argv[1]), 20, 10).run().trace)"
    traces = [
        subprocess.run(
            [sys.executable, "-c", program, seed], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed, hash_seed in (("3", "1"), ("3", "2"), ("4", "1"))
    ]  # fmt: skip
    assert traces[0] == traces[1] != traces[2]


def test_trials_run_on_several_cores_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    """Two processes try what one would, and a second run has nothing left to do."""
    done = tmp_path / "done"
    command = [sys.executable, "-m", "simulator", "run", "--seeds", "0..3", "--nodes", "3", "--seconds", "2"]
    reports = [
        json.loads(subprocess.run(
            [*command, "--jobs", "2", "--done", str(done)], cwd=ROOT, capture_output=True, text=True, check=True,
            timeout=120,
        ).stdout)
        for _ in range(2)
    ]  # fmt: skip
    assert [report["tried_now"] for report in reports] == [4, 0]
    assert [report["seeds"] for report in reports] == [4, 4]
    traces = {seed: row.trace for seed, row in read(done).items()}
    assert traces == {seed: Trial(seed, 3, 2).run().trace for seed in range(4)}


def test_what_failed_before_an_interruption_is_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that goes on does not try it anew, shows the command that replays it, and fails in the end."""
    done = tmp_path / "done"
    done.write_text(f"{Row(0, 'aa')}\n{Row(1, 'bb', violations=2)}\n")

    assert main(["run", "--seeds", "0..2", "--nodes", "3", "--seconds", "2", "--jobs", "1", "--done", str(done)]) == 1

    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.endswith("python -m simulator replay 1 --nodes 3 --seconds 2")
    assert (json.loads(last)["seeds"], json.loads(last)["failed"], json.loads(last)["tried_now"]) == (3, [1], 1)


def test_a_trial_that_was_cut_off_is_tried_again(tmp_path: Path) -> None:
    """Power fails while a row is written: half a row is no row."""
    done = tmp_path / "done"
    done.write_text(f"{Row(1, 'aa', 10, 1.0, 20.0)}\n2 bb 10")
    assert list(read(done)) == [1]


def test_a_fault_that_outlasts_the_trial_ends_with_it() -> None:
    """A machine that was to be away for longer is started by the heal; nothing starts it once more, after it has gone
    for good."""
    trial = Trial(0, 3, 2)
    trial.plan = replace(trial.plan, steps=(Step(1.0, "power", (0,), 300.0),), applies=(), locks=(), rivals=())

    outcome = trial.run()
    trial.world.run_for(310 - trial.world.now_s)

    assert not outcome.violations
    assert any("n0 goes for good" in line for line in outcome.transcript)
    assert not trial.world.machines[0].is_up


def test_healing_ends_when_all_is_well_or_waits_for_what_comes_late() -> None:
    """Most trials end soon after all is well; some wait for the whole time that recovery may take."""
    lasted = {}
    for seed in range(12):
        trial = Trial(seed, 3, 2)
        outcome = trial.run()
        assert not outcome.violations
        lasted[seed] = trial.world.now_s
        assert outcome.healed_s < 60
    assert min(lasted.values()) < 90 < 120 < max(lasted.values())


def test_a_trace_that_differs_from_before_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the seeds of the file are tried again, and one that comes out differently fails the run."""
    trace = Trial(1, 3, 2).run().trace
    words = ["run", "--seeds", "0..9", "--nodes", "3", "--seconds", "2", "--jobs", "1", "--again", str(tmp_path / "f")]
    (tmp_path / "f").write_text(f"{Row(1, trace)}\n")
    assert main(words) == 0
    (tmp_path / "f").write_text(f"{Row(1, trace)}\n{Row(2, trace)}\n")
    assert main(words) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["seeds"], report["other_traces"]) == (2, [2])


def test_the_simulator_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug, leases without a majority, is found within some seeds."""
    monkeypatch.setattr(claims, "majority", lambda _size: 1)
    assert any(Trial(seed, nodes=8, seconds=30, until_first=True).run().violations for seed in range(20))
