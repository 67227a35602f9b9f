"""Finding the nodes around a key, and what they keep: iterative Kademlia over disjoint paths into a region.

Maymounkov & Mazières 2002, with the disjoint paths of S/Kademlia (Baumgart & Mies 2007): every node belongs to the path
that heard of it first, so one liar spoils one path. Where a path leads is the region of the key (`beemesh.dht.region`)
and not the nearest few nodes, so nobody ends a lookup by standing right beside the key. A lookup never stops at the
first plausible answer: it goes on until it is unlikely that all that it asked are hostile, and if nothing was found,
until the whole region was asked. Whoever knows all members starts with them, and then one round trip is the lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from beemesh.dht.region import Region
from beemesh.ids import NODE_ID_BYTES, NodeId

ALPHA = 3
"""Ways into the region, disjoint, each with one question open at a time: Kademlia's parallelism, and one liar or dead
node on the way costs no more than its own path."""

SHARE = 2
"""Best nodes of its own that each path must hear before it has arrived."""

PARALLEL = 8
"""Questions open at once inside the region, where all answers are wanted anyway."""

ASKED_MAX = 96
"""Nodes asked in one lookup: some times what the largest mesh needs."""

CANDIDATES_MAX = 1_024
"""Nodes remembered by one path: a liar that invents members is refused by the roster before it comes to this."""


@dataclass(slots=True)
class _Path:
    candidates: set[NodeId] = field(default_factory=set)


class Lookup:
    """One search. Ask whom `next` names, tell what came of it, until `done`."""

    def __init__(
        self,
        region: Region,
        start: Iterable[NodeId],
        is_member: Callable[[bytes], bool],
        *,
        paths: int = ALPHA,
        one_hop: bool = False,
    ) -> None:
        """`is_member` tells real node IDs from inventions: strangers are never asked. With `one_hop`, `start` is the
        whole network, and nobody's word on who else there is counts."""
        self.region = region
        self.answered: set[NodeId] = set()
        self.failed: set[NodeId] = set()
        self.satisfied = False
        """Set by the caller once it has what it looks for: the lookup then ends when enough nodes were asked."""
        self._is_member = is_member
        self._one_hop = one_hop
        self._open: set[NodeId] = set()
        self._owner: dict[NodeId, _Path] = {}
        self._paths = [_Path() for _ in range(paths)]
        self._asked = 0
        known = region.choose(start).nodes if one_hop else start
        for number, node_id in enumerate(sorted(known, key=region.away)):
            self._add(self._paths[number % paths], node_id)

    @property
    def done(self) -> bool:
        """Nothing is open, and nobody is left to ask."""
        return not self._open and not self._wanted()

    def next(self) -> list[NodeId]:
        """Whom to ask now."""
        chosen = self._wanted()
        self._open.update(chosen)
        self._asked += len(chosen)
        return chosen

    def heard(self, peer: NodeId, nodes: Iterable[bytes]) -> None:
        """A peer answered, and named nodes that it knows around the key."""
        if peer not in self._open:
            return
        self._open.discard(peer)
        self.answered.add(peer)
        for raw in () if self._one_hop else nodes:
            if len(raw) == NODE_ID_BYTES and self._is_member(raw):
                self._add(self._owner[peer], NodeId(raw))

    def lost(self, peer: NodeId) -> None:
        """A peer did not answer."""
        if peer in self._open:
            self._open.discard(peer)
            self.failed.add(peer)

    def region_nodes(self) -> tuple[NodeId, ...]:
        """Those that keep the key's records, as far as they were heard of and did not fail."""
        return self.region.choose(self._live(self._owner)).nodes

    def _live(self, nodes: Iterable[NodeId]) -> list[NodeId]:
        return [node_id for node_id in nodes if node_id not in self.failed]

    def _add(self, path: _Path, node_id: NodeId) -> None:
        if node_id not in self._owner and len(path.candidates) < CANDIDATES_MAX:
            self._owner[node_id] = path
            path.candidates.add(node_id)

    def _wanted(self) -> list[NodeId]:
        """First the ways into the region, one step each; when all have arrived, those in it that are still missing."""
        room = max(0, ASKED_MAX - self._asked)
        if not self._one_hop:
            steps = [step for path in self._paths for step in self._step(path)]
            if steps or self._underway():
                return steps[:room]
        choice = self.region.choose(self._live(self._owner))
        wanted = choice.nodes[: choice.enough] if self.satisfied or self._pending(choice.enough, choice.nodes) else choice.nodes
        new = [node_id for node_id in wanted if node_id not in self.answered and node_id not in self._open]
        return new[: min(room, max(0, PARALLEL - len(self._open)))]

    def _pending(self, enough: int, nodes: tuple[NodeId, ...]) -> bool:
        """Whether some of those that have to be asked in any case did not answer yet."""
        return any(node_id not in self.answered for node_id in nodes[:enough])

    def _underway(self) -> bool:
        """Whether some path waits for one of its own best."""
        return any(node_id in self._open for path in self._paths for node_id in self._best(path))

    def _step(self, path: _Path) -> list[NodeId]:
        """The next node of a path, if it may go on."""
        best = self._best(path)
        if any(self._owner[node_id] is path for node_id in self._open):
            return []
        return [node_id for node_id in best if node_id not in self.answered][:1]

    def _best(self, path: _Path) -> tuple[NodeId, ...]:
        return self.region.choose(self._live(path.candidates)).nodes[:SHARE]
