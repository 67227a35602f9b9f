"""What came of many trials, over interruptions: a text file whose first line says which trials they are, and that has a
row for each."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import beemesh
import simulator
from beemesh.errors import InvalidInput
from simulator.ordeal import Outcome

FORMAT = "beemesh-trials 1"
CODE_DIGITS = 16
OTHER_FLAG = "--also-other-code"


@cache
def code_here() -> str:
    """Names the code that runs: a hash of the sources beside the running modules, which a compiled copy keeps."""
    total = hashlib.sha256()
    for package in (beemesh, simulator):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            source = file.read_bytes()
            total.update(f"{package.__name__}/{file.relative_to(folder).as_posix()} {len(source)}\n".encode() + source)
    return total.hexdigest()[:CODE_DIGITS]


def exact(seconds: float) -> str:
    """As people write it, and the same number when it is read again."""
    return repr(seconds).removesuffix(".0")


@dataclass(frozen=True, slots=True)
class Trials:
    """What is tried; as text the first line of a file of rows."""

    kind: str
    nodes: int
    """0: drawn."""
    seconds: float

    def __str__(self) -> str:
        return f"{FORMAT} kind={self.kind} nodes={self.nodes or 'drawn'} seconds={exact(self.seconds)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One trial; as text `<seed> <trace> <code> <events> <seconds of one core> <seconds until all was well>
    <violations>`."""

    seed: int
    trace: str
    code: str
    """Of `code_here`, where it was tried."""
    events: int = 0
    cpu_s: float = 0.0
    healed_s: float = 0.0
    violations: int = 0

    def __str__(self) -> str:
        numbers = f"{self.events} {self.cpu_s:.2f} {self.healed_s:.1f} {self.violations}"
        return f"{self.seed} {self.trace} {self.code} {numbers}"


def read(file: Path, trials: Trials) -> dict[int, Row]:
    """Seed → row; nothing of an empty file. A line that was cut off by the end of a process does not count. Raises
    `InvalidInput` for rows of other trials."""
    text, first = file.read_text(encoding="utf-8", errors="replace"), f"{trials}\n"
    if first.startswith(text):
        return {}
    if not text.startswith(first):
        raise InvalidInput(
            f"{file} has no rows of these trials: its first line is {text.splitlines()[0][:80]!r}, expected {first!r}",
            hint="ask for the same --kind, --nodes and --seconds as then, or name another file",
        )
    rows = {}
    for line in text.removeprefix(first).splitlines(keepends=True):
        if line.endswith("\n"):
            row = _parsed(line.split(), f"{file}: {line.rstrip()!r}")
            rows[row.seed] = row
    return rows


def _parsed(words: list[str], place: str) -> Row:
    try:
        seed, trace, code, events, cpu_s, healed_s, violations = words
        return Row(int(seed), trace, code, int(events), float(cpu_s), float(healed_s), int(violations))
    except ValueError:
        expected = "expected seed, trace, code, events and three numbers"
        raise InvalidInput(f"{place} is no row: {expected}", hint="remove the line, or name another file") from None


def counted(file: Path, trials: Trials, seeds: Container[int], *, other_code: bool) -> dict[int, Row]:
    """Those of a file's rows that are about `seeds`. Raises `InvalidInput` for rows of other code, unless with
    `other_code`."""
    rows = {seed: row for seed, row in read(file, trials).items() if seed in seeds}
    others = sum(row.code != code_here() for row in rows.values())
    if others and not other_code:
        raise InvalidInput(
            f"{file}: {others} of {len(rows)} rows are of other code than this, which is {code_here()}",
            hint=f"name another file to try these seeds with this code, or let the rows count with {OTHER_FLAG}",
        )
    return rows


def to_repeat(file: Path, trials: Trials, seeds: range, *, other_code: bool) -> dict[int, Row]:
    """The rows whose trace must come out again. Raises `InvalidInput` when there are none."""
    if not file.is_file():
        raise InvalidInput(f"there is no file {file} of seeds to try again", hint="`run --done FILE` makes one")
    rows = counted(file, trials, seeds, other_code=other_code)
    if not rows:
        wanted = f"{seeds[0]}..{seeds[-1]}"
        raise InvalidInput(f"{file} has none of the seeds {wanted}: nothing to compare", hint="name others: --seeds")
    return rows


@dataclass(slots=True)
class Tally:
    """The trials of one run, those before its interruptions included."""

    file: Path | None
    before: dict[int, Row]
    """Trials whose trace must come out again."""
    rows: dict[int, Row] = field(default_factory=dict)
    code: str = field(default_factory=code_here)

    def begin(self, trials: Trials) -> None:
        """Make the file ready for rows: it gets its first line, or loses a line that was cut off."""
        if self.file is None:
            return
        with self.file.open("a+b") as file:
            file.seek(0)
            whole = file.read().rpartition(b"\n")
            file.truncate(len(whole[0] + whole[1]))
            if not whole[1]:
                file.write(f"{trials}\n".encode())

    def add(self, outcome: Outcome) -> None:
        """Count one more, and remember it in the file."""
        found = len(outcome.violations)
        row = Row(outcome.seed, outcome.trace, self.code, outcome.events, outcome.cpu_s, outcome.healed_s, found)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{row}\n")
        self.rows[outcome.seed] = row

    @property
    def failed(self) -> list[int]:
        """Seeds whose trial violated an invariant, also before an interruption."""
        return sorted(seed for seed, row in self.rows.items() if row.violations)

    @property
    def differ(self) -> list[int]:
        """Seeds whose trace did not come out again, also before an interruption."""
        return sorted(seed for seed in self.rows if self.differs(seed))

    def differs(self, seed: int) -> bool:
        """Whether the trace of a seed that was tried did not come out again."""
        return seed in self.before and self.rows[seed].trace != self.before[seed].trace

    def report(self) -> dict[str, Any]:
        """Sums over all trials, and how long the clean ones took to be well again after their last fault."""
        rows = self.rows.values()
        events, cpu_s = sum(row.events for row in rows), sum(row.cpu_s for row in rows)
        healed_s = sorted(row.healed_s for row in rows if not row.violations)
        return {
            "seeds": len(rows),
            "failed": self.failed,
            "compared": len(self.rows.keys() & self.before.keys()),
            "other_traces": self.differ,
            "code": self.code,
            "seeds_by_code": dict(sorted(Counter(row.code for row in rows).items())),
            "events": events,
            "cpu_s": round(cpu_s, 1),
            "events_per_core_second": round(events / cpu_s) if cpu_s else 0,
            "healed_s_median": statistics.median(healed_s) if healed_s else None,
            "healed_s_worst": healed_s[-1] if healed_s else None,
        }
