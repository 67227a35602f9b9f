"""Checking a lease proof: a custodian believes the replicas' signed grants, counted over its own roster."""

from __future__ import annotations

from beemesh.crypto import Crypto
from beemesh.dht.kset import k_set, majority
from beemesh.errors import Untrusted
from beemesh.identity.signing import open_statement
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.scheduling.leases import NUMBER_AHEAD_MS_MAX, lease_digest, open_lease
from beemesh.scheduling.messages import VERDICT_KIND, Lease, LeaseProof, Verdict

GRANTS_MAX = 64
"""Grants in one proof: eight times what counts, so that a long list costs little to refuse."""

FRESH_MS = 60_000
"""A grant may be this much older than its TTL by our clock: twice the clock skew that is tolerated elsewhere."""


def check_proof(crypto: Crypto, roster: Roster, proof: LeaseProof, key: str, wall_ms: int) -> tuple[Lease, bool]:
    """(the lease, whether a majority of its k-set granted it); raises `Untrusted` when it is no proof for `key`."""
    lease, granted = granted_by(crypto, roster, proof, key, wall_ms)
    return lease, len(granted) >= majority(len(k_set(roster, key)))


def granted_by(
    crypto: Crypto, roster: Roster, proof: LeaseProof, key: str, wall_ms: int
) -> tuple[Lease, frozenset[NodeId]]:
    """(the lease, who of its k-set granted it); raises `Untrusted` when it is no proof for `key`."""
    lease = open_lease(crypto, roster, proof.lease)
    if lease.key != key:
        raise Untrusted(f"the proof is for {lease.key}, not for {key}")
    if lease.released:
        raise Untrusted("the lease was given up")
    if max(lease.version, lease.fence) > wall_ms + NUMBER_AHEAD_MS_MAX:
        raise Untrusted("its version or fence is ahead of the clock")
    members = k_set(roster, key)
    granted: set[NodeId] = set()
    for signed in proof.grants[:GRANTS_MAX]:
        replica = NodeId(signed.signer)
        card = roster.member(replica)
        if card is None or replica not in members or replica in granted:
            continue
        verdict = open_statement(crypto, signed, VERDICT_KIND, card.sign_key, Verdict)
        if _counts(verdict, replica, key, proof, wall_ms):
            granted.add(replica)
    return lease, frozenset(granted)


def _counts(verdict: Verdict, replica: NodeId, key: str, proof: LeaseProof, wall_ms: int) -> bool:
    return (
        verdict.outcome == "granted"
        and verdict.replica == replica
        and verdict.key == key
        and verdict.lease_digest == lease_digest(proof.lease)
        and abs(wall_ms - verdict.answered_ms) <= verdict.ttl_ms + FRESH_MS
    )
