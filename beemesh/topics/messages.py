"""How a message reaches every member (wire type codes 20–29)."""

from __future__ import annotations

from typing import Literal

import msgspec

from beemesh.ids import NodeId

MESSAGE_ID_BYTES = 16


class TopicMessage(msgspec.Struct, frozen=True, array_like=True):
    """One published message on its way. `id` is BLAKE2b-128 of topic and body, so it cannot name another content;
    `body` is an encoded message, signed inside by its author where it matters; `hops` counts relays. `straight`: it
    came from its author over branches of the tree alone, so that a second such copy proves a circle."""

    topic: str
    id: bytes
    body: bytes
    hops: int = 0
    straight: bool = False


class IHave(msgspec.Struct, frozen=True, array_like=True):
    """Messages that the sender can hand over. `known` are messages that the receiver told of or sent: the sender has
    them now, and wants no answer."""

    ids: tuple[bytes, ...]
    known: tuple[bytes, ...] = ()


class IWant(msgspec.Struct, frozen=True, array_like=True):
    """Hand these over, please."""

    ids: tuple[bytes, ...]


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """Piece `index` of `count` of a `TopicMessage` that is too large for one datagram. The whole must have the `id`
    that every piece names: pieces of different senders are never mixed."""

    topic: str
    id: bytes
    index: int
    count: int
    data: bytes
    hops: int = 0
    straight: bool = False


class ChunkWant(msgspec.Struct, frozen=True, array_like=True):
    """These pieces of a message that the receiver sends did not come."""

    id: bytes
    indices: tuple[int, ...]


class Graft(msgspec.Struct, frozen=True, array_like=True):
    """Push messages over our link from here on: it is a branch of the tree (Plumtree)."""


class Prune(msgspec.Struct, frozen=True, array_like=True):
    """Push nothing over our link, only tell of what there is: messages come by another branch (Plumtree)."""


class Neighbour(msgspec.Struct, frozen=True, array_like=True):
    """About the link between sender and receiver (HyParView). `link` asks for one, `urgent` too, by a node that has
    none; `yes` grants it; `keep` says that the sender still has it. `eager`: push over it from the start."""

    want: Literal["link", "urgent", "yes", "keep"]
    eager: bool = False


class Disconnect(msgspec.Struct, frozen=True, array_like=True):
    """There is no link between us, or none from here on."""


class Shuffle(msgspec.Struct, frozen=True, array_like=True):
    """Some nodes that `origin` knows, for as many that the end of a random walk of `ttl` more steps knows; that one
    answers to `origin` with `answer` set (HyParView)."""

    origin: NodeId
    nodes: tuple[NodeId, ...]
    ttl: int
    answer: bool = False
