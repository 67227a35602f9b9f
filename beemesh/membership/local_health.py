"""Lifeguard's local health: a node that is slow itself blames others more slowly."""

from __future__ import annotations

SCORE_MAX = 8
"""At worst this node probes nine times more slowly (memberlist's awareness maximum)."""


class LocalHealth:
    """A score from 0 (well) to `SCORE_MAX`; probe intervals and timeouts are stretched by `factor`."""

    def __init__(self) -> None:
        self.score = 0

    @property
    def factor(self) -> int:
        """By how much to stretch the probe interval and its timeouts."""
        return self.score + 1

    def probe_succeeded(self) -> None:
        """A probe was echoed: recover by one."""
        self._shift(-1)

    def probe_failed(self, *, helpers: int, nacks: int) -> None:
        """A probe failed. Helpers that are well say so (a nack): when none of them did, the fault may be our own.

        Lifeguard adds every missing nack; here one nack clears us, and none costs one point. When many members die at
        once most helpers are dead too, and a node that blamed itself for that would notice the others last."""
        if not (helpers and nacks):
            self._shift(1)

    def was_suspected(self) -> None:
        """Others suspect this node: it has been too slow for them."""
        self._shift(1)

    def stalled(self) -> None:
        """A timer fired much too late: this process, or its whole machine, stood still."""
        self._shift(1)

    def _shift(self, by: int) -> None:
        self.score = min(SCORE_MAX, max(0, self.score + by))
