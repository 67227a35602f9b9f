"""What one peer makes this agent hold, over all the connections between the two."""

from __future__ import annotations

import asyncio

ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Answers that wait for one peer to read them: two sealed manifests. Past it no further request of it is read. Past
twice that its answers are refused: those to requests that were read before, and answered once a disk had them."""

FOLLOWED_MAX = 16
"""Logs and calls that one peer follows through us."""


class Load:
    """Counts for one peer; its connections share it."""

    def __init__(self) -> None:
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
