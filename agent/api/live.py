"""What runs on the mesh, kept up to date while somebody watches: pushed by what nodes tell, not asked for in a circle.

Nodes tell the mesh when a pod is placed, becomes ready or unready, is restarted or ends. Whoever tells something is
asked at once what it runs now, so a watcher sees a change one message and one question after it happened. A slow round
over those that run anything catches what was lost on the way. While nobody watches, nothing is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from agent.lasting import start_lasting
from beemesh.events import EventHeard, IntentChanged, MemberDown, MemberLeft, MemberUp
from beemesh.ids import NodeId, short
from beemesh.workloads.observation import ReplicaReport

ROUND_S = 5.0
"""How often all that run something are asked although they told nothing."""

ANNOUNCED_S = 60.0
"""How often the mesh is told that somebody watches here: half as long as one word of it is kept."""

SILENCES_MAX = 2
"""A node that does not answer so often in a row is shown as running nothing."""

log = logging.getLogger("beemesh.api")

Reports = tuple[ReplicaReport, ...]


class LiveReplicas:
    """See the module. `nodes` names who may run something, `ask` what one of them runs (None without an answer)."""

    def __init__(
        self, nodes: Callable[[], Iterable[NodeId]], ask: Callable[[NodeId], Awaitable[Reports | None]]
    ) -> None:
        self.announce: Callable[[], None] = lambda: None
        """Called while somebody watches, each `ANNOUNCED_S`: in a large mesh events come only to those who ask."""
        self._nodes = nodes
        self._ask = ask
        self._tables: dict[NodeId, Reports] = {}
        self._silences: dict[NodeId, int] = {}
        self._asking: set[NodeId] = set()
        self._again: set[NodeId] = set()
        self._watchers: set[asyncio.Event] = set()
        self._round: asyncio.Task[None] | None = None
        self._primed: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def watched(self) -> Iterator[asyncio.Event]:
        """Keep the picture up to date in this context. The event is set whenever anything may have changed; whoever
        waits for it clears it before looking."""
        beat = asyncio.Event()
        if not self._watchers:
            self._primed = primed = asyncio.get_running_loop().create_future()
            self._round = start_lasting(lambda: self._go_round(primed), "the round of what runs where")
        self._watchers.add(beat)
        try:
            yield beat
        finally:
            self._watchers.discard(beat)
            if not self._watchers and self._round is not None:
                self._round.cancel()
                self._round = None
                self._tables.clear()
                self._silences.clear()

    async def reports(self) -> Reports:
        """What runs, as far as is known; waits for the first round."""
        if self._primed is not None:
            await asyncio.shield(self._primed)
        return tuple(report for table in self._tables.values() for report in table)

    def hear(self, event: Any) -> None:
        """Something happened on the mesh."""
        if not self._watchers:
            return
        match event:
            case EventHeard(event=told):
                if told.workload_id:
                    self._look_at(told.node_id)
                self._beat()
            case MemberUp(node_id=node_id):
                self._look_at(node_id)
                self._beat()
            case MemberDown(node_id=node_id) | MemberLeft(node_id=node_id):
                self._tables.pop(node_id, None)
                self._beat()
            case IntentChanged():
                self._beat()

    def _beat(self) -> None:
        for beat in self._watchers:
            beat.set()

    async def _go_round(self, primed: asyncio.Future[None]) -> None:
        announced_s = 0.0
        try:
            self.announce()
            await asyncio.gather(*(self._look(node_id) for node_id in self._nodes()))
        finally:  # whatever happened: watchers wait for it
            if not primed.done():
                primed.set_result(None)
        while True:
            await asyncio.sleep(ROUND_S)
            announced_s += ROUND_S
            if announced_s >= ANNOUNCED_S:
                self.announce()
                announced_s = 0.0
            wanted = set(self._nodes())
            for gone in self._tables.keys() - wanted:
                del self._tables[gone]
                self._beat()
            for node_id in wanted:
                self._look_at(node_id)

    def _look_at(self, node_id: NodeId) -> None:
        if node_id in self._asking:
            self._again.add(node_id)
            return
        task = asyncio.create_task(self._look(node_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, node_id: NodeId) -> None:
        """Ask a node, and once more if it told something meanwhile."""
        if node_id in self._asking:
            return
        self._asking.add(node_id)
        try:
            while self._watchers:
                self._again.discard(node_id)
                self._take(node_id, await self._answer_of(node_id))
                if node_id not in self._again:
                    break
        finally:
            self._asking.discard(node_id)
            self._again.discard(node_id)

    async def _answer_of(self, node_id: NodeId) -> Reports | None:
        try:
            return await self._ask(node_id)
        except Exception:  # what is wrong with one node, or with our question to it, is nothing to the others
            log.exception("what %s runs is not known: the question to it broke", short(node_id))
            return None

    def _take(self, node_id: NodeId, reports: Reports | None) -> None:
        if not self._watchers:
            return
        if reports is None:
            self._silences[node_id] = self._silences.get(node_id, 0) + 1
            if self._silences[node_id] < SILENCES_MAX or node_id not in self._tables:
                return
        else:
            self._silences.pop(node_id, None)
        if self._tables.get(node_id) != (reports or ()):
            self._tables[node_id] = reports or ()
            self._beat()
