"""The checkers that watch one world together: who sees what, and whom they tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from simulator.checkers import Blame, Checker
from simulator.checkers.custody import WATCHED, CustodyChecker
from simulator.checkers.evidence import EvidenceChecker
from simulator.checkers.overlaps import OverlapChecker
from simulator.checkers.pods import PodChecker
from simulator.checkers.wire import WireChecker
from simulator.world import World


def always(*, forgetful: bool, hostile: bool) -> tuple[Checker, ...]:
    """Those whose word holds at every moment, whatever goes wrong. `forgetful`: a disk may be lost; `hostile`: somebody
    may lie."""
    return (
        OverlapChecker(forgetful=forgetful),
        PodChecker(),
        EvidenceChecker(),
        CustodyChecker(),
        WireChecker(hostile=hostile),
    )


class Panel:
    """Looks at a world with all its checkers. `blame` is told the checker's name and what it found."""

    def __init__(self, world: World, checkers: Sequence[Checker], blame: Callable[[str, str], None]) -> None:
        """From now on the world's `watch` belongs to whoever hands its events to `saw`."""
        self._world = world
        self._checkers = checkers
        self._blames: dict[str, Blame] = {checker.name: partial(blame, checker.name) for checker in checkers}
        self._seers: dict[type, list[Checker]] = {}
        for checker in checkers:
            for kind in checker.sees:
                self._seers.setdefault(kind, []).append(checker)
            if isinstance(checker, WireChecker):
                world.admitted = partial(checker.admitted, world, self._blames[checker.name])
        world.watched_tables = WATCHED

    def saw(self, index: int, event: Any) -> None:
        """A node noticed or saved something."""
        for checker in self._seers.get(type(event), ()):
            checker.saw(self._world, self._world.now_s, index, event, self._blames[checker.name])

    def look(self) -> None:
        """A moment between two events."""
        for checker in self._checkers:
            checker.look(self._world, self._blames[checker.name])

    def at_end(self) -> None:
        """All faults are over, and the time to recover is too."""
        for checker in self._checkers:
            checker.at_end(self._world, self._blames[checker.name])

    @property
    def is_well(self) -> bool:
        """Whether nobody would blame anything, were this the end."""
        found: list[str] = []
        for checker in self._checkers:
            checker.at_end(self._world, found.append)
            if found:
                return False
        return True
