"""What a node remembers of messages: the ids it has seen, and for a minute the messages themselves."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from beemesh.ids import NodeId
from beemesh.topics.messages import MESSAGE_ID_BYTES, TopicMessage

KEPT_S = 60.0
KEPT_MESSAGES_MAX = 4_096
KEPT_BYTES_MAX = 8 * 1024 * 1024
"""Messages held for those who ask: a minute's worth, and never more memory than this."""

SEEN_MAX = 65_536
"""Ids by which repetitions are recognised: far longer than any message is still under way."""


@dataclass(slots=True)
class Kept:
    """A message that can be handed on. `pushed_by` is the neighbour that pushed it here unasked, if one did; whether it
    came straight from its author, the message itself says."""

    message: TopicMessage
    got_s: float
    pushed_by: NodeId | None = None
    asked: tuple[NodeId, ...] = ()
    """Those who were asked for it before it came: what they send now is an answer, not a push."""
    answered_to: NodeId | None = None
    answered_s: float = 0.0
    """Who was handed it last because it asked, and when."""


class Store:
    """Messages by id, oldest first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.kept_bytes = 0
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._seen

    def see(self, key: bytes) -> None:
        """Never take a message of this id (again)."""
        self._seen[key] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)

    def add(self, kept: Kept) -> None:
        """Remember a message; the oldest ones give way to it."""
        self.see(kept.message.id)
        self.kept[kept.message.id] = kept
        self.kept_bytes += len(kept.message.body)
        while len(self.kept) > KEPT_MESSAGES_MAX or self.kept_bytes > KEPT_BYTES_MAX:
            self._drop_oldest()

    def renew(self, message: TopicMessage, now_s: float) -> None:
        """Hold this form of a message for a minute from now, whether it is still held or not."""
        kept = self.kept.pop(message.id, None)
        if kept is None:
            self.add(Kept(message, now_s))
        else:
            kept.message, kept.got_s = message, now_s
            self.kept[message.id] = kept

    def get(self, key: bytes) -> Kept | None:
        """The message of an id, while it is kept."""
        return self.kept.get(key)

    def expire(self, now_s: float) -> None:
        """Forget what nobody asks for any more."""
        while self.kept and next(iter(self.kept.values())).got_s + KEPT_S <= now_s:
            self._drop_oldest()

    def since(self, boot_s: float) -> list[bytes]:
        """Ids of the messages that came at `boot_s` or later, newest first."""
        ids = []
        for key, kept in reversed(self.kept.items()):
            if kept.got_s < boot_s:
                break
            ids.append(key)
        return ids

    def _drop_oldest(self) -> None:
        _, dropped = self.kept.popitem(last=False)
        self.kept_bytes -= len(dropped.message.body)


def message_id(topic: str, body: bytes) -> bytes:
    """BLAKE2b-128 of topic and body: an id names its content."""
    return hashlib.blake2b(topic.encode() + b"\0" + body, digest_size=MESSAGE_ID_BYTES).digest()
