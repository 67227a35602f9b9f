"""Telling peers what runs here, once the runtime has said so."""

from __future__ import annotations

from collections import deque

from beemesh.effects import Effects, Now, Reply
from beemesh.ids import NodeId
from beemesh.scheduling.execution.pods import PodTable
from beemesh.workloads.observation import ReplicaList

WAITED_FOR_S = 2.0
"""Whoever asks what runs here waits no longer for the answer."""

QUESTIONS_WAITING_MAX = 4_096
"""Questions of the last moments that wait for the runtime's word. One more gets no answer: whoever asks takes that for
silence, which proves nothing, and an empty list for the truth."""


class Answers:
    """One node's answers. Part of the executor, which routes questions to it."""

    def __init__(self, self_id: NodeId, pods: PodTable) -> None:
        self._self_id = self_id
        self._pods = pods
        self._looked = False
        """Whether the runtime has listed its pods since this agent started."""
        self._questions: deque[tuple[float, int, str]] = deque()
        """(when nobody waits for the answer any more, token, workload), the oldest first."""

    def list(self, token: int, workload_id: str, now: Now) -> Effects:
        """Somebody asks; it waits until there is something to say."""
        if self._looked:
            return [self._reply(token, workload_id)]
        dropped = self._drop_old(now)
        if len(self._questions) >= QUESTIONS_WAITING_MAX:
            return [*dropped, Reply(token, None)]
        self._questions.append((now.boot_s + WAITED_FOR_S, token, workload_id))
        return dropped

    def looked(self, now: Now) -> Effects:
        """The runtime has listed its pods: answer those who wait."""
        self._looked = True
        dropped = self._drop_old(now)
        answers = [self._reply(token, workload_id) for _, token, workload_id in self._questions]
        self._questions.clear()
        return [*dropped, *answers]

    def _drop_old(self, now: Now) -> Effects:
        """Let go of questions whose askers have gone on."""
        dropped: Effects = []
        while self._questions and self._questions[0][0] <= now.boot_s:
            dropped.append(Reply(self._questions.popleft()[1], None))
        return dropped

    @property
    def have_looked(self) -> bool:
        """Whether the runtime has listed its pods since this agent started."""
        return self._looked

    def _reply(self, token: int, workload_id: str) -> Reply:
        return Reply(token, ReplicaList(self._self_id, self._pods.reports(workload_id)))
