"""Answering for one kind: the list, one object, or a watch of either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from agent.api.answers import error_answer, json_answer
from agent.api.auth import require_read
from agent.api.resources import Resource
from agent.api.seam import Backend, Json
from beemesh.errors import InvalidInput, NotAllowed, NotFound, Untrusted
from beemesh.identity.grants import Grant
from beemesh.workloads import kubeshape
from beemesh.workloads.formats import label_value, qualified_name
from beemesh.workloads.record import Expression
from beemesh.workloads.selectors import matches

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

    terms = terms_of(request.query_params.get("labelSelector", ""))

    async def items(source: Backend = api) -> list[Json]:
        found = [item for item in await resource.lister(source, namespace) if _visible(item, grant)]
        return [item for item in found if _selected(item, name, terms)]

    if request.query_params.get("watch") in ("true", "1"):
        check = partial(api.gate.check_still, grant, namespace)
        return StreamingResponse(_watch(api, resource, items, check), media_type="application/json")
    found = await items()
    if name:
        if not found:
            raise NotFound(f'{resource.plural} "{name}" not found')
        return json_answer(found[0])
    limit = _number(request.query_params.get("limit", ""), len(found))
    kind = f"{found[0]['kind']}List" if found else "List"
    version = api.mesh.resource_version()
    return json_answer(kubeshape.object_list(found[-limit:] if limit else [], kind=kind, resource_version=version))


async def _watch(
    api: Backend, resource: Resource, items: Callable[[Backend], Awaitable[list[Json]]], check: Callable[[], None]
) -> Stream:
    """ADDED, MODIFIED and DELETED lines whenever something changed; ends by itself after `WATCH_MAX_S`, and with an
    ERROR when `check`, asked at each look and before each line, raises: whoever watches may not any more."""
    try:
        async with aclosing(_changes(api, resource, items)) as changes:
            async for change in changes:
                check()
                if change is not None:
                    yield msgspec.json.encode(change) + b"\n"
    except (Untrusted, NotAllowed) as error:
        refusal = msgspec.json.decode(bytes(error_answer(error).body))
        yield msgspec.json.encode({"type": "ERROR", "object": refusal}) + b"\n"


async def _changes(
    api: Backend, resource: Resource, items: Callable[[Backend], Awaitable[list[Json]]]
) -> AsyncGenerator[Json | None, None]:
    """Each change, and None at each look."""
    changes = Changes()
    source = replace(api, mesh=api.mesh.following())
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + WATCH_MAX_S
    with api.mesh.live.watched() as beat:
        while loop.time() < ends_s:
            beat.clear()
            found = await items(source)
            yield None
            for change in changes.since(found):
                yield change
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


def _selected(item: Json, name: str, terms: Sequence[Expression]) -> bool:
    if name and item["metadata"]["name"] != name:
        return False
    labels = item["metadata"].get("labels", {})
    return all(matches(term, labels) for term in terms)


def terms_of(selector: str) -> list[Expression]:
    """The terms of a selector: `key=value`, `key==value`, `key!=value`, `key` and `!key`. Raises `InvalidInput` for
    anything else, which would otherwise choose nothing."""
    return [_term_of(term.strip()) for term in selector.split(",") if term.strip()]


def _term_of(term: str) -> Expression:
    operator = next((each for each in ("!=", "==", "=") if each in term), "")
    if operator:
        key, value = (part.strip() for part in term.split(operator, 1))
        found = Expression(key, "NotIn" if operator == "!=" else "In", (value,))
    else:
        found = Expression(term.removeprefix("!").strip(), "DoesNotExist" if term.startswith("!") else "Exists")
    if qualified_name(found.key) or any(label_value(value) for value in found.values):
        hint = (
            "write key=value, key!=value, key or !key, with commas between; sets such as `in (a,b)` are not supported"
        )
        raise InvalidInput(f"the selector's {term!r} is not understood", hint=hint)
    return found


def _number(text: str, default: int) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 and int(text) else default
