"""Every benchmark that is simulated runs: what is measured rarely is broken unnoticed otherwise. Its figures at these
sizes mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "broadcast": "--nodes 40 --messages 2",
    "false_deaths": "--nodes 16 --hours 0.1 --plain-hours 0.1 --chunk 360 --jobs 1",
    "intents": "--nodes 20 --intents 30",
    "lookup": "--nodes 60 --keys 5 --crowd 5",
    "placement": "--hosts 20 --tasks 10 --work-tasks 20",
    "placements": "--hosts 30 --placements 50 --scales 10,20 --scale-placements 20",
    "spread": "20 30",
}


@pytest.mark.parametrize("name", SMALL)
def test_a_simulated_benchmark_runs(name: str, tmp_path: Path) -> None:
    """It ends, and its last line is JSON."""
    command = [sys.executable, str(ROOT / "bench" / f"{name}.py"), *SMALL[name].split()]
    command += ["--state", str(tmp_path / "state")] if name == "false_deaths" else []
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])
