"""Token buckets per member: how often one of them may ask for something that costs us."""

from __future__ import annotations

from collections import OrderedDict

MEMBERS_MAX = 4_096
"""Buckets kept: the largest mesh several times over; the one that was idle longest goes first, and was full by then."""


class Rates:
    """One bucket per member: `per_s` tokens come back each second, up to `burst`."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def is_empty(self, member: bytes, boot_s: float) -> bool:
        """Whether the member has not one token now; takes none, and remembers nothing."""
        return self._tokens(member, boot_s) < 1.0

    def take(self, member: bytes, boot_s: float, amount: float = 1.0) -> bool:
        """Whether the member may go on now; takes `amount` tokens if so."""
        tokens = self._tokens(member, boot_s)
        allowed = tokens >= amount
        self._buckets[member] = (tokens - amount if allowed else tokens, boot_s)
        self._buckets.move_to_end(member)
        while len(self._buckets) > MEMBERS_MAX:
            self._buckets.popitem(last=False)
        return allowed

    def forget(self, member: bytes) -> None:
        """It is no member any more."""
        self._buckets.pop(member, None)

    def _tokens(self, member: bytes, boot_s: float) -> float:
        tokens, last_s = self._buckets.get(member, (self._burst, boot_s))
        return min(self._burst, tokens + max(0.0, boot_s - last_s) * self._per_s)
