"""What nodes say to each other about who is there (wire type codes 1–19).

A `Claim` is believed because of its author's signature, whoever relays it; everything else is believed of its sender
only. Claims and the structs inside are positional, so that several share a datagram: fields are only ever added at the
end, and more fields than a reader knows are ignored.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from beemesh.identity.signing import Signed
from beemesh.ids import BootId, NodeId

NONCE_BYTES = 8
"""Long enough that an echo cannot be guessed within a probe's time."""

ClaimKind = Literal["alive", "leave", "suspect", "summary"]


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """A signed statement of `kind` (see `signing.payload_of`); `body` is one of the structs below, and names its own
    author: the subject of `alive`, `leave` and `summary`, the accuser of `suspect`. A kind that is not known here comes
    from a newer version, and is passed over."""

    kind: str
    body: bytes
    signature: bytes


class Alive(msgspec.Struct, frozen=True, array_like=True):
    """A node's word that it lives, at a host and port that it says itself (`host` empty: those of its card)."""

    node_id: NodeId
    incarnation: int
    boot_id: BootId
    host: str
    port: int
    started_ms: int
    protocol_version: int = 1


class Leave(msgspec.Struct, frozen=True, array_like=True):
    """A node's word that it goes; a later `Alive` needs a higher incarnation."""

    node_id: NodeId
    incarnation: int


class Suspect(msgspec.Struct, frozen=True, array_like=True):
    """An accuser's word that `accused` failed its direct and indirect probes at that incarnation."""

    accuser: NodeId
    accused: NodeId
    incarnation: int
    issued_ms: int


class Ping(msgspec.Struct, frozen=True, array_like=True):
    """Answer with an `Ack` of the same nonce. `hello` asks for the answerer's own Alive as well."""

    nonce: bytes
    claims: tuple[Claim, ...] = ()
    hello: bool = False


class Ack(msgspec.Struct, frozen=True, array_like=True):
    """The echo of a `Ping`, or the word of a helper that its own ping of a `PingReq`'s target was echoed."""

    nonce: bytes
    claims: tuple[Claim, ...] = ()


class PingReq(msgspec.Struct, frozen=True, array_like=True):
    """Ping `target` for me: answer `Ack` when it echoes, `Nack` when it does not in time."""

    nonce: bytes
    target: NodeId
    claims: tuple[Claim, ...] = ()


class Nack(msgspec.Struct, frozen=True, array_like=True):
    """A helper is well, but the target of a `PingReq` did not echo."""

    nonce: bytes


FLOORLESS = (Ping, Ack, Nack)
"""What is heard from a boot without a floor: a ping (answered, and pinged back) and the echo that sets the floor. Any
of them may be a recording."""


class Claims(msgspec.Struct, frozen=True, array_like=True):
    """Gossip: claims that the sender heard lately. It wonders about the members in `asks`: answer with the last word of
    each, and with the accusations of it, that are known here."""

    claims: tuple[Claim, ...]
    asks: tuple[NodeId, ...] = ()


class FetchGossipKey(msgspec.Struct, frozen=True):
    """Ask for the gossip key of an epoch that a rotation names (request); answered by `GossipKeyAnswer`."""

    epoch: int


class GossipKeyAnswer(msgspec.Struct, frozen=True):
    """The key sealed to the asker's X25519 key; empty when it is not known here."""

    epoch: int
    box: bytes = b""


class Introduction(msgspec.Struct, frozen=True):
    """The first word on a new stream: the opener's own card, so that a mesh which does not know it yet can check it
    against the CA. Whoever knows the opener ignores it."""

    card: Signed


class Known(msgspec.Struct, frozen=True, array_like=True):
    """One line of a push-pull digest: the newest incarnation and summary that the sender knows of a node."""

    node_id: NodeId
    incarnation: int
    summary_seq: int = 0


class PushPull(msgspec.Struct, frozen=True):
    """Compare what we know (request). `introduction` is the asker's own membership intent, so that a mesh which does
    not know it yet can check it against the CA; `claims` are the asker's own."""

    known: tuple[Known, ...]
    claims: tuple[Claim, ...] = ()
    introduction: tuple[Signed, ...] = ()
    hashes: bytes = b""
    """Instead of lines: those of all parts (see `beemesh.membership.digests`)."""
    parts: bytes = b""
    """The numbers of the parts of which `known` tells; empty: of all."""


class PushPullAnswer(msgspec.Struct, frozen=True):
    """Claims that are newer here, the nodes of which the asker knows more, and the answerer's own card."""

    claims: tuple[Claim, ...] = ()
    wanted: tuple[NodeId, ...] = ()
    introduction: tuple[Signed, ...] = ()
    differ: bytes = b""
    """The numbers of the parts that are not the same here, where hashes were asked about."""
