"""Identifiers: node IDs, boot IDs, ULIDs and content digests, with their text forms."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import NewType

from beemesh.errors import InvalidInput

NodeId = NewType("NodeId", bytes)
"""SHA-256 of a node's Ed25519 public key: 32 bytes, so an ID cannot be chosen."""

OperatorId = NewType("OperatorId", bytes)
"""SHA-256 of an operator's Ed25519 public key: 32 bytes."""

BootId = NewType("BootId", bytes)
"""16 random bytes drawn at each start of an agent process."""

Digest = NewType("Digest", bytes)
"""SHA-256 of some exact bytes: 32 bytes."""

NODE_ID_BYTES = 32
DIGEST_BYTES = 32
BOOT_ID_BYTES = 16
ULID_TIME_BYTES = 6
ULID_RANDOM_BYTES = 10

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def node_id_of(ed25519_public: bytes) -> NodeId:
    """The ID that belongs to a public signing key."""
    return NodeId(hashlib.sha256(ed25519_public).digest())


def digest_of(content: bytes) -> Digest:
    """SHA-256 of `content`."""
    return Digest(hashlib.sha256(content).digest())


def to_text(identifier: bytes) -> str:
    """Lower-case base32 without padding: the form people see and type."""
    return base64.b32encode(identifier).decode("ascii").rstrip("=").lower()


def from_text(text: str, *, length: int = NODE_ID_BYTES) -> bytes:
    """The bytes behind `to_text`; raises `InvalidInput` unless they are exactly `length`."""
    try:
        raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != length:
        raise InvalidInput(f"{text!r} is not an id of {length} bytes in base32")
    return raw


def short(identifier: bytes) -> str:
    """The first ten characters of the text form: enough for logs and tables."""
    return to_text(identifier)[:10]


def ulid(wall_ms: int, randomness: bytes) -> str:
    """A ULID (github.com/ulid/spec) from a wall time in milliseconds and 10 random bytes that the caller draws."""
    if len(randomness) != ULID_RANDOM_BYTES:
        raise ValueError(f"a ulid takes {ULID_RANDOM_BYTES} random bytes, got {len(randomness)}")
    number = int.from_bytes(wall_ms.to_bytes(ULID_TIME_BYTES, "big") + randomness, "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    """Whether `text` has the shape of a ULID."""
    return len(text) == 26 and text[0] in "01234567" and all(character in _CROCKFORD for character in text)


def ulid_time_ms(text: str) -> int:
    """The wall time in milliseconds inside of a ULID; raises `ValueError` for what is none."""
    if not is_ulid(text):
        raise ValueError(f"{text!r} is no ulid")
    number = 0
    for character in text[:10]:
        number = number << 5 | _CROCKFORD.index(character)
    return number


def workload_id(kind: str, namespace: str, name: str) -> str:
    """The mesh-wide key of a workload, such as `deployment/default/hello`."""
    return f"{kind.lower()}/{namespace}/{name}"
