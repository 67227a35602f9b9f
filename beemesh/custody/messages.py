"""Requests about sealed manifests and key shares (streams only). See DESIGN section 7."""

from __future__ import annotations

from typing import Literal

import msgspec

from beemesh.identity.signing import Signed
from beemesh.ids import Digest
from beemesh.scheduling.messages import LeaseProof

SEALED_BYTES_MAX = 4 * 1024 * 1024
"""A sealed manifest: a pod template with its ConfigMaps and Secrets (1 MiB each in Kubernetes), a few of them."""

OPERATOR_READ_KIND = "operator-read"


class StoreManifest(msgspec.Struct, frozen=True):
    """Keep this ciphertext: `record` (a signed intent) names its digest and this node as a holder."""

    record: Signed
    ciphertext: bytes


class StoreShare(msgspec.Struct, frozen=True):
    """Keep this share, sealed to this node's X25519 key: `record` names its ticket. `manifest` picks the revision."""

    record: Signed
    manifest: Digest
    index: int
    box: bytes


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """Saved durably (`ok`), or why not."""

    ok: bool
    reason: str = ""


class FetchManifest(msgspec.Struct, frozen=True):
    """Ask a holder for a ciphertext."""

    manifest: Digest


class ManifestAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The ciphertext, or None when this node does not hold it."""

    manifest: Digest
    ciphertext: bytes | None = None


class OperatorRead(msgspec.Struct, frozen=True):
    """An operator's signed wish (kind `operator-read`) to read a sealed manifest back."""

    mesh: str
    key: str
    """The intent key of the workload or object."""
    manifest: Digest
    operator_id: bytes
    issued_ms: int
    nonce: bytes


class ReleaseRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ask a custodian for its share: with a lease proof (to run a replica) or an operator's signed wish (to read)."""

    key: str
    """The intent key of the workload or object."""
    manifest: Digest
    epoch: int
    replica: int = 0
    proof: LeaseProof | None = None
    operator_read: Signed | None = None


ReleaseReason = Literal[
    "",
    "unknown_manifest",
    "no_share",
    "not_a_member",
    "in_grace",
    "withdrawn",
    "revision_not_kept",
    "replica_out_of_range",
    "constraints",
    "stale_fence",
    "held_by_another",
    "no_majority",
    "bad_proof",
    "not_entitled",
    "rate",
    "stale_request",
    "wrong_epoch",
]


class ReleaseAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The share sealed to the requester's X25519 key, or the reason why not."""

    released: bool
    index: int = 0
    box: bytes = b""
    reason: ReleaseReason = ""
    detail: str = ""
