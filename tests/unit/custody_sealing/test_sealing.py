"""Sealing: who keeps what, what opens it, and that everything else is caught and named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.crypto import Share
from beemesh.custody import sealing
from beemesh.custody.messages import SEALED_BYTES_MAX
from beemesh.custody.sealing import CustodyPlan, Sealed, SealedContent, ShareOffer
from beemesh.errors import InvalidInput, Unavailable, Untrusted
from beemesh.identity.membership_card import Membership
from beemesh.ids import NodeId, digest_of
from beemesh.secret import SecretBytes
from beemesh.workloads.record import Revision
from simulator.crypto import FakeCrypto
from tests.unit.identity.cast import MESH, card, keys

MARKER = b"MARKER-4711-of-a-secret"
KEY = bytes(range(32))
INTENT_KEY = "workload/deployment/default/hello"
CONTENT = SealedContent(manifest=b'{"secret":"' + MARKER + b'"}', issuing_key=b"i" * 32, issuing_pem=b"pem")
WINNER = keys("winner")


def members(count: int, **fields: Any) -> list[Membership]:
    """Keepers on machines of their own."""
    return [card(f"n{number}", **fields) for number in range(count)]


def name_of(node_id: NodeId) -> str:
    """The names that people see."""
    return next(member.name for member in members(10) if member.node_id == node_id)


def sealed(count: int, content: SealedContent = CONTENT) -> tuple[Sealed, CustodyPlan]:
    """The content sealed for a mesh of `count` nodes."""
    plan = sealing.plan_custody(members(count), sealing.place_of(INTENT_KEY))
    made = sealing.seal(
        keys("operator"), KEY, content, plan, mesh=MESH, intent_key=INTENT_KEY, number=7, fingerprint=b"f"
    )
    return made, plan


def released(made: Sealed, plan: CustodyPlan) -> list[ShareOffer]:
    """Every custodian's share, sealed to the winner."""
    offers = []
    for (index, box), member in zip(made.boxes, plan.custodians, strict=True):
        answer = sealing.reseal(keys(member.name), made.revision.sealing, index, box, WINNER.open_key)
        offers.append(ShareOffer(member.node_id, index, answer))
    return offers


def opened(made: Sealed, offers: list[ShareOffer]) -> SealedContent:
    """What the winner gets out of these offers."""
    shares, _ = sealing.good_shares(WINNER, made.revision.sealing, offers, name_of)
    context = sealing.context_of(MESH, INTENT_KEY, made.revision)
    return sealing.decode_content(sealing.open_content(WINNER, context, made.revision, shares, made.ciphertext))


# --- who keeps what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keepers", "scheme", "k", "n"),
    [
        (1, "direct", 1, 1),
        (2, "direct", 1, 2),
        (3, "shamir", 2, 3),
        (4, "shamir", 2, 3),
        (5, "shamir", 3, 5),
        (9, "shamir", 3, 5),
    ],
)
def test_the_sharing_grows_with_the_mesh(keepers: int, scheme: str, k: int, n: int) -> None:
    """1: sealed to it; 2: to each; 3–4: 2 of 3; from 5: 3 of 5; the ciphertext lies on up to three."""
    made, plan = sealed(keepers)
    found = made.revision.sealing
    assert (found.scheme, found.k, found.n, len(found.tickets), len(made.boxes)) == (scheme, k, n, n, n)
    assert len(plan.holders) == len(made.revision.holders) == min(3, keepers)


@given(machines=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12), place=st.binary(min_size=32, max_size=32))
def test_no_two_shares_in_one_failure_domain(machines: list[str], place: bytes) -> None:
    """Agents on one host count as one: no machine gets two shares, and k of them are never on fewer than k machines."""
    keepers = [card(f"n{number}", machine=machine) for number, machine in enumerate(machines)]
    plan = sealing.plan_custody(keepers, place)
    domains = [member.failure_domain for member in plan.custodians]
    assert len(set(domains)) == len(domains)
    apart = len(set(machines))
    assert len(domains) == (apart if apart < 3 else 3 if apart < 5 else 5)


def test_agents_on_one_host_count_apart_only_when_allowed() -> None:
    """`beemesh_allow_same_host` lets a demo on one machine share as a mesh of several would."""
    place = sealing.place_of(INTENT_KEY)
    assert sealing.plan_custody(members(3, machine="m"), place).scheme == "direct"
    assert sealing.plan_custody(members(3, machine="m", allow_same_host=True), place).scheme == "shamir"


def test_everybody_chooses_the_same_custodians() -> None:
    """The choice depends on the workload and the keepers alone, not on their order."""
    place = sealing.place_of(INTENT_KEY)
    assert sealing.plan_custody(members(9), place) == sealing.plan_custody(reversed(members(9)), place)


def test_a_mesh_without_keepers_says_what_to_do() -> None:
    """Nobody keeps shares: an error that names the setting."""
    with pytest.raises(Unavailable, match="no node of the mesh keeps shares") as caught:
        sealing.plan_custody([], bytes(32))
    assert "beemesh_keeper" in caught.value.hint


# --- what opens it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keepers", [1, 2, 3, 4, 5, 7])
def test_every_choice_of_k_shares_opens_and_fewer_do_not(keepers: int) -> None:
    """Any k custodians are enough; with k - 1 the ciphertext does not open, and the error counts them."""
    made, plan = sealed(keepers)
    offers, k = released(made, plan), made.revision.sealing.k
    for chosen in itertools.combinations(offers, k):
        assert opened(made, list(chosen)) == CONTENT
    for chosen in itertools.combinations(offers, k - 1):
        with pytest.raises(Unavailable, match=rf"only {k - 1} of the {k} shares"):
            opened(made, list(chosen))


def test_fewer_shares_open_nothing_by_force_either() -> None:
    """k - 1 real shares with an invented one beside them: the commitment refuses the key that they give."""
    made, plan = sealed(5)
    shares, _ = sealing.good_shares(WINNER, made.revision.sealing, released(made, plan)[:2], name_of)
    shares[5] = Share(5, bytes(32))
    context = sealing.context_of(MESH, INTENT_KEY, made.revision)
    with pytest.raises(Untrusted, match="not the one that the record committed to"):
        sealing.open_content(WINNER, context, made.revision, shares, made.ciphertext)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_an_altered_share_is_caught_and_its_sender_named(data: st.DataObject) -> None:
    """A custodian that hands out a share with one bit changed is named, and the others still open it."""
    made, plan = sealed(5)
    offers = released(made, plan)
    liar = data.draw(st.integers(0, 4))
    index, value = offers[liar].index, bytearray(WINNER.open_box(offers[liar].box))
    bit = data.draw(st.integers(0, 255))
    value[bit // 8] ^= 1 << bit % 8
    offers[liar] = ShareOffer(offers[liar].custodian, index, WINNER.seal_to(WINNER.open_key, bytes(value)))
    shares, bad = sealing.good_shares(WINNER, made.revision.sealing, offers, name_of)
    assert index not in shares
    assert bad == [f"{plan.custodians[liar].name}: sent a share that is not the one the operator made"]
    assert opened(made, offers) == CONTENT


def test_a_share_is_taken_from_its_own_custodian_only() -> None:
    """A real share from somebody who should not have it is refused, and so is one sealed to somebody else."""
    made, plan = sealed(3)
    first, second, _ = released(made, plan)
    stolen = ShareOffer(second.custodian, first.index, first.box)
    foreign = ShareOffer(second.custodian, second.index, made.boxes[1][1])
    shares, bad = sealing.good_shares(WINNER, made.revision.sealing, [stolen, foreign], name_of)
    assert shares == {}
    assert [line.partition(":")[0] for line in bad] == [plan.custodians[1].name] * 2


def test_a_custodian_releases_no_share_that_the_record_does_not_name() -> None:
    """Before it reseals, a custodian opens its own box and compares it with its ticket."""
    made, plan = sealed(3)
    wrong = keys(plan.custodians[0].name).seal_to(plan.custodians[0].open_key, bytes(32))
    with pytest.raises(Untrusted, match="share 1 kept here is not the one"):
        sealing.reseal(keys(plan.custodians[0].name), made.revision.sealing, 1, wrong, WINNER.open_key)
    with pytest.raises(Untrusted, match="was not sealed to our key"):
        sealing.reseal(keys(plan.custodians[1].name), made.revision.sealing, 1, made.boxes[0][1], WINNER.open_key)


@given(data=st.data())
def test_an_altered_ciphertext_does_not_open(data: st.DataObject) -> None:
    """One changed bit anywhere: its address is another, and the cipher itself refuses it too."""
    made, plan = SEALED_FOR_ONE
    altered = bytearray(made.ciphertext)
    bit = data.draw(st.integers(0, len(altered) * 8 - 1))
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Untrusted, match="not the one that the record names"):
        opened(Sealed(made.revision, bytes(altered), made.boxes), released(made, plan))
    moved = msgspec.structs.replace(made.revision, manifest=digest_of(bytes(altered)))
    with pytest.raises(Untrusted, match="altered or moved"):
        opened(Sealed(moved, bytes(altered), made.boxes), released(made, plan))


@pytest.mark.parametrize(
    ("mesh", "key", "changed"),
    [
        ("other", INTENT_KEY, {}),
        (MESH, "workload/deployment/default/evil", {}),
        (MESH, "workload/deployment/evil/hello", {}),
        (MESH, INTENT_KEY, {"number": 8}),
    ],
)
def test_a_seal_opens_in_its_own_place_only(mesh: str, key: str, changed: dict[str, int]) -> None:
    """Ciphertext and shares moved to another mesh, namespace, name or revision do not open."""
    made, plan = sealed(3)
    revision = msgspec.structs.replace(made.revision, **changed)
    shares, _ = sealing.good_shares(WINNER, revision.sealing, released(made, plan), name_of)
    with pytest.raises(Untrusted, match="altered or moved"):
        sealing.open_content(WINNER, sealing.context_of(mesh, key, revision), revision, shares, made.ciphertext)


@pytest.mark.parametrize("changed", [{"epoch": 1}, {"n": 4}])
def test_the_sharing_itself_is_bound(changed: dict[str, int]) -> None:
    """A record that claims another n or epoch for the same ciphertext does not open it."""
    made, plan = sealed(3)
    revision = msgspec.structs.replace(made.revision, sealing=msgspec.structs.replace(made.revision.sealing, **changed))
    with pytest.raises(Untrusted, match="altered or moved"):
        opened(Sealed(revision, made.ciphertext, made.boxes), released(made, plan))


# --- what shows -----------------------------------------------------------------------------------------------------


def test_nothing_of_the_content_shows() -> None:
    """Neither record, ciphertext and boxes, nor what Python prints of them, hold a word of the manifest or the key."""
    made, plan = sealed(5)
    public = msgspec.msgpack.encode(made.revision) + made.ciphertext + b"".join(box for _, box in made.boxes)
    assert MARKER not in public
    assert KEY not in public
    shown = f"{CONTENT!r} {CONTENT} {opened(made, released(made, plan))!r}"
    assert MARKER.decode() not in shown
    assert "MARKER" not in repr(SecretBytes(MARKER))


@given(st.integers(0, 700))
def test_the_length_tells_little(size: int) -> None:
    """The length of a ciphertext is that of the content rounded up to 256 bytes, and the content comes back exactly."""
    content = SealedContent(manifest=b"\x80\0" * size)
    made, plan = sealed(1, content)
    assert (len(made.ciphertext) - 24 - 16) % sealing.PAD_BYTES == 0
    assert opened(made, released(made, plan)) == content


def test_what_is_too_large_is_refused_before_it_leaves() -> None:
    """A content that no holder would keep is refused with its size and what to do."""
    with pytest.raises(InvalidInput, match="more than 4194304") as caught:
        sealed(1, SealedContent(manifest=bytes(SEALED_BYTES_MAX)))
    assert "images or volumes" in caught.value.hint


def test_an_opened_text_that_is_no_content_is_untrusted() -> None:
    """What an operator sealed wrongly is refused without showing it."""
    with pytest.raises(Untrusted) as caught:
        sealing.decode_content(SecretBytes(MARKER))
    assert "MARKER" not in str(caught.value)


def test_two_seals_of_one_content_share_nothing() -> None:
    """Sealed again, even under the same key, content and shares look different."""
    first, second = sealed(5)[0], sealed(5)[0]
    assert first.ciphertext != second.ciphertext
    assert first.boxes != second.boxes
    assert first.revision.sealing.tickets != second.revision.sealing.tickets


def test_a_simulation_seals_and_opens_alike() -> None:
    """The stand-in for cryptography goes through the very same functions, and repeats."""
    owners = {f"n{number}": FakeCrypto(b"%d" % number) for number in range(5)}
    keepers = [
        msgspec.structs.replace(card(name), node_id=NodeId(own.signer_id), sign_key=own.sign_key, open_key=own.open_key)
        for name, own in owners.items()
    ]
    plan = sealing.plan_custody(keepers, sealing.place_of(INTENT_KEY))
    seals = [
        sealing.seal(FakeCrypto(b"op"), KEY, CONTENT, plan, mesh=MESH, intent_key=INTENT_KEY, number=7, fingerprint=b"")
        for _ in range(2)
    ]
    assert seals[0] == seals[1]
    made, winner = seals[0], FakeCrypto(b"winner")
    offers = [
        ShareOffer(
            member.node_id,
            index,
            sealing.reseal(owners[member.name], made.revision.sealing, index, box, winner.open_key),
        )
        for (index, box), member in zip(made.boxes, plan.custodians, strict=True)
    ][2:]
    shares, bad = sealing.good_shares(winner, made.revision.sealing, offers, str)
    context = sealing.context_of(MESH, INTENT_KEY, made.revision)
    assert bad == []
    assert (
        sealing.decode_content(sealing.open_content(winner, context, made.revision, shares, made.ciphertext)) == CONTENT
    )


SEALED_FOR_ONE = sealed(1)


def test_what_was_sealed_once_opens_with_every_later_version() -> None:
    """A record, a ciphertext and shares from when the format was fixed still open: they lie on people's disks."""
    vector = json.loads((Path(__file__).parents[2] / "vectors" / "sealed.json").read_text())
    revision = msgspec.msgpack.decode(bytes.fromhex(vector["revision"]), type=Revision)
    boxes = tuple((box["index"], bytes.fromhex(box["box"])) for box in vector["boxes"])
    made = Sealed(revision, bytes.fromhex(vector["ciphertext"]), boxes)
    plan = CustodyPlan("shamir", 3, tuple(card(box["custodian"]) for box in vector["boxes"]), ())
    assert opened(made, released(made, plan)) == CONTENT
    assert revision.sealing.key_commitment.hex() == vector["key_commitment"] == sealing.commitment_of(KEY).hex()
