"""What a node remembers of each other member, and of itself."""

from __future__ import annotations

from dataclasses import dataclass

from beemesh.ids import BootId, NodeId
from beemesh.membership.messages import Claim
from beemesh.membership.suspicion import Suspicion
from beemesh.membership.versions import PROTOCOL_VERSION
from beemesh.membership.view import Address

NO_BOOT = BootId(b"")


@dataclass(slots=True)
class Member:
    """What is known of one other node of the roster."""

    node_id: NodeId
    incarnation: int = 0
    boot_id: BootId = NO_BOOT
    protocol_version: int = PROTOCOL_VERSION
    """What its last Alive says; the same as ours until then."""
    alive: Claim | None = None
    leave: Claim | None = None
    summary: Claim | None = None
    suspicion: Suspicion | None = None
    heard_s: float = float("-inf")
    failed_since_s: float | None = None
    """Boot time since when all of our own probes of it failed."""
    echoed: bool = False
    """It echoed a nonce of ours since we started: its counter floor is known."""
    past_boots: tuple[BootId, ...] = ()
    clone_reported_s: float = float("-inf")


@dataclass(slots=True)
class Own:
    """What this node says of itself."""

    boot_id: BootId
    address: Address
    started_ms: int = 0
    incarnation: int = 0
    claim: Claim | None = None
    leaving: bool = False
    foreign_answered_s: float = float("-inf")
    foreign_seen: int = 0
    summary: Claim | None = None
    summary_seq: int = 0
