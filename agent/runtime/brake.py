"""Slows down containers that end again and again: podman restarts them at once, which takes a whole core for nothing.

Plain bookkeeping with the time handed in; the engine does what it says.
"""

from __future__ import annotations

from dataclasses import dataclass

BURST = 4
"""Restarts within `WINDOW_S` that are one too many; a service that stumbles twice at its start is not slowed down."""
WINDOW_S = 10.0
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 300.0  # as in Kubernetes
STEADY_S = 120.0  # a container that ran this long starts with a clean sheet
PATIENCE_S = 5.0
"""An ended container that nobody paused is given this long to be restarted by podman itself, then we do it."""


@dataclass(slots=True)
class _Sheet:
    """What is remembered of one container; the times are those of the caller's clock."""

    window_at_s: float
    window_restarts: int = 0
    last_restarts: int = 0
    changed_at_s: float = 0.0
    on_probation: bool = False
    earlier_restarts: int = 0
    pause_s: float = FIRST_PAUSE_S
    paused: bool = False
    resume_at_s: float = 0.0
    ended_at_s: float | None = None


class Brake:
    """Which containers are to be paused, and when they are to be started again."""

    def __init__(self) -> None:
        self._sheets: dict[str, _Sheet] = {}

    def counts(self, container: str, restarts: int, now_s: float) -> bool:
        """A container was seen with this count of podman's; True when it is to be stopped for a while."""
        sheet = self._sheets.get(container)
        if sheet is None:
            self._sheets[container] = _Sheet(now_s, restarts, restarts, now_s)
            return False
        if sheet.paused:
            return False
        if restarts != sheet.last_restarts:
            sheet.last_restarts, sheet.changed_at_s = restarts, now_s
        elif now_s - sheet.changed_at_s >= STEADY_S:
            sheet.pause_s, sheet.on_probation = FIRST_PAUSE_S, False
        if sheet.on_probation and restarts > 0:
            return True
        if now_s - sheet.window_at_s > WINDOW_S:
            sheet.window_at_s, sheet.window_restarts = now_s, restarts
        return restarts - sheet.window_restarts >= BURST

    def runs(self, container: str) -> None:
        """A container was seen running."""
        sheet = self._sheets.get(container)
        if sheet is not None:
            sheet.paused, sheet.ended_at_s = False, None

    def paused(self, container: str, now_s: float) -> None:
        """The container was stopped; it rests for a while, each time twice as long."""
        sheet = self._sheets.setdefault(container, _Sheet(now_s))
        sheet.paused = True
        sheet.resume_at_s = now_s + sheet.pause_s
        sheet.pause_s = min(sheet.pause_s * 2, LONGEST_PAUSE_S)

    def ended(self, container: str, now_s: float) -> bool:
        """A container was seen ended that should run; True when it is to be started."""
        sheet = self._sheets.setdefault(container, _Sheet(now_s))
        if sheet.paused:
            return now_s >= sheet.resume_at_s
        if sheet.ended_at_s is None:
            sheet.ended_at_s = now_s
        return now_s - sheet.ended_at_s >= PATIENCE_S

    def started(self, container: str, restarts: int, now_s: float) -> None:
        """The container was started again after podman had counted to `restarts`; podman begins at 0 then.

        It gets one try: if it ends again before it ran for a while, it is paused again at once.
        """
        sheet = self._sheets.setdefault(container, _Sheet(now_s))
        sheet.earlier_restarts += restarts + 1
        sheet.window_at_s, sheet.window_restarts = now_s, 0
        sheet.last_restarts, sheet.changed_at_s = 0, now_s
        sheet.on_probation, sheet.paused, sheet.ended_at_s = True, False, None

    def is_paused(self, container: str) -> bool:
        """Whether the container rests."""
        sheet = self._sheets.get(container)
        return sheet is not None and sheet.paused

    def earlier_restarts(self, container: str) -> int:
        """Restarts that podman has forgotten."""
        sheet = self._sheets.get(container)
        return sheet.earlier_restarts if sheet is not None else 0

    def next_s(self) -> float | None:
        """When the next resting container is to be started."""
        return min((sheet.resume_at_s for sheet in self._sheets.values() if sheet.paused), default=None)

    def keep(self, containers: set[str]) -> None:
        """Forget every other container."""
        for gone in self._sheets.keys() - containers:
            del self._sheets[gone]
