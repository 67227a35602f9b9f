"""Finding the nodes nearest to a point, and what they keep: iterative Kademlia over disjoint paths.

Maymounkov & Mazières 2002, with the disjoint paths of S/Kademlia (Baumgart & Mies 2007): every node belongs to the path
that heard of it first and is asked by that one alone, so one liar spoils one path. A lookup never stops at the first
plausible answer: each path goes on until the nearest nodes that it knows have all answered or failed. Whoever knows
all members starts with them, and then one round trip is the whole lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from beemesh.ids import NODE_ID_BYTES, NodeId

K = 8
"""Nodes that keep a record, and that a lookup has to reach."""

ALPHA = 3
"""Questions that each path has open at once, until it only confirms."""

PATHS = 3
"""Independent ways; with a fifth of all nodes hostile all three are spoilt about once in a hundred lookups, and then
the nodes that are asked directly still answer."""

ASKED_MAX = 96
"""Nodes asked in one lookup: many times what the largest mesh needs."""

CANDIDATES_MAX = 1_024
"""Nodes remembered by one path: a liar that invents members is refused by the roster before it comes to this."""


def distance(node_id: bytes, point: bytes) -> int:
    """The XOR metric."""
    return int.from_bytes(node_id, "big") ^ int.from_bytes(point, "big")


@dataclass(slots=True)
class _Path:
    candidates: set[NodeId] = field(default_factory=set)
    open: set[NodeId] = field(default_factory=set)


class Lookup:
    """One search. Ask whom `next` names, tell what came of it, until `done`."""

    def __init__(
        self,
        point: bytes,
        start: Iterable[NodeId],
        is_member: Callable[[bytes], bool],
        *,
        k: int = K,
        paths: int = PATHS,
    ) -> None:
        """`is_member` tells real node IDs from inventions: strangers are never asked."""
        self.point = point
        self.answered: set[NodeId] = set()
        self.failed: set[NodeId] = set()
        self._k = k
        self._is_member = is_member
        self._owner: dict[NodeId, _Path] = {}
        self._paths = [_Path() for _ in range(paths)]
        self._asked = 0
        ranked = sorted(set(start), key=lambda node_id: distance(node_id, point))
        for number, node_id in enumerate(ranked[: CANDIDATES_MAX * paths]):
            self._add(self._paths[number % paths], node_id)

    @property
    def done(self) -> bool:
        """Nothing is open, and nobody nearer is left to ask."""
        return not any(path.open for path in self._paths) and not self._wanted()

    def next(self) -> list[NodeId]:
        """Whom to ask now."""
        chosen = []
        for path, node_id in self._wanted():
            path.open.add(node_id)
            chosen.append(node_id)
        self._asked += len(chosen)
        return chosen

    def heard(self, peer: NodeId, nodes: Iterable[bytes]) -> None:
        """A peer answered, and named the nearest nodes that it knows."""
        path = self._close(peer)
        if path is None:
            return
        self.answered.add(peer)
        for raw in nodes:
            if len(raw) == NODE_ID_BYTES and self._is_member(raw):
                self._add(path, NodeId(raw))

    def lost(self, peer: NodeId) -> None:
        """A peer did not answer."""
        if self._close(peer) is not None:
            self.failed.add(peer)

    def nearest(self) -> tuple[NodeId, ...]:
        """The k nearest that answered, nearest first."""
        return tuple(self._ranked(self.answered)[: self._k])

    def _close(self, peer: NodeId) -> _Path | None:
        path = self._owner.get(peer)
        if path is None or peer not in path.open:
            return None
        path.open.discard(peer)
        return path

    def _add(self, path: _Path, node_id: NodeId) -> None:
        if node_id not in self._owner and len(path.candidates) < CANDIDATES_MAX:
            self._owner[node_id] = path
            path.candidates.add(node_id)

    def _wanted(self) -> list[tuple[_Path, NodeId]]:
        """Of each path, the nearest that were not asked yet, as far as they are still of interest.

        Of interest is who is among the path's own k nearest live candidates or among the k nearest of all: a path whose
        nodes lie about what they know still ends at the nodes it was told of at the start."""
        room = ASKED_MAX - self._asked
        overall = set(self._ranked(node for node in self._owner if node not in self.failed)[: self._k])
        wanted: list[tuple[_Path, NodeId]] = []
        for path in self._paths:
            live = self._ranked(node for node in path.candidates if node not in self.failed)
            region = [node for node in live[: self._share()] if node not in self.answered and node not in path.open]
            region += [node for node in live if node in overall and self._is_new(path, node) and node not in region]
            free = max(0, ALPHA - len(path.open))
            wanted += [(path, node) for node in region[:free]]
        return wanted[: max(0, room)]

    def _share(self) -> int:
        """How many of its own nearest each path must hear: together they are more than k."""
        return -(-self._k // len(self._paths)) + 1

    def _is_new(self, path: _Path, node_id: NodeId) -> bool:
        return node_id not in self.answered and node_id not in path.open

    def _ranked(self, nodes: Iterable[NodeId]) -> list[NodeId]:
        return sorted(nodes, key=lambda node_id: distance(node_id, self.point))
