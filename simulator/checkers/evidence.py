"""How nodes come to believe: a death needs two accusers or a lone judge, every word was signed by whoever it names,
and no incarnation ever goes back."""

from __future__ import annotations

from typing import Any

from beemesh.events import MemberDown
from beemesh.identity.signing import payload_of
from beemesh.ids import NodeId
from beemesh.membership.claims import author_of, decode
from beemesh.membership.messages import Claim, Suspect
from beemesh.membership.rows import Member
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
        self._rows: dict[tuple[int, int, int], tuple[Any, ...]] = {}
        """(observer, its life, observed) → what was last found there: what stays as it was needs no second look."""
        self._genuine: set[bytes] = set()
        """Signatures that were checked."""

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
                found = (row.incarnation, row.alive, row.leave, row.summary)
                if row.suspicion is None and self._rows.get(place) == found:
                    continue
                self._rows[place] = found
                before = self._incarnations.get(place, 0)
                if row.incarnation < before:
                    blame(f"n{machine.index} went back from incarnation {before} of n{other.index}")
                self._incarnations[place] = max(before, row.incarnation)
                self._words(world, machine.index, row, blame)

    def _words(self, world: World, index: int, row: Member, blame: Blame) -> None:
        """Whoever is said to have said something said it."""
        said = [(row.node_id, claim) for claim in (row.alive, row.leave, row.summary) if claim is not None]
        if row.suspicion is not None:
            said += row.suspicion.accusers.items()
        for author, claim in said:
            if claim.signature not in self._genuine and not self._is_genuine(world, author, claim):
                blame(f"n{index} believes a word ({claim.kind}) of n{world.index_of(author)} that it never said")
            self._genuine.add(claim.signature)

    def _is_genuine(self, world: World, author: NodeId, claim: Claim) -> bool:
        machine = world.machines[world.index_of(author)]
        statement = decode(claim)
        if statement is None or author_of(statement) != author:
            return False
        if isinstance(statement, Suspect) != (claim.kind == "suspect"):
            return False
        return machine.crypto.verify(machine.crypto.sign_key, payload_of(claim.kind, claim.body), claim.signature)

    def at_end(self, world: World, blame: Blame) -> None:
        """Nothing more."""
