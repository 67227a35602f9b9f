"""Who gets a copy of what is kept here when nodes come and go: keepers see to it, not only the writer's next round.

Around each record's key the region before the change and the region after it are compared. Whoever is new in it gets
the record from the first few that were in it before and still are, so that one who lies or has nothing does not matter.
Changes are gathered for a moment and records are looked at in batches: a mesh that starts changes a hundred times in
a second, and a node may keep tens of thousands of records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from beemesh.dht.region import Region
from beemesh.dht.store import Kept, RecordStore
from beemesh.effects import Now
from beemesh.ids import NodeId

SENDERS = 2
"""Keepers that hand a record on, each for itself: with a fifth hostile both are one time in 25, and then the writer's
next round mends it."""

GATHER_S = (1.0, 2.0)
BATCH_EVERY_S = 0.2
POINTS_PER_BATCH = 16
"""Keys looked at in one go: some 10 ms of work in a mesh of a thousand."""

CHANGES_MAX = 4_096
"""Nodes remembered that came or went: beyond it the writers' next round mends what is missed."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Hand this record to that node."""

    to: NodeId
    kept: Kept


class Handover:
    """What one node hands on."""

    def __init__(self, self_id: NodeId, store: RecordStore) -> None:
        self._self_id = self_id
        self._store = store
        self._came: set[NodeId] = set()
        self._went: set[NodeId] = set()
        self._round: tuple[set[NodeId], set[NodeId]] = (set(), set())
        self._points: deque[bytes] = deque()
        self.is_due = False
        """Whether a call of `batch` is awaited."""

    def came(self, node_id: NodeId) -> bool:
        """A node keeps records from now on. Whether `batch` should be called, after a moment of `GATHER_S`."""
        return self._changed(node_id, self._came, self._went)

    def went(self, node_id: NodeId) -> bool:
        """A node keeps records no more. The same."""
        return self._changed(node_id, self._went, self._came)

    def _changed(self, node_id: NodeId, into: set[NodeId], out_of: set[NodeId]) -> bool:
        if node_id == self._self_id or not len(self._store) or len(self._came) + len(self._went) >= CHANGES_MAX:
            return False
        if node_id in out_of:
            out_of.discard(node_id)
        else:
            into.add(node_id)
        due, self.is_due = not self.is_due, True
        return due

    def batch(self, members: Iterable[NodeId], size: int, now: Now) -> list[Copy]:
        """What to hand on now, of a few keys. `is_due` says whether to call again, after `BATCH_EVERY_S`."""
        if not self._points:
            self._round, self._came, self._went = (self._came, self._went), set(), set()
            self._points = deque(self._store.points())
        after = {*members, self._self_id}
        copies: list[Copy] = []
        for _ in range(min(POINTS_PER_BATCH, len(self._points))):
            point = self._points.popleft()
            newcomers = list(self._newcomers(Region(point, size), after))
            kept = self._store.at(point, now) if newcomers else ()
            copies += [
                Copy(node_id, record) for node_id in newcomers for record in kept if record.record.writer != node_id
            ]
        self.is_due = bool(self._points or self._came or self._went)
        return copies

    def _newcomers(self, region: Region, after: set[NodeId]) -> Iterator[NodeId]:
        """Whom this node has to give what is kept at a point."""
        came, went = self._round
        if not any(region.tolerates(node_id) for node_id in (*came, *went)):
            return
        before = region.choose((after | went) - came).nodes
        chosen = region.choose(after).nodes
        stayed = [node_id for node_id in before if node_id in after]
        if self._self_id in stayed[:SENDERS]:
            yield from (node_id for node_id in chosen if node_id not in before and node_id != self._self_id)
