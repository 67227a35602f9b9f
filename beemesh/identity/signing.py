"""Signed statements: exact bytes, who vouches for them, and a signature that cannot be taken for another kind's.

The signature covers `b"beemesh/1/" + kind + b"\\0" + body`, so a statement of one kind never verifies as another. The
body travels as the very bytes that were signed and is never encoded again before it is verified.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from beemesh.errors import Forged, Untrusted
from beemesh.undecodable import UNDECODABLE

DOMAIN = b"beemesh/1/"
SIGNATURE_BYTES = 64

Body = TypeVar("Body", bound=msgspec.Struct)

_encoder = msgspec.msgpack.Encoder()


class Signed(msgspec.Struct, frozen=True):
    """A statement of some `kind`: encoded `body`, the 32-byte id of its `signer` (SHA-256 of the key), `signature`."""

    kind: str
    body: bytes
    signer: bytes
    signature: bytes


class Signer(Protocol):
    """Whoever holds an Ed25519 key: a node, an operator, the mesh CA."""

    @property
    def signer_id(self) -> bytes:
        """SHA-256 of the public key."""
        ...

    def sign(self, payload: bytes) -> bytes:
        """The 64-byte Ed25519 signature (RFC 8032) of `payload`."""
        ...


class Verifier(Protocol):
    """Whoever can check signatures."""

    def verify(self, public_key: bytes, payload: bytes, signature: bytes) -> bool:
        """Whether `signature` over `payload` verifies under the 32-byte Ed25519 `public_key`."""
        ...


def payload_of(kind: str, body: bytes) -> bytes:
    """The bytes that a signature of a statement covers."""
    return DOMAIN + kind.encode("ascii") + b"\0" + body


def sign_statement(signer: Signer, kind: str, statement: msgspec.Struct) -> Signed:
    """Encode and sign `statement`."""
    body = _encoder.encode(statement)
    return Signed(kind=kind, body=body, signer=signer.signer_id, signature=signer.sign(payload_of(kind, body)))


def open_statement(verifier: Verifier, signed: Signed, kind: str, public_key: bytes, body_type: type[Body]) -> Body:
    """The statement inside `signed`, once its kind and signature hold; raises `Untrusted` otherwise."""
    check_statement(verifier, signed, kind, public_key)
    return decode_body(signed, body_type)


def check_statement(verifier: Verifier, signed: Signed, kind: str, public_key: bytes) -> None:
    """Raises `Untrusted` unless the kind and the signature of `signed` hold, whose body the caller has decoded; it is
    `Forged` where the signature does not."""
    if signed.kind != kind:
        raise Untrusted(f"expected a signed {kind}, got a signed {signed.kind}")
    if not verifier.verify(public_key, payload_of(kind, signed.body), signed.signature):
        raise Forged(f"the signature of a {kind} does not verify under the key of its signer")


def decode_body(signed: Signed, body_type: type[Body]) -> Body:
    """The body as a struct, without any check of the signature; raises `Untrusted` when it has another shape."""
    try:
        return msgspec.msgpack.decode(signed.body, type=body_type)
    except UNDECODABLE as error:
        raise Untrusted(f"a signed {signed.kind} does not decode: {error}") from error
