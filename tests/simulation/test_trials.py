"""Trials: the simulator repeats itself, it bites, and a fixed lane of seeds is clean."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beemesh.dht import claims
from simulator import commands
from simulator.__main__ import main
from simulator.batch import outcomes
from simulator.plan import Step, draw
from simulator.tally import Row, Tally, Trials, code_here, read
from simulator.trial import Trial

ROOT = Path(__file__).resolve().parents[2]
FIXED = range(300)
"""Seeds of every run; the first 100 of them hold several with a hostile member."""
FRESH = 6
"""Seeds that were never tried before, in each run."""
NODES, SECONDS = 8, 30

SMALL = Trials("mesh", 3, 2.0)
OF_SMALL = ["--nodes", "3", "--seconds", "2"]


def row(seed: int, trace: str, *, violations: int = 0, code: str = "") -> Row:
    """A trial of this code, unless told."""
    return Row(seed, trace, code or code_here(), 10, 1.0, 20.0, violations)


def write(file: Path, *rows: Row, trials: Trials = SMALL) -> Path:
    """A file of finished seeds."""
    file.write_text("".join(f"{each}\n" for each in (trials, *rows)))
    return file


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a run reports in the end."""
    report: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return report


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
    command = [sys.executable, "-m", "simulator", "run", "--seeds", "0..3", *OF_SMALL]
    reports = [
        json.loads(subprocess.run(
            [*command, "--jobs", "2", "--done", str(done)], cwd=ROOT, capture_output=True, text=True, check=True,
            timeout=120,
        ).stdout)
        for _ in range(2)
    ]  # fmt: skip
    assert [report["tried_now"] for report in reports] == [4, 0]
    assert [report["seeds"] for report in reports] == [4, 4]
    traces = {seed: row.trace for seed, row in read(done, SMALL).items()}
    assert traces == {seed: Trial(seed, 3, 2).run().trace for seed in range(4)}


def test_what_failed_before_an_interruption_is_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that goes on does not try it anew, shows the command that replays it, and fails in the end."""
    done = write(tmp_path / "done", row(0, "aa"), row(1, "bb", violations=2))

    assert main(["run", "--seeds", "0..2", *OF_SMALL, "--jobs", "1", "--done", str(done)]) == 1

    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.endswith("python -m simulator replay 1 --nodes 3 --seconds 2")
    assert (json.loads(last)["seeds"], json.loads(last)["failed"], json.loads(last)["tried_now"]) == (3, [1], 1)


@pytest.mark.parametrize("cut", ["2", "2 bb", f"{row(2, 'bb')}", f"{SMALL}"])
def test_a_trial_that_was_cut_off_is_tried_again(tmp_path: Path, cut: str) -> None:
    """Power fails while a row is written: half a row is no row, and what comes after it is not taken for the rest."""
    done = write(tmp_path / "done", row(1, "aa"))
    done.write_text((done.read_text() if cut != f"{SMALL}" else "") + cut)
    whole = [1] if cut != f"{SMALL}" else []
    assert list(read(done, SMALL)) == whole

    tally = Tally(done, {})
    tally.begin(SMALL)
    tally.add(replace(Trial(3, 3, 2).outcome, trace="cc"))

    assert list(read(done, SMALL)) == [*whole, 3]


@pytest.mark.parametrize("other", [["--nodes", "20"], ["--seconds", "60"], ["--kind", "scheduling"]])
def test_rows_of_other_trials_are_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: list[str]
) -> None:
    """A file of three nodes does not say that twenty are well: what was expected is told, and nothing is tried."""
    done = write(tmp_path / "done", row(0, "aa"))
    before = done.read_text()
    for option in ("--done", "--again"):
        assert main(["run", "--seeds", "0..0", *OF_SMALL, *other, "--jobs", "1", option, str(done)]) == 2
        told = capsys.readouterr()
        assert f"its first line is '{SMALL}', expected 'beemesh-trials 1 " in told.err
        assert not told.out
    assert done.read_text() == before


def test_rows_without_a_first_line_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the file is, it is not taken for finished seeds, nor written into; an empty one is a new one."""
    done = tmp_path / "done"
    done.write_text("0 aa 10 1.00 20.0 0\n")
    assert main(["run", "--seeds", "0..0", *OF_SMALL, "--jobs", "1", "--done", str(done)]) == 2
    assert "expected 'beemesh-trials 1 kind=mesh nodes=3 seconds=2" in capsys.readouterr().err
    assert done.read_text() == "0 aa 10 1.00 20.0 0\n"
    write(done).open("a").write("a row of something else\n")
    assert main(["run", "--seeds", "0..0", *OF_SMALL, "--jobs", "1", "--done", str(done)]) == 2
    assert "'a row of something else' is no row" in capsys.readouterr().err
    done.write_text("")
    assert main(["run", "--seeds", "0..0", *OF_SMALL, "--jobs", "1", "--done", str(done)]) == 0
    assert list(read(done, SMALL)) == [0]


def test_rows_of_other_code_count_only_when_that_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was clean before a change need not be clean after it; the report says how many rows are of which code."""
    done = write(tmp_path / "done", row(0, "aa", code="0ther"), row(1, "bb"), row(9, "cc", code="0ther"))
    words = ["run", "--seeds", "0..2", *OF_SMALL, "--jobs", "1", "--done", str(done)]

    assert main(words) == 2
    assert "1 of 2 rows are of other code" in capsys.readouterr().err
    assert main([*words, "--also-other-code"]) == 0
    report = last_line(capsys)
    assert (report["tried_now"], report["seeds_by_code"]) == (1, {"0ther": 1, code_here(): 2})


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
    """Only the seeds of the file are tried again, and one that comes out differently fails the run, also when it was
    tried before an interruption."""
    trace, before, done = Trial(1, 3, 2).run().trace, tmp_path / "before", tmp_path / "done"
    words = ["run", "--seeds", "0..9", *OF_SMALL, "--jobs", "1", "--again", str(before)]
    write(before, row(1, trace))
    assert main(words) == 0
    assert last_line(capsys)["compared"] == 1
    write(before, row(1, trace), row(2, trace))
    for tried in (2, 0):
        assert main([*words, "--done", str(done)]) == 1
        report = last_line(capsys)
        assert (report["tried_now"], report["compared"], report["other_traces"]) == (tried, 2, [2])


def test_nothing_to_compare_is_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there, one without these seeds, and one that would be compared with itself are refused."""
    before = write(tmp_path / "before", row(1, "aa"))
    words = ["run", *OF_SMALL, "--jobs", "1", "--again"]
    for rest, why in (
        ([str(tmp_path / "nowhere")], "there is no file"),
        ([str(before), "--seeds", "2..9"], "none of the seeds 2..9"),
        ([str(before), "--done", str(before)], "compared with itself"),
    ):
        assert main([*words, *rest]) == 2
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    "run --seeds 5..3", "run --seeds abc", "run --seeds 0..", "run --seeds -4", "run --nodes 0", "run --nodes few",
    "run --seconds nan", "run --seconds inf", "run --seconds 0", "run --jobs 0", "hunt --seeds 1..0", "replay -1",
    "replay 1..2", "replay 1 --seconds -1",
])  # fmt: skip
def test_numbers_that_cannot_be_right_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is tried, in a line that says what was expected."""
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def children(process: int) -> list[int]:
    """The processes that it started."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def ignores_interrupts(process: int) -> bool:
    """Whether Ctrl-C passes it by, so that it has nothing to say about it."""
    (ignored,) = re.findall(r"^SigIgn:\s+(\w+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return bool(int(ignored, 16) >> (signal.SIGINT - 1) & 1)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_run_says_what_came_of_it_and_how_to_go_on(tmp_path: Path, jobs: str) -> None:
    """Ctrl-C in a terminal reaches every process of the run: a report, a command, and no traceback."""
    done = tmp_path / "done"
    words = ["--seeds", "0..999", *OF_SMALL, "--jobs", jobs, "--done", str(done)]
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator", "run", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        while process.poll() is None and not (done.exists() and read(done, SMALL)):
            time.sleep(0.05)
        workers_ignore = all(map(ignores_interrupts, children(process.pid)))
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)

    report = json.loads(out.splitlines()[-1])
    assert (process.returncode, len(err.splitlines()), workers_ignore) == (130, 1, True), err
    assert report["tried_now"] == report["seeds"] == len(read(done, SMALL)) == 1000 - report["left"]
    command = err.removeprefix("interrupted; go on with: python -m simulator ")
    assert set(words) - {jobs, "--jobs"} <= set(command.split())


def test_an_interruption_before_the_first_trial_is_told_as_plainly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a command is at, Ctrl-C is no error of ours."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "one", interrupted)
    assert main(["replay", "1"]) == 130
    monkeypatch.setattr(commands, "outcomes", interrupted)
    assert main(["run", "--seeds", "3..7", *OF_SMALL]) == 130
    told = capsys.readouterr().err.splitlines()
    again = "python -m simulator run --seeds 3..7 --nodes 3 --seconds 2"
    assert told == ["interrupted", f"interrupted; go on with: {again}"]


def test_the_simulator_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug, leases without a majority, is found within some seeds."""
    monkeypatch.setattr(claims, "majority", lambda _size: 1)
    assert any(Trial(seed, nodes=8, seconds=30, until_first=True).run().violations for seed in range(20))
