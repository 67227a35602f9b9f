"""Signing and checking claims: each is believed because of its author, whoever relays it."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import msgspec

from beemesh.crypto import Crypto
from beemesh.effects import Now
from beemesh.identity.signing import SIGNATURE_BYTES, payload_of
from beemesh.ids import BOOT_ID_BYTES, NODE_ID_BYTES, NodeId
from beemesh.membership.messages import Alive, Claim, ClaimKind, Leave, Suspect
from beemesh.membership.roster import Roster
from beemesh.membership.summaries import SUMMARY_BODY_BYTES_MAX, Summary
from beemesh.rates import Rates
from beemesh.undecodable import UNDECODABLE

Statement = Alive | Leave | Suspect | Summary

STATEMENTS: dict[str, type[Statement]] = {"alive": Alive, "leave": Leave, "suspect": Suspect, "summary": Summary}

HOST_CHARACTERS_MAX = 253
"""Of a DNS name, without the dot that may end it."""

_DNS_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""An interface's name, as link-local IPv6 addresses carry it."""

COUNTER_MAX = 1 << 62
"""Incarnations and sequence numbers: wall milliseconds fit a million times over, and they stay 64-bit integers."""

CLAIM_OVERHEAD_BYTES = 16
"""Array, kind and length headers around a claim's body and signature, at most."""

DECODED_KEPT = 1_024
"""Claims whose decoded form is kept, some 600 bytes each: gossip brings every one about ten times."""

FORGERIES_PER_S, FORGERIES_BURST = 0.1, 8.0
"""Claims with a false signature that one member may tell of. An honest one passes on what it verified, so that it tells
of none; each costs a verification, and even a third of 10,000 members take some 3 % of a core with them."""

_encoder = msgspec.msgpack.Encoder()
_decoders = {kind: msgspec.msgpack.Decoder(struct) for kind, struct in STATEMENTS.items()}


def size_of(claim: Claim) -> int:
    """Bytes that a claim takes in a message, rounded up."""
    return len(claim.body) + len(claim.signature) + CLAIM_OVERHEAD_BYTES


def decode(claim: Claim) -> Statement | None:
    """What a claim says, unverified; None when it has no sensible shape. Whatever is kept of one is small then: over a
    stream each of its fields may be as long as a frame."""
    if claim.kind not in STATEMENTS or len(claim.signature) != SIGNATURE_BYTES:
        return None
    return _decoded(claim.kind, claim.body) if len(claim.body) <= SUMMARY_BODY_BYTES_MAX else None


@lru_cache(maxsize=DECODED_KEPT)
def _decoded(kind: str, body: bytes) -> Statement | None:
    try:
        statement: Statement = _decoders[kind].decode(body)
    except UNDECODABLE:
        return None
    return statement if _sane(statement) else None


def author_of(statement: Statement) -> NodeId:
    """Whose signature a claim of this statement must bear."""
    return statement.accuser if isinstance(statement, Suspect) else statement.node_id


class ClaimDesk:
    """Signs this node's claims and verifies those of others against their cards."""

    def __init__(self, crypto: Crypto, roster: Roster) -> None:
        self._crypto = crypto
        self._roster = roster
        self._forgeries = Rates(FORGERIES_PER_S, FORGERIES_BURST)

    def sign(self, kind: ClaimKind, statement: Statement) -> Claim:
        """A claim of this node."""
        body = _encoder.encode(statement)
        return Claim(kind, body, self._crypto.sign(payload_of(kind, body)))

    def holds(self, claim: Claim, statement: Statement, relay: NodeId | None, now: Now) -> bool:
        """Whether its author is a member, in grace at the worst, and signed the claim, which says `statement`. A
        forgery is held against the `relay` that told of it: the author has no part in it."""
        card = self._roster.member(author_of(statement))
        if card is None or now.wall_ms > card.ends_ms:
            return False
        if self._crypto.verify(card.sign_key, payload_of(claim.kind, claim.body), claim.signature):
            return True
        if relay is not None:
            self._forgeries.take(relay, now.boot_s)
        return False

    def is_forger(self, relay: NodeId, now: Now) -> bool:
        """Whether a member told of so many forgeries lately that nothing it tells is worth a verification."""
        return self._forgeries.is_empty(relay, now.boot_s)

    def forget(self, relay: NodeId) -> None:
        """It is no member any more."""
        self._forgeries.forget(relay)


def _sane(statement: Statement) -> bool:
    if isinstance(statement, Alive):
        return (
            len(statement.node_id) == NODE_ID_BYTES
            and len(statement.boot_id) == BOOT_ID_BYTES
            and 0 < statement.incarnation < COUNTER_MAX
            and 0 <= statement.port < 65536
            and _is_host(statement.host)
        )
    if isinstance(statement, Suspect):
        return len(statement.accuser) == len(statement.accused) == NODE_ID_BYTES
    if isinstance(statement, Summary):
        return len(statement.node_id) == NODE_ID_BYTES and 0 < statement.seq < COUNTER_MAX
    return len(statement.node_id) == NODE_ID_BYTES and 0 < statement.incarnation < COUNTER_MAX


def _is_host(text: str) -> bool:
    """Whether every resolver takes it: an IP address, a DNS name, or nothing (the card's). Others raise where it is
    used, each in its own way."""
    if len(text.removesuffix(".")) > HOST_CHARACTERS_MAX:
        return False
    if not text or _DNS_NAME.fullmatch(text):
        return True
    address, percent, zone = text.partition("%")
    if percent and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True
