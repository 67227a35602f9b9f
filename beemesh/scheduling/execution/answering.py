"""Telling peers what runs here, once the runtime has said so."""

from __future__ import annotations

from beemesh.effects import Effects, Reply
from beemesh.ids import NodeId
from beemesh.scheduling.execution.pods import PodTable
from beemesh.workloads.observation import ReplicaList

QUESTIONS_WAITING_MAX = 256
"""Peers that ask what runs here before the runtime has said so."""


class Answers:
    """One node's answers. Part of the executor, which routes questions to it."""

    def __init__(self, self_id: NodeId, pods: PodTable) -> None:
        self._self_id = self_id
        self._pods = pods
        self._looked = False
        """Whether the runtime has listed its pods since this agent started."""
        self._questions: list[tuple[int, str]] = []

    def list(self, token: int, workload_id: str) -> Effects:
        """Somebody asks; it waits until there is something to say."""
        if self._looked or len(self._questions) >= QUESTIONS_WAITING_MAX:
            return [self._reply(token, workload_id)]
        self._questions.append((token, workload_id))
        return []

    def looked(self) -> Effects:
        """The runtime has listed its pods: answer those who wait."""
        self._looked = True
        answers: Effects = [self._reply(token, workload_id) for token, workload_id in self._questions]
        self._questions.clear()
        return answers

    @property
    def have_looked(self) -> bool:
        """Whether the runtime has listed its pods since this agent started."""
        return self._looked

    def _reply(self, token: int, workload_id: str) -> Reply:
        return Reply(token, ReplicaList(self._self_id, self._pods.reports(workload_id)))
