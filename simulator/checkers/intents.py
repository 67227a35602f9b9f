"""What was accepted is never lost: in the end every node holds it, or what replaced it."""

from __future__ import annotations

from typing import Any

from beemesh.events import Submitted
from beemesh.intents.record import Intent
from simulator.checkers import Blame
from simulator.world import World


class IntentChecker:
    """Remembers what nodes accepted."""

    name = "intents"
    sees: tuple[type, ...] = (Submitted,)

    def __init__(self, submitted: dict[int, Intent]) -> None:
        """`submitted` maps tokens to what was handed in with them."""
        self._submitted = submitted
        self.accepted: list[Intent] = []

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """An accepted submission is a promise."""
        if isinstance(event, Submitted) and event.accepted:
            self.accepted.append(self._submitted[event.token])

    def look(self, world: World, blame: Blame) -> None:
        """Records spread in their own time."""

    def at_end(self, world: World, blame: Blame) -> None:
        """All maps agree, and hold what was accepted."""
        maps = [(each.index, each.composition.intents) for each in world.machines if each.composition is not None]
        hashes = {intents.bucket_hashes() for _, intents in maps}
        if len(hashes) > 1:
            blame(f"the nodes hold {len(hashes)} different maps")
        for intent in self.accepted:
            for index, intents in maps:
                found = intents.get(intent.key)
                if found is None or (found[0].epoch, found[0].seq) < (intent.epoch, intent.seq):
                    blame(f"n{index} does not hold {intent.key} number {intent.seq}, which was accepted")
