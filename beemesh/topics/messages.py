"""How a message reaches every member (wire type codes 20–29)."""

from __future__ import annotations

import msgspec

MESSAGE_ID_BYTES = 16


class TopicMessage(msgspec.Struct, frozen=True, array_like=True):
    """One published message on its way. `id` is BLAKE2b-128 of topic and body, so it cannot name another content;
    `body` is an encoded message, signed inside by its author where it matters; `hops` counts relays."""

    topic: str
    id: bytes
    body: bytes
    hops: int = 0


class IHave(msgspec.Struct, frozen=True, array_like=True):
    """Messages that the sender can hand over."""

    ids: tuple[bytes, ...]


class IWant(msgspec.Struct, frozen=True, array_like=True):
    """Hand these over, please."""

    ids: tuple[bytes, ...]
