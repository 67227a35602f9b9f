"""Invariants, each watched by an object of its own while a trial runs. A checker only looks; it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from simulator.world import World

Blame = Callable[[str], None]
"""Tells of a violation."""


class Checker(Protocol):
    """Sees every notification of every node, and the whole world from time to time."""

    name: str
    sees: tuple[type, ...]
    """What it wants to see."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A node on machine `index` noticed something at `at_s`, a moment ago."""
        ...

    def look(self, world: World, blame: Blame) -> None:
        """A moment between two events."""
        ...

    def at_end(self, world: World, blame: Blame) -> None:
        """All faults are over, and the time to recover is too."""
        ...
