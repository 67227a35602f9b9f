"""One entry of the intent map: what somebody with the right to say so wants.

The wire and disk form is a `Signed` statement of kind `intent`. The highest `(epoch, seq)` of a key wins, ties by the
larger SHA-256 of the signed body, and the loser is reported to its author. Entries do not expire.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from beemesh.identity.signing import Signed
from beemesh.ids import to_text

SIGNED_KIND = "intent"

IntentKind = Literal["membership", "grant", "revocation", "workload", "object", "tombstone", "cordon", "ring"]

CA_KINDS: frozenset[str] = frozenset({"membership", "grant", "revocation"})
"""Kinds that only the mesh CA may sign; an operator with a fitting grant signs all others."""

RECORD_BYTES_MAX = 64 * 1024
"""A signed record: three sealed revisions with their share tickets fit several times over."""


class Intent(msgspec.Struct, frozen=True, omit_defaults=True):
    """The signed content. `key` is `<map>/<name>`: `node/<name>`, `operator/<name>`, `revoked/<subject>/<id>`,
    `workload/<workload id>`, `object/<kind>/<namespace>/<name>`, `cordon/<node>`. A tombstone carries the key of what
    it removes, so it competes with it by `(epoch, seq)`. `body` is the msgpack of the struct that the kind implies."""

    mesh: str
    kind: IntentKind
    key: str
    seq: int
    author: bytes
    issued_ms: int
    body: bytes = b""
    epoch: int = 0


class IntentVersion(msgspec.Struct, frozen=True, array_like=True, order=True):
    """What decides between two records of one key, as one comparable value."""

    epoch: int
    seq: int
    digest: bytes


class Cordon(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of kind `cordon`: whether the node takes new work."""

    node: str
    cordoned: bool
    reason: str = ""


def version_of(intent: Intent, signed: Signed) -> IntentVersion:
    """The version of a decoded record."""
    return IntentVersion(intent.epoch, intent.seq, hashlib.sha256(signed.body).digest())


def node_key(name: str) -> str:
    """Map key of a membership."""
    return f"node/{name}"


def operator_key(name: str) -> str:
    """Map key of a grant."""
    return f"operator/{name}"


def revoked_key(subject: str, subject_id: bytes) -> str:
    """Map key of a revocation; `subject` is node, operator or workload."""
    return f"revoked/{subject}/{to_text(subject_id)}"


def cordon_key(node_name: str) -> str:
    """Map key of a cordon."""
    return f"cordon/{node_name}"


def workload_key(workload_id: str) -> str:
    """Map key of a workload record and of its tombstone."""
    return f"workload/{workload_id}"


def object_key(kind: str, namespace: str, name: str) -> str:
    """Map key of a sealed ConfigMap or Secret and of its tombstone."""
    return f"object/{kind.lower()}/{namespace}/{name}"
