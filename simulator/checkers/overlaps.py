"""Majority leases of one key do not overlap while the rosters of all agree, or differ by one keeper (DESIGN section 5).

Further apart they may, for as long as it takes to compare: two majorities of two different sets of replicas.
"""

from __future__ import annotations

from typing import Any

from simulator.checkers import Blame
from simulator.checkers.leases import LeaseChecker
from simulator.world import World


class OverlapChecker(LeaseChecker):
    """Blames only what the condition covers; the rest is counted."""

    name = "overlaps"

    def __init__(self, *, forgetful: bool) -> None:
        super().__init__(forgetful=forgetful)
        self.beyond = 0
        """Overlaps while rosters differed by more."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """As for all leases, under the condition."""

        def under_the_condition(text: str) -> None:
            if differ_by_one(world):
                blame(text)
            else:
                self.beyond += 1

        super().saw(world, at_s, index, event, under_the_condition)


def differ_by_one(world: World) -> bool:
    """Whether all agents hold the same keepers for members, give or take one."""
    sets = {
        frozenset(card.node_id for card in machine.composition.roster.keepers())
        for machine in world.machines
        if machine.composition is not None
    }
    return not sets or len(frozenset.union(*sets) - frozenset.intersection(*sets)) <= 1
