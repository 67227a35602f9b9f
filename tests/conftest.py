"""What every test run shares: order, what a mark needs of the machine, and a plain word on what was not run."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.machines.podman import why_unavailable

ORDER = ("house", "unit", "fuzz", "contract", "e2e", "machines", "molecule")
"""Folders of tests in the order they run: what is quick and near the cause of a failure comes first."""
TESTS = Path(__file__).parent


@cache
def _why_no_podman() -> str:
    if os.geteuid() != 0:
        return "podman tests need root"
    return "" if shutil.which("podman") else "podman is missing (apt-get install podman)"


@cache
def _why_no_molecule() -> str:
    missing = [name for name in ("molecule", "ansible-playbook") if not shutil.which(name)]
    if missing:
        return f"not on PATH: {', '.join(missing)} (make venv installs them, make test puts .venv/bin on PATH)"
    return why_unavailable()


NEEDS = {"podman": _why_no_podman, "machines": cache(why_unavailable), "molecule": _why_no_molecule}
"""Mark → why tests with it cannot run here; an empty string where they can."""


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


def pytest_configure(config: pytest.Config) -> None:
    """A shell lets what it runs in the background ignore Ctrl-C, and so would every command that a test starts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick folders first; within a folder the order stays."""
    items.sort(key=_rank)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what this machine cannot run."""
    for mark, why in NEEDS.items():
        if item.get_closest_marker(mark) and (reason := why()):
            pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was not run, and why, right above the closing line: a quiet skip looks like a pass."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    terminalreporter.section(f"{len(skipped)} NOT RUN", sep="=", yellow=True, bold=True)
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:>5} x {reason}", yellow=True)
