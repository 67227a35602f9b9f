"""Store-and-forward: messages kept for members that are briefly away, on the topics that ask for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from beemesh.ids import NodeId
from beemesh.topics.messages import TopicMessage

AWAY_S = 120.0
AWAY_BYTES_MAX = 256 * 1024
"""Store-and-forward for a member that is away: two minutes, a few hundred events."""

AWAY_MEMBERS_MAX = 256
"""Members that messages are kept for: a site that is cut off. When more are gone, push-pull has to tell them."""


@dataclass(slots=True)
class _Absent:
    until_s: float
    messages: list[TopicMessage] = field(default_factory=list)
    stored_bytes: int = 0


class Away:
    """Messages by the member that misses them."""

    def __init__(self) -> None:
        self._absent: dict[NodeId, _Absent] = {}

    def gone(self, member: NodeId, now_s: float) -> None:
        """Keep for this member what comes from here on."""
        self._absent.pop(member, None)
        if len(self._absent) >= AWAY_MEMBERS_MAX:
            del self._absent[next(iter(self._absent))]
        self._absent[member] = _Absent(now_s + AWAY_S)

    def store(self, message: TopicMessage, now_s: float) -> None:
        """Keep a message for everybody who is away."""
        for member, absent in list(self._absent.items()):
            if absent.until_s <= now_s:
                del self._absent[member]
            elif absent.stored_bytes + len(message.body) <= AWAY_BYTES_MAX:
                absent.messages.append(message)
                absent.stored_bytes += len(message.body)

    def returned(self, member: NodeId, now_s: float) -> list[TopicMessage]:
        """What a member missed; nothing when it was away for too long."""
        absent = self._absent.pop(member, None)
        return absent.messages if absent is not None and absent.until_s > now_s else []
