"""Who belongs to the mesh, and who is there: the two read models."""

from __future__ import annotations

import hashlib

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from beemesh.identity.grants import Grant, Revocation
from beemesh.identity.membership_card import GRACE_MS
from beemesh.ids import NodeId, OperatorId
from beemesh.intents.record import Intent, node_key, operator_key, revoked_key
from beemesh.membership.roster import Roster
from beemesh.membership.summaries import Summary
from beemesh.membership.view import ABSENT, PRESENT, Status, View
from tests.unit.membership.cast import CA, FAR_MS, IDS, KEYS, MESH, membership, roster


def _revocation(subject: str, subject_id: bytes) -> Intent:
    body = Revocation(MESH, "node" if subject == "node" else "operator", subject_id, "x", 5)
    return Intent(
        MESH, "revocation", revoked_key(subject, subject_id), 1, CA.signer_id, 0, msgspec.msgpack.encode(body)
    )


def _grant() -> Intent:
    operator = OperatorId(KEYS[7].signer_id)
    body = Grant(MESH, operator, "ops", KEYS[7].sign_key, KEYS[7].open_key, "admin", 1, 0, FAR_MS)
    return Intent(MESH, "grant", operator_key("ops"), 1, CA.signer_id, 0, msgspec.msgpack.encode(body))


def test_members_are_sorted_and_found_by_id_and_name() -> None:
    """Every reader sees the same order, and a member by either of its names."""
    known = roster(4)

    assert [card.node_id for card in known.members()] == sorted(IDS[:4])
    assert known.member(IDS[2]) is known.named("n2")
    assert known.member(IDS[5]) is None


def test_a_revoked_node_is_no_member_in_whatever_order_it_is_learned() -> None:
    """A revocation wins over the card, before and after it."""
    after, before = roster(2), Roster(MESH, CA.sign_key)
    after.apply(_revocation("node", IDS[1]))
    before.apply(_revocation("node", IDS[1]))
    before.apply(membership(0))
    before.apply(membership(1, seq=9))

    for known in (after, before):
        assert known.member(IDS[1]) is None
        assert known.named("n1") is None
        assert known.is_revoked(IDS[1])
        assert known.standing(IDS[1], 0) == "out"
        assert len(known.members()) == 1


def test_a_new_key_for_a_name_takes_its_place() -> None:
    """Signing a new identity for a name leaves no room for the old one."""
    known = roster(2)
    known.apply(membership(1, seq=2, node_id=IDS[6], sign_key=KEYS[6].sign_key))

    assert known.member(IDS[1]) is None
    assert known.named("n1") is known.member(IDS[6])


def test_standing_passes_through_grace() -> None:
    """A card that ran out leaves 90 days before it shuts its node out."""
    known = Roster(MESH, CA.sign_key)
    known.apply(membership(0, not_after_ms=1_000))

    assert known.standing(IDS[0], 1_000) == "valid"
    assert known.standing(IDS[0], 1_001) == "grace"
    assert known.standing(IDS[0], 1_000 + GRACE_MS) == "grace"
    assert known.standing(IDS[0], 1_001 + GRACE_MS) == "out"


def test_the_digest_is_that_of_the_keepers() -> None:
    """A laptop that keeps nothing does not change who would hold a record; a keeper does."""
    known, two = roster(2), roster(2)
    known.apply(membership(2, roles=()))

    assert known.digest() == two.digest() == hashlib.sha256(b"".join(sorted(IDS[:2]))).digest()
    known.apply(membership(3))
    assert known.digest() != two.digest()


def test_a_removed_card_is_gone() -> None:
    """A tombstone takes a node, or an operator, out of the roster."""
    known = roster(2)
    known.apply(_grant())
    assert known.grant(KEYS[7].signer_id) is not None

    for key in (node_key("n1"), operator_key("ops")):
        known.apply(Intent(MESH, "tombstone", key, 2, CA.signer_id, 0))

    assert known.member(IDS[1]) is None
    assert known.grant(KEYS[7].signer_id) is None


def test_a_revoked_operator_has_no_grant_but_its_old_signatures_can_be_checked() -> None:
    """`grant` is for what is asked now, `issued_grant` for what was signed before."""
    known = roster(1)
    known.apply(_grant())
    known.apply(_revocation("operator", KEYS[7].signer_id))

    assert known.grant(KEYS[7].signer_id) is None
    assert known.issued_grant(KEYS[7].signer_id) is not None
    assert known.grants() == ()


def test_a_view_holds_members_only() -> None:
    """Whoever leaves the roster is unknown at once, and this node is always alive."""
    known = roster(3)
    view = View(IDS[0], known)
    for index in (1, 2):
        view.set_status(IDS[index], "alive")
    assert view.alive() == tuple(sorted(IDS[:3]))

    known.apply(_revocation("node", IDS[1]))

    assert view.status(IDS[1]) == "unknown"
    assert view.alive() == tuple(sorted([IDS[0], IDS[2]]))
    assert view.is_alive(IDS[0])


def test_a_suspect_counts_as_alive() -> None:
    """Suspicion is a question; only its answer takes a member out."""
    view = View(IDS[0], roster(2))
    view.set_status(IDS[1], "suspect")
    assert view.is_alive(IDS[1])

    view.set_status(IDS[1], "dead")
    assert not view.is_alive(IDS[1])


def test_an_address_comes_from_the_node_itself_before_its_card() -> None:
    """What a node last signed about its address beats what the CA knew at bootstrap."""
    view = View(IDS[0], roster(2))
    assert view.address(IDS[1]) == ("10.0.0.1", 7946)

    view.set_address(IDS[1], ("192.168.1.9", 9000))

    assert view.address(IDS[1]) == ("192.168.1.9", 9000)
    assert view.address(NodeId(bytes(32))) is None


def test_round_trips_are_averaged() -> None:
    """One slow echo moves the average by an eighth."""
    view = View(IDS[0], roster(2))
    view.add_rtt(IDS[1], 0.010)
    view.add_rtt(IDS[1], 0.090)

    assert view.rtt_s(IDS[1]) == 0.010 + 0.080 / 8


def test_a_summary_from_a_newer_agent_is_read() -> None:
    """Fields are added at the end, and those that a reader does not know are ignored."""
    known = [IDS[1], 7, 8, *([0] * 9), 0.5, 1, 2, True, "podman", "9.9", 2, b"", 1, 2, 3, b""]
    encoded = msgspec.msgpack.encode([*known, "new"])

    summary = msgspec.msgpack.decode(encoded, type=Summary)

    assert (summary.seq, summary.cordoned, summary.agent_version) == (7, True, "9.9")


@given(st.lists(st.tuples(st.integers(1, 7), st.sampled_from(["alive", "suspect", "dead", "left"])), max_size=40))
def test_the_view_always_knows_who_is_present_and_who_is_absent(steps: list[tuple[int, Status]]) -> None:
    """Whatever is concluded, revoked and forgotten: `alive` and `absent` are those that their statuses say."""
    known = roster(8)
    view = View(IDS[0], known)
    for number, (index, status) in enumerate(steps):
        if status == "left" and number % 3 == 0:
            known.apply(_revocation("node", IDS[index]))
            if number % 2:
                view.forget(IDS[index])
        elif known.member(IDS[index]) is not None:
            view.set_status(IDS[index], status)
        statuses = {card.node_id: view.status(card.node_id) for card in known.members()}
        assert view.alive() == tuple(sorted({IDS[0]} | {node for node, each in statuses.items() if each in PRESENT}))
        absent = view.absent()
        assert sorted(absent) == sorted(node for node, each in statuses.items() if each in ABSENT)


def test_a_view_may_begin_with_what_others_share() -> None:
    """What is shared is read until this view learns something itself; nobody else sees that."""
    known = roster(4)
    shared: dict[NodeId, Status] = dict.fromkeys(IDS[:3], "alive")
    views = [View(IDS[index], known) for index in range(2)]
    for view in views:
        view.begin_with(shared, tuple(sorted(IDS[:3])), (IDS[3],))
    views[0].set_status(IDS[2], "dead")

    assert views[0].alive() == tuple(sorted(IDS[:2]))
    assert sorted(views[0].absent()) == sorted(IDS[2:4])
    assert views[1].alive() == tuple(sorted(IDS[:3]))
    assert views[1].absent() == [IDS[3]]


def test_a_new_card_changes_what_is_read_of_all() -> None:
    """Sorted members, keepers and the digest follow every card, also when they were read before."""
    growing = Roster(MESH, CA.sign_key)
    for index in range(6):
        growing.apply(membership(index, roles=("worker",)) if index % 2 else membership(index))
        fresh = Roster(MESH, CA.sign_key)
        for other in range(index, -1, -1):
            fresh.apply(membership(other, roles=("worker",)) if other % 2 else membership(other))
        assert (growing.members(), growing.keepers()) == (fresh.members(), fresh.keepers())
        assert growing.digest() == fresh.digest()
    assert len(growing) == 6
    assert growing.removals == 0
