"""What an agent tells of itself and its machine; of another one's, that agent is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from agent.api.answers import json_answer
from agent.api.auth import require_read
from agent.api.relay import HEADER_RELAYED
from agent.api.seam import Backend
from agent.metrics import CONTENT_TYPE
from beemesh import __version__
from beemesh.errors import NotFound


async def healthz(_api: Backend, _request: Request) -> Response:
    """Whether the agent answers at all."""
    return Response("ok\n", media_type="text/plain")


async def readyz(api: Backend, _request: Request) -> Response:
    """Whether the agent takes work."""
    why = api.door.is_ready()
    return Response(f"{why or 'ok'}\n", status_code=503 if why else 200, media_type="text/plain")


async def metrics(api: Backend, _request: Request) -> Response:
    """Prometheus' text format."""
    return Response(api.door.metrics.text(), media_type=CONTENT_TYPE)


async def version(api: Backend, _request: Request) -> Response:
    """The version, as kubectl reads it."""
    major, minor, _ = __version__.split(".", 2)
    content = {"major": major, "minor": minor, "gitVersion": f"v{__version__}+beemesh", "node": api.door.name}
    return json_answer(content)


async def checks(api: Backend, request: Request) -> Response:
    """`doctor`'s view of one node, by that node itself."""
    await api.gate.operator(request)
    name = request.path_params["name"]
    if name != api.door.name:
        return await _elsewhere(api, request, name)
    content = {"node": name, "checks": await api.door.checks(), "wall_ms": api.door.wall_ms()}
    return json_answer(content)


async def links(api: Backend, request: Request) -> Response:
    """How one node sees all others, by that node itself."""
    await api.gate.operator(request)
    name = request.path_params["name"]
    if name != api.door.name:
        return await _elsewhere(api, request, name)
    return json_answer(api.door.links())


async def log(api: Backend, request: Request) -> Response:
    """A container's output, from the node that runs it."""
    grant = await api.gate.operator(request)
    namespace, name = request.path_params["namespace"], request.path_params["name"]
    require_read(grant, namespace)
    pods = await api.mesh.pods(namespace)
    nodes = [pod.node for pod in pods if pod.name == name and pod.node]
    if not nodes:
        raise NotFound(f'pods "{name}" not found in namespace {namespace}, or not running')
    if api.door.name not in nodes:
        follow = request.query_params.get("follow") in ("true", "1")
        answer = await _elsewhere(api, request, nodes[0], follow=follow)
        lines = cast("AsyncIterator[bytes]", answer.body_iterator)  # as the relay made it
        answer.body_iterator = api.gate.guarded(grant, namespace, lines)
        return answer
    lines = api.door.logs(namespace, name, dict(request.query_params))
    return StreamingResponse(api.gate.guarded(grant, namespace, lines), media_type="text/plain")


async def _elsewhere(api: Backend, request: Request, name: str, *, follow: bool = False) -> StreamingResponse:
    member = api.mesh.roster.named(name)
    if member is None:
        raise NotFound(f'nodes "{name}" not found')
    if HEADER_RELAYED in request.headers:
        raise NotFound(f"this is {api.door.name}, not {name}")
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return await api.relay.forward(member.node_id, request.method, target, dict(request.headers), follow=follow)
