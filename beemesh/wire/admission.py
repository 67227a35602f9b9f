"""The gate that every datagram passes (DESIGN section 4), cheapest checks first.

size → decrypt → known sender → clock skew → window looked up → sender's rate → signature → window entered → decode.
A refusal is counted by its reason and is never an exception. Nothing that is not authenticated costs an honest sender
anything: failures to decrypt share one global budget, and only verified datagrams move a window.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from beemesh.crypto import Crypto
from beemesh.effects import Now
from beemesh.identity.membership_card import GossipRing
from beemesh.ids import BootId, NodeId
from beemesh.membership.roster import Roster
from beemesh.wire.datagram import DATAGRAM_BYTES_MAX, Header, open_envelope, read_header, signed_payload
from beemesh.wire.registry import decode_message
from beemesh.wire.replay import ReplayGuard

CLOCK_SKEW_MS = 30_000

UNDECIPHERED_PER_S = 2_000.0
"""Datagrams of unknown origin that we try to decrypt per second, all sources together: some 3 % of a core."""

FORGED_PER_S = 500.0
"""Datagrams with a false signature, all claimed senders together: a member forged them, and each costs a verification.
Past it they also use up the rate of the member that they claim to come from: there is no telling who it was."""

SENDER_PER_S = 500.0
SENDER_BURST = 1_000.0
"""Datagrams of one member: some twenty times what the busiest sends, so that only a broken or hostile one meets it."""

BUCKETS_MAX = 16_384


class Refusal(StrEnum):
    """Why a datagram was not let in."""

    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    KEY_EPOCH = "key_epoch"
    UNDECIPHERED = "undeciphered"
    BUDGET = "budget"
    UNKNOWN_SENDER = "unknown_sender"
    CLOCK_SKEW = "clock_skew"
    NO_FLOOR = "no_floor"
    REPLAYED = "replayed"
    RATE = "rate"
    SIGNATURE = "signature"
    UNDECODED = "undecoded"


@dataclass(frozen=True, slots=True)
class Admitted:
    """A datagram that is its sender's word, said lately and for the first time."""

    sender: NodeId
    boot_id: BootId
    counter: int
    message: msgspec.Struct
    has_floor: bool
    """False: it may be a recording from before our own start, so only types that bear that are let in."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A datagram that changes nothing; `sender` is who it claims to be from, where that is readable."""

    reason: Refusal
    sender: NodeId | None = None


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_s: float

    def is_empty(self, now_s: float, per_s: float, burst: float) -> bool:
        self.tokens = min(burst, self.tokens + (now_s - self.filled_s) * per_s)
        self.filled_s = now_s
        return self.tokens < 1.0

    def take(self, now_s: float, per_s: float, burst: float) -> bool:
        if self.is_empty(now_s, per_s, burst):
            return False
        self.tokens -= 1.0
        return True


class Admission:
    """Lets datagrams in, or says why not. Memory is bounded by the roster, whatever is thrown at it."""

    def __init__(
        self,
        crypto: Crypto,
        roster: Roster,
        ring: GossipRing,
        floorless: Callable[[msgspec.Struct], bool],
        *,
        clock_skew_ms: int = CLOCK_SKEW_MS,
    ) -> None:
        """`floorless` tells whether a message may be heard from a boot that has no floor yet (pings and their echo)."""
        self._crypto = crypto
        self._roster = roster
        self._floorless = floorless
        self._clock_skew_ms = clock_skew_ms
        self._guard = ReplayGuard()
        self._buckets: OrderedDict[NodeId, _Bucket] = OrderedDict()
        self._undeciphered = _Bucket(UNDECIPHERED_PER_S, 0.0)
        self._forged = _Bucket(FORGED_PER_S, 0.0)
        self.use(ring)

    def use(self, ring: GossipRing) -> None:
        """Accept the ring's keys from now on, and no others."""
        self._keys = {key.epoch: key.key for key in ring.keys}

    def set_floor(self, sender: NodeId, boot_id: BootId, counter: int) -> None:
        """The sender echoed a fresh ping of ours in that datagram: believe the boot from there on."""
        self._guard.set_floor(sender, boot_id, counter)

    def forget(self, sender: NodeId) -> None:
        """The sender left the roster."""
        self._guard.forget(sender)
        self._buckets.pop(sender, None)

    def admit(self, data: bytes, now: Now) -> Admitted | Refused:
        """Judge one datagram; never raises."""
        if len(data) > DATAGRAM_BYTES_MAX:
            return Refused(Refusal.OVERSIZED)
        header = read_header(data)
        if header is None:
            return Refused(Refusal.MALFORMED)
        gossip_key = self._keys.get(header.epoch)
        if gossip_key is None:
            return Refused(Refusal.KEY_EPOCH, header.sender if self._roster.member(header.sender) else None)
        if self._undeciphered.is_empty(now.boot_s, UNDECIPHERED_PER_S, UNDECIPHERED_PER_S) and not self._is_expected(
            header
        ):
            return Refused(Refusal.BUDGET)
        if (member := self._roster.member(header.sender)) is None:
            # The header is authenticated by the AEAD alone, so an unknown sender is told apart only to be counted.
            envelope = open_envelope(self._crypto, gossip_key, header, data)
            return self._undecipherable(now) if envelope is None else Refused(Refusal.UNKNOWN_SENDER, header.sender)
        envelope = open_envelope(self._crypto, gossip_key, header, data)
        if envelope is None:
            return self._undecipherable(now)
        sender = header.sender
        if abs(envelope.wall_ms - now.wall_ms) > self._clock_skew_ms:
            return Refused(Refusal.CLOCK_SKEW, sender)
        if not self._guard.is_fresh(sender, header.boot_id, header.counter):
            return Refused(Refusal.REPLAYED, sender)
        bucket = self._bucket(sender, now)
        if bucket.is_empty(now.boot_s, SENDER_PER_S, SENDER_BURST):
            return Refused(Refusal.RATE, sender)
        payload = signed_payload(header.encode(), envelope.type_code, envelope.wall_ms, envelope.body)
        if not self._crypto.verify(member.sign_key, payload, envelope.signature):
            if not self._forged.take(now.boot_s, FORGED_PER_S, FORGED_PER_S):
                bucket.take(now.boot_s, SENDER_PER_S, SENDER_BURST)
            return Refused(Refusal.SIGNATURE, sender)
        bucket.take(now.boot_s, SENDER_PER_S, SENDER_BURST)
        self._guard.enter(sender, header.boot_id, header.counter)
        has_floor = self._guard.has_floor(sender, header.boot_id)
        message = decode_message(envelope.type_code, envelope.body)
        if message is None:
            return Refused(Refusal.UNDECODED, sender)
        if not has_floor and not self._floorless(message):
            return Refused(Refusal.NO_FLOOR, sender)
        return Admitted(sender, header.boot_id, header.counter, message, has_floor)

    def _is_expected(self, header: Header) -> bool:
        """Under a flood, only what fits a window that an honest sender opened is still worth a decryption."""
        sender, boot_id = header.sender, header.boot_id
        return self._guard.has_floor(sender, boot_id) and self._guard.is_fresh(sender, boot_id, header.counter)

    def _undecipherable(self, now: Now) -> Refused:
        self._undeciphered.take(now.boot_s, UNDECIPHERED_PER_S, UNDECIPHERED_PER_S)
        return Refused(Refusal.UNDECIPHERED)

    def _bucket(self, sender: NodeId, now: Now) -> _Bucket:
        bucket = self._buckets.get(sender)
        if bucket is None:
            bucket = self._buckets[sender] = _Bucket(SENDER_BURST, now.boot_s)
            if len(self._buckets) > BUCKETS_MAX:
                self._buckets.popitem(last=False)
        return bucket
