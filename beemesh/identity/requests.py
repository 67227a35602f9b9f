"""Operators sign every request: whichever agent acts on it, the last one checks it and not the first that relays it.

The signature covers method, path with query, the SHA-256 of the body, the time and a nonce. Verification is split in
what depends on the request alone (`verify_request`) and what needs memory (`NonceCache`, against replays).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from beemesh.errors import NotAllowed, Untrusted
from beemesh.identity.grants import Grant
from beemesh.identity.signing import SIGNATURE_BYTES, Signer, Verifier, payload_of
from beemesh.ids import from_text, to_text

HEADER_OPERATOR = "x-beemesh-operator"
HEADER_TIME = "x-beemesh-time"
HEADER_NONCE = "x-beemesh-nonce"
HEADER_SIGNATURE = "x-beemesh-signature"
SIGNED_HEADERS = (HEADER_OPERATOR, HEADER_TIME, HEADER_NONCE, HEADER_SIGNATURE)

KIND = "request"
NONCE_BYTES = 16
CLOCK_SKEW_MS = 30_000
NONCES_MAX = 50_000
"""Requests in twice the accepted skew: 800 a second, far more than one agent serves."""


@dataclass(frozen=True, slots=True)
class RequestClaim:
    """What the headers of a request say, before anything is believed."""

    operator_id: bytes
    wall_ms: int
    nonce: bytes
    signature: bytes


def sign_request(signer: Signer, method: str, target: str, body: bytes, wall_ms: int, nonce: bytes) -> dict[str, str]:
    """The headers that make a request an operator's. `target` is the path with its query, as it is sent."""
    payload = _payload(method, target, body, wall_ms, nonce)
    return {
        HEADER_OPERATOR: to_text(signer.signer_id),
        HEADER_TIME: str(wall_ms),
        HEADER_NONCE: nonce.hex(),
        HEADER_SIGNATURE: base64.b64encode(signer.sign(payload)).decode("ascii"),
    }


def read_claim(headers: Mapping[str, str]) -> RequestClaim:
    """Parse the headers (lower-case names); raises `Untrusted` when one is missing or malformed."""
    missing = [name for name in SIGNED_HEADERS if not headers.get(name)]
    if missing:
        raise Untrusted(f"the request is not signed: {', '.join(missing)} missing", hint="use beemeshctl")
    try:
        claim = RequestClaim(
            operator_id=from_text(headers[HEADER_OPERATOR]),
            wall_ms=int(headers[HEADER_TIME][:20]),
            nonce=bytes.fromhex(headers[HEADER_NONCE]),
            signature=base64.b64decode(headers[HEADER_SIGNATURE], validate=True),
        )
    except (ValueError, binascii.Error) as error:
        raise Untrusted(f"the request's signature headers are malformed: {error}") from error
    if len(claim.nonce) != NONCE_BYTES or len(claim.signature) != SIGNATURE_BYTES:
        raise Untrusted("the request's nonce or signature has the wrong length")
    return claim


def verify_request(
    verifier: Verifier,
    claim: RequestClaim,
    grant: Grant | None,
    method: str,
    target: str,
    body: bytes,
    wall_ms: int,
    *,
    may_have_expired: bool = False,
) -> Grant:
    """The grant under which the request stands; raises `Untrusted` or `NotAllowed`, saying which check failed. With
    `may_have_expired` the caller looks at its end, when it knows what is asked."""
    if grant is None:
        raise Untrusted(f"operator {to_text(claim.operator_id)[:10]} has no grant in this mesh, or it was revoked")
    payload = _payload(method, target, body, claim.wall_ms, claim.nonce)
    if not verifier.verify(grant.sign_key, payload, claim.signature):
        raise Untrusted(f"the request's signature does not verify under the key of operator {grant.name}")
    if abs(claim.wall_ms - wall_ms) > CLOCK_SKEW_MS:
        off_s = (claim.wall_ms - wall_ms) / 1000
        where = "ahead of" if off_s > 0 else "behind"
        raise Untrusted(
            f"the request's time is {abs(off_s):.0f} s {where} this agent's clock "
            f"({CLOCK_SKEW_MS // 1000} s are allowed)",
            hint="set the clock of your machine, or of the agent's, with NTP",
        )
    if not may_have_expired:
        require_current(grant, wall_ms)
    return grant


def require_current(grant: Grant, wall_ms: int) -> None:
    """Raise `NotAllowed` when a grant has ended."""
    if wall_ms > grant.not_after_ms:
        hint = "run `beemeshctl bootstrap` again, with the home that holds the mesh's CA: it renews the grant"
        raise NotAllowed(f"the grant of operator {grant.name} has expired", hint=hint)


def _payload(method: str, target: str, body: bytes, wall_ms: int, nonce: bytes) -> bytes:
    digest = hashlib.sha256(body).hexdigest()
    text = "\n".join((method.upper(), target, digest, str(wall_ms), nonce.hex()))
    return payload_of(KIND, text.encode())


class NonceCache:
    """Remembers nonces for as long as their requests would still be accepted."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[bytes, bytes], int] = OrderedDict()

    def enter(self, claim: RequestClaim, wall_ms: int) -> None:
        """Note a verified request; raises `Untrusted` when it was noted before."""
        while self._seen:
            key, seen_ms = next(iter(self._seen.items()))
            if len(self._seen) < NONCES_MAX and wall_ms - seen_ms <= 2 * CLOCK_SKEW_MS:
                break
            del self._seen[key]
        key = (claim.operator_id, claim.nonce)
        if key in self._seen:
            raise Untrusted("this very request was made before", hint="sign it again with a fresh nonce")
        self._seen[key] = wall_ms
