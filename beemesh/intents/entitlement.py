"""Who may sign what: every record of the intent map is checked by each node for itself, wherever it came from."""

from __future__ import annotations

import msgspec

from beemesh.errors import Untrusted
from beemesh.identity.grants import Grant, Revocation
from beemesh.identity.key_rotation import RING_KEY, Rotation, epoch_of
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed, Verifier, decode_body, open_statement
from beemesh.ids import node_id_of, to_text
from beemesh.intents.record import (
    CA_KINDS,
    MOVES_MAX,
    RECORD_BYTES_MAX,
    SIGNED_KIND,
    Cordon,
    Intent,
    budget_key,
    cordon_key,
    node_key,
    object_key,
    operator_key,
    priority_key,
    quota_key,
    revoked_key,
    workload_key,
)
from beemesh.membership.roster import Roster
from beemesh.undecodable import UNDECODABLE
from beemesh.workloads.budgets import Budget
from beemesh.workloads.policies import PriorityClass, Quota
from beemesh.workloads.record import SealedObject, Workload

NUMBER_MAX = 1 << 53
"""Largest epoch and seq: what JSON readers can hold, and far beyond any history."""

KEY_CHARS_MAX = 512

ADMIN_KEYS = ("quota/", "priority/")
"""Where only admins write, tombstones too: a quota is for those whom it bounds, a priority touches every namespace."""

REVOKED = "revoked/"
"""Where revocations stand: they win over everything, for ever."""


def verify_intent(verifier: Verifier, roster: Roster, signed: Signed) -> Intent:
    """The record inside `signed`, once its form, its signature and its author's right to it hold; else `Untrusted`.

    An operator that was revoked since keeps what it signed before: revoking a person must not stop their workloads.
    """
    if len(signed.body) > RECORD_BYTES_MAX:
        raise Untrusted(f"a record of {len(signed.body)} bytes is larger than {RECORD_BYTES_MAX}")
    intent = decode_body(signed, Intent)
    check_head(intent, roster.mesh)
    if intent.author != signed.signer:
        raise Untrusted(f"{intent.key}: names another author than its signer")
    if intent.author == roster.ca_id:
        open_statement(verifier, signed, SIGNED_KIND, roster.ca_key, Intent)
    elif intent.kind in CA_KINDS:
        raise Untrusted(f"{intent.key}: only the mesh CA may sign a {intent.kind}")
    else:
        grant = _grant(roster, intent)
        open_statement(verifier, signed, SIGNED_KIND, grant.sign_key, Intent)
        _check_right(grant, intent)
    check_key(intent)
    return intent


def check_head(intent: Intent, mesh: str) -> None:
    """Raise `Untrusted` for a record of another mesh, or one whose numbers or key are out of range."""
    if intent.mesh != mesh:
        raise Untrusted(f"{intent.key}: belongs to mesh {intent.mesh!r}, not to {mesh!r}")
    if not (0 <= intent.epoch < NUMBER_MAX and 0 < intent.seq < NUMBER_MAX and len(intent.key) <= KEY_CHARS_MAX):
        raise Untrusted(f"{intent.key[:80]}: its numbers or its key are out of range")


def _grant(roster: Roster, intent: Intent) -> Grant:
    grant = roster.issued_grant(intent.author)
    if grant is None:
        raise Untrusted(f"{intent.key}: operator {to_text(intent.author)[:10]} has no grant in this mesh")
    if is_disowned(roster, intent):
        raise Untrusted(f"{intent.key}: operator {grant.name} was revoked before this was signed")
    if intent.issued_ms > grant.not_after_ms:
        raise Untrusted(f"{intent.key}: the grant of operator {grant.name} had expired when this was signed")
    return grant


def is_disowned(roster: Roster, intent: Intent) -> bool:
    """Whether an operator that was revoked by then signed it. The CA cannot be revoked."""
    revocation = roster.revocation(intent.author)
    return revocation is not None and intent.issued_ms >= revocation.revoked_at_ms and intent.author != roster.ca_id


def _check_right(grant: Grant, intent: Intent) -> None:
    if intent.kind in ("cordon", "ring") or intent.key.startswith(ADMIN_KEYS):
        if grant.role != "admin":
            raise Untrusted(f"{intent.key}: operator {grant.name} is no admin")
        return
    namespace = namespace_of(intent.key)
    if not namespace or not grant.may_write(namespace):
        raise Untrusted(f"{intent.key}: operator {grant.name} ({grant.role}) may not write there")


def namespace_of(key: str) -> str:
    """The namespace in the key of a workload, object, budget or quota, or of a tombstone of one; else empty."""
    parts = key.split("/")
    return parts[2] if len(parts) == 4 and parts[0] in ("workload", "object", "budget", "quota") and all(parts) else ""


def check_key(intent: Intent) -> None:
    """Raise `Untrusted` unless a body says the same as the key it stands under, and a kind keeps to its own keys: or
    one name could hide behind another, and an operator's record take the place of the CA's."""
    if intent.kind == "tombstone":
        if intent.key.startswith(REVOKED):
            raise Untrusted(f"{intent.key}: a revocation cannot be removed")
        if intent.key == RING_KEY:
            raise Untrusted(f"{intent.key}: a mesh is never without a gossip key; rotate it instead")
        return
    try:
        fits = intent.key == _own_key(intent)
    except UNDECODABLE as error:
        raise Untrusted(f"{intent.key}: its body is no {intent.kind}: {error}") from error
    if not fits:
        raise Untrusted(f"{intent.key}: its body is about something else")


def _own_key(intent: Intent) -> str:
    """The key that a record with this body stands under; empty when the body contradicts itself."""
    match intent.kind:
        case "workload":
            workload = msgspec.msgpack.decode(intent.body, type=Workload)
            return workload_key(workload.workload_id) if workload.revisions else ""
        case "object":
            item = msgspec.msgpack.decode(intent.body, type=SealedObject)
            return object_key(item.kind, item.namespace, item.name)
        case "budget":
            budget = msgspec.msgpack.decode(intent.body, type=Budget)
            return budget_key(budget.namespace, budget.name) if budget.is_sound() else ""
        case "quota":
            quota = msgspec.msgpack.decode(intent.body, type=Quota)
            return quota_key(quota.namespace, quota.name) if quota.is_sound() else ""
        case "priority":
            priority = msgspec.msgpack.decode(intent.body, type=PriorityClass)
            return priority_key(priority.name) if priority.is_sound() else ""
        case "cordon":
            cordon = msgspec.msgpack.decode(intent.body, type=Cordon)
            return cordon_key(cordon.node) if len(cordon.moves) <= MOVES_MAX else ""
        case "ring":
            turn = msgspec.msgpack.decode(intent.body, type=Rotation)
            return RING_KEY if turn.mesh == intent.mesh and turn.epoch == epoch_of(turn.commitment) else ""
        case "membership":
            card = msgspec.msgpack.decode(intent.body, type=Membership)
            sound = card.mesh == intent.mesh and node_id_of(card.sign_key) == card.node_id
            return node_key(card.name) if sound else ""
        case "grant":
            grant = msgspec.msgpack.decode(intent.body, type=Grant)
            sound = grant.mesh == intent.mesh and bytes(node_id_of(grant.sign_key)) == bytes(grant.operator_id)
            return operator_key(grant.name) if sound else ""
        case "revocation":
            revocation = msgspec.msgpack.decode(intent.body, type=Revocation)
            return revoked_key(revocation.subject, revocation.subject_id) if revocation.mesh == intent.mesh else ""
        case _:
            return ""
