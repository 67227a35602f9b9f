"""The right to start an ordinal only moves forward: who starts it later has the greater fence."""

from __future__ import annotations

from typing import Any

from beemesh.events import DeployPod
from simulator.checkers import Blame
from simulator.world import World


class FenceChecker:
    """Remembers the greatest fence that each ordinal was started by, where nothing may be doubled."""

    name = "fences"
    sees: tuple[type, ...] = (DeployPod,)

    def __init__(self, *, forgetful: bool) -> None:
        """With replicas that are `forgetful` (a disk is lost) a fence may come again, once its lease is long over."""
        self._forgetful = forgetful
        self._greatest: dict[tuple[str, int], tuple[int, int]] = {}
        """Ordinal → (fence, machine)."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A start."""
        if not isinstance(event, DeployPod) or event.task.duplicate_tolerant or self._forgetful:
            return
        slot = (event.task.workload_id, event.task.replica)
        fence, holder = self._greatest.get(slot, (0, index))
        if event.fence < fence or (event.fence == fence and holder != index):
            blame(f"n{index} starts {slot[0]}/{slot[1]} by fence {event.fence}, n{holder} did by {fence} before")
        self._greatest[slot] = max((event.fence, index), (fence, holder))

    def look(self, world: World, blame: Blame) -> None:
        """Starts are events."""

    def at_end(self, world: World, blame: Blame) -> None:
        """Nothing more."""
