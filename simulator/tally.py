"""What came of many trials, over interruptions: a row of a text file for each."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.ordeal import Outcome


@dataclass(frozen=True, slots=True)
class Row:
    """One trial; as text `<seed> <trace> <events> <seconds of one core> <seconds until all was well> <violations>`."""

    seed: int
    trace: str
    events: int = 0
    cpu_s: float = 0.0
    healed_s: float = 0.0
    violations: int = 0

    def __str__(self) -> str:
        return f"{self.seed} {self.trace} {self.events} {self.cpu_s:.2f} {self.healed_s:.1f} {self.violations}"


def read(file: Path | None) -> dict[int, Row]:
    """Seed → row; nothing where there is no file. A line that was cut off by the end of a process does not count."""
    if file is None or not file.is_file():
        return {}
    rows = {}
    for words in map(str.split, file.read_text(encoding="utf-8").splitlines()):
        if len(words) == 6:
            seed, trace, events, cpu_s, healed_s, violations = words
            rows[int(seed)] = Row(int(seed), trace, int(events), float(cpu_s), float(healed_s), int(violations))
    return rows


@dataclass(slots=True)
class Tally:
    """The trials of one run, those before its interruptions included."""

    file: Path | None
    before: dict[int, Row]
    """Trials whose trace must come out again."""
    rows: dict[int, Row] = field(default_factory=dict)
    differ: list[int] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one more, and remember it in the file."""
        found = len(outcome.violations)
        row = Row(outcome.seed, outcome.trace, outcome.events, outcome.cpu_s, outcome.healed_s, found)
        if outcome.seed in self.before and self.before[outcome.seed].trace != outcome.trace:
            self.differ.append(outcome.seed)
        self.rows[outcome.seed] = row
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{row}\n")

    @property
    def failed(self) -> list[int]:
        """Seeds whose trial violated an invariant, also before an interruption."""
        return sorted(seed for seed, row in self.rows.items() if row.violations)

    def report(self) -> dict[str, Any]:
        """Sums over all trials, and how long the clean ones took to be well again after their last fault."""
        rows = self.rows.values()
        events, cpu_s = sum(row.events for row in rows), sum(row.cpu_s for row in rows)
        healed_s = sorted(row.healed_s for row in rows if not row.violations)
        return {
            "seeds": len(rows),
            "failed": self.failed,
            "other_traces": sorted(self.differ),
            "events": events,
            "cpu_s": round(cpu_s, 1),
            "events_per_core_second": round(events / cpu_s) if cpu_s else 0,
            "healed_s_median": statistics.median(healed_s) if healed_s else None,
            "healed_s_worst": healed_s[-1] if healed_s else None,
        }
