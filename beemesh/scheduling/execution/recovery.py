"""After a machine was off: which of its pods it may start again by itself.

It listens for a moment first. Whoever runs the same replica by a higher fence, or a newer revision of it, took over
while this machine was away; then its own copy is of no use any more.
"""

from __future__ import annotations

from collections.abc import Callable

from beemesh.effects import Effects, Now, Request, Schedule
from beemesh.ids import NodeId
from beemesh.membership.view import View
from beemesh.scheduling.execution.pods import Placement
from beemesh.workloads.observation import ListReplicas, ReplicaList, ReplicaReport

LISTEN_S = 2.0
"""Time for membership to find who is there before they are asked."""

ANSWER_S = 2.0
"""How long peers may take to say what they run."""

PEERS_ASKED_MAX = 64
"""Peers asked: in a larger mesh the steward sorts out what is left."""


class Recovery:
    """One round of listening, at the start of an agent."""

    def __init__(self, self_id: NodeId, view: View, new_request_id: Callable[[], int], room: str) -> None:
        self._self_id = self_id
        self._view = view
        self._new_request_id = new_request_id
        self._room = room
        self._asked: set[int] = set()
        self._heard: list[ReplicaReport] = []
        self.running = False

    def begin(self, now: Now) -> Effects:
        """Start to listen."""
        self.running = True
        return [Schedule((self._room, "recover", "ask"), now.boot_s + LISTEN_S)]

    def ask(self, now: Now) -> Effects:
        """Ask everybody who is there; `is_over` is true at once when nobody is."""
        effects: Effects = []
        for node_id in self._view.alive()[:PEERS_ASKED_MAX]:
            if node_id != self._self_id:
                request_id = self._new_request_id()
                self._asked.add(request_id)
                effects.append(Request(request_id, node_id, ListReplicas(), ANSWER_S))
        return effects

    def answered(self, request_id: int, answer: object) -> bool:
        """Take an answer; whether it was to a question of ours."""
        if request_id not in self._asked:
            return False
        self._asked.discard(request_id)
        if isinstance(answer, ReplicaList):
            self._heard += answer.replicas
        return True

    @property
    def is_over(self) -> bool:
        """Whether everybody who was asked has answered, or did not in time."""
        return not self._asked

    def overtaken(self, placement: Placement) -> bool:
        """Whether somebody else runs this replica now with a better right."""
        task = placement.task
        return any(
            (other.workload_id, other.replica) == (task.workload_id, task.replica)
            and other.phase in ("Running", "Pending")
            and (other.revision, other.fence) > (task.revision, placement.fence)
            for other in self._heard
        )
