"""Who looks for a sealed manifest through the DHT finds somebody who keeps it."""

from __future__ import annotations

from typing import Any

from beemesh.events import ProvidersFound
from simulator.checkers import Blame
from simulator.world import World


class DirectoryChecker:
    """Remembers what was looked up, and what came of it."""

    name = "directory"
    sees: tuple[type, ...] = (ProvidersFound,)

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        """What is looked for → the machine that asked."""

    def asked(self, index: int, ref: str) -> None:
        """A lookup begins."""
        self._waiting[ref] = index

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A lookup that found somebody is done."""
        if isinstance(event, ProvidersFound) and event.nodes:
            self._waiting.pop(event.ref, None)

    def look(self, world: World, blame: Blame) -> None:
        """Lookups take their time."""

    def at_end(self, world: World, blame: Blame) -> None:
        """Every lookup found somebody."""
        for ref, index in self._waiting.items():
            blame(f"n{index} finds nobody who keeps the manifest of {ref}")
