"""The routes of the API: a row per kind (`agent.api.resources`), and a row per action here.

Each handler checks who asks, reads or asks the mesh, and shapes the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.api import collection, itself, records
from agent.api.answers import failure, on_error
from agent.api.discovery import PATHS as DISCOVERY_PATHS
from agent.api.discovery import discovery
from agent.api.resources import BEEMESH_GROUP, RESOURCES, Resource
from agent.api.seam import Backend
from beemesh.errors import BeemeshError

BEEMESH = f"/apis/{BEEMESH_GROUP}"

Handler = Callable[[Backend, Request], Awaitable[Response]]

ACTIONS: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/healthz", itself.healthz),
    ("GET", "/readyz", itself.readyz),
    ("GET", "/metrics", itself.metrics),
    ("GET", "/version", itself.version),
    *(("GET", path, discovery) for path in DISCOVERY_PATHS),
    ("GET", "/api/v1/namespaces/{namespace}/pods/{name}/log", itself.log),
    ("GET", f"{BEEMESH}/tasks/{{name}}/explanation", records.explanation),
    ("GET", f"{BEEMESH}/intents", records.intents),
    ("GET", f"{BEEMESH}/roster", records.roster),
    ("GET", f"{BEEMESH}/nodes/{{name}}/checks", itself.checks),
    ("GET", f"{BEEMESH}/nodes/{{name}}/links", itself.links),
    ("POST", f"{BEEMESH}/submissions", records.submissions),
    ("POST", f"{BEEMESH}/readings", records.readings),
)
"""Method, path and handler of everything that is no kind."""

PLAIN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


def make_app(api: Backend) -> Starlette:
    """The ASGI app."""
    routes = [Route(path, _bound(handler, api), methods=[method]) for method, path, handler in ACTIONS]
    routes += [
        Route(path, _bound(partial(_collection, resource), api), methods=["GET"])
        for resource in RESOURCES
        for path in resource.paths()
    ]
    handlers: dict[Any, Any] = {BeemeshError: on_error, 404: _unknown_path, 405: _unknown_path, 500: _internal}
    return Starlette(routes=routes, exception_handlers=handlers)


def make_metrics_app(api: Backend) -> Starlette:
    """What plain HTTP serves: counts and states, nothing that is anybody's."""
    shown = [(path, handler) for _, path, handler in ACTIONS if path in PLAIN_PATHS]
    routes = [Route(path, _bound(handler, api), methods=["GET"]) for path, handler in shown]
    return Starlette(routes=routes, exception_handlers={404: _unknown_path, 405: _unknown_path, 500: _internal})


async def _collection(resource: Resource, api: Backend, request: Request) -> Response:
    return await collection.answer(api, resource, request)


def _bound(handler: Handler, api: Backend) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return await handler(api, request)

    return handle


async def _unknown_path(request: Request, _error: Exception) -> Response:
    return failure(404, f"the agent has nothing at {request.method} {request.url.path}")


async def _internal(_request: Request, _error: Exception) -> Response:
    return failure(500, "internal error of the agent", hint="see its log")
