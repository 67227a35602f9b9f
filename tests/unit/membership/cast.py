"""A few members with cheap keys, and one node's table of them."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from beemesh.effects import Effects, Notify, Now
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import BootId, NodeId
from beemesh.intents.record import SIGNED_KIND, Intent, node_key
from beemesh.membership.claims import ClaimDesk
from beemesh.membership.members import Members
from beemesh.membership.messages import Alive, Claim, Leave, Suspect
from beemesh.membership.roster import Roster
from beemesh.membership.rows import Own
from beemesh.membership.settings import SwimSettings
from beemesh.membership.view import View
from simulator.crypto import FakeCrypto

MESH = "test"
CA = FakeCrypto(b"ca")
WALL_MS = 1_800_000_000_000
FAR_MS = 10**15
KEYS = [FakeCrypto(f"member {index}".encode()) for index in range(80)]
IDS = [NodeId(keys.signer_id) for keys in KEYS]
STRANGER = FakeCrypto(b"nobody")


def at(boot_s: float) -> Now:
    """A moment."""
    return Now(boot_s, WALL_MS + int(boot_s * 1000))


def card(index: int, **changes: Any) -> Membership:
    """The card of a member."""
    fields: dict[str, Any] = {
        "mesh": MESH,
        "name": f"n{index}",
        "node_id": IDS[index],
        "sign_key": KEYS[index].sign_key,
        "open_key": KEYS[index].open_key,
        "addresses": (f"10.0.0.{index}",),
        "gossip_port": 7946,
        "api_port": 7947,
        "serial": 1,
        "signed_at_ms": 0,
        "not_after_ms": FAR_MS,
    }
    return Membership(**(fields | changes))


def membership(index: int, seq: int = 1, **changes: Any) -> Intent:
    """The record of that card."""
    body = msgspec.msgpack.encode(card(index, **changes))
    return Intent(MESH, "membership", node_key(f"n{index}"), seq, CA.signer_id, 0, body)


def signed_card(index: int) -> Signed:
    """The signed record of that card."""
    return sign_statement(CA, SIGNED_KIND, membership(index))


def roster(size: int) -> Roster:
    """A roster of the first members."""
    made = Roster(MESH, CA.sign_key)
    for index in range(size):
        made.apply(membership(index))
    return made


def table(size: int = 5) -> Members:
    """Member 0's table of a mesh of that size, in which it lives and knows nobody yet."""
    known = roster(size)
    view = View(IDS[0], known)
    own = Own(BootId(bytes(16)), ("10.0.0.0", 7946))
    members = Members(IDS[0], known, view, ClaimDesk(KEYS[0], known), random.Random(1), SwimSettings(), own)
    members.speak(1)
    return members


def alive(index: int, incarnation: int, *, boot: int = 1, by: FakeCrypto | None = None, host: str = "") -> Claim:
    """A member's Alive, signed by itself unless told."""
    statement = Alive(IDS[index], incarnation, BootId(bytes([boot]) * 16), host, 7946, WALL_MS)
    return ClaimDesk(by or KEYS[index], roster(0)).sign("alive", statement)


def leave(index: int, incarnation: int, *, by: FakeCrypto | None = None) -> Claim:
    """A member's Leave."""
    return ClaimDesk(by or KEYS[index], roster(0)).sign("leave", Leave(IDS[index], incarnation))


def suspect(
    accuser: int, accused: int, incarnation: int = 1, *, at_s: float = 0.0, by: FakeCrypto | None = None
) -> Claim:
    """An accusation."""
    statement = Suspect(IDS[accuser], IDS[accused], incarnation, WALL_MS + int(at_s * 1000))
    return ClaimDesk(by or KEYS[accuser], roster(0)).sign("suspect", statement)


def told(effects: Effects) -> list[Any]:
    """What was notified."""
    return [effect.event for effect in effects if isinstance(effect, Notify)]


def told_kinds(effects: Effects) -> list[str]:
    """The kinds of what was notified, metrics left out."""
    return [type(event).__name__ for event in told(effects) if type(event).__name__ != "Observed"]
