"""The two clocks of a machine."""

from __future__ import annotations

import time
from collections.abc import Callable

from beemesh.effects import Now
from beemesh.membership.held_clock import HeldClock


def boot_s() -> float:
    """Seconds since boot, suspended time included (CLOCK_BOOTTIME): the only clock that timers and leases see."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Reads both clocks; a wall clock that reads earlier than `floor_ms` (when the config was signed) is held there
    until members agree on a later time."""

    def __init__(self, floor_ms: int = 0, raw_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._held = HeldClock(floor_ms)
        self._raw_ms = raw_ms

    @property
    def is_held(self) -> bool:
        """Whether the machine's own wall clock reads earlier than something that certainly happened."""
        return self._held.is_held(self._raw_ms(), boot_s())

    def now(self) -> Now:
        """This moment."""
        moment_s = boot_s()
        return Now(boot_s=moment_s, wall_ms=self._held.read(self._raw_ms(), moment_s))

    def move_on(self, wall_ms: int) -> bool:
        """Follow the members, if this clock is held; whether it moved."""
        return self._held.move_on(wall_ms, self._raw_ms(), boot_s())
