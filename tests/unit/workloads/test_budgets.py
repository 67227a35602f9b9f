"""Disruption budgets: Kubernetes' selectors and arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.workloads.budgets import Allowance, Budget, allowance, healthy_least
from beemesh.workloads.record import Expression

WEB = {"app": "web", "tier": "front"}


def budget(**fields: Any) -> Budget:
    """A budget of namespace default, over app=web where nothing else is said."""
    return Budget("default", "web", **({"match_labels": {"app": "web"}} | fields))


@pytest.mark.parametrize(
    ("amounts", "expected", "least"),
    [
        ({"min_available": "2"}, 5, 2),
        ({"min_available": "50%"}, 5, 3),
        ({"min_available": "100%"}, 5, 5),
        ({"max_unavailable": "1"}, 5, 4),
        ({"max_unavailable": "50%"}, 5, 2),
        ({"max_unavailable": "0"}, 5, 5),
        ({"max_unavailable": "9"}, 5, 0),
        ({}, 5, 1),
    ],
)
def test_what_must_stay_healthy(amounts: dict[str, str], expected: int, least: int) -> None:
    """Counts as they are, percentages rounded up, and one where nothing is given: the numbers that Kubernetes finds."""
    assert healthy_least(budget(**amounts), expected) == least


@given(st.integers(0, 9), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_workloads_that_share_a_budget_keep_it_together(count: int, first: int, second: int, percent: bool) -> None:
    """Whatever each of two workloads allows itself, both together stay within the budget."""
    shared = budget(max_unavailable=f"{count * 10}%" if percent else str(count))
    gone = sum(size - healthy_least(shared, size, 2) for size in (first, second))

    assert gone <= first + second - healthy_least(shared, first + second)


@pytest.mark.parametrize(
    ("selector", "covers"),
    [
        ({}, True),
        ({"match_labels": {"app": "api"}}, False),
        ({"match_labels": {}}, True),
        ({"match_labels": {}, "selects": False}, False),
        ({"match_expressions": (Expression("tier", "In", ("front", "back")),)}, True),
        ({"match_expressions": (Expression("tier", "NotIn", ("front",)),)}, False),
        ({"match_expressions": (Expression("gone", "DoesNotExist"),)}, True),
        ({"match_expressions": (Expression("gone", "Exists"),)}, False),
        ({"match_expressions": (Expression("tier", "Near", ("front",)),)}, False),
    ],
)
def test_a_selector_selects_as_in_kubernetes(selector: dict[str, Any], covers: bool) -> None:
    """Labels and expressions all hold; an empty selector is every pod, a missing one none; other namespaces never."""
    assert budget(**selector).covers("default", WEB) is covers
    assert not budget(**selector).covers("shop", WEB)


def test_the_strictest_budget_counts() -> None:
    """Of several over the same pods; and where there is none, what is the default."""
    budgets = (budget(min_available="1"), Budget("default", "tight", min_available="3"), budget(min_available="2"))

    assert allowance(budgets, "default", WEB, 5, sharing={}, default_least=1).because == "PodDisruptionBudget tight"
    assert allowance((), "default", WEB, 5, sharing={}, default_least=1).healthy_least == 1


def test_what_is_not_ready_costs_nothing() -> None:
    """It may go while the others keep the budget, and in any case where the budget says so."""
    assert Allowance(2).allows(3, ready=True)
    assert not Allowance(2).allows(2, ready=True)
    assert Allowance(2).allows(2, ready=False)
    assert not Allowance(2).allows(1, ready=False)
    assert Allowance(2, evicts_unhealthy=True).allows(1, ready=False)
