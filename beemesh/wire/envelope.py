"""What stands in a datagram: the clear header, and the envelope that is encrypted."""

from __future__ import annotations

import msgspec

from beemesh.ids import BootId, NodeId


class Header(msgspec.Struct, frozen=True):
    """The clear part. `epoch` names the gossip key; (`boot_id`, `counter`) never repeats for a sender."""

    epoch: int
    sender: NodeId
    boot_id: BootId
    counter: int


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """The encrypted part: what was said, when by the sender's clock, and the sender's signature."""

    type_code: int
    wall_ms: int
    body: bytes
    signature: bytes
