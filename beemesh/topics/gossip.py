"""Plain gossip: push a message to a few members at random, and mention its id to a few more now and then.

It carries small meshes alone. In large ones a tree pushes (`beemesh.topics.plumtree`), and what is left of it here is a
rare mention to somebody far away, which joins parts of the mesh that the tree's links do not.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from beemesh.effects import Randomness
from beemesh.ids import NodeId
from beemesh.membership.view import View

PUSH_ALL_UP_TO = 33
"""Members that their publisher pushes to directly, all of them: one hop is fastest and misses nobody, and costs the
mesh less than any other way; 32 datagrams cost their sender some milliseconds."""
RELAY_ABOVE, RELAY_TO = 8, 2
"""Members above which those receivers push on, and to how many: some of so many datagrams may be lost."""

FANOUT = 4
"""Members pushed to in a larger mesh, and of what takes several datagrams: log(n) hops, and a loss of 30 % still
reaches almost all before any repair."""

MENTION_PAUSES_S = (0.2,) * 5
"""Each id is mentioned after these, to `MENTION_TO` members each: what pushes missed is asked for within a second."""
MENTION_TOGETHER_S = 0.1
"""Ids that are due within so long are mentioned together: where many messages come one after the other, mentions of
each alone would be most of the traffic."""
MENTION_TO = 3

TREE_MENTION_PAUSES_S = (0.5,) * 2
TREE_MENTION_TO = 1
"""The same beside a tree, which repairs its own losses: only parts without a link between them are joined by it."""

LATE_PAUSES_S = (3.0, 6.0, 8.0, 8.0, 8.0)
"""Messages that are stored for who is away are mentioned after these as well: a member that is cut off for some seconds
is away for nobody yet, and would never hear of them. Never longer than a steward may take to notice a duplicate."""

IDS_PER_MENTION_MAX = 48
"""Ids of one `IHave` or `IWant`: they fit a datagram."""


class Mentions:
    """Ids that are still to be mentioned to members at random, each after some pauses."""

    def __init__(self) -> None:
        self._left: OrderedDict[bytes, tuple[float, tuple[float, ...]]] = OrderedDict()
        """Id → (boot time from which it is mentioned next, pauses to the times after that)."""
        self._due: list[tuple[float, bytes]] = []
        """A heap of those times; one that no longer holds is skipped when it comes up."""

    def __len__(self) -> int:
        return len(self._left)

    def add(self, key: bytes, pauses_s: tuple[float, ...], now_s: float, most: int) -> None:
        """Mention an id after each of these pauses; of more than `most` ids the oldest are given up."""
        self._set(key, now_s + pauses_s[0], pauses_s[1:])
        while len(self._left) > most:
            self._left.popitem(last=False)

    def take(self, now_s: float) -> tuple[bytes, ...]:
        """The ids of one round, newest first; each has been mentioned once more, and rests."""
        keys = []
        for key, (from_s, _) in reversed(self._left.items()):
            if from_s <= now_s + MENTION_TOGETHER_S:
                keys.append(key)
                if len(keys) == IDS_PER_MENTION_MAX:
                    break
        for key in keys:
            _, pauses_s = self._left[key]
            if pauses_s:
                self._set(key, now_s + pauses_s[0], pauses_s[1:])
            else:
                del self._left[key]
        return tuple(keys)

    def next_s(self) -> float | None:
        """Boot time of the next round; None when nothing is left to mention."""
        while self._due and self._left.get(self._due[0][1], (None, ()))[0] != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def _set(self, key: bytes, from_s: float, pauses_s: tuple[float, ...]) -> None:
        self._left[key] = (from_s, pauses_s)
        heapq.heappush(self._due, (from_s, key))


def some_members(view: View, randomness: Randomness, count: int, without: tuple[NodeId, ...]) -> list[NodeId]:
    """Up to `count` members that count as alive, at random, without those named."""
    alive = view.alive()
    drawn = randomness.sample(alive, min(len(alive), count + len(without)))
    return [peer for peer in drawn if peer not in without][:count]


def push_targets(
    view: View, randomness: Randomness, self_id: NodeId, sender: NodeId, *, own: bool, small: bool
) -> list[NodeId]:
    """Whom plain gossip pushes a message to that came from `sender`; `own` when it was published here, `small` when it
    fits one datagram."""
    members = len(view.alive())
    if members <= RELAY_ABOVE or (small and members <= PUSH_ALL_UP_TO):
        if own:
            return [peer for peer in view.alive() if peer != self_id]
        # its author has pushed to everybody already
        return some_members(view, randomness, RELAY_TO, (self_id, sender)) if members > RELAY_ABOVE else []
    return some_members(view, randomness, FANOUT, (self_id, sender))
