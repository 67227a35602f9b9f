"""PodDisruptionBudget manifests: what is refused with its place, and what becomes of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from beemesh.workloads.budget_rules import budget_of
from beemesh.workloads.kube_budgets import budget as shaped
from beemesh.workloads.kubeshape import PodView
from beemesh.workloads.objects import Checked, path_text
from beemesh.workloads.record import Expression
from beemesh.workloads.validation import check
from tests.unit.scheduling.samples import workload

SELECTOR = {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}]}


def manifest(**spec: Any) -> Checked:
    """A budget, checked."""
    whole = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": spec}
    return check(whole)


def test_a_manifest_becomes_a_record() -> None:
    """Amounts, selector and policy, as they were written."""
    found = manifest(minAvailable="50%", selector=SELECTOR, unhealthyPodEvictionPolicy="AlwaysAllow").object
    assert found is not None
    made = budget_of(found, created_ms=5, managed_by="repo")

    assert (made.min_available, made.max_unavailable, made.evicts_unhealthy) == ("50%", "", True)
    assert (made.match_labels, made.match_expressions) == ({"app": "web"}, (Expression("tier", "In", ("front",)),))
    assert (made.namespace, made.created_ms, made.managed_by, made.is_sound()) == ("default", 5, "repo", True)


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"minAvailable": 1, "maxUnavailable": 1}, "spec.maxUnavailable"),
        ({"minAvailable": "101%"}, "spec.minAvailable"),
        ({"maxUnavailable": "half"}, "spec.maxUnavailable"),
        ({"maxUnavailable": -1}, "spec.maxUnavailable"),
        ({"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "spec.selector.matchExpressions[0]"),
        ({"unhealthyPodEvictionPolicy": "Never"}, "spec.unhealthyPodEvictionPolicy"),
        ({"minReady": 1}, "spec.minReady"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(spec: dict[str, Any], place: str) -> None:
    """Each finding names the field."""
    assert [path_text(each.path) for each in manifest(**spec).findings] == [place]


def test_the_status_counts_over_all_that_it_covers() -> None:
    """As Kubernetes shows it: how many are healthy, must be, and may go."""
    found = manifest(maxUnavailable=1, selector={"matchLabels": {"app": "web"}}).object
    assert found is not None
    wanted = workload("web", replicas=3, pod_labels={"app": "web"})
    pods = [
        PodView(f"web-{n}", "default", wanted.workload_id, "Deployment", "web", phase="Running", ready=n > 0)
        for n in range(3)
    ]
    shape = shaped(budget_of(found), 4, [wanted, workload("other")], pods)

    assert shape["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    counts = {"currentHealthy": 2, "desiredHealthy": 2, "disruptionsAllowed": 0, "expectedPods": 3}
    assert shape["status"] == {**counts, "observedGeneration": 4}
