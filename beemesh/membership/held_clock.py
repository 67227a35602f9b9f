"""A wall clock that reads earlier than something that certainly happened, and how its node finds a better time.

Machines without a battery for their clock start in the past. Such a clock is held at the time at which the node's
configuration was signed, until members agree on a later one: two of them must say that it is at least that late, or the
only other one there is. So a single liar moves nobody, and no recording of the past moves anybody beyond the past.

Once the machine's own clock was set, and is about as late as members said, it is believed again. What they said may
have been a little ahead: the held clock stands still until the machine's own has caught up, and never goes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beemesh.effects import Effects, Notify, Now
from beemesh.events import ClockAgreed, ClockTestimony
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster

WITNESSES_NEEDED = 2
"""Distinct members for a later time, as many as for a death."""

WITNESS_KEPT_S = 120.0
"""A member's word counts so long: absent members are called every few seconds, by everybody in a small mesh."""

MOVE_MIN_MS = 1_000
"""Smaller steps are not worth telling of."""

CATCH_UP_MAX_MS = 30_000
"""So far ahead of the right time members may be whom all others understand: a machine's own clock that is no further
behind what they said was set, and is not the one that started in the past."""


class HeldClock:
    """What the machine's wall clock is taken for. No protocol: whoever drives a node reads the clock through it."""

    def __init__(self, floor_ms: int = 0) -> None:
        """`floor_ms` is when the configuration was signed; 0 holds nothing."""
        self._floor_ms = floor_ms
        self._agreed_s: float | None = None
        """Boot time of the last agreement: from then on the held clock runs."""

    def read(self, raw_ms: int, boot_s: float) -> int:
        """The wall time, where the machine's own clock reads `raw_ms`."""
        held_ms = self._held_ms(boot_s)
        if self._agreed_s is not None and held_ms - raw_ms <= CATCH_UP_MAX_MS:
            self._floor_ms, self._agreed_s = held_ms, None
        return max(raw_ms, held_ms)

    def is_held(self, raw_ms: int, boot_s: float) -> bool:
        """Whether the machine's own clock is not believed."""
        return raw_ms < self._held_ms(boot_s)

    def move_on(self, wall_ms: int, raw_ms: int, boot_s: float) -> bool:
        """Members agree that it is `wall_ms`; whether that changed anything. Only a clock that is held follows them."""
        if not self.is_held(raw_ms, boot_s) or wall_ms <= self._held_ms(boot_s):
            return False
        self._floor_ms, self._agreed_s = wall_ms, boot_s
        return True

    def _held_ms(self, boot_s: float) -> int:
        if self._agreed_s is None:
            return self._floor_ms
        return self._floor_ms + int((boot_s - self._agreed_s) * 1000)


class ClockWitnesses:
    """The protocol: gathers what members say of the time, and tells what enough of them agree on."""

    room = "clock"
    handles: tuple[type, ...] = ()
    listens = (ClockTestimony,)
    tables: tuple[str, ...] = ()

    def __init__(self, self_id: NodeId, roster: Roster) -> None:
        self._self_id = self_id
        self._roster = roster
        self._said: dict[NodeId, tuple[int, float]] = {}
        """Member → (the latest wall time that it stands for, our boot time then)."""

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept on disk."""

    def start(self, now: Now) -> Effects:
        """Nothing to do before the first word."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        if not isinstance(event, ClockTestimony) or event.node_id == self._self_id:
            return []
        if self._roster.standing(event.node_id, now.wall_ms) == "out":
            return []
        if event.wall_ms >= self._running(event.node_id, now):
            self._said[event.node_id] = (event.wall_ms, now.boot_s)
        agreed_ms = self._agreed(now)
        return [Notify(ClockAgreed(agreed_ms))] if agreed_ms - now.wall_ms >= MOVE_MIN_MS else []

    def _running(self, node_id: NodeId, now: Now) -> int:
        """The time that a member stands for, as of now; 0 when it has said nothing lately."""
        said_ms, at_s = self._said.get(node_id, (0, float("-inf")))
        return said_ms + int((now.boot_s - at_s) * 1000) if now.boot_s - at_s <= WITNESS_KEPT_S else 0

    def _agreed(self, now: Now) -> int:
        """The latest time that enough members stand for."""
        self._said = {node_id: said for node_id, said in self._said.items() if self._roster.member(node_id) is not None}
        needed = min(WITNESSES_NEEDED, max(1, len(self._roster) - 1))
        times = sorted((self._running(node_id, now) for node_id in self._said), reverse=True)
        return times[needed - 1] if len(times) >= needed else 0
