"""With whom a node compares what it knows: a few members for a while, so that their streams stay open.

A new stream costs a handshake, which is more than most comparisons. Whatever is compared shares the same few; now and
then another one takes the place of the oldest, so that news come everywhere: already the links of three each join a
large mesh in few steps.
"""

from __future__ import annotations

from beemesh.effects import Randomness
from beemesh.ids import NodeId
from beemesh.membership.view import View

PARTNERS = 3
"""At two comparisons in 30 s each is used every 45 s, and streams are closed after two idle minutes."""

KEPT_FOR = 24
"""Comparisons after which the oldest partner is let go, on average: some six minutes."""


class Partners:
    """One node's partners."""

    def __init__(self, view: View, randomness: Randomness) -> None:
        self._view = view
        self._randomness = randomness
        self._kept: list[NodeId] = []

    def one(self) -> NodeId | None:
        """A partner that counts as alive; None for a node that is alone."""
        alive = self._view.alive()
        self._kept = [peer for peer in self._kept if self._view.is_alive(peer)]
        if len(self._kept) == PARTNERS and self._randomness.random() * KEPT_FOR < 1:
            del self._kept[0]
        drawn = self._randomness.sample(alive, min(len(alive), 2 * PARTNERS + 1))
        new = [peer for peer in drawn if peer != self._view.self_id and peer not in self._kept]
        self._kept += new[: PARTNERS - len(self._kept)]
        return self._randomness.choice(self._kept) if self._kept else None
