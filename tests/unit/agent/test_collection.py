"""What a watch tells: each object once, and then only what changed of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.collection import Changes, terms_of
from beemesh.errors import InvalidInput
from beemesh.workloads.kube_endpoints import EndpointsView, endpoints
from beemesh.workloads.kubeshape import PodView, pod
from beemesh.workloads.selectors import matches

Json = dict[str, Any]


def said(changes: Changes, *items: Json) -> list[tuple[str, str]]:
    """The changes that a look at these items tells, with each one's UID."""
    return [(each["type"], each["object"]["metadata"]["uid"]) for each in changes.since(items)]


def running(kind: str = "Deployment", **changes: Any) -> PodView:
    """A pod of `web`."""
    values = {"node": "one", "created_ms": 1_000, "phase": "Running", **changes}
    return PodView("web-1-0", "default", f"{kind.lower()}/default/web", kind, "web", **values)


def test_a_quiet_mesh_tells_nothing_of_workloads_that_share_a_name() -> None:
    """A Deployment and a DaemonSet of one name, created at once, and their pods: all are told once, each as itself."""
    kinds = ("Deployment", "DaemonSet")
    views = [EndpointsView("web", "default", kind, created_ms=1_000) for kind in kinds]
    pods = [running(kind, **where) for kind in kinds for where in ({}, {"node": "two"})]
    for items in ([endpoints(view) for view in views], [pod(view) for view in pods]):
        changes = Changes()
        told = said(changes, *items)
        assert [kind for kind, _ in told] == ["ADDED"] * len(items)
        assert len(set(told)) == len(items)
        assert said(changes, *items) == said(changes, *reversed(items)) == []
        assert said(changes, *items[1:]) == [("DELETED", items[0]["metadata"]["uid"])]


def test_a_missing_pod_that_runs_now_was_modified() -> None:
    """It is the same replica, and readers who know objects by name must not take it for gone."""
    changes = Changes()
    missing, started = pod(running(node="", phase="Pending")), pod(running(created_ms=2_000))
    assert [kind for kind, _ in said(changes, missing)] == ["ADDED"]
    assert said(changes, started) == [("MODIFIED", started["metadata"]["uid"])]
    assert said(changes) == [("DELETED", started["metadata"]["uid"])]


objects = st.builds(
    lambda name, uid, value: {"metadata": {"name": name, "uid": uid}, "value": value},
    st.sampled_from("ab"),
    st.sampled_from("xyz"),
    st.integers(0, 1),
)
looks = st.lists(st.lists(objects, max_size=5, unique_by=lambda item: tuple(item["metadata"].values())), max_size=6)


@given(looks)
def test_whoever_follows_a_watch_knows_what_there_is(looks: list[list[Json]]) -> None:
    """One who keeps what is told, and lets an object go when it is DELETED or another of its name took its place, has
    as many of each name as there are after every look, and all the latest; a second look tells nothing."""
    changes = Changes()
    kept: dict[tuple[str, str], Json] = {}
    for items in looks:
        there = {(item["metadata"]["name"], item["metadata"]["uid"]): item for item in items}
        for change in changes.since(items):
            item = change["object"]
            key = item["metadata"]["name"], item["metadata"]["uid"]
            if change["type"] == "DELETED":
                assert kept.pop(key) == item
            elif change["type"] == "MODIFIED" and key not in kept:
                del kept[next(each for each in kept if each[0] == key[0] and each not in there)]
                kept[key] = item
            else:
                assert (change["type"] == "MODIFIED") == (key in kept)
                kept[key] = item
        assert kept == there
        assert changes.since(items) == []


@pytest.mark.parametrize(
    ("selector", "is_chosen"),
    [
        ("", True),
        ("app=web", True),
        ("app==web, tier != cache", True),
        ("app=api", False),
        ("app!=web", False),
        ("other!=web", True),
        ("app,!other", True),
        ("other", False),
        ("!app", False),
        ("example.org/team=", True),
    ],
)
def test_selectors_choose_as_kubernetes_says(selector: str, *, is_chosen: bool) -> None:
    """All terms must hold; `!=` also where there is no such label."""
    labels = {"app": "web", "tier": "front", "example.org/team": ""}
    assert all(matches(term, labels) for term in terms_of(selector)) is is_chosen


@pytest.mark.parametrize(
    "selector", ["app in (web)", "app in (web,api)", "app notin (web)", "a>1", "=web", "!", "a=b=c"]
)
def test_a_selector_that_is_not_understood_is_refused(selector: str) -> None:
    """Choosing nothing would read as if there were nothing."""
    with pytest.raises(InvalidInput, match="is not understood"):
        terms_of(selector)
