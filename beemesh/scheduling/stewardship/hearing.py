"""Hearing what runs of the workloads that this node hosts: whom to ask, what to make of the answers."""

from __future__ import annotations

from collections.abc import Callable

from beemesh.effects import Answered, Effects, Now, Randomness, Request
from beemesh.ids import NodeId
from beemesh.membership.view import View
from beemesh.scheduling.messages import ListEvents
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.stewardship.ledger import TaskLedger
from beemesh.workloads.observation import ListReplicas, ReplicaList, ReplicaReport

LIST_S = 2.0
"""How long a node may take to say what it runs."""

ASKED_MAX = 3
"""Times that a silent node is asked at a takeover, before the rest goes on without its word."""

FRESH_SURVEY = 64
POLL_SURVEY = 4
SILENT_ASKED_MAX = 16
"""Nodes drawn at random that are asked too: of a name that was used before, while all is as wanted, and of those that
did not answer."""


class Hearing:
    """One node's questions about what runs. Part of the steward, which routes answers to it."""

    def __init__(
        self, view: View, randomness: Randomness, ledger: TaskLedger, new_request_id: Callable[[], int]
    ) -> None:
        self._view = view
        self._randomness = randomness
        self._ledger = ledger
        self._new_request_id = new_request_id
        self._requests: dict[int, tuple[str, NodeId]] = {}

    def survey(self, hosted: Hosted, nodes: int) -> Effects:
        """Ask some live nodes, drawn at random: strays turn up that nobody remembers."""
        alive = self._view.alive()
        drawn = self._randomness.sample(alive, min(nodes, len(alive)))
        return [effect for node_id in drawn for effect in self.ask(hosted, node_id)]

    def mark_unknown(self, hosted: Hosted) -> None:
        """Every node that is alive now has to say what it runs before anything is concluded."""
        hosted.unknown = dict.fromkeys(self._view.alive(), 0)

    def ask_unknown(self, hosted: Hosted) -> Effects:
        """Ask those that have not said yet; a node that stays silent, or is gone, counts no longer."""
        effects: Effects = []
        for node_id in tuple(hosted.unknown):
            if self._view.is_alive(node_id) and hosted.unknown[node_id] < ASKED_MAX:
                effects += self.ask(hosted, node_id)
            elif node_id not in hosted.asked:
                del hosted.unknown[node_id]
        return effects

    def ask(self, hosted: Hosted, node_id: NodeId) -> Effects:
        """Ask one node, unless a question to it is open."""
        if node_id in hosted.asked:
            return []
        request_id = self._new_request_id()
        hosted.asked[node_id] = request_id
        if node_id in hosted.unknown:
            hosted.unknown[node_id] += 1
        self._requests[request_id] = (hosted.workload_id, node_id)
        return [Request(request_id, node_id, ListReplicas(hosted.workload_id), LIST_S)]

    def poll(self, hosted: Hosted) -> Effects:
        """Ask again those that matter: who has not said, who runs something or is about to, and a few others."""
        effects = [*self.ask_unknown(hosted), *self.survey(hosted, POLL_SURVEY)]
        silent = self._randomness.sample(sorted(hosted.silent), min(SILENT_ASKED_MAX, len(hosted.silent)))
        for node_id in sorted({*self._busy_nodes(hosted), *silent, *hosted.unheard}):
            if self._view.is_alive(node_id):
                effects += self.ask(hosted, node_id)
        return effects

    def ask_words(self, hosted: Hosted, nodes: list[NodeId]) -> Effects:
        """Ask what was told of the workload so far."""
        words = ListEvents((hosted.workload_id,))
        return [Request(self._new_request_id(), node_id, words, LIST_S) for node_id in nodes]

    def question(self, request_id: int) -> tuple[str, NodeId] | None:
        """The workload and the node that a question was about; None when it is none of these. Told once."""
        return self._requests.pop(request_id, None)

    def answered(self, hosted: Hosted, node_id: NodeId, request_id: int, answer: Answered, now: Now) -> Effects | None:
        """Take an answer; None when it came to a question of before the lease was lost."""
        if hosted.asked.get(node_id) != request_id:
            return None
        del hosted.asked[node_id]
        if not isinstance(answer.message, ReplicaList):
            if self._view.is_alive(node_id):
                hosted.silent.add(node_id)
            return self.ask_unknown(hosted) if hosted.hosting else []
        hosted.waits_no_more(node_id, now.boot_s)
        hosted.silent.discard(node_id)
        mine = tuple(
            each
            for each in answer.message.replicas
            if each.workload_id == hosted.workload_id and each.node_id == node_id
        )
        hosted.listed(node_id, mine)
        self._settle_tasks(hosted, node_id, mine, now)
        return []

    def _settle_tasks(self, hosted: Hosted, node_id: NodeId, reports: tuple[ReplicaReport, ...], now: Now) -> None:
        """A task whose pod a node lists as started has led to it, though nobody may have told: an agent that is killed
        during a start finds the pod later. A node that won a task and knows nothing of it any more has lost it."""
        known = {each.task_id for each in reports}
        started = {each.task_id for each in reports if each.phase != "Pending"}
        for each in self._ledger.of(hosted.workload_id):
            settled = now.boot_s - each.held_s > LIST_S
            lost = each.holder == node_id and settled and each.task.task_id not in known and now.boot_s >= each.ends_s
            if lost or each.task.task_id in started:
                self._ledger.drop(each.task)

    def _busy_nodes(self, hosted: Hosted) -> set[NodeId]:
        """Nodes that run something of the workload, or are about to."""
        return hosted.runners() | {each.holder for each in self._ledger.of(hosted.workload_id) if each.holder}
