"""What kinds there are, as kubectl asks for them before anything else."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from agent.api.answers import json_answer
from agent.api.resources import RESOURCES
from agent.api.seam import Backend, Json

VERSIONS = tuple(dict.fromkeys(resource.version for resource in RESOURCES))
PATHS = ("/api", "/apis", *dict.fromkeys(resource.prefix for resource in RESOURCES))


async def discovery(_api: Backend, request: Request) -> Response:
    """The versions, the groups, or the kinds of a group."""
    path = request.url.path
    if path == "/api":
        return json_answer({"kind": "APIVersions", "versions": ["v1"]})
    return json_answer(_groups() if path == "/apis" else _kinds(path))


def _groups() -> Json:
    groups = [version.split("/") for version in VERSIONS if "/" in version]
    listed = [
        {
            "name": group,
            "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
            "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
        }
        for group, version in groups
    ]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def _kinds(prefix: str) -> Json:
    mine = [resource for resource in RESOURCES if resource.prefix == prefix]
    resources = [
        {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "shortNames": list(resource.short),
            "verbs": ["get", "list", "watch"],
        }
        for resource in mine
    ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": mine[0].version,
        "resources": resources,
    }
