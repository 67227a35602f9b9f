"""Routing alone, for thousands of nodes: who knows whom, who keeps what, who lies. Whole nodes live in `world`.

Every node has Kademlia's buckets, filled in an order of its own, as joining nodes meet each other. Hostile nodes are
members: they keep nothing, say that they have nothing, and name hostile nodes alone. `crowd` adds more at a key.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from beemesh.dht.lookup import Lookup
from beemesh.dht.messages import FOUND_NODES_MAX
from beemesh.dht.region import SPACE, Region, distance
from beemesh.dht.routing_table import SAMPLE, RoutingTable
from beemesh.ids import NodeId

SOUNDINGS = 5
"""Places at which a node looks how dense the network is: what it does at its start."""


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

    def __init__(
        self, size: int, seed: int = 0, *, hostile: float = 0.0, dead: float = 0.0, false_answers: bool = False
    ) -> None:
        """With `false_answers` hostile nodes answer with records of their own."""
        self._false_answers = false_answers
        self.random = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        self._seed = seed
        self.nodes = sorted(node_id(number, seed) for number in range(size))
        self.hostile = set(self.random.sample(self.nodes, int(size * hostile)))
        honest = [each for each in self.nodes if each not in self.hostile]
        self.dead = set(self.random.sample(honest, int(size * dead)))
        self.honest = [each for each in honest if each not in self.dead]
        self.crowd: set[NodeId] = set()
        self._sizes: dict[NodeId, int] = {}
        self._tables: dict[NodeId, RoutingTable] = {}
        self._members = set(self.nodes)

    def crowd_around(self, point: bytes, count: int, *, within: float) -> None:
        """Replace the crowd: `count` hostile members at chance places less than `within` times a region away."""
        self._tables.clear()
        reach = int(SPACE // len(self.nodes) * within)
        at = int.from_bytes(point, "big")
        self.crowd = {NodeId((at ^ self.random.randrange(reach)).to_bytes(32, "big")) for _ in range(count)}
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

    def size_seen_by(self, owner: NodeId) -> int:
        """What a node takes the network's size for: the density at five places that it drew, before the crowd came."""
        if owner not in self._sizes:
            chance = random.Random(f"size {self._seed} {owner.hex()}")  # noqa: S311
            table = RoutingTable(owner)
            for _ in range(SOUNDINGS):
                point = chance.randbytes(32)
                table.sound(point, self._around(point))
            self._sizes[owner] = table.size()
        return self._sizes[owner]

    def _around(self, point: bytes) -> list[NodeId]:
        """Those of the nodes that share most of their first bits with the point."""
        at = int.from_bytes(point, "big")
        for bit in range(256):
            low = at >> bit << bit
            first = bisect_left(self.nodes, low.to_bytes(32, "big"))
            last = bisect_left(self.nodes, min(low + (1 << bit), SPACE - 1).to_bytes(32, "big"))
            if last - first >= 2 * SAMPLE:
                return self.nodes[first:last]
        return self.nodes

    def answer(self, asked: NodeId, point: bytes) -> tuple[NodeId, ...]:
        """Whom a node names."""
        if self._lies(asked):
            return self._liars(point, FOUND_NODES_MAX)
        return Region(point, self.size_seen_by(asked)).choose(self.table(asked)).nodes[:FOUND_NODES_MAX]

    def _lies(self, node_id: NodeId) -> bool:
        return node_id in self.hostile or node_id in self.crowd

    def _liars(self, point: bytes, count: int) -> tuple[NodeId, ...]:
        """The hostile nodes that look most like an answer: they all know each other."""
        return tuple(heapq.nsmallest(count, [*self.hostile, *self.crowd], key=lambda each: distance(each, point)))

    def look_up(self, reader: NodeId, point: bytes, holders: Iterable[NodeId] = ()) -> Trip:
        """The lookup that agents make; answers come in a chance order. Without `holders` it is a writer's."""
        table, having, reads = self.table(reader), set(holders) & set(self.honest), bool(holders)
        region = Region(point, self.size_seen_by(reader))
        lookup = Lookup(region, table, lambda raw: raw in self._members)
        asked, pending = 0, list[NodeId]()
        while not lookup.done:
            pending += lookup.next()
            assert pending, "it neither asks nor ends"
            asked += 1
            peer = pending.pop(self.random.randrange(len(pending)))
            if peer in self.dead:
                lookup.lost(peer)
                continue
            lookup.satisfied |= peer in having or (reads and self._false_answers and self._lies(peer))
            lookup.heard(peer, self.answer(peer, point))
        return Trip(asked, bool(having & lookup.answered), lookup.chosen().nodes)

    def plain(self, reader: NodeId, point: bytes, k: int = 8, alpha: int = 3) -> Trip:
        """Kademlia as published: ask the nearest that are known until the k nearest have answered."""
        known, asked = set(self.table(reader).nearest(point, k)), set[NodeId]()
        while True:
            lost = asked & self.dead
            near = heapq.nsmallest(k, known - lost, key=lambda each: distance(each, point))
            step = [each for each in near if each not in asked][:alpha]
            if not step:
                return Trip(len(asked), False, tuple(near))
            asked.update(step)
            for peer in step:
                if self._lies(peer):
                    known.update(self._liars(point, k))
                elif peer not in self.dead:
                    known.update(self.table(peer).nearest(point, k))
