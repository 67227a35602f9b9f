"""Named scenarios: each comes out as it says, and as it did when somebody last read its transcript."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simulator.crypto import real_keys
from simulator.golden import difference, play
from simulator.scenario import parse
from simulator.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((Path(__file__).parent / "scenarios").glob("*.scenario"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_scenario_comes_out_as_expected(file: Path) -> None:
    """Every expectation holds, nobody who could be reached was held dead, and the transcript is the golden one."""
    report = play(file)

    assert not report.violations, report.transcript()
    assert report.false_deaths == 0, report.transcript()
    again = f"read the difference, then: python -m simulator play --rewrite {file.relative_to(ROOT)}"
    changed = difference(file, report)
    assert not changed, f"{again}\n{changed}"


@pytest.mark.parametrize("name", ["one-of-three-survives", "power-cut", "two-operators"])
def test_real_cryptography_changes_nothing(name: str) -> None:
    """The slower lane: with real signatures, boxes and shares a scenario comes out as it does with cheap ones."""
    text = (Path(__file__).parent / f"scenarios/{name}.scenario").read_text()

    report = Stage(parse(text), keys=real_keys).run()

    assert not report.violations, report.transcript()


def test_transcripts_are_rewritten_on_demand(tmp_path: Path) -> None:
    """`play` tells a difference and fails; with `--rewrite` the new transcript is the golden one from then on."""
    file = tmp_path / "small.scenario"
    file.write_text("nodes 2\nat 1s apply web replicas=2\nat 5s expect running web=2\nend 5s\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "simulator", "play", *words, str(file)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    differs, rewritten, same = run(), run("--rewrite"), run()

    assert differs.returncode == 1
    assert "2 agents start" in differs.stdout
    assert (rewritten.returncode, same.returncode) == (0, 0), rewritten.stderr + same.stdout
    assert "as expected: running web=2" in file.with_suffix(".transcript").read_text()
