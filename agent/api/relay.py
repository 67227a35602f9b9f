"""What another agent must answer: the request goes there as it came, and its app answers it as if asked directly.

The far agent verifies the operator's signature itself, so an agent that relays can neither forge a wish nor widen it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message

from agent.transport.streams import Streams
from beemesh.errors import Unreachable
from beemesh.identity.requests import SIGNED_HEADERS
from beemesh.ids import NodeId
from beemesh.membership.view import View
from beemesh.wire.relay import RELAYED_BODY_BYTES_MAX, RelayedData, RelayedHead, RelayedRequest

HEAD_PATIENCE_S = 10.0
"""The first piece of a relayed answer: the far agent has to look something up, no more."""

PIECES_WAITING_MAX = 64
HEADER_RELAYED = "x-beemesh-relayed"

log = logging.getLogger("beemesh.api")


class Relay:
    """Both ends of relaying, over the agents' own streams."""

    def __init__(self, streams: Streams, view: View) -> None:
        self._streams = streams
        self._view = view

    async def forward(
        self, peer: NodeId, method: str, target: str, headers: Mapping[str, str], *, follow: bool = False
    ) -> StreamingResponse:
        """The peer's answer to this very request; raises `Unreachable`. `follow`: the answer may go on for ever."""
        address = self._view.address(peer)
        if address is None:
            raise Unreachable("that node's address is not known here")
        kept = {name: headers[name] for name in SIGNED_HEADERS if name in headers}
        request = RelayedRequest(method=method, target=target, headers=kept)
        pieces = self._streams.pieces(peer, address, request, 0.0 if follow else HEAD_PATIENCE_S)
        try:
            async with asyncio.timeout(HEAD_PATIENCE_S):
                head = await anext(pieces, None)
        except TimeoutError:
            raise Unreachable(f"that node's agent did not answer within {HEAD_PATIENCE_S:g} s") from None
        if not isinstance(head, RelayedHead):
            raise Unreachable("that node's agent gave no answer")
        if not 200 <= head.status < 600:
            raise Unreachable(f"that node's agent answered with status {head.status}")
        kind = head.headers.get("content-type", "").encode("latin-1", "replace").decode("latin-1")
        return StreamingResponse(_data(pieces), status_code=head.status, headers={"content-type": kind})


async def _data(pieces: AsyncIterator[msgspec.Struct]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        if isinstance(piece, RelayedData):
            yield piece.data


def serve_relayed(app: ASGIApp) -> Callable[[NodeId, msgspec.Struct], AsyncIterator[msgspec.Struct]]:
    """The handler that `Streams.piece_handlers` wants for `RelayedRequest`."""

    async def handler(_peer: NodeId, request: msgspec.Struct) -> AsyncIterator[msgspec.Struct]:
        assert isinstance(request, RelayedRequest)
        queue: asyncio.Queue[msgspec.Struct | None] = asyncio.Queue(PIECES_WAITING_MAX)
        task = asyncio.create_task(_run(app, request, queue))
        try:
            while (piece := await queue.get()) is not None:
                yield piece
        finally:
            task.cancel()
            await asyncio.wait([task])

    return handler


async def _run(app: ASGIApp, request: RelayedRequest, queue: asyncio.Queue[msgspec.Struct | None]) -> None:
    path, _, query = request.target.partition("?")
    # Only what the far agent checks: the rest of the asker's headers is no business of this agent's.
    kept = {name: request.headers[name] for name in SIGNED_HEADERS if name in request.headers}
    headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in kept.items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [*headers, (HEADER_RELAYED.encode(), b"1")],
        "server": None,
        "client": None,
    }
    sent_body = False

    async def receive() -> Message:
        nonlocal sent_body
        if sent_body:
            await asyncio.Event().wait()  # until the task is cancelled: the asker never "disconnects" before that
        sent_body = True
        return {"type": "http.request", "body": request.body[:RELAYED_BODY_BYTES_MAX], "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in message.get("headers", [])
                if name == b"content-type"
            }
            await queue.put(RelayedHead(status=message["status"], headers=kept))
        elif message["type"] == "http.response.body" and message.get("body"):
            await queue.put(RelayedData(data=bytes(message["body"])))

    try:
        await app(scope, receive, send)
    except Exception:  # the asker has its answer: the app sent a 500 before it let this through
        log.exception("a relayed request failed")
    # Not where it was cancelled: nobody reads any more, and a full queue would be waited for in vain.
    await queue.put(None)
