"""What leaves a node beside the effects of its protocols: bytes and messages, each with the address it goes to."""

from __future__ import annotations

from typing import Any

import msgspec

from beemesh.ids import NodeId
from beemesh.membership.view import Address

Outward = list[Any]
"""Effects that leave the node: those of `beemesh.effects` without Send, Request and Broadcast, and the four below."""


class Transmit(msgspec.Struct, frozen=True):
    """Send these bytes as a datagram, without any promise."""

    address: Address
    data: bytes


class Tell(msgspec.Struct, frozen=True):
    """Send a message that is too large for a datagram over a stream, without any promise."""

    peer: NodeId
    address: Address
    message: msgspec.Struct


class Ask(msgspec.Struct, frozen=True):
    """Send a request over a stream; `Node.answer` with the same id must follow within `deadline_s` and a little."""

    request_id: int
    peer: NodeId
    address: Address
    message: msgspec.Struct
    deadline_s: float


class Warm(msgspec.Struct, frozen=True):
    """Open a stream to a member, if none is open, without any promise: it is asked often."""

    peer: NodeId
    address: Address
