"""The simulator bites: bugs that `scripts/plant_bugs.py` plants are found. Here three that take a few seeds each."""

from __future__ import annotations

import pytest

from scripts.plant_bugs import Hunt, hunt

FEW = 12


@pytest.mark.parametrize("name", ["replay-window", "early-acceptance", "one-custodian"])
def test_a_planted_bug_is_found(name: str) -> None:
    """Within a few seeds, in a copy of the code that has it; how to see it again is told."""
    found = hunt(Hunt(name), seeds=FEW, state=None)
    assert found.violation
    assert found.seed == found.seeds - 1
    assert found.nodes


def test_where_no_bug_is_none_is_found() -> None:
    """The same seeds over the code as it is."""
    assert hunt(Hunt("(none)"), seeds=FEW, state=None).seed == -1
