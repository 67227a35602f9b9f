"""What operators ordered about nodes and budgets, as stewards read it: a read model over the intent map."""

from __future__ import annotations

from functools import partial

from beemesh.effects import Now
from beemesh.ids import NodeId
from beemesh.intents.record import Cordon, Intent, Records, body_of
from beemesh.membership.roster import Roster
from beemesh.scheduling.eligibility import placement_refusals
from beemesh.scheduling.quotas import Policies
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.workloads.budgets import Allowance, Budget, allowance
from beemesh.workloads.moves import Arranged, Leave, Terms, arrange
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.reconciler import Declared, Observed
from beemesh.workloads.record import Constraints, Workload

CORDONS, BUDGETS, WORKLOADS = "cordon/", "budget/", "workload/"

STOP_SEEN_S = 30.0
"""So long after its stop was ordered a replica counts as gone, although it may be listed still."""


class Upkeep:
    """Orders about nodes, and disruption budgets. Read at start, and told of every change."""

    def __init__(self, roster: Roster, records: Records) -> None:
        self.policies = Policies(records)
        self._roster = roster
        self._records = records
        self._cordons: dict[str, Cordon] = {}
        """By the node's name."""
        self._budgets: dict[str, Budget] = {}
        """By the key of the record."""
        self._sharing: dict[str, int] = {}
        """How many workloads fall under a budget, counted when it is asked for; forgotten with every change."""

    def load(self) -> None:
        """Read what stands."""
        for prefix in (CORDONS, BUDGETS):
            for intent, _ in tuple(self._records(prefix)):
                self.changed(intent)

    def changed(self, intent: Intent) -> None:
        """Another record stands at a key."""
        if intent.key.startswith(CORDONS):
            cordon = body_of(intent, "cordon", Cordon)
            name = intent.key.removeprefix(CORDONS)
            self._cordons.pop(name, None)
            if cordon is not None and (cordon.drain is not None or cordon.moves):
                self._cordons[name] = cordon
        elif intent.key.startswith(BUDGETS):
            budget = body_of(intent, "budget", Budget)
            self._budgets.pop(intent.key, None)
            if budget is not None:
                self._budgets[intent.key] = budget
            self._sharing.clear()
        elif intent.key.startswith(WORKLOADS):
            self._sharing.clear()

    def concerns(self, intent: Intent, hosted: Hosted) -> bool:
        """Whether a changed order may mean work for the steward of `hosted`."""
        if intent.key.startswith(BUDGETS):
            return bool(self._cordons)
        card = self._roster.named(intent.key.removeprefix(CORDONS)) if intent.key.startswith(CORDONS) else None
        return card is not None and bool(hosted.reports.get(card.node_id))

    def arrange(self, hosted: Hosted, declared: Declared, observed: Observed, now: Now) -> Arranged:
        """The moves of one workload. A steward that no majority chose moves nothing."""
        workload = hosted.workload
        if workload is None or not self._cordons:
            return Arranged(observed)
        leaves = {id(each): leave for each in observed.replicas if (leave := self._leave(each, workload, now))}
        if not leaves:
            return Arranged(observed)
        forced = any(leave.force for leave in leaves.values())
        stopped = {task for (_, task), when_s in hosted.stops.items() if now.boot_s - when_s < STOP_SEEN_S}
        terms = Terms(
            leaves=lambda report: leaves.get(id(report)),
            allowance=self.allowance(workload, force=forced),
            tolerant=workload.duplicate_tolerant,
            ordered=frozenset(stopped),
        )
        arranged = arrange(declared, observed, terms, now.boot_s)
        return Arranged(arranged.observed) if hosted.tentative else arranged

    def allowance(self, workload: Workload, *, force: bool = False) -> Allowance:
        """How many of its replicas must stay healthy whatever is done to the others."""
        labels = workload.pod_labels
        covering = [each for each in self._budgets.values() if each.covers(workload.namespace, labels)]
        return allowance(
            covering,
            workload.namespace,
            labels,
            workload.replicas,
            sharing={each.name: self._sharing_of(each) for each in covering},
            default_least=0 if force else 1,
        )

    def _sharing_of(self, budget: Budget) -> int:
        key = f"{budget.namespace}/{budget.name}"
        if key not in self._sharing:
            workloads = (body_of(intent, "workload", Workload) for intent, _ in self._records(WORKLOADS))
            covers = (each is not None and budget.covers(each.namespace, each.pod_labels) for each in workloads)
            self._sharing[key] = sum(covers)
        return self._sharing[key]

    def _leave(self, report: ReplicaReport, workload: Workload, now: Now) -> Leave | None:
        card = self._roster.member(report.node_id)
        cordon = self._cordons.get(card.name) if card else None
        if cordon is None:
            return None
        stranded = partial(self._is_stranded, workload.constraints, report.node_id)
        if cordon.drain is not None:
            grace_s = cordon.drain.grace_s
            return Leave(grace_s if grace_s >= 0 else None, cordon.drain.force, stranded=stranded())
        move = cordon.move_of(report.workload_id, report.replica, now.wall_ms)
        return Leave(towards=move.to, stranded=stranded()) if move is not None else None

    def _is_stranded(self, constraints: Constraints, node_id: NodeId) -> bool:
        """Whether no other member is what the record asks for."""
        others = (card for card in self._roster.members() if card.node_id != node_id)
        return all(placement_refusals(constraints, card) for card in others)
