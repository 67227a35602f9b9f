"""Scenario files and their golden transcripts: what a scenario told when somebody last looked at it and found it right.

Beside `NAME.scenario` lies `NAME.transcript`. A change of a protocol changes transcripts; whoever makes one reads the
difference, and rewrites them (`python -m simulator play --rewrite FILES`).
"""

from __future__ import annotations

import difflib
from pathlib import Path

from simulator.scenario import parse
from simulator.stage import Report, Stage

SUFFIX = ".transcript"
DIFFERENCE_LINES_MAX = 40


def play(file: Path) -> Report:
    """Play a scenario file; raises `InvalidInput` when it cannot be read."""
    return Stage(parse(file.read_text(encoding="utf-8"), str(file))).run()


def difference(file: Path, report: Report) -> str:
    """How the transcript differs from the golden one, as a unified diff; empty when it does not."""
    golden = file.with_suffix(SUFFIX)
    before = golden.read_text(encoding="utf-8").splitlines() if golden.exists() else []
    lines = difflib.unified_diff(before, report.transcript().splitlines(), golden.name, "now", lineterm="", n=1)
    shown = list(lines)
    if len(shown) > DIFFERENCE_LINES_MAX:
        shown = [*shown[:DIFFERENCE_LINES_MAX], f"… and {len(shown) - DIFFERENCE_LINES_MAX} lines more"]
    return "\n".join(shown)


def rewrite(file: Path, report: Report) -> None:
    """Make the transcript the golden one."""
    file.with_suffix(SUFFIX).write_text(report.transcript(), encoding="utf-8")
