"""Who lacks what a node brings back from a long absence: a record goes only where no single member can have made it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from beemesh.ids import NodeId


class Denials:
    """One node's memory of who was the first to lack a record: of those that stand here, and until doubts end. A second
    member must lack it: else one that lies to each node of a mesh that was off would erase it everywhere."""

    def __init__(self) -> None:
        self._first: dict[str, NodeId] = {}

    def agreed(self, peer: NodeId, lacks: Iterable[str], holds: Collection[str], members: int) -> list[str]:
        """Those records that two members lack, now that one told what it lacks and what it holds of what differs.
        `members`: how many there are, this node too; in a mesh of two the other is believed."""
        for key in holds:
            self._first.pop(key, None)
        return [key for key in lacks if members <= 2 or self._first.setdefault(key, peer) != peer]

    def forget(self) -> None:
        """Doubts ended."""
        self._first.clear()
