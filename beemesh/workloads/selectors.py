"""Label selectors as people write them: what is wrong with one, what it matches, and its form in records."""

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
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_matches(item, labels) for item in selector.get("matchExpressions", []))


def _matches(item: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, operator = labels.get(item.get("key", "")), item.get("operator")
    if operator == "In":
        return value is not None and value in item.get("values", [])
    if operator == "NotIn":
        return value is None or value not in item.get("values", [])
    return (value is not None) == (operator == "Exists")


def selector_of(selector: Mapping[str, Any]) -> tuple[Expression, ...]:
    """A checked label selector as a conjunction; an empty one matches everything."""
    exact = (Expression(name, "In", (value,)) for name, value in sorted(selector.get("matchLabels", {}).items()))
    return (*exact, *expressions_of(selector.get("matchExpressions", [])))


def expressions_of(items: list[Mapping[str, Any]]) -> tuple[Expression, ...]:
    """Checked selector requirements, as records carry them."""
    return tuple(Expression(item["key"], item["operator"], tuple(item.get("values", ()))) for item in items)
