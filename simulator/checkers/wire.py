"""What is on the wire: no datagram counts twice, nothing honest is refused as forged, and traffic is bounded."""

from __future__ import annotations

from collections import deque
from typing import Any

from beemesh.events import Observed, TaskWon
from beemesh.wire.datagram import HEADER_BYTES
from simulator.checkers import Blame
from simulator.world import World

NEVER_OF_HONEST = frozenset({"oversized", "malformed", "undeciphered", "budget", "signature", "undecoded", "rate"})
"""Reasons for which no datagram of an honest node is ever refused, whatever the network does to it."""

WINDOW_S = 10.0
DATAGRAMS_PER_S = (150.0, 25.0)
"""What one node sends in any ten seconds, on the average, at most: so many, and so many more for each member. That is a
hundred times what a quiet mesh needs, and enough for a slow member that asks everybody for everything twice while works
are handed in. Above it something answers itself."""
DATAGRAMS_PER_TASK = 100
"""And so many for each task that somebody wins: a dozen bids, leases, shares and events, each handed on to a few, and
again where some are lost."""
DATAGRAMS_PER_START = 150
"""And so many for each agent that starts: it asks for what was told in the last half minute, and tells it on."""


class WireChecker:
    """Remembers each datagram that each life of a node let in."""

    name = "wire"
    sees: tuple[type, ...] = (Observed, TaskWon)

    def __init__(self, *, hostile: bool) -> None:
        """With somebody `hostile` about, refusals are to be expected."""
        self._hostile = hostile
        self._seen: dict[int, tuple[int, set[bytes]]] = {}
        self._sent: deque[tuple[float, float, tuple[int, ...]]] = deque()
        """When it was looked, what had happened by then that may cost datagrams, and what each machine had sent."""
        self._won = 0
        self._blamed = False

    def admitted(self, world: World, blame: Blame, index: int, data: bytes) -> None:
        """A node let a datagram in: the first time in its life, or something is wrong."""
        life = world.machines[index].life
        known_life, seen = self._seen.get(index, (life, set()))
        if known_life != life:
            seen = set()
        self._seen[index] = (life, seen)
        header = data[:HEADER_BYTES]
        if header in seen:
            blame(f"n{index} let the same datagram in twice")
        seen.add(header)

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A refusal that only a forger should meet."""
        if isinstance(event, TaskWon):
            self._won += 1
        elif isinstance(event, Observed) and event.metric == "datagrams_refused" and not self._hostile:
            reason = event.labels.get("reason", "")
            if reason in NEVER_OF_HONEST:
                blame(f"n{index} refused an honest datagram: {reason}")

    def look(self, world: World, blame: Blame) -> None:
        """Nobody sends more than it may."""
        lives = sum(machine.life for machine in world.machines)  # a start after an end begins another, and an end does
        costs = DATAGRAMS_PER_TASK * self._won + DATAGRAMS_PER_START * lives / 2
        self._sent.append((world.now_s, costs, tuple(machine.sent for machine in world.machines)))
        while self._sent[0][0] < world.now_s - WINDOW_S:
            self._sent.popleft()
        since_s, costs_before, before = self._sent[0]
        if self._blamed or world.now_s - since_s < WINDOW_S * 0.9:
            return
        at_most = DATAGRAMS_PER_S[0] + DATAGRAMS_PER_S[1] * len(world.machines)
        at_most += (costs - costs_before) / (world.now_s - since_s)
        for machine, earlier in zip(world.machines, before, strict=True):
            rate = (machine.sent - earlier) / (world.now_s - since_s)
            if rate > at_most:
                self._blamed = True
                blame(f"n{machine.index} sends {rate:.0f} datagrams a second, more than {at_most:.0f}")

    def at_end(self, world: World, blame: Blame) -> None:
        """Nothing more."""
