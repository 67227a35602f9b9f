"""Label selectors: what is wrong with one as people write it, its form in records, and what it matches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from beemesh.workloads.objects import Finding, Path
from beemesh.workloads.record import Expression

Rules = Iterator[Finding]


def expressions(items: list[Mapping[str, Any]], path: Path) -> Rules:
    """Selector requirements whose values do not fit their operator."""
    for index, item in enumerate(items):
        place, operator, values = (*path, index, "values"), item.get("operator"), item.get("values", [])
        if operator in ("In", "NotIn") and not values:
            yield Finding((*path, index), f"operator {operator} needs values")
        if operator in ("Exists", "DoesNotExist") and values:
            yield Finding(place, f"operator {operator} has no values")
        if operator in ("Gt", "Lt") and not (len(values) == 1 and re.fullmatch(r"-?[0-9]{1,18}", values[0])):
            yield Finding((*path, index), f"operator {operator} needs one value that is a whole number")


def selector_findings(selector: Mapping[str, Any], path: Path) -> Rules:
    """What is wrong with a label selector by itself."""
    yield from expressions(selector.get("matchExpressions", []), (*path, "matchExpressions"))


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything (Kubernetes' rule)."""
    return all(matches(expression, labels) for expression in selector_of(selector))


def matches(expression: Expression, labels: Mapping[str, str]) -> bool:
    """Whether one selector requirement holds; an unknown operator never does."""
    value = labels.get(expression.key)
    match expression.operator:
        case "In":
            return value in expression.values
        case "NotIn":
            return value not in expression.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return _compares(expression, value)
    return False


def _compares(expression: Expression, value: str | None) -> bool:
    try:
        here, limit = int(value or ""), int(expression.values[0])
    except (ValueError, IndexError):
        return False
    return here > limit if expression.operator == "Gt" else here < limit


def selector_of(selector: Mapping[str, Any]) -> tuple[Expression, ...]:
    """A label selector as a conjunction; an empty one matches everything."""
    exact = (Expression(name, "In", (value,)) for name, value in sorted(selector.get("matchLabels", {}).items()))
    return (*exact, *expressions_of(selector.get("matchExpressions", [])))


def expressions_of(items: list[Mapping[str, Any]]) -> tuple[Expression, ...]:
    """Selector requirements, as records carry them; one that lacks a key or an operator matches nothing."""
    return tuple(
        Expression(item.get("key", ""), item.get("operator", ""), tuple(item.get("values", ()))) for item in items
    )
