"""A CA, operators with different rights, nodes, and records of every kind."""

from __future__ import annotations

from typing import Any

import msgspec

from beemesh.identity.grants import Grant, Revocation
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import Digest, OperatorId
from beemesh.intents.map import IntentMap
from beemesh.intents.record import (
    SIGNED_KIND,
    Cordon,
    Intent,
    budget_key,
    cordon_key,
    node_key,
    object_key,
    operator_key,
    revoked_key,
    workload_key,
)
from beemesh.membership.roster import Roster
from beemesh.workloads.budgets import Budget
from beemesh.workloads.record import Revision, SealedObject, Sealing, Workload
from simulator.crypto import FakeCrypto
from tests.unit.membership.cast import CA, FAR_MS, MESH, WALL_MS, at, card

ADMIN, DEPLOYER, VIEWER, OLD, OUTSIDER = (FakeCrypto(name) for name in (b"adm", b"dep", b"view", b"old", b"out"))
REVISION = Revision(1, Digest(bytes(32)), 10, Sealing("shamir", 2, 3, (), b""), (), b"f")


def record(
    by: FakeCrypto, kind: str, key: str, content: msgspec.Struct | bytes | None = None, seq: int = 1, **changes: Any
) -> Signed:
    """A signed record of anybody."""
    encoded = msgspec.msgpack.encode(content) if isinstance(content, msgspec.Struct) else content or b""
    fields: dict[str, Any] = {
        "mesh": MESH,
        "kind": kind,
        "key": key,
        "seq": seq,
        "author": by.signer_id,
        "issued_ms": WALL_MS,
        "body": encoded,
    }
    return sign_statement(by, SIGNED_KIND, Intent(**(fields | changes)))


def workload(
    by: FakeCrypto = ADMIN,
    name: str = "web",
    seq: int = 1,
    namespace: str = "default",
    replicas: int = 1,
    padding: int = 0,
    **changes: Any,
) -> Signed:
    """A workload, `padding` bytes larger than it need be."""
    notes = {"note": "x" * padding} if padding else {}
    body = Workload("Deployment", namespace, name, replicas, (REVISION,), annotations=notes)
    return record(by, "workload", workload_key(body.workload_id), body, seq, **changes)


def sealed_object(by: FakeCrypto, namespace: str = "default", **changes: Any) -> Signed:
    """A Secret."""
    body = SealedObject("Secret", namespace, "s", REVISION)
    return record(by, "object", object_key("Secret", namespace, "s"), body, **changes)


def cordon(by: FakeCrypto, key: str = "", seq: int = 1) -> Signed:
    """A cordon."""
    return record(by, "cordon", key or cordon_key("n1"), Cordon("n1", True), seq)


def budget(by: FakeCrypto, namespace: str = "default", **changes: Any) -> Signed:
    """A disruption budget."""
    return record(by, "budget", budget_key(namespace, "web"), Budget(namespace, "web", **changes))


def tombstone(by: FakeCrypto, key: str, seq: int = 2, **changes: Any) -> Signed:
    """A removal."""
    return record(by, "tombstone", key, None, seq, **changes)


def member(index: int, by: FakeCrypto = CA, seq: int = 1, key: str = "", **changes: Any) -> Signed:
    """A node's card."""
    return record(by, "membership", key or node_key(f"n{index}"), card(index, **changes), seq)


def grant(holder: FakeCrypto, name: str, role: Any, *, by: FakeCrypto = CA, seq: int = 1, **changes: Any) -> Signed:
    """An operator's grant."""
    body = Grant(
        MESH, OperatorId(holder.signer_id), name, holder.sign_key, holder.open_key, role, 1, 0, FAR_MS, **changes
    )
    return record(by, "grant", operator_key(name), body, seq)


def revocation(holder: FakeCrypto, name: str, at_ms: int, *, by: FakeCrypto = CA) -> Signed:
    """The withdrawal of an operator."""
    body = Revocation(MESH, "operator", holder.signer_id, name, at_ms)
    return record(by, "revocation", revoked_key("operator", holder.signer_id), body)


def grants() -> list[Signed]:
    """An admin, a deployer of namespace `shop`, and a viewer."""
    return [
        grant(ADMIN, "adm", "admin"),
        grant(DEPLOYER, "dep", "deployer", namespaces=("shop",)),
        grant(VIEWER, "view", "viewer"),
    ]


def intent_map(*records: Signed) -> IntentMap:
    """A map that holds the grants, and these."""
    made = IntentMap(CA, Roster(MESH, CA.sign_key))
    for each in (*grants(), *records):
        assert made.merge(each, at(0)).stands
    return made
