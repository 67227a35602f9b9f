"""The record by which a mesh changes its gossip key (intent kind `ring`), and how one is made.

The record carries a commitment to the new key and the key itself sealed to the X25519 keys of members, never in clear.
Whoever has no box in it asks a member that has the key, over a stream, and checks the answer against the commitment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from beemesh.crypto import KEY_BYTES, Crypto
from beemesh.errors import Untrusted
from beemesh.identity.membership_card import GossipKey, Membership
from beemesh.ids import NodeId

RING_KEY = "gossip/ring"
"""The one key of the intent map under which the newest rotation stands."""

BOXES_MAX = 256
"""Members that find the key in the record itself: with 112 bytes each it stays half of a record's limit. In a larger
mesh the others fetch it from these."""

ROTATED_EPOCHS_FROM = 1 << 31
"""Epochs of rotated keys lie above this, those that bootstrap hands out below: neither is ever taken for the other."""


class KeyBox(msgspec.Struct, frozen=True, array_like=True):
    """The key, sealed to one member."""

    node_id: NodeId
    box: bytes


class Rotation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of kind `ring`. `urgent` (with a revocation) shortens the time in which the old key still counts."""

    mesh: str
    epoch: int
    commitment: bytes
    boxes: tuple[KeyBox, ...]
    urgent: bool = False


def commitment_of(key: bytes) -> bytes:
    """What binds a record to the one key that it is about; says nothing of a random key."""
    return hashlib.sha256(b"beemesh/1/gossip-key\0" + key).digest()


def epoch_of(commitment: bytes) -> int:
    """The number of a rotated key in datagrams: two rotations at one time do not share it."""
    return ROTATED_EPOCHS_FROM | int.from_bytes(commitment[:4], "big")


def rotation(crypto: Crypto, mesh: str, members: Iterable[Membership], key: bytes, *, urgent: bool = False) -> Rotation:
    """A rotation to `key`, which is to be 32 fresh random bytes, sealed to the first `BOXES_MAX` of `members`."""
    chosen = list(members)[:BOXES_MAX]
    boxes = tuple(KeyBox(member.node_id, crypto.seal_to(member.open_key, key)) for member in chosen)
    commitment = commitment_of(key)
    return Rotation(mesh, epoch_of(commitment), commitment, boxes, urgent)


def opened(crypto: Crypto, wanted: Rotation, box: bytes) -> GossipKey | None:
    """The key in a box sealed to us, if it is the one that the record commits to."""
    try:
        key = crypto.open_box(box)
    except Untrusted:
        return None
    fits = len(key) == KEY_BYTES and commitment_of(key) == wanted.commitment
    return GossipKey(wanted.epoch, key) if fits else None
