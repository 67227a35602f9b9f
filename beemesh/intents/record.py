"""One entry of the intent map: what somebody with the right to say so wants.

The wire and disk form is a `Signed` statement of kind `intent`. The highest `(epoch, seq)` of a key wins, ties by the
larger SHA-256 of the signed body, and the loser is reported to its author. Entries do not expire.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import msgspec

from beemesh.identity.signing import Signed, Signer, sign_statement
from beemesh.ids import to_text
from beemesh.undecodable import UNDECODABLE

SIGNED_KIND = "intent"

Body = TypeVar("Body", bound=msgspec.Struct)

IntentKind = Literal[
    "membership",
    "grant",
    "revocation",
    "workload",
    "object",
    "tombstone",
    "cordon",
    "ring",
    "budget",
    "quota",
    "priority",
]

CA_KINDS: frozenset[str] = frozenset({"membership", "grant", "revocation"})
"""Kinds that only the mesh CA may sign; an operator with a fitting grant signs all others."""

RECORD_BYTES_MAX = 64 * 1024
"""A signed record: three sealed revisions with their share tickets fit several times over."""


class Intent(msgspec.Struct, frozen=True, omit_defaults=True):
    """The signed content. `key` is `<map>/<name>`: `node/<name>`, `operator/<name>`, `revoked/<subject>/<id>`,
    `workload/<workload id>`, `object/<kind>/<namespace>/<name>`, `budget/poddisruptionbudget/<namespace>/<name>`,
    `quota/resourcequota/<namespace>/<name>`, `priority/priorityclass/<name>`, `cordon/<node>`. A tombstone carries the
    key of what it removes, so it competes with it by `(epoch, seq)`. `body` is the msgpack of the struct that the kind
    implies."""

    mesh: str
    kind: IntentKind
    key: str
    seq: int
    author: bytes
    issued_ms: int
    body: bytes = b""
    epoch: int = 0


Records = Callable[[str], Iterable[tuple[Intent, Signed]]]
"""The winning records whose keys begin with a prefix."""


class IntentVersion(msgspec.Struct, frozen=True, array_like=True, order=True):
    """What decides between two records of one key, as one comparable value."""

    epoch: int
    seq: int
    digest: bytes


class Drain(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything leaves the node, each replica as gently as its workload allows."""

    grace_s: int = -1
    """Seconds between asking a pod to end and ending it; -1 leaves each pod its own."""
    force: bool = False
    """Also what stops before it runs elsewhere, and what has nowhere to go."""
    requested_ms: int = 0


class Move(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica leaves the node, for the node named `to` (empty: for whichever takes it)."""

    workload_id: str
    replica: int
    to: str = ""


MOVES_MAX = 256
"""Moves in one record: far more than one look at a mesh proposes, and a bound on what every node keeps."""


class Cordon(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of kind `cordon`: whether the node takes new work, and what of its work is to leave it. Stewards carry it
    out (`beemesh.workloads.moves`); `moves` hold until `moves_until_ms` (wall time) and the node takes none of them
    back before."""

    node: str
    cordoned: bool
    reason: str = ""
    drain: Drain | None = None
    moves: tuple[Move, ...] = ()
    moves_until_ms: int = 0

    def move_of(self, workload_id: str, replica: int, wall_ms: int) -> Move | None:
        """The move that is ordered of a replica, while it holds."""
        if wall_ms >= self.moves_until_ms:
            return None
        wanted = (workload_id, replica)
        return next((each for each in self.moves if (each.workload_id, each.replica) == wanted), None)


def body_of(intent: Intent | None, kind: IntentKind, body_type: type[Body]) -> Body | None:
    """What a record of that kind says; None without one, for a tombstone, another kind, or what does not decode."""
    if intent is None or intent.kind != kind:
        return None
    try:
        return msgspec.msgpack.decode(intent.body, type=body_type)
    except UNDECODABLE:
        return None


def sign_intent(
    signer: Signer, mesh: str, kind: IntentKind, key: str, body: msgspec.Struct | None, seq: int, issued_ms: int
) -> Signed:
    """The signed record of `body` (None: of a tombstone) at that place; who signs is its author."""
    encoded = msgspec.msgpack.encode(body) if body is not None else b""
    return sign_statement(signer, SIGNED_KIND, Intent(mesh, kind, key, seq, signer.signer_id, issued_ms, encoded))


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


def workload_id_of(key: str) -> str:
    """The workload that a map key is for; empty for a key of anything else."""
    return key.removeprefix("workload/") if key.startswith("workload/") else ""


def object_key(kind: str, namespace: str, name: str) -> str:
    """Map key of a sealed ConfigMap or Secret and of its tombstone."""
    return f"object/{kind.lower()}/{namespace}/{name}"


def quota_key(namespace: str, name: str) -> str:
    """Map key of a ResourceQuota and of its tombstone."""
    return f"quota/resourcequota/{namespace}/{name}"


def priority_key(name: str) -> str:
    """Map key of a PriorityClass and of its tombstone."""
    return f"priority/priorityclass/{name}"


def budget_key(namespace: str, name: str) -> str:
    """Map key of a PodDisruptionBudget and of its tombstone."""
    return f"budget/poddisruptionbudget/{namespace}/{name}"
