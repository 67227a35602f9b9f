"""Disruption budgets: how many replicas of a workload must stay healthy while operators move or evict others.

Kubernetes' PodDisruptionBudget (policy/v1), in its words and with its arithmetic: percentages of what is declared are
rounded up, and a disruption is allowed while more are healthy than must be. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from beemesh.workloads.record import Expression
from beemesh.workloads.selectors import matches

AMOUNT = re.compile(r"[0-9]{1,9}|[0-9]{1,3}%")
"""A count of replicas, or a percentage of those declared."""


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a `budget` intent. One of `min_available` and `max_unavailable` is given, as a count or `50%`. An
    empty selector selects every pod of the namespace; `selects` is false where none was written, which selects none."""

    namespace: str
    name: str
    min_available: str = ""
    max_unavailable: str = ""
    match_labels: dict[str, str] = {}
    match_expressions: tuple[Expression, ...] = ()
    selects: bool = True
    evicts_unhealthy: bool = False
    """Whether replicas that are not ready may always go (`unhealthyPodEvictionPolicy: AlwaysAllow`)."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    created_ms: int = 0
    managed_by: str = ""

    def is_sound(self) -> bool:
        """Whether the amounts can be read: every node checks it, whoever signed."""
        given = [amount for amount in (self.min_available, self.max_unavailable) if amount]
        return len(given) <= 1 and all(AMOUNT.fullmatch(amount) for amount in given)

    def covers(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether pods of these labels fall under it."""
        if not self.selects or namespace != self.namespace:
            return False
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        return all(matches(expression, labels) for expression in self.match_expressions)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What budgets ask of one workload: how many of its replicas must stay healthy, and by whose word."""

    healthy_least: int
    because: str = ""
    """The budget's name, or what holds where there is none."""
    evicts_unhealthy: bool = False

    def allows(self, healthy: int, *, ready: bool) -> bool:
        """Whether a replica that is `ready` or not may go while `healthy` are."""
        if not ready and self.evicts_unhealthy:
            return True
        return healthy - (1 if ready else 0) >= self.healthy_least


def scaled(amount: str, expected: int, *, up: bool = True) -> int:
    """A count as it is, a percentage of `expected` rounded up (as Kubernetes does) or down."""
    if not amount.endswith("%"):
        return int(amount)
    hundredfold = int(amount[:-1]) * expected
    return -(-hundredfold // 100) if up else hundredfold // 100


def healthy_least(budget: Budget, expected: int, sharing: int = 1) -> int:
    """How many of a workload's `expected` replicas must stay healthy under `budget`.

    Where `sharing` workloads fall under one budget, none knows how the others fare: each keeps to what is right
    whatever they do, which may allow less than the budget does.
    """
    if budget.min_available:
        return scaled(budget.min_available, expected)
    if not budget.max_unavailable:
        return scaled("1", expected)  # Kubernetes' default where neither is given
    if sharing == 1:
        return max(0, expected - scaled(budget.max_unavailable, expected))
    if budget.max_unavailable.endswith("%"):
        return expected - min(expected, scaled(budget.max_unavailable, expected, up=False))
    return max(0, expected - int(budget.max_unavailable) // sharing)


def allowance(
    budgets: Iterable[Budget],
    namespace: str,
    labels: Mapping[str, str],
    expected: int,
    *,
    sharing: Mapping[str, int],
    default_least: int,
) -> Allowance:
    """What all budgets over a workload's pods ask together: the strictest counts. Where there is none,
    `default_least` replicas stay. `sharing` is how many workloads fall under each budget, by name."""
    strictest: Allowance | None = None
    for budget in budgets:
        if not budget.covers(namespace, labels):
            continue
        least = healthy_least(budget, expected, sharing.get(budget.name, 1))
        if strictest is None or least > strictest.healthy_least:
            strictest = Allowance(least, f"PodDisruptionBudget {budget.name}", budget.evicts_unhealthy)
    if strictest is not None:
        return strictest
    return Allowance(default_least, "its last ready replica" if default_least else "")
