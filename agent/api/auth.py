"""Who may do what: the signature of an operator on every request, checked by the agent that acts.

TLS already turned away whoever has no certificate of the mesh; the grant in the intent map decides the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request

from beemesh.crypto import Crypto
from beemesh.errors import NotAllowed
from beemesh.identity.grants import Grant
from beemesh.identity.requests import NonceCache, read_claim, verify_request
from beemesh.membership.roster import Roster

BODY_BYTES_MAX = 5 * 1024 * 1024
"""A submission: a sealed manifest of 4 MiB with its record and boxes."""


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
