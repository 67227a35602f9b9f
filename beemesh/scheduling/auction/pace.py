"""When to speak, how long to wait for others, and how long to hold back after a loss. All in seconds."""

from __future__ import annotations

from beemesh.effects import Randomness
from beemesh.membership.view import View
from beemesh.settings.model import Scheduler

SLACK_MIN_S = 0.010
SLACK_MAX_S = 0.080
"""Bounds on how long news of a bid is expected to take: a scheduler's time slice, and a far continent."""

SPREAD_SHARE = 0.8
"""Part of the selection window over which scores 1…0 spread the moments to speak; the rest is for bids to arrive."""

JITTER_SHARE = 0.05
"""Part of `selection_jitter_ms` that is drawn, so that equal nodes do not speak in the same instant."""

CLAIM_AGAIN_S = 1.0
"""A loser claims when a lease's lifetime and this have passed without `Deployed`."""

RANK_STEP_S = 0.3
BACKOFF_MAX_S = 5.0
"""Losers step in one after the other, the better first, none later than this."""


class Pace:
    """One node's sense of time in auctions."""

    def __init__(self, view: View, randomness: Randomness, timing: Scheduler) -> None:
        self._view = view
        self._randomness = randomness
        self._timing = timing

    def delay_s(self, total: float) -> float:
        """How long a node with that score waits before it speaks: the better, the shorter."""
        return (1.0 - total) * SPREAD_SHARE * self._timing.selection_window_ms / 1000

    def jitter_s(self) -> float:
        """A small part of that which is drawn."""
        return self._randomness.uniform(0.0, JITTER_SHARE * self._timing.selection_jitter_ms / 1000)

    def slack_s(self) -> float:
        """How long a better bid that was spoken before ours may still be under way."""
        rtts = [self._view.rtt_s(node_id) or 0.0 for node_id in self._view.alive()]
        travel_s = min(SLACK_MAX_S, max(SLACK_MIN_S, 1.5 * max(rtts, default=0.0)))
        return travel_s + JITTER_SHARE * self._timing.selection_jitter_ms / 1000

    def patience_s(self, place: int) -> float:
        """How long the one with `place` others ahead of it watches before it claims."""
        lease_s = self._timing.lease_ttl_ms / 1000 + CLAIM_AGAIN_S
        return lease_s + min(BACKOFF_MAX_S, RANK_STEP_S * place) * self._randomness.uniform(0.8, 1.2)

    def backoff_s(self, retries: int) -> float:
        """How long to hold back after the `retries`th failure, from 1."""
        return min(BACKOFF_MAX_S, 0.5 * 2.0**retries) * self._randomness.uniform(0.7, 1.0)
