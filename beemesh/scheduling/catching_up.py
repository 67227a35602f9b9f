"""What was told while a node was not there, or was cut off with few others: it asks two members for it.

In a small mesh every event comes to everybody as it is told, and to nobody else: whoever joins, starts anew or comes
back from a minority would never learn that a Job is over, would run it again once it is its steward, and could not tell
a user why something does not run. In a large mesh events go to those whom they concern, and whoever reads asks these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from beemesh.effects import Answered, Effects, Notify, Now, Randomness, Request, Schedule, TimerFired
from beemesh.events import MemberDown, MemberUp
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.messages import EventList, ListEvents
from beemesh.scheduling.reading import EventsTold

AFTER_S = 1.0
"""So long after the first member came all are there that are going to, and have our card."""
AGAIN_S = 10.0
"""When nobody answered."""
ASKED = 2
"""Members that are asked: one may have come just now, too."""
ANSWER_S = 5.0

_TIMER = ("catch-up", "ask")


class CatchUp:
    """One node's question for what it missed."""

    room = "catch-up"
    handles: tuple[type, ...] = ()
    listens: tuple[type, ...] = (MemberUp, MemberDown)
    tables: tuple[str, ...] = ()

    def __init__(
        self, self_id: NodeId, roster: Roster, view: View, randomness: Randomness, new_request_id: Callable[[], int]
    ) -> None:
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._randomness = randomness
        self._new_request_id = new_request_id
        self._is_behind = True
        """Whether others may have told what never came here: from the start, and from when few members are alive."""
        self._is_scheduled = False

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept: a node that starts anew is behind."""

    def start(self, now: Now) -> Effects:
        """Nobody is there to be asked yet."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case MemberUp():
                return self._ask_in(AFTER_S, now)
            case MemberDown():
                self._is_behind |= 2 * len(self._view.alive()) <= len(self._roster.members())
            case TimerFired():
                self._is_scheduled = False
                return self._ask(now)
            case Answered(message=EventList(events=events)):
                self._is_behind = False
                return [Notify(EventsTold(events))]
        return []

    def _ask_in(self, pause_s: float, now: Now) -> Effects:
        if not self._is_behind or self._is_scheduled or self._view.is_large:
            return []
        self._is_scheduled = True
        return [Schedule(_TIMER, now.boot_s + pause_s)]

    def _ask(self, now: Now) -> Effects:
        others = [node_id for node_id in self._view.alive() if node_id != self._self_id]
        if not self._is_behind or not others:
            return []
        drawn = self._randomness.sample(others, min(ASKED, len(others)))
        questions = [Request(self._new_request_id(), node_id, ListEvents(()), ANSWER_S) for node_id in drawn]
        return [*questions, *self._ask_in(AGAIN_S, now)]
