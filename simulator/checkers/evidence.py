"""How nodes come to believe: a death needs two accusers or a lone judge, and no incarnation ever goes back."""

from __future__ import annotations

from typing import Any

from beemesh.events import MemberDown
from simulator.checkers import Blame
from simulator.world import World

ROWS_EVERY_S = 1.0
"""Tables of members are compared so often: all of them, at once, cost as much as a second of the mesh itself."""


class EvidenceChecker:
    """Looks into the tables of members, from outside and with rules of its own."""

    name = "evidence"
    sees: tuple[type, ...] = (MemberDown,)

    def __init__(self) -> None:
        self._incarnations: dict[tuple[int, int, int], int] = {}
        """(observer, its life, observed) → the highest incarnation seen there."""
        self._looked_s = 0.0

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """Whoever holds a member dead can show why."""
        composition = world.machines[index].composition
        if not isinstance(event, MemberDown) or composition is None:
            return
        member = composition.swim.members.get(event.node_id)
        if member is None or composition.view.status(event.node_id) != "dead":
            return  # it left the roster, or is back already
        accusers = set(member.suspicion.accusers) if member.suspicion is not None else set()
        own = composition.node.self_id
        target = world.index_of(event.node_id)
        if event.node_id in accusers:
            blame(f"n{index} holds n{target} dead on its own word")
        if len(accusers) >= 2:
            return
        if accusers != {own}:
            blame(f"n{index} holds n{target} dead with {len(accusers)} accusers, and did not probe it itself")
            return
        rows = (composition.swim.members.get(peer) for peer in composition.view.alive())
        heard = [row for row in rows if row is not None and row.failed_since_s is None]
        if heard:
            blame(f"n{index} holds n{target} dead alone, though {len(heard)} others could have accused it")

    def look(self, world: World, blame: Blame) -> None:
        """Incarnations only grow, in every table."""
        if world.now_s - self._looked_s < ROWS_EVERY_S:
            return
        self._looked_s = world.now_s
        for machine in world.machines:
            if machine.composition is None:
                continue
            for other in world.machines:
                row = machine.composition.swim.members.get(other.membership.node_id)
                if row is None:
                    continue
                place = (machine.index, machine.life, other.index)
                before = self._incarnations.get(place, 0)
                if row.incarnation < before:
                    blame(f"n{machine.index} went back from incarnation {before} of n{other.index}")
                self._incarnations[place] = max(before, row.incarnation)

    def at_end(self, world: World, blame: Blame) -> None:
        """Nothing more."""
