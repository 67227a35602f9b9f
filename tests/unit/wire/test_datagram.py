"""Datagrams: their exact bytes, and that nobody else can make or change one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.ids import BootId, NodeId
from beemesh.wire import datagram
from beemesh.wire.datagram import DatagramSealer, write_header
from beemesh.wire.envelope import Envelope, Header
from tests.unit.identity.cast import keys
from tests.unit.wire.samples import BOOT, RING, Speaker, header_of

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "datagram.json").read_text())
KEY = RING.keys[1].key


def opened(header: Header, data: bytes) -> Envelope | None:
    """What another member reads in a datagram."""
    return datagram.open_envelope(datagram.cipher_of(keys("b"), KEY, header), header, data)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_bytes_are_pinned(vector: dict[str, str | int]) -> None:
    """A datagram of known keys has known bytes: another version of us, or another program, reads it."""
    sender = keys(str(vector["sender"]))
    sealer = DatagramSealer(sender, NodeId(sender.signer_id), BootId(bytes.fromhex(str(vector["boot_id"]))), RING)
    for _ in range(int(vector["counter"])):
        sealed = sealer.seal(int(vector["type"]), bytes.fromhex(str(vector["body"])), int(vector["wall_ms"]))
    assert sealed.hex() == vector["datagram"]
    header = datagram.read_header(sealed)
    assert header is not None
    assert write_header(header).hex() == vector["header"]
    payload = datagram.signed_payload(
        write_header(header), int(vector["type"]), int(vector["wall_ms"]), bytes.fromhex(str(vector["body"]))
    )
    assert payload.hex() == vector["signed"]


def test_the_header_has_61_bytes() -> None:
    """Version, key epoch, sender, boot id, counter, big-endian, in this order."""
    header = Header(0x01020304, NodeId(b"s" * 32), BootId(b"b" * 16), 0x05060708090A0B0C)
    assert write_header(header) == b"\x01\x01\x02\x03\x04" + b"s" * 32 + b"b" * 16 + bytes(range(5, 13))
    assert datagram.HEADER_BYTES == 61
    assert datagram.read_header(write_header(header) + bytes(17)) == header


def test_the_largest_body_fits_and_no_larger() -> None:
    """A body of `BODY_BYTES_MAX` under the largest type and time makes exactly the largest datagram."""
    sealer = DatagramSealer(keys("a"), NodeId(keys("a").signer_id), BOOT, RING)
    largest = sealer.seal(65_535, bytes(datagram.BODY_BYTES_MAX), (1 << 63) - 1)
    assert len(largest) == datagram.DATAGRAM_BYTES_MAX == 1_200
    assert datagram.read_header(largest) is not None
    assert datagram.read_header(largest + b"\0") is None


def test_a_datagram_opens_as_it_was_sealed() -> None:
    """Type, time, body and a signature that holds come out; the counter grows with each."""
    speaker = Speaker("a")
    for counter in (1, 2, 3):
        data = speaker.say()
        header = datagram.read_header(data)
        assert header == header_of(speaker.node_id, counter)
        assert header is not None
        envelope = opened(header, data)
        assert envelope is not None
        payload = datagram.signed_payload(write_header(header), envelope.type_code, envelope.wall_ms, envelope.body)
        assert keys("b").verify(speaker.crypto.sign_key, payload, envelope.signature)


@given(st.data())
def test_no_altered_bit_opens(data: st.DataObject) -> None:
    """Any one bit changed, in the clear header or behind it, and the datagram does not open."""
    speaker = Speaker("a")
    sealed = bytearray(speaker.say())
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    header = datagram.read_header(bytes(sealed))
    assert header is None or opened(header, bytes(sealed)) is None


@given(st.binary(max_size=1_300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Whatever arrives, a header is read or not, and an envelope opens or not: never an exception."""
    header = datagram.read_header(data)
    if header is not None:
        assert opened(header, data) is None


@given(plaintext=st.binary(max_size=200))
def test_no_plaintext_of_a_member_breaks_the_reader(plaintext: bytes) -> None:
    """A member knows the gossip key and may encrypt anything: what is no envelope is refused without an exception."""
    speaker = Speaker("a")
    header = header_of(speaker.node_id, 1)
    head = write_header(header)
    sealed = head + datagram.cipher_of(speaker.crypto, KEY, header).encrypt(1, plaintext, head)
    envelope = opened(header, sealed)
    assert envelope is None or len(envelope.signature) == 64


def test_sending_follows_the_ring() -> None:
    """Sending changes to the ring's active key at once."""
    speaker = Speaker("a")
    sealer = DatagramSealer(speaker.crypto, speaker.node_id, BOOT, RING)
    old = datagram.read_header(sealer.seal(1, b"", 0))
    sealer.use(type(RING)(active=1, keys=RING.keys))
    new = datagram.read_header(sealer.seal(1, b"", 0))
    assert old is not None
    assert new is not None
    assert (old.epoch, new.epoch, new.counter) == (2, 1, 2)
