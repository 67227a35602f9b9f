"""Signed records: read, submitted, and read back by their operators. Also the story of a task."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from agent.api.answers import failure, json_answer
from agent.api.auth import bounded_body, require_read
from agent.api.relay import HEADER_RELAYED
from agent.api.seam import Backend, ReadingBody, SubmissionBody
from beemesh.errors import InvalidInput, NotAllowed, NotFound, Unreachable
from beemesh.identity.requests import require_current
from beemesh.identity.signing import decode_body
from beemesh.intents.entitlement import namespace_of
from beemesh.intents.record import CA_KINDS, Intent
from beemesh.undecodable import UNDECODABLE

TRANSFER_TYPE = "application/msgpack"


REFUSED_BEFORE = {
    "exceeded quota": "scale to fewer replicas, ask for less, or raise the quota",
    "failed quota": "give every container these in its resources, or take them from the quota",
    "quota ": "delete the quota, or apply this in another namespace",
    "not all keepers saved their part": "apply again",
    "there is no PriorityClass": "apply the class first; `beemeshctl get priorityclasses` lists those that there are",
}
"""How reasons begin that come before the record is kept anywhere, and what helps against them."""

SAVED_HERE = "saved here"
"""How the reason begins when the record stands, and only its second copy is missing."""


async def intents(api: Backend, request: Request) -> Response:
    """Signed records, for operators who apply."""
    grant = await api.gate.operator(request)
    kind, key = request.query_params.get("kind", ""), request.query_params.get("key", "")
    items = [
        {
            "key": intent.key,
            "kind": intent.kind,
            "epoch": intent.epoch,
            "seq": intent.seq,
            "record": base64.b64encode(msgspec.msgpack.encode(signed)).decode("ascii"),
        }
        for intent, signed in api.mesh.intents.items()
        if (not kind or intent.kind == kind)
        and (not key or intent.key == key)
        and (not namespace_of(intent.key) or grant.may_read(namespace_of(intent.key)))
    ]
    return json_answer({"items": items})


async def roster(api: Backend, request: Request) -> Response:
    """The signed memberships, and who is alive."""
    await api.gate.operator(request)
    items = []
    for member in api.mesh.roster.members():
        found = api.mesh.intents.get(f"node/{member.name}")
        if found is not None:
            record = base64.b64encode(msgspec.msgpack.encode(found[1])).decode("ascii")
            items.append({"record": record, "status": api.mesh.view.status(member.node_id)})
    roster = api.mesh.roster
    return json_answer({"mesh": roster.mesh, "items": items, "digest": roster.digest().hex()})


async def submissions(api: Backend, request: Request) -> Response:
    """Accept a signed record, with what it seals.

    What only the CA may sign needs nobody's right: an operator whose grant has ended must be able to bring the next."""
    grant = await api.gate.operator(request, may_have_expired=True)
    body = await _decoded(request, SubmissionBody)
    intent = decode_body(body.record, Intent)
    if intent.kind not in CA_KINDS:
        require_current(grant, api.door.wall_ms())
    namespace = namespace_of(intent.key)
    if grant.role == "viewer" or (namespace and not grant.may_write(namespace)):
        raise NotAllowed(f"operator {grant.name} ({grant.role}) may not write {intent.key}")
    if request.query_params.get("dryRun"):
        api.door.check_record(body.record)
        return json_answer({"accepted": True, "dryRun": True})
    outcome = await api.door.submit(body.record, body.ciphertext, body.boxes)
    if outcome.accepted:
        return json_answer({"accepted": True})
    if outcome.conflict:
        return failure(409, outcome.reason, hint="read it again and apply again")
    return failure(422, outcome.reason, hint=hint_for(outcome.reason), keepers=outcome.keepers)


def hint_for(reason: str) -> str:
    """What helps against a refusal; what a quota forbids it forbids the next time as well. That nothing was changed is
    said only where that is known: what ended late may have been saved."""
    if reason.startswith(SAVED_HERE):
        return "this agent keeps it, and others will have it from here; apply again to hear that they do"
    for words, help_ in REFUSED_BEFORE.items():
        if reason.startswith(words):
            return f"nothing was changed; {help_}"
    return "apply again: nothing is done twice"


async def readings(api: Backend, request: Request) -> Response:
    """Gather what an operator needs to read a sealed manifest back."""
    grant = await api.gate.operator(request)
    body = await _decoded(request, ReadingBody)
    require_read(grant, namespace_of(body.request.key))
    answer = await api.door.gather(body.request)
    return Response(msgspec.msgpack.encode(answer), media_type=TRANSFER_TYPE)


async def explanation(api: Backend, request: Request) -> Response:
    """Every bid, silence, lease and event of a task. Who may not read its namespace hears that there is none."""
    grant = await api.gate.operator(request)
    task_id = request.path_params["name"].upper()
    teller = await api.mesh.teller_of(task_id) if HEADER_RELAYED not in request.headers else None
    if teller is not None:
        with suppress(Unreachable):
            answer = await api.relay.forward(teller, request.method, request.url.path, dict(request.headers))
            if answer.status_code == 200:
                return answer
    story = await api.door.explain(task_id, api.mesh.running_tasks)
    if not grant.may_read(story["namespace"]):
        raise NotFound(f'tasks "{task_id.lower()}" not found')
    return json_answer(story)


async def _decoded(request: Request, kind: type[Any]) -> Any:
    try:
        return msgspec.msgpack.decode(await bounded_body(request), type=kind)
    except UNDECODABLE as error:
        raise InvalidInput(f"the request's body is no {kind.__name__}: {error}") from error
