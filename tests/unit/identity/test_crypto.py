"""The real cryptography behind the port, and the promises that the simulator's stand-in keeps as well."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.crypto import Crypto, Share
from beemesh.crypto_native import NativeCrypto
from beemesh.errors import Untrusted
from beemesh.identity.signing import Signed, open_statement, payload_of, sign_statement
from beemesh.intents.record import Cordon, Intent
from simulator.crypto import FakeCrypto
from tests.unit.identity.cast import keys

PAIRS = {"native": (keys("a"), keys("b")), "simulated": (FakeCrypto(b"a"), FakeCrypto(b"b"))}
KEY = bytes(range(32))
VECTORS = Path(__file__).parents[2] / "vectors"


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Crypto, Crypto]:
    """Two parties, by either implementation of the port."""
    return PAIRS[request.param]


def test_ids_and_keys_have_their_sizes(pair: tuple[Crypto, Crypto]) -> None:
    """Keys and IDs are 32 bytes, and differ between parties."""
    a, b = pair
    assert {len(value) for value in (a.sign_key, a.open_key, a.signer_id)} == {32}
    assert len({a.sign_key, a.open_key, a.signer_id, b.sign_key, b.open_key, b.signer_id}) == 6


def test_a_signature_holds_for_its_key_and_payload_alone(pair: tuple[Crypto, Crypto]) -> None:
    """A signature verifies under the signer's key for the signed bytes, and for nothing else."""
    a, b = pair
    signature = a.sign(b"payload")
    assert len(signature) == 64
    assert b.verify(a.sign_key, b"payload", signature)
    assert not b.verify(b.sign_key, b"payload", signature)
    assert not b.verify(a.sign_key, b"Payload", signature)
    assert not b.verify(a.sign_key, b"payload", bytes([signature[0] ^ 1]) + signature[1:])


@given(key=st.binary(max_size=40), payload=st.binary(max_size=80), signature=st.binary(max_size=80))
def test_malformed_signatures_are_refused_without_an_exception(key: bytes, payload: bytes, signature: bytes) -> None:
    """`verify` answers False to whatever comes."""
    assert keys("a").verify(key, payload, signature) is False


def test_a_statement_within_a_statement_does_not_verify() -> None:
    """Bytes that an author quoted in one statement cannot be cut out as a statement of their own.

    libsodium takes signature and payload as one text: without a length check, a "signature" that carries the start of
    what was signed would make its end look signed alone.
    """
    author = keys("a")
    inner = payload_of("intent", b"admin for everybody")
    outer = author.sign(payload_of("event", b"somebody wrote: ") + inner)
    long_signature = outer + payload_of("event", b"somebody wrote: ")
    assert not author.verify(author.sign_key, inner, long_signature)
    signature = author.sign(inner)
    assert not author.verify(author.sign_key, signature[60:] + inner, signature[:60])


def test_a_statement_of_one_kind_is_none_of_another() -> None:
    """The kind is signed too, and the body is checked against its type only after the signature."""
    author = keys("a")
    signed = sign_statement(author, "cordon", Cordon(node="n1", cordoned=True))
    assert open_statement(author, signed, "cordon", author.sign_key, Cordon).cordoned
    with pytest.raises(Untrusted, match="expected a signed intent"):
        open_statement(author, signed, "intent", author.sign_key, Intent)
    renamed = Signed(kind="intent", body=signed.body, signer=signed.signer, signature=signed.signature)
    with pytest.raises(Untrusted, match="does not verify"):
        open_statement(author, renamed, "intent", author.sign_key, Intent)


@pytest.mark.parametrize(
    "body", [b"\x81\xa4node\xa1\xff", b"\xc1", b"", b"\x91" * 5000], ids=["utf8", "c1", "-", "deep"]
)
def test_a_signed_body_of_another_shape_is_untrusted(body: bytes) -> None:
    """A body that does not decode (bad text and bottomless nesting included) is `Untrusted`, not a crash."""
    author = keys("a")
    signed = Signed("cordon", body, author.signer_id, author.sign(payload_of("cordon", body)))
    with pytest.raises(Untrusted, match="does not decode"):
        open_statement(author, signed, "cordon", author.sign_key, Cordon)


def test_a_box_opens_for_its_owner_alone(pair: tuple[Crypto, Crypto]) -> None:
    """A sealed box opens with the key that it was sealed to, and only unaltered."""
    a, b = pair
    box = a.seal_to(b.open_key, b"share")
    assert b.open_box(box) == b"share"
    for wrong in (box[:-1], box[:-1] + bytes([box[-1] ^ 1]), b""):
        with pytest.raises(Untrusted):
            b.open_box(wrong)
    with pytest.raises(Untrusted):
        a.open_box(box)


def test_sealing_to_a_useless_key_is_refused() -> None:
    """A key of the wrong length or of small order is refused rather than sealed to."""
    for key in (b"", bytes(31), bytes(32)):
        with pytest.raises(Untrusted):
            keys("a").seal_to(key, b"share")


def test_encryption_is_bound_to_key_and_context(pair: tuple[Crypto, Crypto]) -> None:
    """A text opens with its key and associated data, and is refused moved, altered, cut or with another key."""
    a, _ = pair
    sealed = a.encrypt(KEY, b"plain", b"here")
    assert a.decrypt(KEY, sealed, b"here") == b"plain"
    altered = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for key, text, place in ((KEY[::-1], sealed, b"here"), (KEY, altered, b"here"), (KEY, sealed, b"there")):
        with pytest.raises(Untrusted):
            a.decrypt(key, text, place)
    for size in (0, 1, 16, len(sealed) - 1):
        with pytest.raises(Untrusted):
            a.decrypt(KEY, sealed[:size], b"here")


def test_equal_texts_never_encrypt_alike() -> None:
    """Each encryption draws a nonce of its own."""
    assert keys("a").encrypt(KEY, b"plain", b"") != keys("a").encrypt(KEY, b"plain", b"")


def test_datagram_keys_differ_by_sender_boot_and_ring(pair: tuple[Crypto, Crypto]) -> None:
    """Each boot of each sender has its own subkey under each gossip key, and both sides derive the same."""
    a, b = pair
    places = list(itertools.product((KEY, KEY[::-1]), (b"s" * 32, b"t" * 32), (b"b" * 16, b"c" * 16)))
    derived = {a.datagram_key(*place) for place in places}
    assert len(derived) == len(places)
    assert derived == {b.datagram_key(*place) for place in places}


def test_a_datagram_opens_at_its_counter_with_its_header_alone(pair: tuple[Crypto, Crypto]) -> None:
    """Another counter, header, key or a flipped bit gives None; the text grows by 16 bytes."""
    a, b = pair
    sealed = a.datagram_cipher(KEY).encrypt(7, b"plain", b"header")
    cipher = b.datagram_cipher(KEY)
    assert len(sealed) == len(b"plain") + 16
    assert cipher.decrypt(7, sealed, b"header") == b"plain"
    assert cipher.decrypt(8, sealed, b"header") is None
    assert cipher.decrypt(7, sealed, b"Header") is None
    assert b.datagram_cipher(KEY[::-1]).decrypt(7, sealed, b"header") is None
    assert cipher.decrypt(7, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"header") is None
    assert cipher.decrypt(7, b"", b"header") is None


@pytest.mark.parametrize("crypto", [keys("a"), FakeCrypto(b"a")], ids=PAIRS)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), secret=st.binary(min_size=32, max_size=32), n=st.integers(2, 6))
def test_any_k_shares_open_and_fewer_do_not(crypto: Any, data: st.DataObject, secret: bytes, n: int) -> None:
    """Shamir: every choice of k shares gives the secret, k - 1 of them do not."""
    k = data.draw(st.integers(2, n))
    shares = data.draw(st.permutations(crypto.split(secret, k, n)))
    assert crypto.combine(shares[:k]) == secret
    with contextlib.suppress(Untrusted):
        assert crypto.combine(shares[: k - 1]) != secret


@pytest.mark.parametrize("crypto", [keys("a"), FakeCrypto(b"a")], ids=PAIRS)
def test_shares_that_cannot_belong_together_are_refused(crypto: Any) -> None:
    """The same share twice is an error with a reason; a changed one gives another secret."""
    shares = crypto.split(KEY, 2, 3)
    with pytest.raises(Untrusted, match="do not belong together"):
        crypto.combine([shares[0], shares[0]])
    wrong = Share(shares[1].index, bytes(32))
    assert crypto.combine([shares[0], wrong]) != KEY


def test_the_same_coefficients_are_never_used_for_both_halves() -> None:
    """The halves of a secret are shared apart: equal halves have different shares."""
    shares = keys("a").split(b"h" * 32, 2, 3)
    assert all(share.value[:16] != share.value[16:] for share in shares)


def test_stored_shares_open_with_every_later_version() -> None:
    """Shares that were made when the format was fixed combine to the same secret: they lie on people's disks."""
    for case in json.loads((VECTORS / "shamir.json").read_text()):
        shares = [Share(share["index"], bytes.fromhex(share["value"])) for share in case["shares"]]
        for chosen in itertools.combinations(shares, case["k"]):
            assert keys("a").combine(chosen).hex() == case["secret"]


@pytest.mark.parametrize(("size", "k", "n"), [(31, 2, 3), (33, 2, 3), (32, 1, 3), (32, 4, 3), (32, 2, 256)])
def test_impossible_sharings_are_refused(size: int, k: int, n: int) -> None:
    """A secret of another size, or a threshold that cannot be, is a programming error and says so."""
    with pytest.raises(ValueError, match="cannot share"):
        keys("a").split(bytes(size), k, n)


def test_private_keys_do_not_show() -> None:
    """No private half appears in what Python prints of a key holder; the halves come back as they were."""
    made = NativeCrypto.generate()
    sign_private, open_private = made.private_keys()
    text = f"{made!r} {sign_private!r} {open_private} {made.private_keys()}"
    assert sign_private.reveal().hex() not in text
    assert repr(sign_private.reveal()) not in text
    again = NativeCrypto(sign_private.reveal(), open_private.reveal())
    assert (again.sign_key, again.open_key) == (made.sign_key, made.open_key)


def test_the_simulated_crypto_repeats() -> None:
    """Every operation of the stand-in gives the same bytes again, so that a trace repeats."""
    first, second = FakeCrypto(b"x"), FakeCrypto(b"x")
    assert first.sign(b"p") == second.sign(b"p")
    assert first.encrypt(KEY, b"p", b"") == second.encrypt(KEY, b"p", b"")
    assert first.split(KEY, 3, 5) == second.split(KEY, 3, 5)
    assert first.seal_to(second.open_key, b"p") == second.seal_to(first.open_key, b"p")
