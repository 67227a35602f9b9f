"""The bytes of one datagram: a clear header, then an AEAD around a signed envelope.

    version u8 | key epoch u32 | sender 32 | boot id 16 | counter u64 | AEAD of [type, wall_ms, body, signature]

The header is the AEAD's associated data. The Ed25519 signature covers the header too: the gossip key is shared, so
without that an insider could wrap somebody's envelope anew under another boot or counter (docs/adr/0001).
"""

from __future__ import annotations

import struct

import msgspec

from beemesh.crypto import Crypto, DatagramCipher
from beemesh.identity.membership_card import GossipRing
from beemesh.identity.signing import SIGNATURE_BYTES, payload_of
from beemesh.ids import BOOT_ID_BYTES, NODE_ID_BYTES, BootId, NodeId
from beemesh.undecodable import UNDECODABLE
from beemesh.wire.envelope import Envelope, Header

VERSION = 1
DATAGRAM_BYTES_MAX = 1_200
"""Fits every network in use without fragments, tunnels included (DESIGN section 4)."""

SIGNED_KIND = "datagram"
_SIGNED_PREFIX = payload_of(SIGNED_KIND, b"")
_SIGNED_HEAD = struct.Struct(">HQ")
_HEADER = struct.Struct(f">BI{NODE_ID_BYTES}s{BOOT_ID_BYTES}sQ")
HEADER_BYTES = _HEADER.size
TAG_BYTES = 16
ENVELOPE_OVERHEAD_BYTES = 4 + 9 + 3 + 2 + SIGNATURE_BYTES
"""Array and type, time, and the lengths of body and signature, at their largest."""

BODY_BYTES_MAX = DATAGRAM_BYTES_MAX - HEADER_BYTES - TAG_BYTES - ENVELOPE_OVERHEAD_BYTES
"""What a message may take encoded; a larger one goes over a stream."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def signed_payload(header: bytes, type_code: int, wall_ms: int, body: bytes) -> bytes:
    """What the envelope's signature covers."""
    return b"".join((_SIGNED_PREFIX, header, _SIGNED_HEAD.pack(type_code, wall_ms), body))


def write_header(header: Header) -> bytes:
    """The header's bytes, `HEADER_BYTES` of them."""
    return _HEADER.pack(VERSION, header.epoch, header.sender, header.boot_id, header.counter)


def read_header(data: bytes) -> Header | None:
    """The header of a datagram; None when it is too short, too long or of another version."""
    if not HEADER_BYTES + TAG_BYTES < len(data) <= DATAGRAM_BYTES_MAX:
        return None
    version, *fields = _HEADER.unpack_from(data)
    return Header(*fields) if version == VERSION else None


def cipher_of(crypto: Crypto, gossip_key: bytes, header: Header) -> DatagramCipher:
    """The cipher of the boot that a header names; some 10 us to make."""
    return crypto.datagram_cipher(crypto.datagram_key(gossip_key, header.sender, header.boot_id))


def open_envelope(cipher: DatagramCipher, header: Header, data: bytes) -> Envelope | None:
    """Decrypt and decode what follows the header; None when it does not authenticate under the gossip key."""
    plaintext = cipher.decrypt(header.counter, data[HEADER_BYTES:], data[:HEADER_BYTES])
    if plaintext is None:
        return None
    try:
        envelope = _decoder.decode(plaintext)
    except UNDECODABLE:
        return None
    in_range = 0 <= envelope.type_code < 1 << 16 and 0 <= envelope.wall_ms < 1 << 63
    return envelope if in_range and len(envelope.signature) == SIGNATURE_BYTES else None


class DatagramSealer:
    """Makes one boot's datagrams: counts them, signs them and encrypts them under the active gossip key."""

    def __init__(self, crypto: Crypto, self_id: NodeId, boot_id: BootId, ring: GossipRing) -> None:
        self._crypto = crypto
        self._self_id = self_id
        self._boot_id = boot_id
        self._counter = 0
        self.use(ring)

    def use(self, ring: GossipRing) -> None:
        """Send under the ring's active key from now on."""
        self._epoch = ring.active
        gossip_key = next(key.key for key in ring.keys if key.epoch == ring.active)
        self._cipher = cipher_of(self._crypto, gossip_key, Header(ring.active, self._self_id, self._boot_id, 0))

    def seal(self, type_code: int, body: bytes, wall_ms: int) -> bytes:
        """The datagram of one message; `body` may have `BODY_BYTES_MAX` bytes."""
        self._counter += 1
        header = write_header(Header(self._epoch, self._self_id, self._boot_id, self._counter))
        signature = self._crypto.sign(signed_payload(header, type_code, wall_ms, body))
        plaintext = _encoder.encode(Envelope(type_code, wall_ms, body, signature))
        return header + self._cipher.encrypt(self._counter, plaintext, header)
