"""Names, signatures and the order of leases. Who grants them: `beemesh.dht.compare_and_swap`; who claims them:
`beemesh.dht.claims`; who checks a proof of one: `beemesh.custody.proofs`."""

from __future__ import annotations

from beemesh.errors import Untrusted
from beemesh.identity.signing import Signed, Signer, Verifier, open_statement, sign_statement
from beemesh.ids import Digest, NodeId, digest_of
from beemesh.membership.roster import Roster
from beemesh.scheduling.messages import LEASE_KIND, Lease, LeaseProof

LEASE_TTL_MAX_MS = 15_000
"""The longest lease, a run lease: whoever lost its memory waits out twice this, so it must stay short."""

MEMBERSHIPS_PER_ANSWER = 16
"""Cards in a `wrong_set` answer: the k-set, and as much again."""

NUMBER_AHEAD_MS_MAX = 60_000
"""No fence or version is higher than the wall clock, in milliseconds, and this: honest ones grow by one, far slower
than time does, and whoever could make them leap to the end of all numbers would take a key away from everybody
(docs/adr/0010)."""

LEASE_KEY_CHARS_MAX = 512
"""A key with two Kubernetes names of 253 characters, kind and ordinal."""

PLACEMENT_PREFIX = "lease/"
KEY_PREFIXES = (PLACEMENT_PREFIX, "run/", "steward/", "recovery/")
"""What may be leased: placements, running ordinals, the hosting of a reconciler, a recovery."""

Order = tuple[bool, int, bytes]


def lease_key(workload_id: str, replica: int) -> str:
    """The right to place one replica."""
    return f"lease/{workload_id}/{replica}"


def placed_workload(key: str) -> str:
    """The workload of which a lease places a replica; empty for a lease of another kind."""
    return key.removeprefix(PLACEMENT_PREFIX).rpartition("/")[0] if key.startswith(PLACEMENT_PREFIX) else ""


def run_key(workload_id: str, replica: int) -> str:
    """The right to run one ordinal of a workload that tolerates no duplicates."""
    return f"run/{workload_id}/{replica}"


def steward_key(workload_id: str) -> str:
    """The right to host a workload's reconciler."""
    return f"steward/{workload_id}"


RUN_LEASE_MARGIN_S = 2.0
"""A replica that must not be doubled stops so long before its run lease ends, by its node's own clock; and for so long
after it ended nobody else is granted it: time for a stop that takes a moment, and for clocks that differ in speed."""


def binds_for_s(key: str, ttl_ms: int) -> float:
    """How long after its receipt a grant keeps others away."""
    return ttl_ms / 1000 + (RUN_LEASE_MARGIN_S if key.startswith("run/") else 0.0)


def sign_lease(signer: Signer, lease: Lease) -> Signed:
    """The lease as its holder hands it out."""
    return sign_statement(signer, LEASE_KIND, lease)


def lease_digest(signed: Signed) -> Digest:
    """What a verdict names a lease by."""
    return digest_of(signed.body)


def open_lease(verifier: Verifier, roster: Roster, signed: Signed) -> Lease:
    """A lease whose signature holds under the card of the holder that it names; raises `Untrusted`."""
    card = roster.member(signed.signer)
    if card is None:
        raise Untrusted("a lease is signed by somebody who is not in the roster")
    lease = open_statement(verifier, signed, LEASE_KIND, card.sign_key, Lease)
    if lease.holder != signed.signer:
        raise Untrusted("a lease names another holder than its signer")
    return lease


def order_of(proof: LeaseProof, lease: Lease) -> Order:
    """Of two holders of one key, the greater order stays and the other drains: majority, then fence, then node ID."""
    return (not proof.tentative, lease.fence, NodeId(lease.holder))
