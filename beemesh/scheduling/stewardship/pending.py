"""Asking nodes why they did not bid: what a person reads when a replica is pending."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from beemesh.effects import Answered, Effects, Request
from beemesh.ids import NodeId, short
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.messages import SilenceAnswer, SilenceQuestion

NODES_ASKED_MAX = 32
"""Nodes asked about one task: enough to see what is wrong, in a mesh of any size."""

ANSWER_S = 1.0
INQUIRIES_MAX = 256
REASON_CHARS_MAX = 300


@dataclass(slots=True)
class _Round:
    open: set[int] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)


class Inquiry:
    """Rounds of questions, one per task."""

    def __init__(self, self_id: NodeId, roster: Roster, view: View, new_request_id: Callable[[], int]) -> None:
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._new_request_id = new_request_id
        self._rounds: dict[str, _Round] = {}
        self._tasks: dict[int, str] = {}

    def ask(self, task_id: str) -> Effects:
        """Ask the live nodes, this one included; nothing when a round is open already, or too many are."""
        if task_id in self._rounds or len(self._rounds) >= INQUIRIES_MAX:
            return []
        asked = self._rounds[task_id] = _Round()
        effects: Effects = []
        for node_id in self._view.alive()[:NODES_ASKED_MAX]:
            request_id = self._new_request_id()
            asked.open.add(request_id)
            self._tasks[request_id] = task_id
            effects.append(Request(request_id, node_id, SilenceQuestion(task_id), ANSWER_S))
        return effects

    def answered(self, request_id: int, answer: Answered) -> tuple[str, dict[str, str]] | None:
        """Take an answer; with the last one, the task and each node's reasons by its name."""
        task_id = self._tasks.pop(request_id, None)
        asked = self._rounds.get(task_id) if task_id else None
        if task_id is None or asked is None:
            return None
        asked.open.discard(request_id)
        said = answer.message
        if isinstance(said, SilenceAnswer):
            reason = "; ".join(said.reasons) if said.seen else "it has not heard of the task yet"
        else:
            reason = "it did not answer"
        if reason:
            card = self._roster.member(answer.peer)
            asked.reasons[card.name if card else short(answer.peer)] = reason[:REASON_CHARS_MAX]
        if asked.open:
            return None
        del self._rounds[task_id]
        return task_id, asked.reasons
