"""Small valid things to schedule."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import Digest, NodeId
from beemesh.intents.record import SIGNED_KIND, Cordon, Intent, budget_key, cordon_key, node_key, workload_key
from beemesh.settings.model import NodeIdentity, NodeSettings
from beemesh.workloads.budgets import Budget
from beemesh.workloads.record import Requirements, Revision, Sealing, Workload
from simulator.crypto import FakeCrypto

MESH = "test"
CA = FakeCrypto(b"ca")
OPERATOR = FakeCrypto(b"operator")
WALL_MS = 1_800_000_000_000
YEAR_MS = 365 * 86_400_000


def card(name: str, crypto: FakeCrypto | None = None, **changes: Any) -> Membership:
    """A member's card."""
    keys = crypto or FakeCrypto(name.encode())
    values: dict[str, Any] = {
        "mesh": MESH,
        "name": name,
        "node_id": NodeId(keys.signer_id),
        "sign_key": keys.sign_key,
        "open_key": keys.open_key,
        "addresses": ("127.0.0.1",),
        "gossip_port": 7946,
        "api_port": 7947,
        "serial": 1,
        "signed_at_ms": WALL_MS,
        "not_after_ms": WALL_MS + YEAR_MS,
        "site": "home",
        "zone": "attic",
        "org": "family",
    }
    return Membership(**{**values, **changes})


def membership_intent(membership: Membership) -> Intent:
    """The card as a record."""
    body = msgspec.msgpack.encode(membership)
    return Intent(MESH, "membership", node_key(membership.name), 1, CA.signer_id, WALL_MS, body)


def revision(number: int = 1) -> Revision:
    """A sealed revision of that number."""
    return Revision(
        number=number,
        manifest=Digest(hashlib.sha256(f"manifest {number}".encode()).digest()),
        size_bytes=1,
        sealing=Sealing("shamir", 1, 1, (), b"c" * 32),
        holders=(),
        fingerprint=b"f",
    )


def workload(name: str = "hello", *, number: int = 1, **changes: Any) -> Workload:
    """A deployment."""
    values: dict[str, Any] = {
        "kind": "Deployment",
        "namespace": "default",
        "name": name,
        "replicas": 1,
        "revisions": (revision(number),),
        "requirements": Requirements(cpu_m=100, mem_mb=64),
    }
    return Workload(**{**values, **changes})


def record(wanted: Workload, seq: int = 1, wall_ms: int = WALL_MS) -> tuple[Intent, Signed]:
    """The operator's signed record of a workload."""
    key = workload_key(wanted.workload_id)
    intent = Intent(MESH, "workload", key, seq, OPERATOR.signer_id, wall_ms, msgspec.msgpack.encode(wanted))
    return intent, sign_statement(OPERATOR, SIGNED_KIND, intent)


def tombstone(wanted: Workload, seq: int = 2, wall_ms: int = WALL_MS) -> tuple[Intent, Signed]:
    """The operator's signed word that a workload is to go."""
    intent = Intent(MESH, "tombstone", workload_key(wanted.workload_id), seq, OPERATOR.signer_id, wall_ms)
    return intent, sign_statement(OPERATOR, SIGNED_KIND, intent)


def settings(name: str = "one", **changes: Any) -> NodeSettings:
    """A node's settings, with defaults."""
    return NodeSettings(mesh=MESH, node=NodeIdentity(name=name), **changes)


def cordon_record(cordon: Cordon, seq: int = 1, wall_ms: int = WALL_MS) -> tuple[Intent, Signed]:
    """The operator's signed order about a node."""
    body = msgspec.msgpack.encode(cordon)
    intent = Intent(MESH, "cordon", cordon_key(cordon.node), seq, OPERATOR.signer_id, wall_ms, body)
    return intent, sign_statement(OPERATOR, SIGNED_KIND, intent)


def budget_record(budget: Budget, seq: int = 1, wall_ms: int = WALL_MS) -> tuple[Intent, Signed]:
    """The operator's signed disruption budget."""
    key = budget_key(budget.namespace, budget.name)
    intent = Intent(MESH, "budget", key, seq, OPERATOR.signer_id, wall_ms, msgspec.msgpack.encode(budget))
    return intent, sign_statement(OPERATOR, SIGNED_KIND, intent)
