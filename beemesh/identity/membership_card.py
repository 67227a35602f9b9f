"""The mesh CA's statement about a node: its keys, its place and what it may do.

A card is the body of an intent of kind `membership` (see `beemesh.intents.record`), so it spreads, is kept and is
superseded like everything else that is signed. The roster is the set of cards that are not revoked.
"""

from __future__ import annotations

import msgspec

from beemesh.ids import NodeId

ROLE_KEEPER = "keeper"
"""Holds DHT records, shares and sealed manifests; the inventory turns it off for laptops."""

MEMBERSHIP_LIFETIME_MS = 2 * 365 * 86_400_000
"""Two years: long enough that nobody renews by hand, short enough that a lost machine ages out."""

GRACE_MS = 90 * 86_400_000
"""After `not_after_ms`: the node keeps what it runs, takes no new work or shares, and is shown loudly."""


class Taint(msgspec.Struct, frozen=True):
    """A Kubernetes taint; `effect` is NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


class Caps(msgspec.Struct, frozen=True, omit_defaults=True):
    """Upper bounds on what the mesh may use of a node; 0 means whatever the machine has."""

    cpu_m: int = 0
    mem_mb: int = 0
    storage_mb: int = 0
    pods: int = 0


class Membership(msgspec.Struct, frozen=True, omit_defaults=True):
    """One node's card. `machine` identifies the host it runs on: nodes of one machine are one failure domain unless
    `allow_same_host`. `serial` grows with every signing; `signed_at_ms` and `not_after_ms` are wall times."""

    mesh: str
    name: str
    node_id: NodeId
    sign_key: bytes
    open_key: bytes
    addresses: tuple[str, ...]
    gossip_port: int
    api_port: int
    serial: int
    signed_at_ms: int
    not_after_ms: int
    machine: str = ""
    allow_same_host: bool = False
    site: str = ""
    zone: str = ""
    org: str = ""
    labels: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()
    caps: Caps = Caps()
    roles: tuple[str, ...] = (ROLE_KEEPER,)

    @property
    def is_keeper(self) -> bool:
        """Whether this node holds records and shares for others."""
        return ROLE_KEEPER in self.roles

    @property
    def ends_ms(self) -> int:
        """Wall time of the end of its grace, after which the node has no word in the mesh."""
        return self.not_after_ms + GRACE_MS

    @property
    def failure_domain(self) -> str:
        """Nodes with the same failure domain fall together: never two shares of one key in one of them."""
        return self.name if self.allow_same_host or not self.machine else self.machine


class ConfigStatement(msgspec.Struct, frozen=True):
    """The CA's word (signed kind `config`) that a rendered `node.yaml` with this digest is meant for this node."""

    mesh: str
    node_id: NodeId
    config_digest: bytes
    serial: int
    signed_at_ms: int


class GossipKey(msgspec.Struct, frozen=True):
    """One 32-byte key of the gossip ring; `epoch` names it in datagrams."""

    epoch: int
    key: bytes

    def __repr__(self) -> str:
        return f"GossipKey(epoch={self.epoch}, key=***)"


class GossipRing(msgspec.Struct, frozen=True):
    """The gossip keys that a node accepts; `active` is the epoch it sends with."""

    active: int
    keys: tuple[GossipKey, ...]


class SealedRing(msgspec.Struct, frozen=True):
    """A gossip ring (msgpack of `GossipRing`) sealed to one node's X25519 key; signed kind `gossip-ring`."""

    mesh: str
    node_id: NodeId
    box: bytes
