"""What one node sees of the mesh, for people: its links, and whom it suspects on whose word."""

from __future__ import annotations

import msgspec

from beemesh.effects import Now
from beemesh.identity.membership_card import GossipRing
from beemesh.ids import to_text
from beemesh.membership.members import Members
from beemesh.membership.rows import Member
from beemesh.membership.versions import PROTOCOL_VERSION

LISTED_MAX = 10_000
"""Links in one picture: ten times the largest mesh."""


class Link(msgspec.Struct, frozen=True):
    """One other member as this node sees it. `rtt_ms` is a smoothed round trip of direct probes, None while there was
    none; `suspected_by` names the accusers, `failing_s` says for how long our own probes have failed."""

    node: str
    node_id: str
    site: str
    zone: str
    state: str
    address: str
    rtt_ms: float | None = None
    heard_s: float | None = None
    incarnation: int = 0
    protocol_version: int = PROTOCOL_VERSION
    suspected_by: tuple[str, ...] = ()
    suspected_s: float | None = None
    failing_s: float | None = None


class Picture(msgspec.Struct, frozen=True):
    """One node's whole view. `health` is Lifeguard's score of itself: 0 is well, 8 the worst."""

    node: str
    node_id: str
    site: str
    zone: str
    wall_ms: int
    protocol_version: int
    health: int
    incarnation: int
    ring_epoch: int
    ring_keys: int
    rumours: int
    links: tuple[Link, ...]


def picture_of(members: Members, ring: GossipRing, now: Now) -> Picture:
    """This node's view at this moment."""
    card = members.roster.member(members.self_id)
    links = [_link(members, row, now) for row in members.others()][:LISTED_MAX]
    return Picture(
        node=card.name if card else to_text(members.self_id)[:10],
        node_id=to_text(members.self_id),
        site=card.site if card else "",
        zone=card.zone if card else "",
        wall_ms=now.wall_ms,
        protocol_version=PROTOCOL_VERSION,
        health=members.health.score,
        incarnation=members.own.incarnation,
        ring_epoch=ring.active,
        ring_keys=len(ring.keys),
        rumours=len(members.rumours),
        links=tuple(sorted(links, key=lambda link: link.node)),
    )


def _link(members: Members, row: Member, now: Now) -> Link:
    card = members.roster.member(row.node_id)
    address = members.view.address(row.node_id)
    rtt_s = members.view.rtt_s(row.node_id)
    doubt = row.suspicion if members.view.status(row.node_id) == "suspect" else None
    return Link(
        node=_name(members, row.node_id),
        node_id=to_text(row.node_id),
        site=card.site if card else "",
        zone=card.zone if card else "",
        state=members.view.status(row.node_id),
        address=f"{address[0]}:{address[1]}" if address else "",
        rtt_ms=round(rtt_s * 1000, 3) if rtt_s is not None else None,
        heard_s=_since(row.heard_s if row.heard_s > float("-inf") else None, now),
        incarnation=row.incarnation,
        protocol_version=row.protocol_version,
        suspected_by=tuple(sorted(_name(members, accuser) for accuser in doubt.accusers)) if doubt else (),
        suspected_s=_since(doubt.since_s if doubt else None, now),
        failing_s=_since(row.failed_since_s, now),
    )


def _name(members: Members, node_id: bytes) -> str:
    card = members.roster.member(node_id)
    return card.name if card else to_text(node_id)[:10]


def _since(moment_s: float | None, now: Now) -> float | None:
    return None if moment_s is None else round(max(0.0, now.boot_s - moment_s), 3)
