"""What this agent tells of tasks: a list, and the whole story of one, for which the silent nodes are asked as well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from agent.api.seam import Running
from beemesh.composition import Composition
from beemesh.errors import NotFound
from beemesh.ids import NodeId, short
from beemesh.scheduling.explanation import Explanation, explain, last_state, state_of
from beemesh.scheduling.messages import Event, SilenceAnswer, SilenceQuestion
from beemesh.workloads.kubeshape import TaskView

Ask = Callable[[NodeId, msgspec.Struct], Awaitable[msgspec.Struct | None]]
"""Asks a node, this one too; None when no answer comes."""


class TaskReader:
    """Reads the node's own books; nothing here changes anything."""

    def __init__(self, composition: Composition, ask: Ask) -> None:
        self._composition = composition
        self._ask = ask

    async def tasks(self, running: Running) -> list[TaskView]:
        """The tasks that this agent heard of, newest last. What runs is asked for where events have been forgotten."""
        told: dict[str, list[Event]] = {}
        for event in self._composition.journal.events():
            told.setdefault(event.task_id, []).append(event)
        entries = list(self._composition.bidder.book.entries())
        is_told = all(last_state(told.get(entry.task.task_id, ())) is not None for entry in entries)
        nodes = {} if is_told else await running()
        views = []
        for entry in entries:
            task, best = entry.task, entry.best()
            events, runs_on = told.get(task.task_id, ()), nodes.get(task.task_id, "")
            state, node, reason = state_of(events, self._name, runs_on)
            if not events and not runs_on:
                state, node, reason = "Bidding", self._name(best.node_id) if best is not None else "", ""
            views.append(
                TaskView(
                    task_id=task.task_id,
                    workload_id=task.workload_id,
                    namespace=task.namespace,
                    revision=task.revision,
                    replica=task.replica,
                    attempt=task.attempt,
                    state=state,
                    node=node,
                    reason=reason,
                    bids=len(entry.bids),
                    created_ms=task.issued_ms,
                )
            )
        return sorted(views, key=lambda view: view.task_id)

    async def explain(self, task_id: str, running: Running) -> dict[str, Any]:
        """The story of a task, in the fields of `beemesh.scheduling.explanation.Explanation`; raises `NotFound`. What
        runs is asked for where its events have been forgotten."""
        book, journal = self._composition.bidder.book, self._composition.journal
        entry = book.get(task_id)
        if entry is None:
            raise NotFound(
                f'tasks "{task_id.lower()}" not found', hint="`beemeshctl get tasks` lists those that are remembered"
            )
        silences = dict(entry.refusals)
        if not self._composition.view.is_large:  # in a large mesh those who were asked have said why
            silent = [node_id for node_id in self._composition.view.alive() if node_id not in entry.bids]
            reasons = await asyncio.gather(*(self._why_silent(node_id, task_id) for node_id in silent))
            silences |= zip(silent, reasons, strict=True)
        is_told = last_state(journal.events(task_id=task_id)) is not None
        nodes = {} if is_told else await running()
        story: Explanation = explain(
            entry,
            journal.events(workload_id=entry.task.workload_id),
            tuple(book.entries()),
            silences,
            self._name,
            nodes.get(task_id, ""),
        )
        told: dict[str, Any] = msgspec.to_builtins(story)
        return told

    async def _why_silent(self, node_id: NodeId, task_id: str) -> tuple[str, ...]:
        answer = await self._ask(node_id, SilenceQuestion(task_id))
        if not isinstance(answer, SilenceAnswer):
            return ("it does not answer",)
        if not answer.seen:
            return ("it never heard of the task",)
        return answer.reasons or ("its bid did not reach this agent",)

    def _name(self, node_id: bytes) -> str:
        member = self._composition.roster.member(node_id)
        return member.name if member else short(node_id)
