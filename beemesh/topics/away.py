"""Store-and-forward: messages kept for members that are briefly away, on the topics that ask for it.

All members keep the same for one that is away. When it is back some few of them tell it what it missed, and it asks
one of those: had all of them handed it over, it would get it as many times as the mesh has members.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from beemesh.dht.kset import nearest
from beemesh.ids import NodeId, to_text
from beemesh.topics.messages import TopicMessage

AWAY_S = 120.0
AWAY_BYTES_MAX = 256 * 1024
"""Store-and-forward for a member that is away: two minutes, a few hundred events."""

AWAY_MEMBERS_MAX = 256
"""Members that messages are kept for: a site that is cut off. When more are gone, push-pull has to tell them."""

TELLERS = 4
"""Members that tell one that is back what it missed: at 30 % loss it hears of all but a hundredth from them, and of the
rest from those that mention it to anybody."""


def is_teller(node_id: NodeId, member: NodeId, alive: tuple[NodeId, ...]) -> bool:
    """Whether `node_id` is one of those of `alive` (sorted, as a view has them) that tell `member` what it missed: on
    either side of a partition others, since either side knows what the other does not."""
    return node_id in [each for each in nearest(alive, to_text(member), TELLERS + 1) if each != member][:TELLERS]


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
