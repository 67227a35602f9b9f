"""Majority leases of one key do not overlap while the rosters of all agree, or differ by one keeper (DESIGN section 5),
or by however many new ones: these vote only once the others know of them (ADR 0011).

Where two or more were removed they may, for as long as it takes to compare: two majorities of two different sets.
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
        """Overlaps while rosters differed by two who were removed, or more."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """As for all leases, under the condition."""

        def under_the_condition(text: str) -> None:
            if differ_by_one(world):
                blame(text)
            else:
                self.beyond += 1

        super().saw(world, at_s, index, event, under_the_condition)


def differ_by_one(world: World) -> bool:
    """Whether all agents hold the same keepers for members, give or take one, and those who are new."""
    sets = {
        frozenset(card.node_id for card in machine.composition.roster.keepers())
        for machine in world.machines
        if machine.composition is not None
    }
    members = {machine.membership.node_id for machine in world.machines if machine.is_member}
    return not sets or len(frozenset.union(*sets) - frozenset.intersection(*sets) - members) <= 1
