"""Disruption budgets as this node knows them: a read model over the intent map."""

from __future__ import annotations

from beemesh.intents.record import Intent, Records, body_of
from beemesh.workloads.budgets import Allowance, Budget, allowance
from beemesh.workloads.record import Workload

BUDGETS, WORKLOADS = "budget/", "workload/"


class Disruption:
    """How much of a workload may be disrupted. Read at start, and told of every change."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._budgets: dict[str, Budget] = {}
        """By the key of the record."""
        self._sharing: dict[str, int] = {}
        """How many workloads fall under a budget, counted when it is asked for; forgotten with every change."""

    def load(self) -> None:
        """Read what stands."""
        for intent, _ in tuple(self._records(BUDGETS)):
            self.changed(intent)

    def changed(self, intent: Intent) -> None:
        """Another record stands at a key."""
        if intent.key.startswith(BUDGETS):
            budget = body_of(intent, "budget", Budget)
            self._budgets.pop(intent.key, None)
            if budget is not None:
                self._budgets[intent.key] = budget
            self._sharing.clear()
        elif intent.key.startswith(WORKLOADS):
            self._sharing.clear()

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

    def spares(self, workload: Workload) -> int:
        """How many of its replicas may be missing, by what is declared: whether the others are well is not known to
        whoever would evict one."""
        return max(0, workload.replicas - self.allowance(workload).healthy_least)

    def _sharing_of(self, budget: Budget) -> int:
        key = f"{budget.namespace}/{budget.name}"
        if key not in self._sharing:
            workloads = (body_of(intent, "workload", Workload) for intent, _ in self._records(WORKLOADS))
            covers = (each is not None and budget.covers(each.namespace, each.pod_labels) for each in workloads)
            self._sharing[key] = sum(covers)
        return self._sharing[key]
