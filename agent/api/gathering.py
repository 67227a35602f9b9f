"""What was told of workloads, where it does not come by itself: in a large mesh events go to those whom they concern.

So whoever reads here asks the keepers that are in line for each workload, and their answers, which are signed by those
who told, go into this agent's own journal. Everything that reads the journal then reads the same as in a small mesh.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from beemesh.errors import Unreachable
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.line import tellers_of
from beemesh.scheduling.messages import EventList, ListEvents

PATIENCE_S = 2.0

AGAIN_S = 0.5
"""What was asked about so lately is not asked about again: those who wait look every tenth of a second."""

ASKED_FOR_MAX = 100
"""Workloads in one question."""

REMEMBERED_MAX = 10_000


class Asker(Protocol):
    """Whoever can put a question to another node."""

    async def ask_node(self, peer: NodeId, message: msgspec.Struct, deadline_s: float) -> msgspec.Struct:
        """The answer; raises `Unreachable`."""
        ...


class Gatherer:
    """Asks when it is told to, and not too often."""

    def __init__(
        self, self_id: NodeId, roster: Roster, view: View, asker: Asker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.told: Callable[[tuple[Signed, ...]], None] = lambda _events: None
        """Takes what comes, and has it in the journal when it returns."""
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._asker = asker
        self._clock = clock
        self._asked: OrderedDict[str, tuple[float, asyncio.Event]] = OrderedDict()
        """Workload → when it was asked about, and whether all answers have come."""

    async def gather(self, workload_ids: Iterable[str]) -> None:
        """Have in the journal what others know of these workloads, when it returns. Who does not answer is left out:
        the keepers next in line have heard the same."""
        if not self._view.is_large:
            return
        now_s, answered = self._clock(), asyncio.Event()
        questions: dict[NodeId, list[str]] = {}
        others: set[asyncio.Event] = set()
        for workload_id in workload_ids:
            asked_s, soon = self._asked.get(workload_id, (-AGAIN_S, answered))
            if now_s - asked_s < AGAIN_S:
                others.add(soon)
                continue
            self._note(workload_id, now_s, answered)
            for node_id in tellers_of(workload_id, self._roster, self._view):
                if node_id != self._self_id:
                    questions.setdefault(node_id, []).append(workload_id)
        try:
            await self._put(questions)
        finally:
            answered.set()
        for each in others:  # another reader asked for these a moment ago: its answers are ours too
            await each.wait()

    async def _put(self, questions: dict[NodeId, list[str]]) -> None:
        parts = [
            (node_id, tuple(wanted[start : start + ASKED_FOR_MAX]))
            for node_id, wanted in questions.items()
            for start in range(0, len(wanted), ASKED_FOR_MAX)
        ]
        for events in await asyncio.gather(*(self._ask(*part) for part in parts)):
            if events:
                self.told(events)

    async def _ask(self, node_id: NodeId, workload_ids: tuple[str, ...]) -> tuple[Signed, ...]:
        try:
            answer = await self._asker.ask_node(node_id, ListEvents(workload_ids), PATIENCE_S)
        except Unreachable:
            return ()
        return answer.events if isinstance(answer, EventList) else ()

    def _note(self, workload_id: str, now_s: float, answered: asyncio.Event) -> None:
        self._asked.pop(workload_id, None)
        self._asked[workload_id] = (now_s, answered)
        while len(self._asked) > REMEMBERED_MAX:
            self._asked.popitem(last=False)
