"""What operators allow in a namespace, and how important pods are: ResourceQuota and PriorityClass, in records.

Every member reads them; nothing of them is sealed. Quotas count what workloads declare (replicas times what one
reserves), so that an apply is answered at once and alike everywhere; pods that a rolling update runs beside the old
ones for a while are not counted. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from beemesh.ids import Digest
from beemesh.workloads.daemons import DAEMON_SET
from beemesh.workloads.record import Requirements, Workload

USER_PRIORITY_MAX = 1_000_000_000
"""The highest value of a PriorityClass that people make (Kubernetes); above are the system's."""

PRIORITY_MIN = -(2**31)

SYSTEM_PREFIX = "system-"
SYSTEM_NAMESPACE = "kube-system"
"""Where the system's classes may be used (Kubernetes' default limit)."""

QUOTA_KEYS = ("pods", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
"""What a quota may bound; `cpu` and `memory` are short for the requests."""


class Quota(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a `quota` intent: `hard` in pods, thousandths of a core and MiB, by `QUOTA_KEYS`."""

    namespace: str
    name: str
    hard: dict[str, int] = {}
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    created_ms: int = 0
    managed_by: str = ""

    def is_sound(self) -> bool:
        """Whether every node reads the same in it."""
        return all(key in QUOTA_KEYS and amount >= 0 for key, amount in self.hard.items())


class PriorityClass(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a `priority` intent. `preempts` is false for `preemptionPolicy: Never`."""

    name: str
    value: int
    global_default: bool = False
    preempts: bool = True
    description: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    created_ms: int = 0
    managed_by: str = ""

    namespace: str = ""
    """Always empty: it is for all namespaces."""

    def is_sound(self) -> bool:
        """Whether it is a person's to make."""
        in_range = PRIORITY_MIN <= self.value <= USER_PRIORITY_MAX
        return in_range and not self.name.startswith(SYSTEM_PREFIX) and not self.namespace


SYSTEM_CLASSES = {
    "system-cluster-critical": PriorityClass("system-cluster-critical", 2_000_000_000),
    "system-node-critical": PriorityClass("system-node-critical", 2_000_001_000),
}
"""Kubernetes' own two."""


def priority_for(name: str, classes: Iterable[PriorityClass]) -> PriorityClass | None:
    """The class of that name; for an empty name the default one (the lowest, if several say so), or one of 0."""
    known = {**SYSTEM_CLASSES, **{each.name: each for each in classes if each.is_sound()}}
    if name:
        return known.get(name)
    defaults = [each for each in known.values() if each.global_default]
    return min(defaults, key=lambda each: (each.value, each.name), default=PriorityClass("", 0))


def priority_objection(workload: Workload, classes: Iterable[PriorityClass]) -> str:
    """Why a workload may not be as important as its record says; empty when it may."""
    qos = workload.qos
    if qos.priority_class.startswith(SYSTEM_PREFIX) and workload.namespace != SYSTEM_NAMESPACE:
        return f"PriorityClass {qos.priority_class} is for namespace {SYSTEM_NAMESPACE} only"
    found = priority_for(qos.priority_class, classes)
    if found is None:
        return f"there is no PriorityClass {qos.priority_class!r}"
    if (qos.priority, qos.preempts) != (found.value, found.preempts):
        what = f"PriorityClass {found.name}" if found.name else "a workload without a PriorityClass"
        return f"{what} has priority {found.value}, the record says {qos.priority}: apply again"
    return ""


def usage(workload: Workload) -> dict[str, int]:
    """What a workload declares of each thing that a quota may bound."""
    reqs = workload.requirements
    each = {
        "pods": 1,
        "requests.cpu": reqs.cpu_m,
        "requests.memory": reqs.mem_mb,
        "limits.cpu": reqs.cpu_limit_m,
        "limits.memory": reqs.mem_limit_mb,
    }
    return {key: workload.replicas * amount for key, amount in each.items()}


def quota_objection(
    workload: Workload, before: Workload | None, others: Iterable[Workload], quotas: Iterable[Quota]
) -> str:
    """Why a record may not take the place of `before`, in Kubernetes' words; empty when it may. `others` are the
    namespace's other workloads. What grows in nothing is never refused."""
    wanted, had = usage(workload), usage(before) if before is not None else dict.fromkeys(QUOTA_KEYS, 0)
    totals, creates = _sum(others), _creates_pods(workload, before)
    for quota in sorted(quotas, key=lambda each: each.name):
        if quota.namespace != workload.namespace:
            continue
        if workload.kind == DAEMON_SET and before is None:
            return f"quota {quota.name} bounds this namespace, and a DaemonSet has no number of replicas to count"
        missing = [key for key in quota.hard if key.startswith("limits.") and workload.replicas and not wanted[key]]
        if missing and creates:
            return f"failed quota: {quota.name}: must specify {','.join(missing)} for every container"
        over = [key for key, hard in quota.hard.items() if wanted[key] > had[key] and totals[key] + wanted[key] > hard]
        if over:
            more, in_use = (
                {key: wanted[key] - had[key] for key in over},
                {key: totals[key] + had[key] for key in over},
            )
            requested, used, limited = (
                ",".join(f"{key}={amount_text(key, amounts[key])}" for key in over)
                for amounts in (more, in_use, quota.hard)
            )
            return f"exceeded quota: {quota.name}, requested: {requested}, used: {used}, limited: {limited}"
    return ""


def _creates_pods(workload: Workload, before: Workload | None) -> bool:
    """Whether pods come of a record that did not come of the one before. Kubernetes looks at pods that are created, and
    not at a deployment that is scaled down, paused or labelled."""
    if before is None or workload.replicas > before.replicas:
        return True
    return _template(workload) != _template(before)


def _template(workload: Workload) -> tuple[int, Digest, Requirements]:
    return workload.current.number, workload.current.manifest, workload.requirements


def replicas_allowed(workload: Workload, others: Iterable[Workload], quotas: Iterable[Quota]) -> tuple[int, str]:
    """How many replicas quotas leave to a workload, and why no more. When a quota was lowered, the oldest workloads
    come first; every steward finds the same without asking another."""
    order = (workload.created_ms, workload.workload_id)
    older = [each for each in others if (each.created_ms, each.workload_id) < order]
    taken, wanted = _sum(older), usage(workload)
    allowed, why = workload.replicas, ""
    for quota in sorted(quotas, key=lambda each: each.name):
        for key, hard in quota.hard.items() if quota.namespace == workload.namespace else ():
            each = wanted[key] // workload.replicas if workload.replicas else 0
            room = max(0, hard - taken[key]) // each if each else allowed
            if room < allowed:
                allowed = room
                why = f"exceeded quota: {quota.name}, used: {key}={amount_text(key, taken[key] + room * each)}"
                why += f", limited: {key}={amount_text(key, hard)}"
    return allowed, why


def amount_text(key: str, amount: int) -> str:
    """An amount as people write it."""
    if key == "pods":
        return str(amount)
    return f"{amount}m" if key.endswith("cpu") else f"{amount}Mi"


def _sum(workloads: Iterable[Workload]) -> Mapping[str, int]:
    totals = dict.fromkeys(QUOTA_KEYS, 0)
    for each in workloads:
        for key, amount in usage(each).items():
            totals[key] += amount
    return totals
