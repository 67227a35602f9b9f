"""What happened lately, as nodes signed it: published on `scheduler-events`, kept for a bounded time by everybody. In a
large mesh only those are told whom it concerns (`audience`), the steward by a question that is put until it answers.
The oldest go first, but for those that a later steward depends on (`verdicts`).

Any agent answers `events`, `explain` and `describe` from its journal. New events are saved in batches, so that no
decision ever waits for the diary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from beemesh.crypto import Crypto
from beemesh.effects import (
    Asked,
    Broadcast,
    Effects,
    Erase,
    Notify,
    Now,
    Received,
    Reply,
    Request,
    Save,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.errors import Untrusted
from beemesh.events import Delivered, EmitEvent, EventHeard, EventRecalled, IntentChanged, Observed
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import NodeId, is_ulid
from beemesh.intents.record import workload_id_of
from beemesh.membership.roster import Roster
from beemesh.rates import Rates
from beemesh.scheduling.audience import WATCH_MS_MAX, Audience
from beemesh.scheduling.messages import (
    EVENT_KIND,
    EVENT_WATCH_KIND,
    TOPIC_EVENTS,
    Event,
    EventList,
    EventTaken,
    EventWatch,
    ListEvents,
    SignedEvent,
    SignedEventWatch,
)
from beemesh.scheduling.reading import EventsTold, EventsWatched
from beemesh.scheduling.tasks import IntentLookup, decoded, open_member_statement
from beemesh.scheduling.verdicts import Verdicts
from beemesh.undecodable import decoded_rows

EVENTS_MAX = 1_000
"""Events kept: about half a megabyte, and days of an ordinary mesh."""

EVENT_BYTES_MAX = 16 * 1024
"""Of one event: a reason and some details, each as long as any may be; `EVENTS_MAX` of them fit into memory."""

FLUSH_S = 1.0
"""Events of one second are saved together."""

EVENTS_PER_S = 20.0
EVENTS_BURST = 500.0
"""What one member may publish: a node that deploys a hundred pods at once, and a steady stream after it."""

LISTED_MAX = 200
"""Events in one answer: some hundred kilobytes."""

STEWARD_S = 3.0
"""How long a steward may take to say that it has an event, through losses: a lease's lifetime."""

TABLE = "journal"

_encoder = msgspec.msgpack.Encoder()


class Journal:
    """Signs what this node tells, keeps what all nodes tell."""

    room = "journal"
    handles: tuple[type, ...] = (SignedEvent, ListEvents)
    listens: tuple[type, ...] = (EmitEvent, Delivered, EventsWatched, EventsTold, IntentChanged)
    tables: tuple[str, ...] = (TABLE,)

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        crypto: Crypto,
        audience: Audience | None = None,
        new_request_id: Callable[[], int] = lambda: 0,
        intent_for: IntentLookup = lambda _key: None,
    ) -> None:
        """Without an `audience` everybody is told; where `intent_for` finds no record of a workload, nothing that was
        told of it is spared."""
        self._audience = audience
        self._new_request_id = new_request_id
        self._self_id = self_id
        self._roster = roster
        self._crypto = crypto
        self._rates = Rates(EVENTS_PER_S, EVENTS_BURST)
        self._events: OrderedDict[str, Event] = OrderedDict()
        self._originals: dict[str, Signed] = {}
        """The same, as they came: others may ask for them."""
        self._unsaved: set[str] = set()
        self._saved: set[str] = set()
        self._flushing = False
        self._verdicts = Verdicts(intent_for)

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back the events of before; they were verified when they came."""
        for key, signed in decoded_rows(sorted(rows), Signed):
            event = decoded(signed, Event) if signed is not None else None
            self._saved.add(key.decode(errors="replace"))
            if event is not None and signed is not None and len(signed.body) <= EVENT_BYTES_MAX:
                self._events[event.event_id], self._originals[event.event_id] = event, signed

    def start(self, now: Now) -> Effects:
        """All records are back: see what of the events of before is to be spared."""
        for event in self._events.values():
            self._verdicts.heard(event)
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about an event."""
        match event:
            case EmitEvent(event=told):
                signed = sign_statement(self._crypto, EVENT_KIND, told)
                return [*self._publish(told, signed, now), Notify(EventHeard(told)), *self._keep(told, signed, now)]
            case Delivered(message=SignedEvent() as message) if event.topic == TOPIC_EVENTS:
                return self._hear(message.event, now)
            case Received(message=SignedEvent() as message):
                return self._hear(message.event, now)
            case Asked(message=SignedEvent() as message, token=token):
                return [Reply(token, EventTaken(_id_of(message.event))), *self._hear(message.event, now)]
            case Asked(message=ListEvents(workload_ids=wanted), token=token):
                return [Reply(token, EventList(self._listed(frozenset(wanted))))]
            case EventsTold(events=events):
                return [effect for signed in events[:LISTED_MAX] for effect in self._recall(signed, now)]
            case Delivered(message=SignedEventWatch() as message) if event.topic == TOPIC_EVENTS:
                return self._watched(message, now)
            case EventsWatched():
                return self._ask_for_events(event, now)
            case IntentChanged(intent=intent) if workload_id := workload_id_of(intent.key):
                about = (each for each in self._events.values() if each.workload_id == workload_id)
                self._verdicts.changed(workload_id, about)
            case TimerFired():
                return self._flush()
        return []

    def _publish(self, event: Event, signed: Signed, now: Now) -> Effects:
        """To everybody; or to the steward, which answers, and to the others whom it may concern."""
        message = SignedEvent(signed)
        audience = self._audience
        if audience is None or audience.is_everybody(event):
            return [Broadcast(TOPIC_EVENTS, message)]
        effects: Effects = [Send(node_id, message) for node_id in audience.others(event, now)]
        steward = audience.steward_of(event)
        if steward is not None and steward != self._self_id:
            effects.insert(0, Request(self._new_request_id(), steward, message, STEWARD_S))
        return effects

    def _ask_for_events(self, watched: EventsWatched, now: Now) -> Effects:
        """Somebody watches here: where events do not come by themselves, ask all for them."""
        if self._audience is None or self._audience.hears_all():
            return []
        watch = EventWatch(self._self_id, now.wall_ms, round(watched.for_s * 1000), watched.namespace)
        return [Broadcast(TOPIC_EVENTS, SignedEventWatch(sign_statement(self._crypto, EVENT_WATCH_KIND, watch)))]

    def _watched(self, message: SignedEventWatch, now: Now) -> Effects:
        """Somebody watches: from now on tell that node as well."""
        try:
            watch = open_member_statement(
                self._crypto, self._roster, message.watch, EVENT_WATCH_KIND, EventWatch, now.wall_ms
            )
        except Untrusted:
            return [_refused("untrusted")]
        fresh = abs(now.wall_ms - watch.issued_ms) <= WATCH_MS_MAX
        if self._audience is not None and fresh and watch.node_id == message.watch.signer != self._self_id:
            self._audience.watch(watch, now)
        return []

    def _hear(self, signed: Signed, now: Now) -> Effects:
        if signed.signer == self._self_id:
            return []
        if self._rates.is_empty(signed.signer, now.boot_s):
            return [_refused("rate")]
        event, effects = self._take(signed, now)
        if event is None:
            return effects
        self._rates.take(signed.signer, now.boot_s)  # what others say in its name, or say again, costs it nothing
        return [Notify(EventHeard(event)), *effects]

    def _recall(self, signed: Signed, now: Now) -> Effects:
        event, effects = self._take(signed, now)
        return effects if event is None else [Notify(EventRecalled(event)), *effects]

    def _take(self, signed: Signed, now: Now) -> tuple[Event | None, Effects]:
        """Keep an event once it was checked; None where it is known, or refused."""
        if len(signed.body) > EVENT_BYTES_MAX:
            return None, [_refused("too_large")]
        try:
            event = open_member_statement(self._crypto, self._roster, signed, EVENT_KIND, Event, now.wall_ms)
        except Untrusted:
            return None, [_refused("untrusted")]
        if event.node_id != signed.signer or not is_ulid(event.event_id):
            return None, [_refused("malformed")]
        return (None, []) if event.event_id in self._events else (event, self._keep(event, signed, now))

    def _listed(self, workload_ids: frozenset[str]) -> tuple[Signed, ...]:
        """The newest of these workloads, or of all where none is named, oldest first; what the journal spares is not
        left out for newer ones."""
        fitting = [event for event in self.events() if not workload_ids or event.workload_id in workload_ids]
        chosen = {event.event_id for event in sorted(fitting, key=self._verdicts.spares)[-LISTED_MAX:]}
        return tuple(self._originals[event.event_id] for event in fitting if event.event_id in chosen)

    def _keep(self, event: Event, signed: Signed, now: Now) -> Effects:
        self._events[event.event_id], self._originals[event.event_id] = event, signed
        self._unsaved.add(event.event_id)
        self._verdicts.heard(event)
        while len(self._events) > EVENTS_MAX:
            oldest = next(key for key, each in self._events.items() if not self._verdicts.spares(each))
            del self._events[oldest], self._originals[oldest]
            self._unsaved.discard(oldest)
        effects: Effects = []
        if not self._flushing:
            self._flushing = True
            effects.append(Schedule((self.room, "flush"), now.boot_s + FLUSH_S))
        return effects

    def _flush(self) -> Effects:
        self._flushing = False
        unsaved = [(event_id, self._originals[event_id]) for event_id in self._originals if event_id in self._unsaved]
        effects: Effects = [Save(TABLE, key.encode(), _encoder.encode(signed)) for key, signed in unsaved]
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
        return pending_in(self.events(workload_id=workload_id), revision, replica)


def pending_in(events: Sequence[Event], revision: int, replica: int) -> Event | None:
    """The same of a workload's events, oldest first."""
    for event in reversed(events):
        if (event.revision, event.replica) == (revision, replica):
            if event.status in ("Pending", "Failed"):
                return event
            if event.status == "Deployed":
                return None
    return None


def _id_of(signed: Signed) -> str:
    """The event's id, to name it by in an answer; nothing is believed yet."""
    event = decoded(signed, Event)
    return event.event_id if event is not None else ""


def _refused(reason: str) -> Notify:
    return Notify(Observed("scheduler_events_refused_total", {"reason": reason}))
