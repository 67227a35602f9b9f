"""The API's tables: what is listed in them is served, and kubectl is told of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from starlette.requests import Request

from agent.api.app import ACTIONS, make_app
from agent.api.discovery import PATHS, discovery
from agent.api.resources import RESOURCES, Resource
from agent.api.seam import Backend

NOWHERE: Any = Backend(None, None, None, None)  # type: ignore[arg-type]  # no handler is called


def discovered(path: str) -> dict[str, Any]:
    """What `path` tells of the kinds."""
    request = Request({"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""})
    answer: dict[str, Any] = msgspec.json.decode(bytes(asyncio.run(discovery(NOWHERE, request)).body))
    return answer


def served() -> set[str]:
    """The paths of the app."""
    return {route.path for route in make_app(NOWHERE).routes}  # type: ignore[attr-defined]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.plural)
def test_every_kind_is_discovered_where_it_is_served(resource: Resource) -> None:
    """A row in the table of kinds is served as a list and singly, and discovery names it below the same prefix."""
    assert set(resource.paths()) <= served()
    assert any(path.endswith("/{name}") for path in resource.paths())
    assert resource.prefix in PATHS
    told = {entry["name"]: entry for entry in discovered(resource.prefix)["resources"]}
    assert told[resource.plural]["kind"] == resource.kind
    assert told[resource.plural]["namespaced"] is resource.namespaced


def test_every_action_is_served() -> None:
    """A row in the table of actions is served at its path."""
    assert {path for _, path, _ in ACTIONS} <= served()


def test_groups_are_those_of_the_kinds() -> None:
    """`/apis` names each group of the table once, and `/api` the core."""
    groups = [entry["name"] for entry in discovered("/apis")["groups"]]
    assert groups == list(dict.fromkeys(each.version.split("/")[0] for each in RESOURCES if "/" in each.version))
    assert discovered("/api")["versions"] == ["v1"]
