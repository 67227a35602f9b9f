"""What one peer makes this agent hold and do, over all the connections between the two."""

from __future__ import annotations

import asyncio

ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Answers that wait for one peer to read them: two sealed manifests. Past it no further request of it is read. Past
twice that its answers are refused: those to requests that were read before, and answered once a disk had them."""

FOLLOWED_MAX = 16
"""Logs and calls that one peer follows through us."""

CORE_SHARE_MAX = 0.5
BUSY_S_MAX = 1.0
"""What handling a peer's messages may take: so much of one core in the long run, and so many seconds of it at once.
Past it the peer is read more slowly, and nothing of what it sent is lost: a mesh of 1,000 nodes that places work comes
nowhere near, a member that floods does."""

TURN_S = 0.01
"""After so much for one peer, whoever else waits is served."""


class Load:
    """Counts for one peer; its connections share it."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._busy_at_s = 0.0
        self._turn_s = 0.0
        self.followed = 0
        """Answers in pieces that are under way."""
        self._answer_bytes = 0
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the peer has to read before it may ask again."""
        return self._answer_bytes >= ANSWER_BYTES_MAX

    @property
    def is_overfull(self) -> bool:
        """Whether not even what was asked before is answered any more."""
        return self._answer_bytes >= 2 * ANSWER_BYTES_MAX

    def spend(self, busy_s: float, now_s: float) -> float | None:
        """A message took so much time of a core until now; for how long to read nothing of the peer. 0: others first;
        None: go on."""
        passed_s = max(0.0, now_s - self._busy_at_s)
        self._busy_s = max(0.0, self._busy_s - CORE_SHARE_MAX * passed_s) + busy_s
        self._busy_at_s = now_s
        self._turn_s += busy_s
        if self._busy_s > BUSY_S_MAX:
            self._turn_s = 0.0
            return (self._busy_s - BUSY_S_MAX) / CORE_SHARE_MAX
        if self._turn_s >= TURN_S:
            self._turn_s = 0.0
            return 0.0
        return None

    @property
    def busy_for_s(self) -> float:
        """After so long without a message nothing of what the peer's took counts any more."""
        return self._busy_s / CORE_SHARE_MAX

    def add(self, answer_bytes: int) -> None:
        """An answer waits."""
        self._answer_bytes += answer_bytes

    def remove(self, answer_bytes: int) -> None:
        """It was read, or never will be."""
        self._answer_bytes -= answer_bytes
        self.wake()

    def wake(self) -> None:
        """Have everybody who waits for a change look again."""
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()

    async def changed(self) -> None:
        """Wait until less waits, or something else is to be looked at."""
        await self._changed.wait()
