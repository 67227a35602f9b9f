"""The kinds of policy that operators apply: where each stands in the intent map, what its record is, and what
priority a class gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from beemesh.errors import InvalidInput
from beemesh.intents.record import Intent, IntentKind, budget_key, priority_key, quota_key
from beemesh.workloads.budget_rules import budget_of
from beemesh.workloads.budgets import Budget
from beemesh.workloads.policies import PriorityClass, Quota, priority_for
from beemesh.workloads.policy_rules import priority_of, quota_of
from beemesh.workloads.resolve import ResolvedWorkload
from beemesh.workloads.schema import did_you_mean


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """One kind: `key` from namespace and name, `record` from a checked manifest."""

    intent: IntentKind
    body: type[Any]
    key: Callable[[str, str], str]
    record: Callable[..., Any]


POLICIES = {
    "PriorityClass": PolicyKind("priority", PriorityClass, lambda _, name: priority_key(name), priority_of),
    "ResourceQuota": PolicyKind("quota", Quota, quota_key, quota_of),
    "PodDisruptionBudget": PolicyKind("budget", Budget, budget_key, budget_of),
}


class Priorities:
    """The priority classes of a mesh, with those that are being applied."""

    def __init__(self, records: Iterable[Intent | None]) -> None:
        found = (msgspec.msgpack.decode(each.body, type=PriorityClass) for each in records if each is not None)
        self._classes = {each.name: each for each in found}

    def note(self, policy: Any) -> None:
        """A policy is about to be applied: remember it if it is a class."""
        if isinstance(policy, PriorityClass):
            self._classes[policy.name] = policy

    def ranked(self, wanted: ResolvedWorkload) -> ResolvedWorkload:
        """The workload with the priority of its class; raises `InvalidInput` where there is no such class."""
        found = priority_for(wanted.qos.priority_class, self._classes.values())
        if found is None:
            name = wanted.qos.priority_class
            what = f"{wanted.kind.lower()}/{wanted.name} in namespace {wanted.namespace}"
            hint = did_you_mean(name, list(self._classes)) or "apply it first, or in the same command"
            raise InvalidInput(f"{what}: there is no PriorityClass {name!r} on this mesh", hint=hint)
        ranks = {"priority": found.value, "preempts": found.preempts, "priority_class": found.name}
        return replace(wanted, qos=msgspec.structs.replace(wanted.qos, **ranks))
