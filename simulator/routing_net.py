"""Routing alone, for thousands of nodes: who knows whom, who keeps what, who lies. Whole nodes live in `world`.

Every node has Kademlia's buckets, filled in an order of its own, as joining nodes meet each other. Hostile nodes are
members: they keep nothing, say that they have nothing, and name hostile nodes alone. `crowd` adds more of them at a key.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from beemesh.dht.lookup import Lookup
from beemesh.dht.region import SPACE, Region, distance
from beemesh.dht.routing_table import SAMPLE, RoutingTable
from beemesh.ids import NodeId

NAMED_MAX = 16
"""Nodes that one answer names."""


def node_id(number: int, seed: int = 0) -> NodeId:
    """An ID as good as random: nobody chooses its own."""
    return NodeId(hashlib.sha256(f"node {seed} {number}".encode()).digest())


def point_of(number: int) -> bytes:
    """Where some record lies."""
    return hashlib.sha256(f"key {number}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Trip:
    """What a lookup did: questions asked, whether an honest keeper of the record answered, who would keep it."""

    asked: int
    found: bool
    keepers: tuple[NodeId, ...]


class RoutingNet:
    """A network of `size` nodes, a share of them hostile."""

    def __init__(self, size: int, seed: int = 0, *, hostile: float = 0.0, dead: float = 0.0) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        self._seed = seed
        self.nodes = sorted(node_id(number, seed) for number in range(size))
        self.hostile = set(self.random.sample(self.nodes, int(size * hostile)))
        honest = [each for each in self.nodes if each not in self.hostile]
        self.dead = set(self.random.sample(honest, int(size * dead)))
        self.honest = [each for each in honest if each not in self.dead]
        self.crowd: list[NodeId] = []
        self._tables: dict[NodeId, RoutingTable] = {}
        self._members = set(self.nodes)

    def crowd_around(self, point: bytes, count: int, *, within: float) -> None:
        """Replace the crowd: `count` hostile members at chance places less than `within` times a region away."""
        self._tables.clear()
        reach = int(SPACE // len(self.nodes) * within)
        at = int.from_bytes(point, "big")
        self.crowd = [NodeId((at ^ self.random.randrange(reach)).to_bytes(32, "big")) for _ in range(count)]
        self._members = {*self.nodes, *self.crowd}

    def table(self, owner: NodeId) -> RoutingTable:
        """Whom a node knows: for each distance the first few that it met."""
        if owner not in self._tables:
            self._tables[owner] = self._met(owner)
        return self._tables[owner]

    def _met(self, owner: NodeId) -> RoutingTable:
        """The same as meeting everybody in a chance order: of each distance range, some at chance."""
        table = RoutingTable(owner)
        everybody = sorted([*self.nodes, *self.crowd])
        order = random.Random(f"{self._seed} {owner.hex()}")  # noqa: S311
        own = int.from_bytes(owner, "big")
        for bit in range(255, -1, -1):
            low = (own ^ (1 << bit)) >> bit << bit
            first = bisect_left(everybody, low.to_bytes(32, "big"))
            last = bisect_left(everybody, ((low + (1 << bit)) % SPACE or SPACE - 1).to_bytes(32, "big"))
            met = everybody[first:last]
            for node in order.sample(met, min(len(met), 8)):
                table.seen(node)
            if bit < 236:
                break  # nobody is nearer than that by chance
        return table

    def answer(self, asked: NodeId, region: Region) -> tuple[NodeId, ...]:
        """Whom a node names."""
        if asked in self.hostile or asked in self.crowd:
            liars = sorted([*self.hostile, *self.crowd], key=region.away)
            return tuple(liars[:NAMED_MAX])
        return region.choose(self.table(asked)).nodes[:NAMED_MAX]

    def look_up(self, reader: NodeId, point: bytes, holders: Iterable[NodeId] = ()) -> Trip:
        """The lookup that agents make; answers come in a chance order."""
        table, having = self.table(reader), set(holders) & set(self.honest)
        region = Region(point, table.size())
        lookup = Lookup(region, table.nearest(point, SAMPLE), lambda raw: raw in self._members)
        asked, pending = 0, []
        while not lookup.done:
            pending += lookup.next()
            assert pending, "it neither asks nor ends"
            asked += 1
            peer = pending.pop(self.random.randrange(len(pending)))
            if peer in self.dead:
                lookup.lost(peer)
                continue
            lookup.satisfied |= peer in having
            lookup.heard(peer, self.answer(peer, region))
        return Trip(asked, bool(having & lookup.answered), lookup.region_nodes())

    def plain(self, reader: NodeId, point: bytes, k: int = 8, alpha: int = 3) -> Trip:
        """Kademlia as published: ask the nearest that are known until the k nearest have answered."""
        known, asked = set(self.table(reader).nearest(point, k)), set()
        while True:
            near = sorted((each for each in known if each not in self.dead or each not in asked), key=lambda each: distance(each, point))[:k]
            step = [each for each in near if each not in asked][:alpha]
            if not step:
                return Trip(len(asked), False, tuple(near))
            for peer in step:
                asked.add(peer)
                if peer not in self.dead:
                    nearest = self.table(peer).nearest(point, k) if peer in self.honest else sorted([*self.hostile, *self.crowd], key=lambda each: distance(each, point))[:k]
                    known.update(nearest)
