"""When an ended container is started again: at once the first time, then ever later (Kubernetes' CrashLoopBackOff).

One rule for every runtime, and one owner of restarts: the runtime's engine inside the agent. Podman itself is told
never to restart anything. Source: the kubelet's `doBackOff` over `client-go/util/flowcontrol/backoff.go`.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 300.0
"""Pauses double from ten seconds to five minutes (Kubernetes)."""

STEADY_S = 600.0
"""A container that ended so long after its last restart begins with a clean sheet (Kubernetes: twice the longest)."""


@dataclass(frozen=True, slots=True)
class RestartSheet:
    """What is remembered of one container's restarts. Times are seconds of one clock that never goes back."""

    restarts: int = 0
    pause_s: float = 0.0
    restarted_s: float = 0.0
    exit_code: int | None = None
    """How the run before the last restart ended."""

    def due_s(self, ended_s: float) -> float:
        """When a container that ended at `ended_s` is to be started again."""
        return ended_s + (0.0 if self._is_steady(ended_s) else self.pause_s)

    def restarted(self, ended_s: float, now_s: float, exit_code: int | None = None) -> RestartSheet:
        """The sheet after the container that ended at `ended_s` was started again at `now_s`."""
        doubled = min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        pause_s = FIRST_PAUSE_S if self._is_steady(ended_s) else doubled
        return RestartSheet(self.restarts + 1, pause_s, now_s, exit_code)

    def _is_steady(self, ended_s: float) -> bool:
        return ended_s - self.restarted_s > STEADY_S
