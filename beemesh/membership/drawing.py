"""Whom a node turns to: a few members at random, without a look at all of them."""

from __future__ import annotations

from beemesh.effects import Randomness
from beemesh.ids import NodeId
from beemesh.membership.view import View

SPARES = 8
"""Members drawn beyond those that are wanted, in place of suspects."""


def drawn(view: View, randomness: Randomness, count: int, *, unsuspected: bool) -> list[NodeId]:
    """At least `count` others that count as alive, if there are; with `unsuspected` no suspects where there are enough
    others."""
    alive = view.alive()
    some = randomness.sample(alive, min(len(alive), count + SPARES))
    fit = [peer for peer in some if peer != view.self_id]
    if unsuspected and view.has_suspects:
        healthy = [peer for peer in fit if view.status(peer) == "alive"]
        if len(healthy) < count < len(alive) - 1:  # many are suspected
            all_healthy = [peer for peer in alive if peer != view.self_id and view.status(peer) == "alive"]
            healthy = randomness.sample(all_healthy, min(count, len(all_healthy)))
        fit = healthy or fit
    return fit
