"""Answering for one kind: the list, one object, or a watch of either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from agent.api.answers import json_answer
from agent.api.auth import require_read
from agent.api.resources import Resource
from agent.api.seam import Backend, Json
from beemesh.errors import NotFound
from beemesh.identity.grants import Grant
from beemesh.workloads import kubeshape

LOOK_EVERY_S = 0.25
"""How often a watch looks at what nobody tells of."""
TOLD_EVERY_S = 5.0
"""How often a watch looks at what is told of, in case a word was lost."""
GATHER_S = 0.02
"""What happens within this after a first change is looked at together."""
WATCH_MAX_S = 3_600.0
"""A watch ends after an hour at the latest, and clients open it again."""

Stream = AsyncIterator[bytes]
Key = tuple[str, str, str]
"""Namespace, name and UID."""


async def answer(api: Backend, resource: Resource, request: Request) -> Response:
    """What the request asks of the kind, as far as its operator may read it."""
    grant = await api.gate.operator(request)
    namespace = request.path_params.get("namespace", "")
    require_read(grant, namespace)
    name = request.path_params.get("name", "")

    async def items(source: Backend = api) -> list[Json]:
        found = [item for item in await resource.lister(source, namespace) if _visible(item, grant)]
        selector = request.query_params.get("labelSelector", "")
        return [item for item in found if _selected(item, name, selector)]

    if request.query_params.get("watch") in ("true", "1"):
        return StreamingResponse(_watch(api, resource, items), media_type="application/json")
    found = await items()
    if name:
        if not found:
            raise NotFound(f'{resource.plural} "{name}" not found')
        return json_answer(found[0])
    limit = _number(request.query_params.get("limit", ""), len(found))
    kind = f"{found[0]['kind']}List" if found else "List"
    version = api.mesh.resource_version()
    return json_answer(kubeshape.object_list(found[-limit:] if limit else [], kind=kind, resource_version=version))


async def _watch(api: Backend, resource: Resource, items: Callable[[Backend], Awaitable[list[Json]]]) -> Stream:
    """ADDED, MODIFIED and DELETED lines whenever something changed; ends by itself after `WATCH_MAX_S`."""
    changes = Changes()
    source = replace(api, mesh=api.mesh.following())
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + WATCH_MAX_S
    with api.mesh.live.watched() as beat:
        while loop.time() < ends_s:
            beat.clear()
            for change in changes.since(await items(source)):
                yield msgspec.json.encode(change) + b"\n"
            with suppress(TimeoutError):
                async with asyncio.timeout(TOLD_EVERY_S if resource.tells else LOOK_EVERY_S):
                    await beat.wait()
            await asyncio.sleep(GATHER_S)


class Changes:
    """What a watch has told of, and what differs from it."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[bytes, Json]] = {}

    def since(self, items: Iterable[Json]) -> list[Json]:
        """ADDED, MODIFIED and DELETED since the last look. One name may stand for several objects (a Deployment's and a
        DaemonSet's endpoints, a replica on two nodes), which are told apart; where one has come in the place of another
        of its name, such as the pod that runs in the place of the missing one, that one was MODIFIED."""
        found = {_key(item): item for item in items}
        gone: dict[tuple[str, str], list[Key]] = {}
        for key in self._known:
            if key not in found:
                gone.setdefault(key[:2], []).append(key)
        changes = []
        for key, item in found.items():
            encoded, replaced = msgspec.json.encode(item), gone.get(key[:2])
            before = self._known.get(key)
            if before is None and replaced:
                before = self._known.pop(replaced.pop(0))
            if before is None or before[0] != encoded:
                self._known[key] = (encoded, item)
                changes.append({"type": "ADDED" if before is None else "MODIFIED", "object": item})
        vanished = [key for keys in gone.values() for key in keys]
        return changes + [{"type": "DELETED", "object": self._known.pop(key)[1]} for key in vanished]


def _key(item: Json) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"], metadata.get("uid", "")


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
