"""The gate that every datagram passes (DESIGN section 4), cheapest checks first.

size → within its grace → decrypt → known sender → clock skew → window looked up → sender's rate → signature → window
entered → decode.
A refusal is counted by its reason and is never an exception. Nothing that is not authenticated costs an honest sender
anything: what brings no member's word draws on global budgets, and past them only what an honest sender may well have
sent is looked at; only verified datagrams move a window, use up a rate, or make us remember anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from beemesh.crypto import Crypto, DatagramCipher
from beemesh.effects import Now
from beemesh.identity.membership_card import GossipRing, Membership
from beemesh.ids import BootId, NodeId
from beemesh.membership.roster import Roster
from beemesh.membership.view import Address
from beemesh.wire.datagram import (
    DATAGRAM_BYTES_MAX,
    HEADER_BYTES,
    cipher_of,
    open_envelope,
    read_header,
    signed_payload,
)
from beemesh.wire.envelope import Envelope, Header
from beemesh.wire.registry import decode_message
from beemesh.wire.replay import ReplayGuard
from beemesh.wire.verdict import Admitted, Refusal, Refused

CLOCK_SKEW_MS = 30_000

UNDECIPHERED_PER_S = 2_000.0
"""Datagrams per second, all sources together, that are looked into in vain: altered ones, those of strangers who know
the gossip key, and those under a key that we do not know. Some 3 % of a core."""

FORGED_PER_S = 500.0
"""Datagrams with a false signature, all claimed senders together: a member forged them, and each costs a verification,
so they may take 5 % of a core. Past it only those are verified that come from where the member was last heard, if it
was. Whoever forges the source address, too, uses up the rate of that member, and of nobody else: there is no telling
them apart."""

SENDER_PER_S = 500.0
SENDER_BURST = 1_000.0
"""Datagrams of one member: some twenty times what the busiest sends, so that only a broken or hostile one meets it."""

TESTIMONIES_PER_S = 10.0
"""Datagrams from a later time whose signature is verified, all senders together: two are enough to set a clock, and
members whose clocks are wrong must not cost us more."""

PEERS_MAX = 4_096
"""Senders of whom something is remembered: more than any roster. Each takes some 3 KiB, most of it for the cipher."""


class _Bucket:
    """Tokens that come back with time."""

    __slots__ = ("burst", "filled_s", "per_s", "tokens")

    def __init__(self, per_s: float, burst: float, now_s: float) -> None:
        self.per_s = per_s
        self.burst = burst
        self.tokens = burst
        self.filled_s = now_s

    def is_empty(self, now_s: float) -> bool:
        """Whether no token is left; fills up first."""
        tokens = self.tokens + (now_s - self.filled_s) * self.per_s
        self.filled_s = now_s
        self.tokens = tokens = tokens if tokens < self.burst else self.burst
        return tokens < 1.0

    def take(self) -> None:
        """Use a token up, where there is one."""
        if self.tokens >= 1.0:
            self.tokens -= 1.0


class _Peer:
    """What is remembered of a member, most of it once a signature of it was verified."""

    __slots__ = ("boot_id", "bucket", "cipher", "epoch", "source")

    def __init__(self, now_s: float) -> None:
        self.bucket = _Bucket(SENDER_PER_S, SENDER_BURST, now_s)
        self.cipher: DatagramCipher | None = None
        """That of its latest (`epoch`, `boot_id`)."""
        self.epoch = 0
        self.boot_id: BootId | None = None
        self.source: Address | None = None
        """Where it was first heard, or last echoed a ping of ours: whoever hands a datagram on does not move it."""


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
        self._peers: OrderedDict[NodeId, _Peer] = OrderedDict()
        self._glanced: tuple[bytes, Header | None] = (b"", None)
        """The datagram that `is_likely` looked at last, and its header, which need not be read twice."""
        self._in_vain = _Bucket(UNDECIPHERED_PER_S, UNDECIPHERED_PER_S, 0.0)
        self._forged = _Bucket(FORGED_PER_S, FORGED_PER_S, 0.0)
        self._testimonies = _Bucket(TESTIMONIES_PER_S, TESTIMONIES_PER_S, 0.0)
        self.use(ring)

    def use(self, ring: GossipRing) -> None:
        """Accept the ring's keys from here on, and no others."""
        self._keys = {key.epoch: key.key for key in ring.keys}
        for peer in self._peers.values():
            peer.cipher = None

    def set_floor(self, sender: NodeId, boot_id: BootId, counter: int, source: Address | None = None) -> None:
        """The sender echoed a fresh ping of ours in that datagram, which came from `source`: believe the boot from
        there on, and expect it there."""
        self._guard.set_floor(sender, boot_id, counter)
        peer = self._peers.get(sender)
        if peer is not None and source is not None:
            peer.source = source

    def forget(self, sender: NodeId) -> None:
        """The sender left the roster."""
        self._guard.forget(sender)
        self._peers.pop(sender, None)

    def admit(self, data: bytes, now: Now, source: Address | None = None) -> Admitted | Refused:
        """Judge one datagram that came from `source`; never raises."""
        if len(data) > DATAGRAM_BYTES_MAX:
            return Refused(Refusal.OVERSIZED)
        header = self._glanced[1] if self._glanced[0] is data else read_header(data)
        if header is None:
            return Refused(Refusal.MALFORMED)
        sender = header.sender
        member = self._roster.member(sender)
        if member is not None and now.wall_ms > member.ends_ms:
            self._peers.pop(sender, None)  # nothing of it is likely, nor worth a decryption
            return Refused(Refusal.EXPIRED, sender)
        gossip_key = self._keys.get(header.epoch)
        spent = self._in_vain.is_empty(now.boot_s)
        if gossip_key is None:
            self._in_vain.take()
            return Refused(Refusal.KEY_EPOCH, sender if member and not spent else None)
        peer = self._peers.get(sender) if member else None
        if spent and not self._is_expected(header, peer, source):
            return Refused(Refusal.BUDGET)
        cipher = self._cipher(header, peer, gossip_key)
        envelope = open_envelope(cipher, header, data)
        if envelope is None or member is None:
            self._in_vain.take()
            return Refused(Refusal.UNDECIPHERED) if envelope is None else Refused(Refusal.UNKNOWN_SENDER, sender)
        if not -self._clock_skew_ms <= envelope.wall_ms - now.wall_ms <= self._clock_skew_ms:
            return Refused(Refusal.CLOCK_SKEW, sender, self._later_ms(member, data, envelope, now))
        if not self._guard.is_fresh(sender, header.boot_id, header.counter):
            return Refused(Refusal.REPLAYED, sender)
        if peer is not None and peer.bucket.is_empty(now.boot_s):
            return Refused(Refusal.RATE, sender)
        spent = self._forged.is_empty(now.boot_s)
        if spent and peer is not None and peer.source not in (None, source):
            return Refused(Refusal.BUDGET, sender)
        payload = signed_payload(data[:HEADER_BYTES], envelope.type_code, envelope.wall_ms, envelope.body)
        if not self._crypto.verify(member.sign_key, payload, envelope.signature):
            self._forged.take()
            if spent:
                (peer or self._remember(sender, now)).bucket.take()
            return Refused(Refusal.SIGNATURE, sender)
        self._heard(header, peer, cipher, now, source)
        message = decode_message(envelope.type_code, envelope.body)
        if message is None:
            return Refused(Refusal.UNDECODED, sender)
        has_floor = self._guard.has_floor(sender, header.boot_id)
        if not has_floor and not self._floorless(message):
            return Refused(Refusal.NO_FLOOR, sender)
        return Admitted(sender, header.boot_id, header.counter, message, has_floor)

    def _later_ms(self, member: Membership, data: bytes, envelope: Envelope, now: Now) -> int:
        """The sender's wall time, if it is later than ours and its own word; else 0."""
        if envelope.wall_ms < now.wall_ms or self._testimonies.is_empty(now.boot_s):
            return 0
        self._testimonies.take()
        payload = signed_payload(data[:HEADER_BYTES], envelope.type_code, envelope.wall_ms, envelope.body)
        return envelope.wall_ms if self._crypto.verify(member.sign_key, payload, envelope.signature) else 0

    def is_likely(self, data: bytes, source: Address) -> bool:
        """A glance before `admit`: whether this may well be the next datagram of a boot that is known to live, from
        where it was last heard, within its rate. Under a flood the others can wait. Nothing is decided by it."""
        header = read_header(data)
        self._glanced = (data, header)
        if header is None or header.epoch not in self._keys:
            return False
        peer = self._peers.get(header.sender)
        if peer is None or peer.source != source or peer.boot_id != header.boot_id or peer.bucket.tokens < 1.0:
            return False
        return self._guard.has_floor(header.sender, header.boot_id) and self._guard.is_fresh(
            header.sender, header.boot_id, header.counter
        )

    def _is_expected(self, header: Header, peer: _Peer | None, source: Address | None) -> bool:
        """Under a flood, only what fits a window that an honest sender opened, or comes from where it was last heard,
        is still worth a decryption."""
        sender, boot_id = header.sender, header.boot_id
        if self._guard.has_floor(sender, boot_id):
            return self._guard.is_fresh(sender, boot_id, header.counter)
        return _is_from(peer, source)

    def _cipher(self, header: Header, peer: _Peer | None, gossip_key: bytes) -> DatagramCipher:
        if peer is not None and peer.cipher and peer.boot_id == header.boot_id and peer.epoch == header.epoch:
            return peer.cipher
        return cipher_of(self._crypto, gossip_key, header)

    def _heard(
        self, header: Header, peer: _Peer | None, cipher: DatagramCipher, now: Now, source: Address | None
    ) -> None:
        """The signature held: take a token, enter the window, remember what makes the next one cheap."""
        peer = peer or self._remember(header.sender, now)
        peer.bucket.take()
        peer.cipher, peer.epoch, peer.boot_id = cipher, header.epoch, header.boot_id
        if peer.source is None:
            peer.source = source
        self._guard.enter(header.sender, header.boot_id, header.counter)

    def _remember(self, sender: NodeId, now: Now) -> _Peer:
        """Only members get here, so the roster bounds what is kept."""
        peer = self._peers[sender] = _Peer(now.boot_s)
        if len(self._peers) > PEERS_MAX:
            self._peers.popitem(last=False)
        return peer


def _is_from(peer: _Peer | None, source: Address | None) -> bool:
    return peer is not None and source is not None and peer.source == source
