"""Which nodes keep a record: not the nearest few, whom an attacker may be, but a region around its key.

The k nearest nodes of a key can all belong to somebody who made enough identities near it: on the IPFS network a few
dozen were enough ("Content censorship in the InterPlanetary File System", arXiv 2307.12212), and lookups that end early
never learn of it (arXiv 2505.01139, whose answer, storing to a region of the key space, is followed here). The size of
a region follows from the number of nodes alone. Its nodes are taken ring by ring, from each ring no more than an evenly
spread network would have there, give or take chance. Identities packed at the key then crowd one small ring; spread
over the region, they stand out in each; and a reader asks on until it is unlikely that all whom it asked are hostile.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from beemesh.ids import NodeId

K = 8
"""Nodes that a reader asks in any case."""

SPREAD = 16
"""Nodes that a region has in an evenly spread network: with a fifth of them hostile, and each second honest one freshly
restarted and empty, six good copies are left on average."""

RINGS = 5
"""Each ring is half of what the one before it leaves, from the outside in; the last has the rest."""

EXPECTED = (8.0, 4.0, 2.0, 1.0, 1.0)
"""Nodes of each ring in an evenly spread network of any size from `SPREAD` up: they add up to `SPREAD`."""

LIMITS = (20, 12, 8, 6, 6)
"""Nodes of each ring that are taken: twice what is expected and four, which chance exceeds once in 1,000 rings."""

HOSTILE = 0.2
"""Share of members that may be hostile, besides those that crowd a key."""

MISS = 1e-4
"""A reader asks on until it is so unlikely that only hostile nodes were asked."""

CROWDED = 0.6
"""A ring in which so large a share would be hostile, if all beyond its due were, does not count towards `GOOD`."""

GOOD = 10.0
"""Honest nodes that a region should have, of 12.8 on average. Where fewer are known, a liar may stand on every way into
it, so the nearest nodes outside of it are asked as well: they know the region, and nobody crowded them."""

SPACE = 1 << 256


def distance(node_id: bytes, point: bytes) -> int:
    """The XOR metric."""
    return int.from_bytes(node_id, "big") ^ int.from_bytes(point, "big")


@dataclass(frozen=True, slots=True)
class Choice:
    """Nodes of a region in the order in which they are best asked, and how many of them are enough for a reader."""

    nodes: tuple[NodeId, ...]
    enough: int


@dataclass(slots=True)
class Region:
    """The surroundings of `point` in a network of `size` nodes."""

    point: bytes
    size: int
    _radius: int = field(init=False)
    _at: int = field(init=False)
    _places: dict[bytes, tuple[int | None, int]] = field(init=False, default_factory=dict)
    """(ring, distance) of nodes that were looked at: a lookup looks at the same ones over and over."""

    def __post_init__(self) -> None:
        self._at = int.from_bytes(self.point, "big")
        self._radius = SPACE * SPREAD // self.size if self.size > SPREAD else SPACE

    def away(self, node_id: bytes) -> int:
        """How far a node is from the point."""
        return int.from_bytes(node_id, "big") ^ self._at

    def ring(self, node_id: bytes) -> int | None:
        """The ring of a node, 0 is the outermost; None outside of the region."""
        return self._place(node_id)[0]

    def _place(self, node_id: bytes) -> tuple[int | None, int]:
        place = self._places.get(node_id)
        if place is None:
            away = self.away(node_id)
            ring = min(RINGS - 1, (self._radius // (away + 1)).bit_length() - 1) if away < self._radius else None
            place = self._places[node_id] = ring, away
        return place

    def tolerates(self, node_id: bytes) -> bool:
        """Whether somebody who counts half as many nodes would see the node in the region."""
        return self.away(node_id) < 2 * self._radius

    def choose(self, nodes: Iterable[NodeId], among: Iterable[NodeId] | None = None) -> Choice:
        """Of the nodes that are known, those that keep the point's records.

        Rings that hold more than their due come last in the order; in them a hash decides, which whoever crowds a ring
        would have to meet as well."""
        rings: list[list[NodeId]] = [[] for _ in range(RINGS)]
        outside: list[NodeId] = []
        for node_id in nodes:
            place = self.ring(node_id)
            (outside if place is None else rings[place]).append(node_id)
        counts = [len(members) for members in rings] if among is None else self._counts(among)
        ranked: list[tuple[float, int, NodeId]] = []
        good = 0.0
        for place, members in enumerate(rings):
            hostile = self._hostile_share(place, counts[place])
            ranked += [(hostile, self._place(one)[1], one) for one in self._limited(place, members)]
            good += len(members) * (1 - HOSTILE) if hostile <= CROWDED else 0.0
        lacking = max(math.ceil((GOOD - good) / (1 - HOSTILE)), _lacking([share for share, _, _ in ranked]))
        if lacking > 0:
            nearest = heapq.nsmallest(lacking, outside, key=lambda one: self._place(one)[1])
            ranked += [(HOSTILE, self._place(one)[1], one) for one in nearest]
        ranked.sort()
        return Choice(tuple(node_id for _, _, node_id in ranked), _enough([share for share, _, _ in ranked]))

    def _counts(self, nodes: Iterable[NodeId]) -> list[int]:
        counts = [0] * RINGS
        for node_id in nodes:
            place = self.ring(node_id)
            if place is not None:
                counts[place] += 1
        return counts

    def _limited(self, place: int, members: list[NodeId]) -> list[NodeId]:
        limit = LIMITS[place]
        if len(members) <= limit:
            return members
        return sorted(members, key=lambda node_id: hashlib.sha256(self.point + node_id).digest())[:limit]

    def _hostile_share(self, place: int, count: int) -> float:
        """Of the nodes in a ring, the share that is hostile if all beyond its due are."""
        due = EXPECTED[place] * min(1.0, self.size / SPREAD)
        return 1 - (1 - HOSTILE) * min(1.0, due / count) if count else HOSTILE


def _enough(shares: list[float]) -> int:
    miss = 1.0
    for asked, share in enumerate(shares):
        if asked >= K and miss <= MISS:
            return asked
        miss *= share
    return len(shares)


def _lacking(shares: list[float]) -> int:
    """How many more nodes have to be asked before it is unlikely that all are hostile."""
    miss = math.prod(shares)
    return math.ceil(math.log(MISS / miss) / math.log(HOSTILE)) if miss > MISS else 0
