"""How fast a steward replaces what ran before: a budget against storms, and patience while many come and go.

A single machine that dies costs a second at most. When a large part of a mesh seems dead, it is more likely cut off,
and will be back with all that it ran: replacements wait until deaths have ceased for a while, and then come at a
bounded rate.
"""

from __future__ import annotations

from collections import deque

from beemesh.ids import NodeId
from beemesh.rates import Rates

REPAIRS_PER_S = 4.0
REPAIRS_BURST = 64.0
"""Replacements that one steward begins: all that some machines ran at once, and then a stream that a mesh can place
beside its ordinary work."""

PARALLEL_MAX = 16
"""Replacements of one workload that are being placed at the same time."""

STORM_PART = 0.3
STORM_MIN = 3
"""So many deaths, and such a part of the mesh, within `STORM_S` are a storm: more than machines die of by chance."""

STORM_S = 30.0
CALM_S = 5.0
"""Replacements wait in a storm until nobody has been judged dead, or come back, for so long."""

HESITATE_S = 1.0
SMALL_MAX = 5
"""After each death a steward looks so long whether others follow, but not in so small a mesh, where one machine is a
large part of it and half of them is no storm."""

DEATHS_MAX = 10_000
"""Deaths within `STORM_S` that are remembered: those of the largest mesh."""

_SELF = NodeId(bytes(32))


class Repairs:
    """One steward's budget, over all workloads that it hosts."""

    def __init__(self) -> None:
        self._rates = Rates(REPAIRS_PER_S, REPAIRS_BURST)
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self._changed_s = float("-inf")

    def died(self, now_s: float) -> None:
        """A member was judged dead."""
        self._forget(now_s)
        self._deaths.append(now_s)
        self._changed_s = now_s

    def came(self, now_s: float) -> None:
        """A member came, or came back: in a storm others may follow."""
        if self._deaths:
            self._changed_s = now_s

    def is_storm(self, members: int, now_s: float) -> bool:
        """Whether replacements should wait; `members` counts all of the roster, dead ones too."""
        if members <= SMALL_MAX:
            return False
        self._forget(now_s)
        many = len(self._deaths) >= max(STORM_MIN, STORM_PART * members)
        return bool(self._deaths) and now_s - self._changed_s < (CALM_S if many else HESITATE_S)

    def _forget(self, now_s: float) -> None:
        """Deaths of long ago say nothing of a storm. A small mesh never asks whether there is one."""
        while self._deaths and now_s - self._deaths[0] > STORM_S:
            self._deaths.popleft()

    def take(self, members: int, running: int, now_s: float) -> bool:
        """Whether one more replacement may begin, of a workload that has `running` of them under way."""
        if running >= PARALLEL_MAX or self.is_storm(members, now_s):
            return False
        return self._rates.take(_SELF, now_s)
