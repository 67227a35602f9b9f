"""Timers on the boot clock, which counts suspended time and which no event loop offers."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Hashable

from agent.clock import boot_s

log = logging.getLogger("beemesh.timers")

LONGEST_SLEEP_S = 1.0
"""The loop's own clock stands still while a machine is suspended: after it wakes, due timers fire this soon."""

AGAIN_S = 5.0
"""A timer whose handling broke fires once more after so long: what is done from time to time sets its next turn in that
handling, and would be done never again."""


class Timers:
    """Calls `fire(key)` when a key is due; setting a key again moves it."""

    def __init__(self, fire: Callable[[Hashable], None]) -> None:
        self._fire = fire
        self._due: dict[Hashable, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._count = 0
        self._handle: asyncio.TimerHandle | None = None
        self._wakes_at = float("inf")

    def set(self, key: Hashable, at_boot_s: float) -> None:
        """Fire `key` at that boot time, instead of when it was due before."""
        self._count += 1
        self._due[key] = (at_boot_s, self._count)
        heapq.heappush(self._heap, (at_boot_s, self._count, key))
        if at_boot_s < self._wakes_at:
            self._arm()

    def cancel(self, key: Hashable) -> None:
        """Forget `key`."""
        self._due.pop(key, None)

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        while self._heap and self._due.get(self._heap[0][2], (0.0, -1))[1] != self._heap[0][1]:
            heapq.heappop(self._heap)
        if not self._heap:
            self._wakes_at = float("inf")
            return
        now = boot_s()
        self._wakes_at = self._heap[0][0]
        delay_s = min(max(0.0, self._wakes_at - now), LONGEST_SLEEP_S)
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._handle = None
        now = boot_s()
        while self._heap and self._heap[0][0] <= now:
            _, count, key = heapq.heappop(self._heap)
            if self._due.get(key, (0.0, -1))[1] == count:
                del self._due[key]
                try:
                    self._fire(key)
                except Exception:  # a fault of ours in one protocol must not end the timers of all
                    log.exception("timer %s broke; it fires again in %g s", key, AGAIN_S)
                    if key not in self._due:
                        self.set(key, now + AGAIN_S)
        self._arm()

    def close(self) -> None:
        """Fire nothing any more."""
        if self._handle is not None:
            self._handle.cancel()
        self._heap.clear()
        self._due.clear()
