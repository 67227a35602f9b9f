"""PodDisruptionBudget manifests: what is wrong with one, and its form in the operator's record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from beemesh.workloads.budgets import Budget
from beemesh.workloads.objects import Finding, ManifestObject
from beemesh.workloads.selectors import expressions_of, selector_findings

LABELS_MAX, EXPRESSIONS_MAX = 64, 64
"""Terms of one selector: far more than anybody writes, and the record stays small."""


def budget_findings(body: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with a budget by itself."""
    spec = body.get("spec", {})
    if "minAvailable" in spec and "maxUnavailable" in spec:
        message = "minAvailable and maxUnavailable cannot both be given"
        yield Finding(("spec", "maxUnavailable"), message, "keep one of the two", at_key=True)
    for name in ("minAvailable", "maxUnavailable"):
        amount = str(spec.get(name, ""))
        if amount.endswith("%") and int(amount[:-1]) > 100:
            yield Finding(("spec", name), f"{name} {amount} is more than all of them", "write at most 100%")
    selector = spec.get("selector", {})
    for name, most in (("matchLabels", LABELS_MAX), ("matchExpressions", EXPRESSIONS_MAX)):
        if len(selector.get(name, ())) > most:
            yield Finding(("spec", "selector", name), f"{name} has {len(selector[name])} terms; at most {most} fit")
    yield from selector_findings(selector, ("spec", "selector"))


def budget_of(item: ManifestObject, *, created_ms: int = 0, managed_by: str = "") -> Budget:
    """The record of a budget that was checked."""
    spec = item.body["spec"]
    selector = spec.get("selector")
    return Budget(
        namespace=item.namespace,
        name=item.name,
        min_available=str(spec.get("minAvailable", "")),
        max_unavailable=str(spec.get("maxUnavailable", "")),
        match_labels=dict((selector or {}).get("matchLabels", {})),
        match_expressions=expressions_of((selector or {}).get("matchExpressions", [])),
        selects=selector is not None,
        evicts_unhealthy=spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow",
        labels=item.labels,
        annotations=item.annotations,
        created_ms=created_ms,
        managed_by=managed_by,
    )
