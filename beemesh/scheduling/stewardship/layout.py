"""Who runs what and where there is room, as one picture that commands plan with. Pure: it decides nothing; nodes do.

It is as old as the summaries and pod lists that it is made of, so what is planned with it is a good guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from beemesh.identity.membership_card import Membership
from beemesh.scheduling.eligibility import Resources, capacity_refusals, placement_refusals
from beemesh.scheduling.local_work import total
from beemesh.scheduling.tasks import startable_as_of
from beemesh.workloads.budgets import Allowance, Budget, allowance
from beemesh.workloads.record import Requirements, Workload

PODS_MAX = 110
"""Pods that fill a node, as Kubernetes counts them."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One replica on one node."""

    name: str
    namespace: str
    workload_id: str
    replica: int
    revision: int
    node: str
    ready: bool = True
    leaving: bool = False
    """Whether it is ending already."""
    message: str = ""
    """What its probes complain of, where that is known."""


@dataclass(frozen=True, slots=True)
class Host:
    """One node: what the mesh may use of it, and what it measured as free."""

    card: Membership
    alive: bool = True
    cordoned: bool = False
    cpu_m: int = 0
    mem_mb: int = 0
    storage_mb: int = 0
    free_storage_mb: int = 0
    free_mem_mb: int = 0

    @property
    def name(self) -> str:
        """The node's name."""
        return self.card.name


@dataclass(slots=True)
class Layout:
    """The whole picture. `workloads` by workload id, `hosts` by name."""

    hosts: Mapping[str, Host]
    pods: list[Pod]
    workloads: Mapping[str, Workload]
    budgets: Iterable[Budget] = field(default_factory=tuple)

    def on(self, node: str) -> list[Pod]:
        """The pods of a node, those that are ending included."""
        return [pod for pod in self.pods if pod.node == node]

    def successor(self, pod: Pod) -> Pod | None:
        """What runs in its stead on another node already; a ready one, where there are several."""
        same = (pod.workload_id, pod.replica)
        found = (each for each in self.pods if (each.workload_id, each.replica) == same and each.node != pod.node)
        return max((each for each in found if not each.leaving), key=lambda each: each.ready, default=None)

    def healthy(self, workload_id: str) -> int:
        """How many of its replicas are ready; one and its successor are one."""
        pods = (pod for pod in self.pods if pod.workload_id == workload_id and pod.ready and not pod.leaving)
        return len({pod.replica for pod in pods})

    def requirements(self, pod: Pod) -> Requirements:
        """What its revision asks for; nothing where the record is gone."""
        workload = self.workloads.get(pod.workload_id)
        if workload is None:
            return Requirements()
        return (workload.as_of(_number_of(pod, workload)) or workload).requirements

    def reserved(self, node: str) -> Requirements:
        """What the records of the pods on a node ask for."""
        return total(self.requirements(pod) for pod in self.on(node))

    def refusals(self, pod: Pod, node: str) -> list[str]:
        """Why a node would not take a successor of `pod`, as far as can be told from here; empty when it may."""
        host, asks = self.hosts[node], self._successor(pod)
        if asks is None:
            return ["its workload was deleted"]
        reasons = [] if host.alive else ["it is not alive"]
        reasons += ["it is cordoned"] if host.cordoned else []
        reasons += placement_refusals(asks.constraints, host.card)
        siblings = [each for each in self.on(node) if each.workload_id == pod.workload_id]
        if asks.constraints.anti_affinity_hosts and siblings:
            reasons.append("another replica of this workload runs there, and two may not share a node")
        return reasons + capacity_refusals(asks.requirements, self._resources(host))

    def fits_no_other(self, pod: Pod) -> bool:
        """Whether no other node is what its successor asks for, whatever runs there."""
        asks = self._successor(pod)
        others = [host.card for host in self.hosts.values() if host.name != pod.node]
        return asks is not None and all(placement_refusals(asks.constraints, card) for card in others)

    def candidates(self, pod: Pod) -> list[str]:
        """The nodes that would take its successor, the emptiest first."""
        names = [name for name in self.hosts if name != pod.node and not self.refusals(pod, name)]
        return sorted(names, key=lambda name: (self.load(name), name))

    def load(self, node: str) -> float:
        """How full a node is, 0…1 and above: the greatest of its shares of CPU, memory and pods that are promised."""
        host, held = self.hosts[node], self.reserved(node)
        shares = [len(self.on(node)) / PODS_MAX]
        shares += [held.cpu_m / host.cpu_m] if host.cpu_m else []
        shares += [held.mem_mb / host.mem_mb] if host.mem_mb else []
        return max(shares)

    def allowance(self, workload: Workload, *, force: bool = False) -> Allowance:
        """How many of its replicas must stay healthy."""
        sharing = {
            budget.name: sum(budget.covers(each.namespace, each.pod_labels) for each in self.workloads.values())
            for budget in self.budgets
        }
        labels, least = workload.pod_labels, 0 if force else 1
        return allowance(
            self.budgets, workload.namespace, labels, workload.replicas, sharing=sharing, default_least=least
        )

    def _successor(self, pod: Pod) -> Workload | None:
        """Its workload, asking for what the pod's successor will: what its own revision does, where that one may be
        started again. None where the record is gone."""
        workload = self.workloads.get(pod.workload_id)
        if workload is None:
            return None
        return startable_as_of(workload, _number_of(pod, workload)) or workload

    def _resources(self, host: Host) -> Resources:
        held = self.reserved(host.name)
        return Resources(
            cpu_m_total=host.cpu_m,
            mem_mb_total=host.mem_mb,
            storage_mb_total=host.storage_mb,
            cpu_m_free=host.cpu_m - held.cpu_m,
            mem_mb_free=min(host.mem_mb - held.mem_mb, host.free_mem_mb),
            storage_mb_free=min(host.storage_mb - held.storage_mb, host.free_storage_mb),
            pods=len(self.on(host.name)),
        )


def _number_of(pod: Pod, workload: Workload) -> int:
    """The number that a pod's revision bears by now."""
    revision = workload.covering(pod.revision)
    return revision.number if revision else pod.revision
