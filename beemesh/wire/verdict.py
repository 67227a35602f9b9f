"""What becomes of a datagram at the gate: it is let in as a member's word, or refused for a reason."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from beemesh.ids import BootId, NodeId


class Refusal(StrEnum):
    """Why a datagram was not let in."""

    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    KEY_EPOCH = "key_epoch"
    UNDECIPHERED = "undeciphered"
    BUDGET = "budget"
    UNKNOWN_SENDER = "unknown_sender"
    EXPIRED = "expired"
    """The grace of the sender's membership is over, by our clock."""
    CLOCK_SKEW = "clock_skew"
    NO_FLOOR = "no_floor"
    REPLAYED = "replayed"
    RATE = "rate"
    SIGNATURE = "signature"
    UNDECODED = "undecoded"


class Admitted(msgspec.Struct, frozen=True):
    """A datagram that is its sender's word, said lately and for the first time."""

    sender: NodeId
    boot_id: BootId
    counter: int
    message: msgspec.Struct
    has_floor: bool
    """False: it may be a recording from before our own start, so only types that bear that are let in."""


class Refused(msgspec.Struct, frozen=True):
    """A datagram that changes nothing; `sender` is who it claims to be from, where that is worth a look.

    `said_ms` is the wall time that the sender signed, if that is far ahead of ours and was verified: our own clock may
    be the one that is wrong."""

    reason: Refusal
    sender: NodeId | None = None
    said_ms: int = 0
