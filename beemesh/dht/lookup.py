"""Finding the nodes around a key, and what they keep: iterative Kademlia over disjoint paths into a region.

Maymounkov & Mazières 2002, with the disjoint paths of S/Kademlia (Baumgart & Mies 2007): every node belongs to the path
that heard of it first, so one liar spoils one path. Where a path leads is the region of the key (`beemesh.dht.region`)
and not the nearest few nodes, so nobody ends a lookup by standing right beside the key. A lookup never stops at the
first plausible answer: it goes on until it is unlikely that all that it asked are hostile, and if nothing was found,
until the whole region was asked, and then anew from other nodes. Whoever knows all members starts with them, and then
one round trip is the lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from beemesh.dht.region import Choice, Region
from beemesh.ids import NODE_ID_BYTES, NodeId

ALPHA = 3
"""Ways into the region, disjoint, each with one question open at a time: Kademlia's parallelism, and one liar or dead
node on the way costs no more than its own path."""

SHARE = 2
"""Best nodes of its own that each path must hear before it has arrived."""

START = 24
"""Nodes known from the outset with which each wave sets out, the nearest first."""

WAVES = 3
"""Times that a lookup which found nothing sets out, each from other nodes that it knew itself: liars that stand in the
region can make it look whole, and catch all ways of one wave one time in twenty."""

PARALLEL = 8
"""Questions open at once inside the region, where all answers are wanted anyway."""

ASKED_MAX = 128
"""Nodes asked in one lookup: twice what the worst crowd in a network of a thousand costs."""

CANDIDATES_MAX = 1_024
"""Nodes remembered by one path: a liar that invents members is refused before it comes to this."""


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
        one_hop: bool = False,
    ) -> None:
        """`is_member` tells real node IDs from inventions: strangers are never asked. With `one_hop`, `start` is the
        whole network as far as this node knows, and there is no way to go: only the region to ask."""
        self.region = region
        self.answered: set[NodeId] = set()
        self.failed: set[NodeId] = set()
        self.satisfied = False
        """Set by the caller once it has what it looks for: the lookup then ends when enough nodes were asked."""
        self._is_member = is_member
        self._one_hop = one_hop
        self._open: set[NodeId] = set()
        self._owner: dict[NodeId, _Path] = {}
        self._paths = [_Path() for _ in range(1 if one_hop else ALPHA)]
        # A region of its own, thrown away: it remembers each node that it looked at.
        self._start = (
            list(Region(region.point, region.size).choose(start).nodes) if one_hop else sorted(start, key=region.away)
        )
        self._waves = 1 if one_hop else WAVES
        self._asked = 0
        self._begin_wave()

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
        path = self._owner[peer]
        for raw in nodes:
            known = raw in self._owner or len(path.candidates) >= CANDIDATES_MAX
            if not known and len(raw) == NODE_ID_BYTES and self._is_member(raw):
                self._give(path, NodeId(raw))

    def lost(self, peer: NodeId) -> None:
        """A peer did not answer."""
        if peer in self._open:
            self._open.discard(peer)
            self.failed.add(peer)

    def known(self) -> list[NodeId]:
        """All that were heard of and did not fail."""
        return self._live(self._owner)

    def chosen(self) -> Choice:
        """Those that keep the key's records, as far as they were heard of and did not fail."""
        return self.region.choose(self.known())

    def _begin_wave(self) -> None:
        """Set out on new ways, from nodes that this node knew before anybody named any."""
        self._waves -= 1
        count = len(self._start) if self._one_hop else START
        chosen, self._start = self._start[:count], self._start[count:]
        self._paths = [_Path() for _ in self._paths]
        fresh = (node_id for node_id in chosen if node_id not in self.answered and node_id not in self.failed)
        for number, node_id in enumerate(fresh):
            self._give(self._paths[number % len(self._paths)], node_id)

    def _give(self, path: _Path, node_id: NodeId) -> None:
        self._owner[node_id] = path
        path.candidates.add(node_id)

    def _live(self, nodes: Iterable[NodeId]) -> list[NodeId]:
        return [node_id for node_id in nodes if node_id not in self.failed]

    def _wanted(self) -> list[NodeId]:
        """First the ways into the region, one step each; when all have arrived, those in it that are still missing."""
        room = max(0, ASKED_MAX - self._asked)
        while True:
            steps, underway = self._steps()
            if steps or underway:
                return steps[:room]
            choice = self.region.choose(self.known())
            needed = choice.nodes[: choice.enough]
            if not self.satisfied and all(node_id in self.answered for node_id in needed):
                needed = choice.nodes
            missing = [node_id for node_id in needed if node_id not in self.answered and node_id not in self._open]
            if missing or self._open or self.satisfied or not self._waves:
                return missing[: min(room, max(0, PARALLEL - len(self._open)))]
            self._begin_wave()

    def _steps(self) -> tuple[list[NodeId], bool]:
        """The next node of each path that may go on, and whether some path waits for one of its own best."""
        if self._one_hop:
            return [], False
        waiting = {id(self._owner[node_id]) for node_id in self._open}
        steps, underway = [], False
        for path in self._paths:
            best = self._best(path)
            underway |= any(node_id in self._open for node_id in best)
            if id(path) not in waiting:
                steps += [node_id for node_id in best if node_id not in self.answered][:1]
        return steps, underway

    def _best(self, path: _Path) -> tuple[NodeId, ...]:
        """Where a path leads. What all paths heard tells which rings are crowded."""
        return self.region.choose(self._live(path.candidates), among=self._owner).nodes[:SHARE]
