"""Who may do what: the signature of an operator on every request, checked by the agent that acts.

TLS already turned away whoever has no certificate of the mesh; the grant in the intent map decides the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request

from beemesh.crypto import Crypto
from beemesh.errors import NotAllowed, Untrusted
from beemesh.identity.grants import Grant
from beemesh.identity.requests import NonceCache, read_claim, require_current, verify_request
from beemesh.membership.roster import Roster

BODY_BYTES_MAX = 5 * 1024 * 1024
"""A submission: a sealed manifest of 4 MiB with its record and boxes."""

LOOK_EVERY_S = 1.0
"""How often it is asked whether an operator may still follow what says nothing."""


class Gate:
    """Verifies requests; one per agent, since it remembers nonces."""

    def __init__(self, roster: Roster, crypto: Crypto, wall_ms: Callable[[], int]) -> None:
        self._roster = roster
        self._crypto = crypto
        self._wall_ms = wall_ms
        self._nonces = NonceCache()

    async def operator(self, request: Request, *, may_have_expired: bool = False) -> Grant:
        """The grant under which the request stands; raises `Untrusted` or `NotAllowed`. With `may_have_expired` the
        caller looks at its end."""
        body = await bounded_body(request)
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = dict(request.headers)
        return self.check(request.method, target, headers, body, may_have_expired=may_have_expired)

    def check(
        self, method: str, target: str, headers: dict[str, str], body: bytes, *, may_have_expired: bool = False
    ) -> Grant:
        """The same for a request in parts."""
        wall_ms = self._wall_ms()
        claim = read_claim(headers)
        grant = self._roster.grant(claim.operator_id)
        verified = verify_request(
            self._crypto, claim, grant, method, target, body, wall_ms, may_have_expired=may_have_expired
        )
        self._nonces.enter(claim, wall_ms)
        return verified

    def check_still(self, grant: Grant, namespace: str) -> None:
        """Raise `Untrusted` or `NotAllowed` when what began under `grant` (empty `namespace`: in all that it covers)
        may not go on: the operator was revoked, or has another grant that covers less, or one that is over."""
        current = self._roster.grant(grant.operator_id)
        if current is None:
            raise Untrusted(f"operator {grant.name} was revoked, or has no grant in this mesh any more")
        require_current(current, self._wall_ms())
        require_read(current, namespace)
        lost = [each for each in grant.namespaces if not namespace and not current.covers(each)]
        if lost:
            raise NotAllowed(f"the grant of operator {grant.name} does not cover {', '.join(lost)} any more")

    async def guarded(self, grant: Grant, namespace: str, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Hand on what an operator follows, as long as it may: asked before each piece, and while none comes. The last
        piece says why it ended."""
        try:
            while (line := await self._next(grant, namespace, lines)) is not None:
                self.check_still(grant, namespace)
                yield line
        except (Untrusted, NotAllowed) as error:
            yield f"error: {error}\n".encode()

    async def _next(self, grant: Grant, namespace: str, lines: AsyncIterator[bytes]) -> bytes | None:
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            try:
                self.check_still(grant, namespace)
            except (Untrusted, NotAllowed):
                waiting.reschedule(loop.time())
            else:
                timer = loop.call_later(LOOK_EVERY_S, look)

        timer = loop.call_later(LOOK_EVERY_S, look)
        try:
            async with asyncio.timeout(None) as waiting:
                return await anext(lines, None)
        except TimeoutError:
            if not waiting.expired():
                raise
            self.check_still(grant, namespace)
            raise
        finally:
            timer.cancel()

    def signature_only(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Grant:
        """For an agent that only relays: everything but the nonce, which the acting agent takes."""
        claim = read_claim(headers)
        grant = self._roster.grant(claim.operator_id)
        return verify_request(self._crypto, claim, grant, method, target, body, self._wall_ms())


def require_read(grant: Grant, namespace: str) -> None:
    """Raise `NotAllowed` unless the operator may look at `namespace` (empty: the whole mesh's nodes and lists)."""
    if namespace and not grant.may_read(namespace):
        raise NotAllowed(
            f"operator {grant.name} may not read namespace {namespace!r}",
            hint=f"the grant covers: {', '.join(grant.namespaces)}",
        )


async def bounded_body(request: Request) -> bytes:
    """The body, read once and kept by the request; raises `NotAllowed` past `BODY_BYTES_MAX`."""
    if hasattr(request.state, "body"):
        return bytes(request.state.body)
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > BODY_BYTES_MAX:
            raise NotAllowed(f"the request is larger than {BODY_BYTES_MAX} bytes")
    request.state.body = bytes(parts)
    return bytes(parts)
