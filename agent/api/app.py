"""The routes of the API. Each handler checks who asks, reads or asks the mesh, and shapes the answer."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agent.api.answers import failure, json_answer, on_error
from agent.api.auth import Gate, bounded_body, require_read
from agent.api.mesh import MeshReader
from agent.api.relay import HEADER_RELAYED, Relay
from agent.metrics import CONTENT_TYPE, Metrics
from beemesh import __version__
from beemesh.custody.messages import ReleaseAnswer, ReleaseRequest
from beemesh.errors import BeemeshError, InvalidInput, NotAllowed, NotFound
from beemesh.events import Submitted
from beemesh.identity.grants import Grant
from beemesh.identity.signing import Signed, decode_body
from beemesh.ids import NodeId
from beemesh.intents.entitlement import namespace_of
from beemesh.intents.record import Intent
from beemesh.undecodable import UNDECODABLE
from beemesh.workloads import kubeshape

BEEMESH = "/apis/beemesh.io/v1alpha1"
WATCH_EVERY_S = 0.25
WATCH_MAX_S = 3_600.0
"""A watch ends after an hour at the latest, and clients open it again."""
EVENTS_LISTED_MAX = 1_000
TRANSFER_TYPE = "application/msgpack"

Json = dict[str, Any]


class SubmissionBody(msgspec.Struct, frozen=True):
    """What `beemeshctl apply` posts."""

    record: Signed
    ciphertext: bytes = b""
    boxes: tuple[tuple[int, bytes], ...] = ()


class ReadingBody(msgspec.Struct, frozen=True):
    """What an operator posts to read a sealed manifest back."""

    request: ReleaseRequest


class ReadingAnswer(msgspec.Struct, frozen=True):
    """The ciphertext, and each custodian's answer; the shares in them are sealed to the operator."""

    ciphertext: bytes | None
    answers: tuple[tuple[bytes, ReleaseAnswer], ...]


class AgentDoor(Protocol):
    """What the API needs of the agent besides reading."""

    name: str
    node_id: NodeId
    metrics: Metrics

    def wall_ms(self) -> int:
        """The agent's wall clock."""
        ...

    def is_ready(self) -> str:
        """Empty when the agent takes work, else why not."""
        ...

    async def submit(self, record: Signed, ciphertext: bytes, boxes: tuple[tuple[int, bytes], ...]) -> Submitted:
        """Carry a submission through."""
        ...

    def check_record(self, record: Signed) -> Intent:
        """Verify a record without putting it; raises `Untrusted`."""
        ...

    async def gather(self, request: ReleaseRequest) -> ReadingAnswer:
        """Fetch a ciphertext, and ask its custodians on an operator's behalf."""
        ...

    async def checks(self) -> list[Json]:
        """What `doctor` shows of this node."""
        ...

    def links(self) -> Json:
        """How this node sees all others."""
        ...

    def logs(self, namespace: str, pod: str, query: dict[str, str]) -> AsyncIterator[bytes]:
        """A container's output on this node; raises `NotFound`."""
        ...

    def tasks(self) -> list[kubeshape.TaskView]:
        """The tasks that this agent heard of."""
        ...

    async def explain(self, task_id: str) -> Json:
        """Everything known of a task's placement; raises `NotFound`."""
        ...


class Api:
    """The handlers, with what they need."""

    def __init__(self, mesh: MeshReader, gate: Gate, relay: Relay, door: AgentDoor) -> None:
        self._mesh = mesh
        self._gate = gate
        self._relay = relay
        self._door = door

    def app(self) -> Starlette:
        """The ASGI app."""
        get, post = ["GET"], ["POST"]
        routes = [
            Route("/healthz", self.healthz, methods=get),
            Route("/readyz", self.readyz, methods=get),
            Route("/metrics", self.metrics, methods=get),
            Route("/version", self.version, methods=get),
            Route("/api", self.discovery, methods=get),
            Route("/apis", self.discovery, methods=get),
            Route("/api/v1", self.discovery, methods=get),
            Route("/apis/apps/v1", self.discovery, methods=get),
            Route(BEEMESH, self.discovery, methods=get),
            Route("/api/v1/namespaces/{namespace}/pods/{name}/log", self.log, methods=get),
            *self._collection("/api/v1", "nodes", self.nodes, namespaced=False),
            *self._collection("/api/v1", "pods", self.pods),
            *self._collection("/api/v1", "configmaps", self.configmaps),
            *self._collection("/api/v1", "secrets", self.secrets),
            *self._collection("/api/v1", "events", self.events),
            *self._collection("/apis/apps/v1", "deployments", self.deployments),
            *self._collection(BEEMESH, "tasks", self.tasks),
            Route(f"{BEEMESH}/tasks/{{name}}/explanation", self.explanation, methods=get),
            Route(f"{BEEMESH}/intents", self.intents, methods=get),
            Route(f"{BEEMESH}/roster", self.roster, methods=get),
            Route(f"{BEEMESH}/nodes/{{name}}/checks", self.checks, methods=get),
            Route(f"{BEEMESH}/nodes/{{name}}/links", self.links, methods=get),
            Route(f"{BEEMESH}/submissions", self.submissions, methods=post),
            Route(f"{BEEMESH}/readings", self.readings, methods=post),
        ]
        handlers: dict[Any, Any] = {BeemeshError: on_error, 404: _unknown_path, 405: _unknown_path, 500: _internal}
        return Starlette(routes=routes, exception_handlers=handlers)

    def _collection(
        self, prefix: str, plural: str, lister: Callable[[str], Awaitable[list[Json]]], *, namespaced: bool = True
    ) -> list[Route]:
        """Routes for a list, a namespace's list, and one object of a kind."""

        async def answer(request: Request) -> Response:
            grant = await self._gate.operator(request)
            namespace = request.path_params.get("namespace", "")
            require_read(grant, namespace)
            name = request.path_params.get("name", "")

            async def items() -> list[Json]:
                found = [item for item in await lister(namespace) if _visible(item, grant)]
                selector = request.query_params.get("labelSelector", "")
                return [item for item in found if _selected(item, name, selector)]

            return await self._answer(request, plural, name, items)

        paths = [f"{prefix}/{plural}", f"{prefix}/{plural}/{{name}}"]
        if namespaced:
            paths += [
                f"{prefix}/namespaces/{{namespace}}/{plural}",
                f"{prefix}/namespaces/{{namespace}}/{plural}/{{name}}",
            ]
            del paths[1]
        if plural == "tasks":
            paths.append(f"{prefix}/{plural}/{{name}}")
        return [Route(path, answer, methods=["GET"]) for path in paths]

    async def _answer(
        self, request: Request, plural: str, name: str, items: Callable[[], Awaitable[list[Json]]]
    ) -> Response:
        if request.query_params.get("watch") in ("true", "1"):
            return StreamingResponse(_watch(items), media_type="application/json")
        found = await items()
        if name:
            if not found:
                raise NotFound(f'{plural} "{name}" not found')
            return json_answer(found[0])
        limit = _number(request.query_params.get("limit", ""), len(found))
        kind = f"{found[0]['kind']}List" if found else "List"
        version = self._mesh.resource_version()
        return json_answer(kubeshape.object_list(found[-limit:] if limit else [], kind=kind, resource_version=version))

    # --- lists ----------------------------------------------------------------------------------------------------

    async def nodes(self, _namespace: str) -> list[Json]:
        """Every member."""
        return [kubeshape.node(view) for view in self._mesh.nodes(self._door.wall_ms())]

    async def pods(self, namespace: str) -> list[Json]:
        """Every replica."""
        return [kubeshape.pod(view) for view in await self._mesh.pods(namespace)]

    async def deployments(self, namespace: str) -> list[Json]:
        """Every Deployment."""
        return [kubeshape.deployment(view) for view in await self._mesh.deployments(namespace)]

    async def configmaps(self, namespace: str) -> list[Json]:
        """ConfigMaps, without content."""
        return [kubeshape.config(view) for view in self._mesh.configs("ConfigMap", namespace)]

    async def secrets(self, namespace: str) -> list[Json]:
        """Secrets, without content."""
        return [kubeshape.config(view) for view in self._mesh.configs("Secret", namespace)]

    async def events(self, namespace: str) -> list[Json]:
        """What this agent heard."""
        return [kubeshape.event(view) for view in self._mesh.events(namespace)[-EVENTS_LISTED_MAX:]]

    async def tasks(self, namespace: str) -> list[Json]:
        """The tasks that this agent heard of."""
        return [kubeshape.task(view) for view in self._door.tasks() if not namespace or view.namespace == namespace]

    # --- the agent itself -----------------------------------------------------------------------------------------

    async def healthz(self, _request: Request) -> Response:
        """Whether the agent answers at all."""
        return Response("ok\n", media_type="text/plain")

    async def readyz(self, _request: Request) -> Response:
        """Whether the agent takes work."""
        why = self._door.is_ready()
        return Response(f"{why or 'ok'}\n", status_code=503 if why else 200, media_type="text/plain")

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' text format."""
        return Response(self._door.metrics.text(), media_type=CONTENT_TYPE)

    async def version(self, _request: Request) -> Response:
        """The version, as kubectl reads it."""
        major, minor, _ = __version__.split(".", 2)
        content = {"major": major, "minor": minor, "gitVersion": f"v{__version__}+beemesh", "node": self._door.name}
        return json_answer(content)

    async def discovery(self, request: Request) -> Response:
        """What kinds there are."""
        return json_answer(_discovery(request.url.path))

    async def checks(self, request: Request) -> Response:
        """`doctor`'s view of one node, by that node itself."""
        await self._authorised(request)
        name = request.path_params["name"]
        if name != self._door.name:
            return await self._elsewhere(request, name)
        content = {"node": name, "checks": await self._door.checks(), "wall_ms": self._door.wall_ms()}
        return json_answer(content)

    async def links(self, request: Request) -> Response:
        """How one node sees all others, by that node itself."""
        await self._authorised(request)
        name = request.path_params["name"]
        if name != self._door.name:
            return await self._elsewhere(request, name)
        return json_answer(self._door.links())

    async def log(self, request: Request) -> Response:
        """A container's output, from the node that runs it."""
        grant = await self._authorised(request)
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        require_read(grant, namespace)
        pods = await self._mesh.pods(namespace)
        nodes = [pod.node for pod in pods if pod.name == name and pod.node]
        if not nodes:
            raise NotFound(f'pods "{name}" not found in namespace {namespace}, or not running')
        if self._door.name not in nodes:
            follow = request.query_params.get("follow") in ("true", "1")
            return await self._elsewhere(request, nodes[0], follow=follow)
        lines = self._door.logs(namespace, name, dict(request.query_params))
        return StreamingResponse(lines, media_type="text/plain")

    async def _authorised(self, request: Request) -> Grant:
        """The agent that acts takes the nonce; one that relays leaves it to that one."""
        return await self._gate.operator(request)

    async def _elsewhere(self, request: Request, name: str, *, follow: bool = False) -> Response:
        member = self._mesh.roster.named(name)
        if member is None:
            raise NotFound(f'nodes "{name}" not found')
        if HEADER_RELAYED in request.headers:
            raise NotFound(f"this is {self._door.name}, not {name}")
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return await self._relay.forward(member.node_id, request.method, target, dict(request.headers), follow=follow)

    # --- records --------------------------------------------------------------------------------------------------

    async def intents(self, request: Request) -> Response:
        """Signed records, for operators who apply."""
        grant = await self._gate.operator(request)
        kind, key = request.query_params.get("kind", ""), request.query_params.get("key", "")
        items = [
            {
                "key": intent.key,
                "kind": intent.kind,
                "epoch": intent.epoch,
                "seq": intent.seq,
                "record": base64.b64encode(msgspec.msgpack.encode(signed)).decode("ascii"),
            }
            for intent, signed in self._mesh.intents.items()
            if (not kind or intent.kind == kind)
            and (not key or intent.key == key)
            and (not namespace_of(intent.key) or grant.may_read(namespace_of(intent.key)))
        ]
        return json_answer({"items": items})

    async def roster(self, request: Request) -> Response:
        """The signed memberships, and who is alive."""
        await self._gate.operator(request)
        items = []
        for member in self._mesh.roster.members():
            found = self._mesh.intents.get(f"node/{member.name}")
            if found is not None:
                record = base64.b64encode(msgspec.msgpack.encode(found[1])).decode("ascii")
                items.append({"record": record, "status": self._mesh.view.status(member.node_id)})
        roster = self._mesh.roster
        return json_answer({"mesh": roster.mesh, "items": items, "digest": roster.digest().hex()})

    async def submissions(self, request: Request) -> Response:
        """Accept a signed record, with what it seals."""
        grant = await self._gate.operator(request)
        body = await _decoded(request, SubmissionBody)
        intent = decode_body(body.record, Intent)
        namespace = namespace_of(intent.key)
        if grant.role == "viewer" or (namespace and not grant.may_write(namespace)):
            raise NotAllowed(f"operator {grant.name} ({grant.role}) may not write {intent.key}")
        if request.query_params.get("dryRun"):
            self._door.check_record(body.record)
            return json_answer({"accepted": True, "dryRun": True})
        outcome = await self._door.submit(body.record, body.ciphertext, body.boxes)
        if outcome.accepted:
            return json_answer({"accepted": True})
        hint = "read it again and apply again" if outcome.conflict else "apply again; nothing was changed"
        return failure(409 if outcome.conflict else 422, outcome.reason, hint=hint)

    async def readings(self, request: Request) -> Response:
        """Gather what an operator needs to read a sealed manifest back."""
        await self._gate.operator(request)
        body = await _decoded(request, ReadingBody)
        answer = await self._door.gather(body.request)
        return Response(msgspec.msgpack.encode(answer), media_type=TRANSFER_TYPE)

    async def explanation(self, request: Request) -> Response:
        """Every bid, silence, lease and event of a task."""
        await self._gate.operator(request)
        return json_answer(await self._door.explain(request.path_params["name"].upper()))


async def _decoded(request: Request, kind: type[Any]) -> Any:
    try:
        return msgspec.msgpack.decode(await bounded_body(request), type=kind)
    except UNDECODABLE as error:
        raise InvalidInput(f"the request's body is no {kind.__name__}: {error}") from error


async def _watch(items: Callable[[], Awaitable[list[Json]]]) -> AsyncIterator[bytes]:
    """ADDED, MODIFIED and DELETED lines from repeated looks; ends by itself after `WATCH_MAX_S`."""
    known: dict[tuple[str, str], bytes] = {}
    objects: dict[tuple[str, str], Json] = {}
    for _ in range(int(WATCH_MAX_S / WATCH_EVERY_S)):
        seen = set()
        for item in await items():
            key = (item["metadata"].get("namespace", ""), item["metadata"]["name"])
            seen.add(key)
            encoded = msgspec.json.encode(item)
            if known.get(key) != encoded:
                kind = "MODIFIED" if key in known else "ADDED"
                known[key], objects[key] = encoded, item
                yield msgspec.json.encode({"type": kind, "object": item}) + b"\n"
        for key in [key for key in known if key not in seen]:
            del known[key]
            yield msgspec.json.encode({"type": "DELETED", "object": objects.pop(key)}) + b"\n"
        await asyncio.sleep(WATCH_EVERY_S)


def _visible(item: Json, grant: Grant) -> bool:
    namespace = item["metadata"].get("namespace", "")
    return not namespace or grant.may_read(namespace)


def _selected(item: Json, name: str, selector: str) -> bool:
    if name and item["metadata"]["name"] != name:
        return False
    labels = item["metadata"].get("labels", {})
    return all(_matches(labels, term.strip()) for term in selector.split(",") if term.strip())


def _matches(labels: dict[str, str], term: str) -> bool:
    """`key=value`, `key==value`, `key!=value`, `key` and `!key`."""
    for operator in ("!=", "==", "="):
        if operator in term:
            key, value = term.split(operator, 1)
            return (labels.get(key.strip()) == value.strip()) is (operator != "!=")
    return term.removeprefix("!") in labels if not term.startswith("!") else term[1:] not in labels


def _number(text: str, default: int) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 and int(text) else default


async def _unknown_path(request: Request, _error: Exception) -> Response:
    return failure(404, f"the agent has nothing at {request.method} {request.url.path}")


async def _internal(_request: Request, _error: Exception) -> Response:
    return failure(500, "internal error of the agent", hint="see its log")


_KINDS: dict[str, list[tuple[str, str, bool, list[str]]]] = {
    "v1": [
        ("nodes", "Node", False, ["no"]),
        ("pods", "Pod", True, ["po"]),
        ("configmaps", "ConfigMap", True, ["cm"]),
        ("secrets", "Secret", True, []),
        ("events", "Event", True, ["ev"]),
    ],
    "apps/v1": [("deployments", "Deployment", True, ["deploy"])],
    "beemesh.io/v1alpha1": [("tasks", "Task", True, [])],
}


def _discovery(path: str) -> Json:
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [version.split("/") for version in _KINDS if "/" in version]
        listed = [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
            }
            for group, version in groups
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    resources = [
        {
            "name": plural,
            "singularName": kind.lower(),
            "namespaced": namespaced,
            "kind": kind,
            "shortNames": short,
            "verbs": ["get", "list", "watch"],
        }
        for plural, kind, namespaced, short in _KINDS[version]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
