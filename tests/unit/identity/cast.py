"""A small mesh with repeatable keys: a CA, nodes, an operator, and rosters that know them."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from beemesh.crypto_native import NativeCrypto
from beemesh.identity.grants import Grant, Revocation
from beemesh.identity.membership_card import MEMBERSHIP_LIFETIME_MS, Membership
from beemesh.ids import NodeId, OperatorId
from beemesh.intents.record import Intent, IntentKind, node_key, operator_key, revoked_key
from beemesh.membership.roster import Roster

MESH = "home"
NOW_MS = 1_795_219_200_000
"""2026-11-21."""


def keys(name: str) -> NativeCrypto:
    """The keys of somebody, always the same."""
    return NativeCrypto(*(hashlib.sha256(f"{part} of {name}".encode()).digest() for part in ("sign", "open")))


CA = keys("ca")


def card(name: str, holder: NativeCrypto | None = None, **fields: Any) -> Membership:
    """A node's membership."""
    owner = holder or keys(name)
    return Membership(
        mesh=MESH,
        name=name,
        node_id=NodeId(owner.signer_id),
        sign_key=owner.sign_key,
        open_key=owner.open_key,
        addresses=("10.0.0.1",),
        gossip_port=7946,
        api_port=7947,
        serial=1,
        signed_at_ms=NOW_MS,
        not_after_ms=NOW_MS + MEMBERSHIP_LIFETIME_MS,
        **fields,
    )


def grant(name: str) -> Grant:
    """An admin's grant."""
    owner = keys(name)
    return Grant(
        mesh=MESH,
        operator_id=OperatorId(owner.signer_id),
        name=name,
        sign_key=owner.sign_key,
        open_key=owner.open_key,
        role="admin",
        serial=1,
        signed_at_ms=NOW_MS,
        not_after_ms=NOW_MS + MEMBERSHIP_LIFETIME_MS,
    )


def record(kind: IntentKind, key: str, body: msgspec.Struct) -> Intent:
    """An intent of the CA, as the intent map hands it to a roster."""
    raw = msgspec.msgpack.encode(body)
    return Intent(mesh=MESH, kind=kind, key=key, seq=1, author=CA.signer_id, issued_ms=NOW_MS, body=raw)


def roster(*nodes: str, operators: tuple[str, ...] = ()) -> Roster:
    """Who belongs to the mesh."""
    made = Roster(MESH, CA.sign_key)
    for name in nodes:
        made.apply(record("membership", node_key(name), card(name)))
    for name in operators:
        made.apply(record("grant", operator_key(name), grant(name)))
    return made


def revoke(known: Roster, name: str, holder: NativeCrypto) -> None:
    """The CA withdraws a node."""
    body = Revocation(mesh=MESH, subject="node", subject_id=holder.signer_id, name=name, revoked_at_ms=NOW_MS)
    known.apply(record("revocation", revoked_key("node", holder.signer_id), body))
