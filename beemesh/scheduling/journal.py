"""What happened lately, as nodes signed it: published on `scheduler-events`, kept for a bounded time by everybody.

Any agent answers `events`, `explain` and `describe` from its journal. New events are saved in batches, so that no
decision ever waits for the diary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

from beemesh.crypto import Crypto
from beemesh.effects import Broadcast, Effects, Erase, Notify, Now, Save, Schedule, TimerFired
from beemesh.errors import Untrusted
from beemesh.events import Delivered, EmitEvent, EventHeard, Observed
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import NodeId, is_ulid
from beemesh.membership.roster import Roster
from beemesh.rates import Rates
from beemesh.scheduling.messages import EVENT_KIND, TOPIC_EVENTS, Event, SignedEvent
from beemesh.scheduling.tasks import decoded, open_member_statement
from beemesh.undecodable import decoded_rows

EVENTS_MAX = 1_000
"""Events kept: about half a megabyte, and days of an ordinary mesh."""

FLUSH_S = 1.0
"""Events of one second are saved together."""

EVENTS_PER_S = 20.0
EVENTS_BURST = 500.0
"""What one member may publish: a node that deploys a hundred pods at once, and a steady stream after it."""

TABLE = "journal"

_encoder = msgspec.msgpack.Encoder()


class Journal:
    """Signs what this node tells, keeps what all nodes tell."""

    room = "journal"
    handles: tuple[type, ...] = ()
    listens: tuple[type, ...] = (EmitEvent, Delivered)
    tables: tuple[str, ...] = (TABLE,)

    def __init__(self, self_id: NodeId, roster: Roster, crypto: Crypto) -> None:
        self._self_id = self_id
        self._roster = roster
        self._crypto = crypto
        self._rates = Rates(EVENTS_PER_S, EVENTS_BURST)
        self._events: OrderedDict[str, Event] = OrderedDict()
        self._unsaved: dict[str, Signed] = {}
        self._saved: set[str] = set()
        self._flushing = False

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back the events of before; they were verified when they came."""
        for key, signed in decoded_rows(sorted(rows), Signed):
            event = decoded(signed, Event) if signed is not None else None
            self._saved.add(key.decode(errors="replace"))
            if event is not None:
                self._events[event.event_id] = event

    def start(self, now: Now) -> Effects:
        """Nothing to do until something happens."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about an event."""
        match event:
            case EmitEvent(event=told):
                signed = sign_statement(self._crypto, EVENT_KIND, told)
                return [Broadcast(TOPIC_EVENTS, SignedEvent(signed)), *self._keep(told, signed, now)]
            case Delivered(message=SignedEvent() as message) if event.topic == TOPIC_EVENTS:
                return self._hear(message.event, now)
            case TimerFired():
                return self._flush()
        return []

    def _hear(self, signed: Signed, now: Now) -> Effects:
        if signed.signer == self._self_id:
            return []
        if not self._rates.take(signed.signer, now.boot_s):
            return [_refused("rate")]
        try:
            event = open_member_statement(self._crypto, self._roster, signed, EVENT_KIND, Event, now.wall_ms)
        except Untrusted:
            return [_refused("untrusted")]
        if event.node_id != signed.signer or not is_ulid(event.event_id):
            return [_refused("malformed")]
        return [] if event.event_id in self._events else self._keep(event, signed, now)

    def _keep(self, event: Event, signed: Signed, now: Now) -> Effects:
        self._events[event.event_id] = event
        self._unsaved[event.event_id] = signed
        effects: Effects = [Notify(EventHeard(event))]
        while len(self._events) > EVENTS_MAX:
            oldest, _ = self._events.popitem(last=False)
            self._unsaved.pop(oldest, None)
        if not self._flushing:
            self._flushing = True
            effects.append(Schedule((self.room, "flush"), now.boot_s + FLUSH_S))
        return effects

    def _flush(self) -> Effects:
        self._flushing = False
        effects: Effects = [Save(TABLE, key.encode(), _encoder.encode(signed)) for key, signed in self._unsaved.items()]
        self._saved.update(self._unsaved)
        self._unsaved.clear()
        gone = self._saved - self._events.keys()
        self._saved -= gone
        return effects + [Erase(TABLE, key.encode()) for key in sorted(gone)]

    # --- for those who ask --------------------------------------------------------------------------------------------

    def events(
        self, *, task_id: str = "", workload_id: str = "", namespace: str = "", limit: int = EVENTS_MAX
    ) -> tuple[Event, ...]:
        """The newest `limit` events that fit, in the order in which they were issued."""
        fitting = [
            event
            for event in self._events.values()
            if (not task_id or event.task_id == task_id)
            and (not workload_id or event.workload_id == workload_id)
            and (not namespace or event.namespace == namespace)
        ]
        fitting.sort(key=lambda event: (event.issued_ms, event.event_id))
        return tuple(fitting[-limit:]) if limit > 0 else ()

    def pending(self, workload_id: str, revision: int, replica: int) -> Event | None:
        """Why a replica does not run: its last `Pending` or `Failed` event, unless it was deployed after that."""
        for event in reversed(self.events(workload_id=workload_id)):
            if (event.revision, event.replica) == (revision, replica):
                if event.status in ("Pending", "Failed"):
                    return event
                if event.status == "Deployed":
                    return None
        return None


def _refused(reason: str) -> Notify:
    return Notify(Observed("scheduler_events_refused_total", {"reason": reason}))
