"""Two majority leases of one key never overlap, by each holder's own belief; fences only grow (DESIGN section 5)."""

from __future__ import annotations

from typing import Any

from beemesh.events import LeaseGranted, LeaseLost, ReleaseLease
from simulator.checkers import Blame
from simulator.world import World


class LeaseChecker:
    """Keeps who believes in which lease until when."""

    name = "leases"
    sees: tuple[type, ...] = (LeaseGranted, LeaseLost, ReleaseLease)

    def __init__(self, *, forgetful: bool = False) -> None:
        """With replicas that are `forgetful` (a disk is lost) a fence may come again, once its lease is long over."""
        self._forgetful = forgetful
        self._fences: dict[str, int] = {}
        """Key → the highest fence that was ever granted."""
        self._frail: dict[str, tuple[int, int]] = {}
        """Key → (fence, machine) where that was granted to a machine whose disk may never have heard of it: once its
        agent starts anew that one may take up the very same fence."""
        self._held: dict[str, tuple[int, int, float]] = {}
        """Key → (machine, its life, until when)."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A grant begins or prolongs a belief; a loss or release ends it."""
        match event:
            case LeaseGranted(key=key, proof=proof) if not proof.tentative:
                machine = world.machines[index]
                until_s = event.expires_boot_s - machine.boot_offset_s
                holder, life, other_until_s = self._held.get(key, (index, 0, 0.0))
                alive = world.machines[holder].life == life and world.machines[holder].is_up
                if holder != index and alive and other_until_s > at_s:
                    blame(f"n{index} was granted {key}, which n{holder} holds for {other_until_s - at_s:.2f} s")
                self._held[key] = (index, machine.life, until_s)
                if not event.renewed:
                    self._fence(world, key, event.fence, index, blame)
            case LeaseLost(key=key) | ReleaseLease(key=key):
                if self._held.get(key, (index,))[0] == index:
                    self._held.pop(key, None)

    def _fence(self, world: World, key: str, fence: int, index: int, blame: Blame) -> None:
        highest = self._fences.get(key, 0)
        is_again = fence == highest and self._frail.get(key) == (fence, index)
        if fence <= highest and not is_again and not self._forgetful:
            blame(f"n{index} was granted {key} with fence {fence}, though {highest} was granted before")
        self._fences[key] = max(highest, fence)
        if world.machines[index].ailing is not None:
            self._frail[key] = (fence, index)

    def look(self, world: World, blame: Blame) -> None:
        """Beliefs begin and end with events alone."""

    def at_end(self, world: World, blame: Blame) -> None:
        """Nothing more."""
