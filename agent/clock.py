"""The two clocks of a machine."""

from __future__ import annotations

import time

from beemesh.effects import Now


def boot_s() -> float:
    """Seconds since boot, suspended time included (CLOCK_BOOTTIME): the only clock that timers and leases see."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Reads both clocks; a wall clock that reads earlier than `floor_ms` (when the config was signed) is held there."""

    def __init__(self, floor_ms: int = 0) -> None:
        self._floor_ms = floor_ms

    @property
    def is_held(self) -> bool:
        """Whether the machine's own wall clock reads earlier than something that certainly happened."""
        return time.time_ns() // 1_000_000 < self._floor_ms

    def now(self) -> Now:
        """This moment."""
        return Now(boot_s=boot_s(), wall_ms=max(time.time_ns() // 1_000_000, self._floor_ms))
