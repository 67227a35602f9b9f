"""A node: all protocols composed, with bytes on one side and effects on the other.

The agent's shell and the simulator drive this very class. Datagrams come in as bytes and leave as bytes; what goes over
streams are messages, since the shell authenticates the peer of a stream by its handshake.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import msgspec

from beemesh.crypto import Crypto
from beemesh.dht.messages import Answer, Question
from beemesh.dispatch import LEAVES, Broadcaster, Dispatcher, Participant
from beemesh.effects import (
    Answered,
    Asked,
    Cancel,
    Effects,
    Notify,
    Now,
    Received,
    Reply,
    Request,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.events import ClockTestimony, FloorWanted, ForeignKeyEpoch, MemberDown, Observed, PingEchoed, RingChanged
from beemesh.identity.membership_card import GossipRing
from beemesh.ids import BootId, NodeId
from beemesh.membership.messages import FLOORLESS, Ping
from beemesh.membership.roster import Roster
from beemesh.membership.view import Address, View
from beemesh.outward import Ask, Outward, Tell, Transmit, Warm
from beemesh.wire.admission import Admission
from beemesh.wire.datagram import BODY_BYTES_MAX, DatagramSealer
from beemesh.wire.questions import Questions
from beemesh.wire.registry import encode_message
from beemesh.wire.verdict import Admitted, Refusal

COUNTED = {reason: Notify(Observed("datagrams_refused", {"reason": reason.value})) for reason in Refusal}
"""What tells of each refusal, made once: under a flood there is one for every datagram."""

OWN = frozenset({RingChanged, PingEchoed, MemberDown})
"""Notifications that concern the node itself."""

QUESTION = "question"
"""First element of the keys of the node's own timers: no room has this name."""


def is_cold(_peer: NodeId) -> bool:
    """No stream is ever known to be open."""
    return False


class Node:
    """One member of the mesh, without any I/O."""

    def __init__(
        self,
        self_id: NodeId,
        boot_id: BootId,
        *,
        roster: Roster,
        view: View,
        crypto: Crypto,
        ring: GossipRing,
        participants: Iterable[Participant],
        broadcaster: Broadcaster,
        clock_skew_ms: int = 30_000,
        is_warm: Callable[[NodeId], bool] = is_cold,
    ) -> None:
        """`participants` include the broadcaster; their order is that of their start. `is_warm` tells whether a stream
        to a member is open: small requests go to others in datagrams."""
        self.self_id = self_id
        self.boot_id = boot_id
        self.roster = roster
        self.view = view
        self._crypto = crypto
        self._participants = tuple(participants)
        self._handled = frozenset(kind for each in self._participants for kind in each.handles)
        self._dispatcher = Dispatcher(self_id, self._participants, broadcaster)
        self._admission = Admission(
            crypto, roster, ring, lambda message: isinstance(message, FLOORLESS), clock_skew_ms=clock_skew_ms
        )
        self._sealer = DatagramSealer(crypto, self_id, boot_id, ring)
        self._questions = Questions(boot_id, is_warm)
        self.admitted = 0
        """Datagrams that passed every check since the start."""
        self._arriving: tuple[NodeId, BootId, int, Address] | None = None
        """The datagram that is being handled: an echo in it sets its sender's floor, and tells where it is."""

    # --- what the shell calls -------------------------------------------------------------------------------------

    def tables(self) -> tuple[str, ...]:
        """Every table that some protocol wants restored."""
        return tuple(table for participant in self._participants for table in participant.tables)

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Hand a table back to its protocol, before `start`."""
        for participant in self._participants:
            if table in participant.tables:
                participant.restore(table, rows, now)

    def start(self, now: Now) -> Outward:
        """Start every protocol."""
        return self._outward(self._dispatcher.start(now), now)

    def datagram(self, data: bytes, source: Address, now: Now) -> Outward:
        """A datagram from anybody; what is not admitted is counted, and changes nothing."""
        judged = self._admission.admit(data, now, source)
        if not isinstance(judged, Admitted):
            counted = COUNTED[judged.reason]
            if judged.reason is Refusal.NO_FLOOR and judged.sender is not None:
                return self._run([counted, Notify(FloorWanted(judged.sender))], now)
            if judged.reason is Refusal.KEY_EPOCH and judged.sender is not None:
                return self._run([counted, Notify(ForeignKeyEpoch(judged.sender))], now)
            if judged.said_ms and judged.sender is not None:
                return self._run([counted, Notify(ClockTestimony(judged.sender, judged.said_ms))], now)
            return [counted]
        self.admitted += 1
        self._arriving = (judged.sender, judged.boot_id, judged.counter, source)
        try:
            effects = self._received(judged.sender, judged.message, now)
            if not judged.has_floor and isinstance(judged.message, Ping):
                effects += self._run([Notify(FloorWanted(judged.sender))], now)
        finally:
            self._arriving = None
        return effects

    def is_likely(self, data: bytes, source: Address) -> bool:
        """A glance at a datagram: whether it may well be an honest member's, so that it should not wait for others."""
        return self._admission.is_likely(data, source)

    def told(self, peer: NodeId, message: msgspec.Struct, now: Now) -> Outward:
        """A one-way message that came over a stream."""
        return self._run_event(Received(peer, message), now)

    def asked(self, peer: NodeId, token: int, message: msgspec.Struct, now: Now) -> Outward:
        """A request that came over a stream; a `Reply` with the token follows, now or later."""
        return self._run_event(Asked(peer, token, message), now)

    def answer(self, request_id: int, peer: NodeId, message: msgspec.Struct | None, error: str, now: Now) -> Outward:
        """The answer to an `Ask`, or None with the reason why there is none."""
        return self._run_event(Answered(request_id, peer, message, error), now)

    def timer(self, key: Hashable, now: Now) -> Outward:
        """A timer is due."""
        if isinstance(key, tuple) and key[0] == QUESTION:
            return self._question(key[1], now)
        return self._run_event(TimerFired(key), now)

    def event(self, event: Any, now: Now) -> Outward:
        """A command, an observation or the end of a job, for whoever listens."""
        return self._run_event(event, now)

    def handles(self, message: msgspec.Struct) -> bool:
        """Whether any protocol answers such requests."""
        return type(message) in self._handled

    # --- inside ---------------------------------------------------------------------------------------------------

    def _run_event(self, event: Any, now: Now) -> Outward:
        return self._outward(self._dispatcher.dispatch(event, now), now)

    def _run(self, effects: Effects, now: Now) -> Outward:
        return self._outward(self._dispatcher.carry(effects, now), now)

    def _outward(self, effects: Effects, now: Now) -> Outward:
        """Turn what leaves the protocols into what the shell can carry out."""
        out: Outward = []
        for effect in effects:
            if type(effect) in LEAVES:
                out.append(effect)
                continue
            match effect:
                case Send(to=to, message=message):
                    out += self._send(to, message, now)
                case Request(request_id=request_id, to=to, message=message, deadline_s=deadline_s):
                    address = self.view.address(to)
                    if address is None:
                        out += self.answer(request_id, to, None, "its address is not known here", now)
                    elif (number := self._questions.ask(effect, now)) is not None:
                        out += self._question(number, now)
                        out += [Warm(to, address)] if self._questions.is_often(to, now) else []
                    else:
                        out.append(Ask(request_id, to, address, message, deadline_s))
                case Reply(token=token, message=message) if put := self._questions.reply(token, message):
                    out += self._send(*put, now)
                case Notify(event=event) if type(event) in OWN:
                    out += self._noticed(effect)
                case _:
                    out.append(effect)
        return out

    # --- questions in datagrams -----------------------------------------------------------------------------------

    def _received(self, sender: NodeId, message: msgspec.Struct, now: Now) -> Outward:
        """What a datagram says, which may be a request or its answer."""
        match message:
            case Question():
                asked = self._questions.asked(sender, message, now)
                return self._run_event(Asked(sender, *asked), now) if asked is not None else []
            case Answer(number=number) if self._questions.needs_stream(sender, message):
                return [Cancel((QUESTION, number)), *self._over_stream(number, now)]
            case Answer(number=number):
                answered = self._questions.answered(sender, message)
                if answered is None:
                    return []
                done = self.answer(answered[0].request_id, sender, answered[1], "", now)
                return [Cancel((QUESTION, number)), *done]
        return self._run_event(Received(sender, message), now)

    def _question(self, number: int, now: Now) -> Outward:
        """Put a question, for the first time or again; in the end over a stream."""
        sent = self._questions.send(number, now)
        if sent is None:
            return self._over_stream(number, now)
        put, back_s = sent
        return [*self._send(*put, now), Schedule((QUESTION, number), back_s)]

    def _over_stream(self, number: int, now: Now) -> Outward:
        request = self._questions.give_up(number, now)
        if request is None:
            return []
        address = self.view.address(request.to)
        if address is None or request.deadline_s <= 0:
            return self.answer(request.request_id, request.to, None, "it did not answer in time", now)
        return [Ask(request.request_id, request.to, address, request.message, request.deadline_s)]

    def _noticed(self, effect: Notify) -> Outward:
        """What the node itself does about a notification; and what leaves of it."""
        match effect.event:
            case RingChanged(ring=ring):
                self._admission.use(ring)
                self._sealer.use(ring)
                return []
            case PingEchoed(node_id=node_id):
                if self._arriving is not None and self._arriving[0] == node_id:
                    self._admission.set_floor(*self._arriving)
            case MemberDown(node_id=node_id) if self.roster.member(node_id) is None:
                self._admission.forget(node_id)  # it was revoked, or removed
        return [effect]

    def _send(self, to: NodeId, message: msgspec.Struct, now: Now) -> Outward:
        address = self.view.address(to)
        if address is None:
            return []
        code, body = encode_message(message)
        if len(body) > BODY_BYTES_MAX:
            return [Tell(to, address, message)]
        return [Transmit(address, self._sealer.seal(code, body, now.wall_ms))]
