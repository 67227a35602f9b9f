"""What a node says is done, disks have: an accepted record is on two, and stays somewhere at every moment."""

from __future__ import annotations

from typing import Any

import msgspec

from beemesh.events import Submitted
from beemesh.identity.signing import Signed, decode_body
from beemesh.intents.map import TABLE
from beemesh.intents.record import Intent
from simulator.checkers import Blame
from simulator.world import World

COPIES = 2
"""Disks that hold a record when it is called accepted (DESIGN section 5); one, where nobody else is there."""


class DurabilityChecker:
    """Reads the disks themselves, whatever any node believes."""

    name = "durability"
    sees: tuple[type, ...] = (Submitted,)

    def __init__(self, submitted: dict[int, Intent]) -> None:
        """`submitted` maps tokens to what was handed in with them."""
        self._submitted = submitted
        self._accepted: list[Intent] = []
        self._lost: set[str] = set()

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """An accepted record was saved by its acceptor and by another node."""
        composition = world.machines[index].composition
        if not isinstance(event, Submitted) or not event.accepted or composition is None:
            return
        intent = self._submitted.get(event.token)
        if intent is None:
            return
        self._accepted.append(intent)
        holders = self._holders(world, intent)
        alone = len(composition.view.alive()) == 1
        if index not in holders or (len(holders) < COPIES and not alone):
            blame(f"n{index} accepted {intent.key} number {intent.seq}, which is on {len(holders)} disks only")

    def look(self, world: World, blame: Blame) -> None:
        """Every accepted record is on some disk, of a machine that is up or down."""
        for intent in self._accepted:
            place = f"{intent.key} number {intent.seq}"
            if place not in self._lost and not self._holders(world, intent, enough=1):
                self._lost.add(place)
                blame(f"{place} was accepted, and no disk holds it any more")

    def _holders(self, world: World, intent: Intent, enough: int = COPIES) -> list[int]:
        """Machines whose disk holds that record or a later one of its key; the search ends with `enough` of them."""
        found: list[int] = []
        for machine in world.machines:
            value = machine.disk.get((TABLE, intent.key.encode()))
            if value is None:
                continue
            kept = decode_body(msgspec.msgpack.decode(value, type=Signed), Intent)
            if (kept.epoch, kept.seq) >= (intent.epoch, intent.seq):
                found.append(machine.index)
            if len(found) >= enough and enough == 1:
                break
        return found

    def at_end(self, world: World, blame: Blame) -> None:
        """The last look said it all."""
