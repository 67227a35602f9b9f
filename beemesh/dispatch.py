"""How the protocols of one node are composed: who gets which event, and what leaves the node.

The protocols know nothing of each other. `Dispatcher` routes messages by type, timers by the room that set them,
answers by the request they belong to, and hands every notification to all who listen. What concerns the node itself
(requests to itself, local delivery) never leaves it; all else becomes an outer effect for the shell or the simulator,
in the order in which it was decided, so that a `Save` still precedes what depends on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from beemesh.effects import (
    Answered,
    Asked,
    Broadcast,
    Cancel,
    Effects,
    Erase,
    Flush,
    JobFinished,
    Notify,
    Now,
    Received,
    Reply,
    Request,
    Run,
    Save,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.ids import NodeId

EVENTS_PER_CALL_MAX = 20_000
"""Internal events that one outer event may cause: far above any honest chain, so a loop between protocols is a bug."""

LEAVES: frozenset[type] = frozenset({Save, Erase, Flush, Schedule, Cancel})
"""Effects that leave the node as they are."""

INTERNAL_TOKENS_START = 1 << 62
"""Tokens of requests that the node asks itself; a shell counts its own from 1."""


class Participant(Protocol):
    """A protocol as the dispatcher sees it."""

    @property
    def room(self) -> str:
        """First element of all its timer keys."""
        ...

    @property
    def handles(self) -> tuple[type, ...]:
        """Messages that it takes, as `Received` or `Asked`."""
        ...

    @property
    def listens(self) -> tuple[type, ...]:
        """Notifications that it takes."""
        ...

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables that it saves to and restores from."""
        ...

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back what was saved, before `start`."""
        ...

    def start(self, now: Now) -> Effects:
        """Begin."""
        ...

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about an event."""
        ...


class Broadcaster(Participant, Protocol):
    """The participant that carries `Broadcast` effects to everybody, this node included."""

    def publish(self, topic: str, message: msgspec.Struct, now: Now) -> Effects:
        """What to do so that every member gets `message`."""
        ...


class Dispatcher:
    """Routes events to participants until nothing is left to do; returns the effects that leave the node."""

    def __init__(self, self_id: NodeId, participants: Sequence[Participant], broadcaster: Broadcaster) -> None:
        self._self_id = self_id
        self._participants = tuple(participants)
        self._broadcaster = broadcaster
        self._by_room = {participant.room: participant for participant in participants}
        self._by_message: dict[type, list[Participant]] = {}
        self._by_notification: dict[type, list[Participant]] = {}
        for participant in participants:
            for kind in participant.handles:
                self._by_message.setdefault(kind, []).append(participant)
            for kind in participant.listens:
                self._by_notification.setdefault(kind, []).append(participant)
        self._requests: dict[int, Participant] = {}
        self._jobs: dict[str, Participant] = {}
        self._own_questions: dict[int, int] = {}
        self._next_token = INTERNAL_TOKENS_START

    def start(self, now: Now) -> Effects:
        """Start every participant, in the order they were given."""
        out: Effects = []
        for participant in self._participants:
            out += self._settle(participant, participant.start(now), now)
        return out

    def dispatch(self, event: Any, now: Now) -> Effects:
        """Carry one outer event through; the result holds only what must leave the node."""
        out: Effects = []
        for participant in self._targets(event):
            if effects := participant.handle(event, now):
                out += self._settle(participant, effects, now)
        return out

    def carry(self, effects: Effects, now: Now) -> Effects:
        """Settle effects that come from outside any participant (a command of the node itself)."""
        return self._settle(None, effects, now)

    def forget_request(self, request_id: int) -> None:
        """A request was answered, or never left."""
        self._requests.pop(request_id, None)

    def _targets(self, event: Any) -> list[Participant]:
        kind = type(event)
        if kind is Received or kind is Asked:
            return self._by_message.get(type(event.message), [])
        if kind is TimerFired:
            return self._owner_of_timer(event.key)
        if kind is Answered:
            asker = self._requests.pop(event.request_id, None)
            return [asker] if asker else []
        if kind is JobFinished:
            runner = self._jobs.pop(event.job_id, None)
            return [runner] if runner else []
        return self._by_notification.get(kind, [])

    def _owner_of_timer(self, key: Hashable) -> list[Participant]:
        owner = self._by_room.get(key[0]) if isinstance(key, tuple) and key else None
        return [owner] if owner else []

    def _settle(self, origin: Participant | None, effects: Effects, now: Now) -> Effects:
        """Breadth first: an event that a participant causes is handled after what was already decided."""
        out: Effects = []
        waiting: deque[tuple[Participant | None, Effects]] = deque([(origin, effects)])
        for _ in range(EVENTS_PER_CALL_MAX):
            if not waiting:
                return out
            source, decided = waiting.popleft()
            for effect in decided:
                if type(effect) in LEAVES or (type(effect) is Send and effect.to != self._self_id):
                    out.append(effect)
                    continue
                event, leaves = self._inside(source, effect, now)
                out += leaves
                if event is None:
                    continue
                if isinstance(effect, Broadcast):
                    waiting.append((self._broadcaster, event))
                    continue
                for target in self._targets(event):
                    if caused := target.handle(event, now):
                        waiting.append((target, caused))
        raise RuntimeError(f"more than {EVENTS_PER_CALL_MAX} events from one: protocols answer each other in a circle")

    def _inside(self, source: Participant | None, effect: Any, now: Now) -> tuple[Any, Effects]:
        """(what happens inside the node because of `effect`, what leaves the node)."""
        match effect:
            case Notify(event=event):
                return event, [effect]
            case Broadcast(topic=topic, message=message):
                return self._broadcaster.publish(topic, message, now), []
            case Send(to=to, message=message) if to == self._self_id:
                return Received(sender=self._self_id, message=message), []
            case Request(request_id=request_id) if source is not None:
                self._requests[request_id] = source
                return self._ask_self(effect) if effect.to == self._self_id else (None, [effect])
            case Reply(token=token, message=message) if token >= INTERNAL_TOKENS_START:
                if token not in self._own_questions:
                    return None, []
                return Answered(self._own_questions.pop(token), self._self_id, message), []
            case Run(job_id=job_id) if source is not None:
                self._jobs[job_id] = source
                return None, [effect]
            case _:
                return None, [effect]

    def _ask_self(self, request: Request) -> tuple[Any, Effects]:
        token = self._next_token
        self._next_token += 1
        self._own_questions[token] = request.request_id
        if type(request.message) not in self._by_message:
            del self._own_questions[token]
            return Answered(request.request_id, self._self_id, None, "this node does not answer such requests"), []
        return Asked(sender=self._self_id, token=token, message=request.message), []
