"""Who may sign what: the whole table."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.errors import Untrusted
from beemesh.identity.signing import Signed
from beemesh.intents.entitlement import verify_intent
from beemesh.intents.record import (
    MOVES_MAX,
    RECORD_BYTES_MAX,
    Cordon,
    Intent,
    Move,
    cordon_key,
    node_key,
    operator_key,
    workload_key,
)
from beemesh.membership.roster import Roster
from simulator.crypto import FakeCrypto
from tests.unit.intents.cast import (
    ADMIN,
    DEPLOYER,
    OLD,
    OUTSIDER,
    VIEWER,
    budget,
    cordon,
    grant,
    intent_map,
    member,
    record,
    revocation,
    sealed_object,
    tombstone,
    workload,
)
from tests.unit.membership.cast import CA, KEYS, MESH, WALL_MS, at, card

SIGNERS = {"ca": CA, "admin": ADMIN, "deployer": DEPLOYER, "viewer": VIEWER, "outsider": OUTSIDER, "node": KEYS[1]}

RIGHTS = {
    "workload in default": (workload, {"ca", "admin"}),
    "workload in shop": (lambda by: workload(by, namespace="shop"), {"ca", "admin", "deployer"}),
    "secret in default": (sealed_object, {"ca", "admin"}),
    "secret in shop": (lambda by: sealed_object(by, "shop"), {"ca", "admin", "deployer"}),
    "removal in default": (lambda by: tombstone(by, "workload/deployment/default/web"), {"ca", "admin"}),
    "removal in shop": (lambda by: tombstone(by, "object/secret/shop/s"), {"ca", "admin", "deployer"}),
    "cordon": (cordon, {"ca", "admin"}),
    "budget in default": (budget, {"ca", "admin"}),
    "budget in shop": (lambda by: budget(by, "shop"), {"ca", "admin", "deployer"}),
    "removal of a budget": (lambda by: tombstone(by, "budget/poddisruptionbudget/default/web"), {"ca", "admin"}),
    "card": (lambda by: member(2, by), {"ca"}),
    "removal of a card": (lambda by: tombstone(by, node_key("n1")), {"ca"}),
    "grant": (lambda by: grant(OLD, "old", "admin", by=by), {"ca"}),
    "removal of a grant": (lambda by: tombstone(by, operator_key("dep")), {"ca"}),
    "revocation": (lambda by: revocation(OLD, "old", WALL_MS, by=by), {"ca"}),
    "removal of a revocation": (lambda by: tombstone(by, "revoked/operator/x"), set()),
}
"""What → (how it is made, who may)."""


@pytest.mark.parametrize("signer", SIGNERS)
@pytest.mark.parametrize("what", RIGHTS)
def test_the_table_of_rights(what: str, signer: str) -> None:
    """Each record stands if, and only if, its signer may make it."""
    make, allowed = RIGHTS[what]

    assert intent_map().merge(make(SIGNERS[signer]), at(0)).stands is (signer in allowed)


def _refused(signed: Signed, because: str, *known: Signed) -> None:
    merged = intent_map(*known).merge(signed, at(0))

    assert not merged.stands
    assert because in merged.reason


def test_a_kind_keeps_to_its_own_keys() -> None:
    """An admin's cordon cannot stand where a card, a grant or a workload does, whatever its number."""
    for key in (node_key("n1"), operator_key("dep"), workload_key("deployment/default/web"), "cordon/n2"):
        _refused(cordon(ADMIN, key, seq=99), "about something else", member(1))
    _refused(member(2, key=node_key("n1"), seq=9), "about something else", member(1))


def test_a_card_names_its_own_key() -> None:
    """Even a card of the CA must bear the id of the key in it, and the mesh of its record."""
    _refused(member(2, sign_key=KEYS[3].sign_key), "about something else")
    _refused(member(2, mesh="other"), "about something else")


def test_a_budget_that_cannot_be_read_is_refused() -> None:
    """Stewards compute with its amounts: both at once, or words, stand nowhere."""
    _refused(budget(ADMIN, min_available="some"), "about something else")
    _refused(budget(ADMIN, min_available="1", max_unavailable="1"), "about something else")


def test_a_cordon_with_too_many_moves_is_refused() -> None:
    """Every node keeps it, so its size has a bound."""
    moves = tuple(Move("deployment/default/web", number) for number in range(MOVES_MAX + 1))
    _refused(record(ADMIN, "cordon", cordon_key("n1"), Cordon("n1", False, moves=moves)), "about something else")


def test_a_body_of_another_shape_is_refused() -> None:
    """Whatever a record's body is, merging it raises nothing."""
    for kind in ("membership", "grant", "revocation", "workload", "object", "cordon", "budget"):
        for body in (b"", b"\xc1", b"\x01", msgspec.msgpack.encode({"mesh": 5})):
            signed = record(CA, kind, "some/key", body)
            _refused(signed, "its body is no")


def test_numbers_keys_and_sizes_have_bounds() -> None:
    """What no honest author makes is refused before it costs anything."""
    for changes in ({"seq": 0}, {"seq": 1 << 53}, {"epoch": -1}, {"epoch": 1 << 60}):
        _refused(workload(**changes), "out of range")
    _refused(record(CA, "tombstone", "k" * 513, None), "out of range")
    _refused(record(CA, "tombstone", "workload/a/b/c", bytes(RECORD_BYTES_MAX)), "larger than")


def test_a_record_of_another_mesh_or_author_is_refused() -> None:
    """The mesh and the author are inside what is signed, and must be ours and the signer."""
    _refused(workload(mesh="other"), "belongs to mesh")
    _refused(workload(author=DEPLOYER.signer_id), "another author")


@given(st.integers(0, 200), st.integers(1, 255))
def test_an_altered_record_is_refused(place: int, change: int) -> None:
    """One flipped bit anywhere, and the record is nobody's."""
    good = workload(CA)
    body = bytearray(good.body)
    body[place % len(body)] ^= change
    merged = intent_map().merge(msgspec.structs.replace(good, body=bytes(body)), at(0))

    assert not merged.stands


def test_a_signature_of_another_kind_does_not_count() -> None:
    """A signed statement of another kind cannot be passed off as a record."""
    good = workload()
    _refused(msgspec.structs.replace(good, kind="event"), "")


def test_a_grant_covers_its_time() -> None:
    """What was signed before it ran out stands, what was signed later does not."""
    short = msgspec.msgpack.decode(msgspec.msgpack.decode(grant(OLD, "old", "admin").body, type=Intent).body)
    short["not_after_ms"] = WALL_MS
    signed = record(CA, "grant", operator_key("old"), msgspec.msgpack.encode(short))

    assert intent_map(signed).merge(workload(OLD), at(0)).stands
    _refused(workload(OLD, issued_ms=WALL_MS + 1), "expired", signed)


def test_a_revoked_operator_signs_nothing_more_and_its_work_goes_on() -> None:
    """Revoking a person must not stop what they deployed, in whichever order the records arrive."""
    known = (grant(OLD, "old", "admin"), revocation(OLD, "old", WALL_MS))

    _refused(workload(OLD), "was revoked", *known)
    assert intent_map(*known).merge(workload(OLD, issued_ms=WALL_MS - 1), at(0)).stands


def test_the_verdict_is_an_untrusted_error_with_a_reason() -> None:
    """Callers that need the record itself get it, or an error that says whose fault it is."""
    roster = Roster(MESH, CA.sign_key)

    assert verify_intent(CA, roster, member(1)).key == "node/n1"
    with pytest.raises(Untrusted, match="no grant"):
        verify_intent(CA, roster, workload(FakeCrypto(b"x")))


def test_the_example_card_is_sound() -> None:
    """The helper's card passes, so the refusals above are for their own reasons."""
    assert intent_map(member(1)).merge(member(1), at(0)).stands
    assert card(1).mesh == MESH
