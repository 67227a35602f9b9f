"""One example of every message at its usual and at its largest, and a mesh of three to send them in."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from beemesh.effects import Now
from beemesh.identity.membership_card import GossipKey, GossipRing
from beemesh.ids import BootId, NodeId
from beemesh.membership import messages as membership
from beemesh.wire.admission import Admission
from beemesh.wire.datagram import DatagramSealer
from beemesh.wire.envelope import Header
from beemesh.wire.registry import encode_message
from simulator.crypto import FakeCrypto
from tests.unit.identity.cast import NOW_MS, keys, roster

RING = GossipRing(active=2, keys=(GossipKey(1, b"old!" * 8), GossipKey(2, b"new!" * 8)))
BOOT = BootId(b"boot id of 16 by")
NOW = Now(boot_s=1_000.0, wall_ms=NOW_MS)
PING = membership.Ping(b"12345678")
NEWS = membership.Claims(())
"""A message that a boot without a floor may not send."""


def later(seconds: float) -> Now:
    """A moment after `NOW`, on both clocks."""
    return Now(NOW.boot_s + seconds, NOW.wall_ms + int(seconds * 1000))


class Speaker:
    """A member that sends datagrams, honest unless told otherwise."""

    def __init__(self, name: str, boot_id: BootId = BOOT, ring: GossipRing = RING) -> None:
        self.crypto = keys(name)
        self.node_id = NodeId(self.crypto.signer_id)
        self.boot_id = boot_id
        self.counter = 0
        self._sealer = DatagramSealer(self.crypto, self.node_id, boot_id, ring)

    def say(self, message: msgspec.Struct = NEWS, wall_ms: int = NOW.wall_ms) -> bytes:
        """The datagram of a message."""
        self.counter += 1
        return self._sealer.seal(*encode_message(message), wall_ms)


def gate(*nodes: str, floorless: Callable[[msgspec.Struct], bool] | None = None) -> Admission:
    """The admission of a node of a mesh of `nodes`."""
    judge = floorless or (lambda message: isinstance(message, membership.Ping | membership.Ack))
    return Admission(keys("receiver"), roster(*nodes), RING, judge)


def header_of(node_id: bytes, counter: int, boot_id: BootId = BOOT, epoch: int = 2) -> Header:
    """A header as anybody can write it."""
    return Header(epoch, NodeId(node_id), boot_id, counter)


CHEAP = FakeCrypto(b"cheap")
