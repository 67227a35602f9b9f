"""Who may sign what: every record of the intent map is checked by each node for itself, wherever it came from."""

from __future__ import annotations

import msgspec

from beemesh.errors import Untrusted
from beemesh.identity.grants import Grant
from beemesh.identity.signing import Signed, Verifier, decode_body, open_statement
from beemesh.ids import to_text
from beemesh.intents.record import CA_KINDS, RECORD_BYTES_MAX, SIGNED_KIND, Intent, object_key, workload_key
from beemesh.membership.roster import Roster
from beemesh.workloads.record import SealedObject, Workload

NUMBER_MAX = 1 << 53
"""Largest epoch and seq: what JSON readers can hold, and far beyond any history."""

KEY_CHARS_MAX = 512


def verify_intent(verifier: Verifier, roster: Roster, signed: Signed) -> Intent:
    """The record inside `signed`, once its form, its signature and its author's right to it hold; else `Untrusted`.

    An operator that was revoked since keeps what it signed before: revoking a person must not stop their workloads.
    """
    if len(signed.body) > RECORD_BYTES_MAX:
        raise Untrusted(f"a record of {len(signed.body)} bytes is larger than {RECORD_BYTES_MAX}")
    intent = decode_body(signed, Intent)
    if intent.mesh != roster.mesh:
        raise Untrusted(f"{intent.key}: belongs to mesh {intent.mesh!r}, not to {roster.mesh!r}")
    if not (0 <= intent.epoch < NUMBER_MAX and 0 < intent.seq < NUMBER_MAX and len(intent.key) <= KEY_CHARS_MAX):
        raise Untrusted(f"{intent.key[:80]}: its numbers or its key are out of range")
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
    _check_key(intent)
    return intent


def _grant(roster: Roster, intent: Intent) -> Grant:
    grant = roster.issued_grant(intent.author)
    if grant is None:
        raise Untrusted(f"{intent.key}: operator {to_text(intent.author)[:10]} has no grant in this mesh")
    revocation = roster.revocation(intent.author)
    if revocation is not None and intent.issued_ms >= revocation.revoked_at_ms:
        raise Untrusted(f"{intent.key}: operator {grant.name} was revoked before this was signed")
    if intent.issued_ms > grant.not_after_ms:
        raise Untrusted(f"{intent.key}: the grant of operator {grant.name} had expired when this was signed")
    return grant


def _check_right(grant: Grant, intent: Intent) -> None:
    if intent.kind == "cordon":
        if grant.role != "admin":
            raise Untrusted(f"{intent.key}: operator {grant.name} is no admin")
        return
    namespace = namespace_of(intent.key)
    if not namespace or not grant.may_write(namespace):
        raise Untrusted(f"{intent.key}: operator {grant.name} ({grant.role}) may not write there")


def namespace_of(key: str) -> str:
    """The namespace in the key of a workload or object (or of their tombstones); empty for other keys."""
    parts = key.split("/")
    return parts[2] if len(parts) == 4 and parts[0] in ("workload", "object") and all(parts) else ""


def _check_key(intent: Intent) -> None:
    """A body must say the same as the key it stands under, or one name could hide behind another."""
    try:
        if intent.kind == "workload":
            workload = msgspec.msgpack.decode(intent.body, type=Workload)
            fits = intent.key == workload_key(workload.workload_id) and bool(workload.revisions)
        elif intent.kind == "object":
            item = msgspec.msgpack.decode(intent.body, type=SealedObject)
            fits = intent.key == object_key(item.kind, item.namespace, item.name)
        else:
            fits = True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Untrusted(f"{intent.key}: its body is no {intent.kind}: {error}") from error
    if not fits:
        raise Untrusted(f"{intent.key}: its body is about something else")
