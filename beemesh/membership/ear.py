"""Whether this node hears well enough to judge others: one that hears nobody learns of no refutation either.

Lifeguard makes a node that is unwell slower to accuse. This keeps one that was starved, or cut off, from holding others
dead on the strength of what it heard before: while it is deaf, and for a moment after, it asks again instead.
"""

from __future__ import annotations

DEAF_AFTER_PROBES = 3
"""Probe intervals without a word from anybody: a node that is well is probed, and echoed, about twice in each."""

LISTENS_FIRST_PROBES = 1
"""Probe intervals after the first word, in which what waited for us is taken in."""


class Ear:
    """When this node heard members, and for how long it has without a gap. Until the first word it trusts itself."""

    def __init__(self, probe_interval_s: float) -> None:
        self._deaf_after_s = DEAF_AFTER_PROBES * probe_interval_s
        self._listens_first_s = LISTENS_FIRST_PROBES * probe_interval_s
        self._last_s: float | None = None
        self.since_s = float("-inf")
        """Boot time since when it has heard others without a gap."""

    def heard(self, now_s: float) -> None:
        """A member spoke to us."""
        if self._last_s is not None and now_s - self._last_s > self._deaf_after_s:
            self.since_s = now_s
        self._last_s = now_s

    def is_deaf(self, now_s: float) -> bool:
        """Whether it would be rash to judge anybody now."""
        if self._last_s is None:
            return False
        return now_s - self._last_s > self._deaf_after_s or now_s - self.since_s < self._listens_first_s
