"""The operator's clock, for people and for freshness; patience is measured on the monotonic one."""

from __future__ import annotations

import time


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
