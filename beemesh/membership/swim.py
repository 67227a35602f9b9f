"""SWIM with Lifeguard: who probes whom and when, and how claims travel (Das 2002; Dadgar 2017).

What the probes and claims mean is decided in `members`; this class keeps the time. Claims ride on pings and acks, and
on gossip of their own while there is news.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from beemesh.crypto import Crypto
from beemesh.effects import (
    Answered,
    Asked,
    Cancel,
    Effects,
    Notify,
    Now,
    Randomness,
    Received,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.events import FloorWanted, IntentChanged, LeaveMesh, Observed, PingEchoed
from beemesh.identity.signing import Signed
from beemesh.ids import BootId, NodeId
from beemesh.intents.messages import IntentRecords
from beemesh.intents.record import Intent, node_key
from beemesh.membership.claims import ClaimDesk, decode
from beemesh.membership.exchange import CLAIMS_PER_MESSAGE_MAX, Exchange
from beemesh.membership.members import ASKED_ABOUT_MAX, STALL_S, Members
from beemesh.membership.messages import (
    FLOORLESS,
    NONCE_BYTES,
    Ack,
    Claim,
    Claims,
    Nack,
    Ping,
    PingReq,
    PushPull,
    PushPullAnswer,
    Suspect,
)
from beemesh.membership.roster import Roster
from beemesh.membership.rows import Member, Own
from beemesh.membership.rumours import CLAIMS_PER_DATAGRAM
from beemesh.membership.settings import SwimSettings
from beemesh.membership.view import Address, View
from beemesh.rates import Rates

EARLY_S = 30.0
"""The first half minute after a start, or after a lone node learned of another: absent members are announced to more
often."""

ANNOUNCED_AT_ONCE = 3
"""Absent members that are pinged each time."""

PROBES_OPEN_MAX = 1_024
"""Own probes, announcements and relayed ones that wait for an echo."""

RELAYS_PER_PROBE = 4
RELAYS_BURST = 20
"""Pings that one member may have us make for it, in a probe interval and at once. An honest one asks any other about
once in an interval, and after a rest for what it was late with."""

FLOOR_PING_EVERY_S = 0.2
"""A member without a floor is pinged so often at the most, whatever comes in its name."""

VERIFIERS = 16
"""About so many members ping a new suspect themselves at once: all of a small mesh, a sample of a large one."""

GOODBYE_TO_MAX = 32
GREETERS = 8
"""Of a large mesh about this many greet a new member at once; gossip does the rest."""
GREETINGS_BURST = 3.0
GREETINGS_PER_S = 3.0
"""Of many new members only some are greeted: each greeting costs both sides two datagrams, and who is to be spoken to
is pinged then."""

GOSSIP_SOON_S = 0.02
"""After a rest the first round of gossip comes so soon, with what arrives meanwhile; from round to round the pace is
that of the settings."""

GOSSIP_DATAGRAMS_MAX = 4
"""To each member in one round while there is more news than one datagram holds: a site that joins at once."""

ROSTER_KINDS = frozenset({"membership", "revocation", "tombstone"})

JOINED_TOLD_S = (1.0, 3.0)
"""An event tells people that a node joined, so long after its first echo: when a whole site starts, finding each other
comes first."""

_PROBE = ("swim", "probe")
_JOINED = ("swim", "joined")
_GOSSIP = ("swim", "gossip")
_ANNOUNCE = ("swim", "announce")
_PUSH_PULL = ("swim", "push-pull")


@dataclass(slots=True)
class _Probe:
    target: NodeId
    sent_s: float
    counts: bool
    """A regular probe: its failure is an accusation."""
    over_s: float = 0.0
    incarnation: int = 0
    for_peer: tuple[NodeId, bytes] | None = None
    """(who asked us to ping the target, the nonce of that request)."""
    witness_for: NodeId | None = None
    """Who is to hear our own accusation if the target, which we hold dead, still does not answer."""
    helpers: tuple[NodeId, ...] = ()
    nacks: set[NodeId] = field(default_factory=set)

    def may_be_answered_by(self, sender: NodeId) -> bool:
        return sender == self.target or sender in self.helpers


class Swim:
    """Failure detection and membership gossip of one node."""

    room = "swim"
    handles = (Ping, Ack, PingReq, Nack, Claims, PushPull)
    listens = (FloorWanted, LeaveMesh, IntentChanged)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        boot_id: BootId,
        address: Address,
        card: Signed,
        *,
        roster: Roster,
        view: View,
        crypto: Crypto,
        randomness: Randomness,
        new_request_id: Callable[[], int],
        settings: SwimSettings | None = None,
    ) -> None:
        """`address` is where others reach this node; `card` its own membership record, shown to whom it meets."""
        self._settings = settings or SwimSettings()
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._randomness = randomness
        self.members = Members(
            self_id, roster, view, ClaimDesk(crypto, roster), randomness, self._settings, Own(boot_id, address)
        )
        self.members.ask = self._ping_for_floor
        self._exchange = Exchange(self.members, card, randomness, self._settings, new_request_id)
        self.partners = self._exchange.partners
        self._probes: dict[bytes, _Probe] = {}
        self._turn = 0
        """The last interval of the wall clock, since its epoch, in which somebody was probed."""
        self._round_left = 0
        """Probes until this node may leave out members to be in step with the wall clock again."""
        self._floor_pinged_s: dict[NodeId, float] = {}
        self._started_s = 0.0
        self._gossiping = False
        self._gossiped_s = float("-inf")
        self._hopeful_s = float("-inf")
        self._greetings = Rates(GREETINGS_PER_S, GREETINGS_BURST)
        self._relays = Rates(RELAYS_PER_PROBE / self._settings.probe_interval_s, RELAYS_BURST)
        self._joined = False

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept on disk: the wall clock starts each life above the incarnations of the last."""

    def start(self, now: Now) -> Effects:
        """Say that this node lives, and look for the others."""
        self._started_s = now.boot_s
        self.members.own.started_ms = now.wall_ms
        self.members.speak(max(1, now.wall_ms))
        first_s = self._randomness.uniform(0.0, self._settings.probe_interval_s)
        return [
            Schedule(_PROBE, now.boot_s + first_s),
            Schedule(_PUSH_PULL, now.boot_s),
            Schedule(_ANNOUNCE, now.boot_s),
        ]

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        effects = self._handle(event, now)
        if not self._gossiping and self.members.rumours.has_urgent and len(self._view.alive()) > 1:
            self._gossiping = True
            rested_s = self._gossiped_s + self._settings.gossip_interval_s
            effects.append(Schedule(_GOSSIP, max(rested_s, now.boot_s + GOSSIP_SOON_S)))
        return effects

    def _handle(self, event: Any, now: Now) -> Effects:
        match event:
            case Received(sender=sender, message=message):
                return self._received(sender, message, now)
            case TimerFired(key=key):
                return self._timer(key, now)
            case Asked(sender=sender, token=token, message=PushPull() as question):
                return self._exchange.compared(sender, token, question, now)
            case Answered(message=PushPullAnswer() as answer, peer=peer):
                return self._compared(peer, answer, now)
            case Answered(message=IntentRecords() as answer):
                return self._exchange.cards_came(answer)
            case FloorWanted(node_id=node_id):
                return self._ping_for_floor(node_id, now)
            case IntentChanged(intent=intent, before=before) if intent.kind in ROSTER_KINDS:
                gone = self.members.follow_roster() if before or intent.kind == "revocation" else []
                return [*gone, *self._exchange.roster_grew(now), *self._greet(intent, now)]
            case LeaveMesh():
                return self._leave(now)
        return []

    def _compared(self, peer: NodeId, answer: PushPullAnswer, now: Now) -> Effects:
        was_alone = len(self._view.alive()) < 2
        effects = self._exchange.learned(peer, answer, now)
        if was_alone:
            effects.append(Schedule(_PUSH_PULL, now.boot_s + self._exchange.pause_s(now, early=True)))
        return effects

    # --- messages -------------------------------------------------------------------------------------------------

    def _received(self, sender: NodeId, message: msgspec.Struct, now: Now) -> Effects:
        effects = self.members.hear(sender, now) if self._is_proof(sender, message) else []
        match message:  # what comes most often first
            case Claims(claims=claims, asks=asks):
                effects += self._take(sender, claims, now) + self._answer(sender, asks, now)
            case Ping(nonce=nonce, claims=claims, hello=hello) if len(nonce) == NONCE_BYTES:
                effects += self._take(sender, claims, now)
                own = self.members.own.claim
                first = (own,) if hello and own is not None else ()
                effects.append(Send(sender, Ack(nonce, self._news(first, sender))))
            case Ack(nonce=nonce, claims=claims):
                effects += self._take(sender, claims, now) + self._echoed(sender, nonce, now)
            case PingReq(nonce=nonce, target=target, claims=claims):
                effects += self._take(sender, claims, now) + self._ping_for(sender, nonce, target, now)
            case Nack(nonce=nonce):
                probe = self._probes.get(nonce)
                if probe is not None and sender in probe.helpers:
                    probe.nacks.add(sender)
        return effects

    def _is_proof(self, sender: NodeId, message: Any) -> bool:
        """Whether the sender lives, or this may be a recording: of a member that never echoed only the answer to an
        open ping of ours is none. A recorded ping is answered, and an answer to nothing does nothing."""
        member = self.members.get(sender)
        if type(message) not in FLOORLESS or (member is not None and member.echoed):
            return True
        probe = self._probes.get(message.nonce) if type(message) is not Ping else None
        return probe is not None and probe.may_be_answered_by(sender)

    def _take(self, relay: NodeId, claims: tuple[Claim, ...], now: Now) -> Effects:
        claims = claims[:CLAIMS_PER_MESSAGE_MAX]
        effects = self._exchange.take(relay, claims, now)
        for claim in claims:
            accusation = decode(claim) if claim.kind == "suspect" else None
            if isinstance(accusation, Suspect):
                effects += self._verify(accusation.accused, now)
        return effects

    def _verify(self, accused: NodeId, now: Now) -> Effects:
        """Others accuse a member: ask it ourselves, so that it hears of it and we need not believe them."""
        member = self.members.get(accused)
        if member is None or member.suspicion is None or self._view.status(accused) != "suspect":
            return []
        chosen = self._randomness.random() * len(self._view.alive()) < VERIFIERS
        return self._ping_for_floor(accused, now) if chosen else []

    def _answer(self, asker: NodeId, asks: tuple[NodeId, ...], now: Now) -> Effects:
        """Somebody wonders about members: tell it what is known here. Where that is no fresh accusation of a member
        that we hold dead, look again for it: nobody else probes the dead, and who missed one would wonder for ever."""
        known = self.members.known_of(asks, asker, now)
        effects: Effects = [Send(asker, Claims(known))] if known else []
        for node_id in asks[:ASKED_ABOUT_MAX]:
            member = self.members.get(node_id)
            if member is None or member.suspicion is None or self._view.status(node_id) != "dead":
                continue
            looking = any(probe.target == node_id and probe.witness_for for probe in self._probes.values())
            if not looking and not member.suspicion.evidence(asker, now):
                probe = _Probe(node_id, now.boot_s, counts=False, witness_for=asker)
                effects += self._ping(probe, now, hello=True)[1]
        return effects

    def _news(self, first: tuple[Claim, ...] = (), to: NodeId | None = None) -> tuple[Claim, ...]:
        """Claims to ride along; whoever is suspected hears of it first from whoever meets it (Lifeguard's buddy)."""
        member = self.members.get(to) if to is not None else None
        if member is not None and member.suspicion is not None:
            first = (*first, *list(member.suspicion.accusers.values())[:1])
        heard = to is None or self._view.status(to) not in ("suspect", "dead")
        return self.members.rumours.take(self.members.retransmits, first=first, counts=heard)

    # --- probes ---------------------------------------------------------------------------------------------------

    def _ping(self, probe: _Probe, now: Now, *, hello: bool = False) -> tuple[bytes, Effects]:
        if len(self._probes) >= PROBES_OPEN_MAX:
            del self._probes[self._spare()]
        nonce = self._randomness.randbytes(NONCE_BYTES)
        self._probes[nonce] = probe
        own = self.members.own.claim
        first = (own,) if hello and own is not None else ()
        ping = Ping(nonce, self._news(first, probe.target), hello)
        probe.over_s = now.boot_s + self._settings.probe_interval_s * self.members.health.factor
        return nonce, [Send(probe.target, ping), Schedule(("swim", "over", nonce), probe.over_s)]

    def _spare(self) -> bytes:
        """The open probe that is missed least: the oldest that is another's, or else the oldest that accuses nobody."""
        relayed = (nonce for nonce, probe in self._probes.items() if probe.for_peer is not None)
        others = (nonce for nonce, probe in self._probes.items() if not probe.counts)
        return next(relayed, None) or next(others, None) or next(iter(self._probes))

    def _probe_next(self, now: Now) -> Effects:
        interval_s = self._settings.probe_interval_s * self.members.health.factor
        effects: Effects = [Schedule(_PROBE, now.boot_s + interval_s)]
        target = self._next_target(now)
        if target is None:
            return effects
        member = self.members.get(target)
        probe = _Probe(target, now.boot_s, counts=True, incarnation=member.incarnation if member else 0)
        nonce, sent = self._ping(probe, now, hello=member is None or not member.echoed)
        direct_s = now.boot_s + self._settings.probe_timeout_s * self.members.health.factor
        return [*effects, *sent, Schedule(("swim", "direct", nonce), direct_s)]

    def _next_target(self, now: Now) -> NodeId | None:
        """The member as many places after this node, by node ID, as the wall clock says: all move on together, so that
        each is probed by one other in every interval, and by all in turn. Clocks that differ make that a little more
        random, and nothing worse: who is unwell, or late, goes on by one, and leaves out members to catch up with the
        clock no more than once in a round, else it could pass by the same ones each time."""
        alive = self._view.alive()
        if len(alive) < 2:
            return None
        turn = int(now.wall_ms / (1000 * self._settings.probe_interval_s))
        self._turn, self._round_left = self._turn + 1, self._round_left - 1
        if turn > self._turn and self._round_left <= 0 and self.members.health.factor == 1:
            self._turn, self._round_left = turn, len(alive) - 1
        place = bisect_left(alive, self._self_id) + 1 + self._turn % (len(alive) - 1)
        return alive[place % len(alive)]

    def _direct_failed(self, nonce: bytes, now: Now) -> Effects:
        probe = self._probes.get(nonce)
        if probe is None or not probe.counts:
            return []
        count = self._settings.indirect_probes
        others = self.members.some_present(count + 1, unsuspected=True)
        probe.helpers = tuple(peer for peer in others if peer != probe.target)[:count]
        return [Send(helper, PingReq(nonce, probe.target)) for helper in probe.helpers]

    def _ping_for(self, sender: NodeId, nonce: bytes, target: NodeId, now: Now) -> Effects:
        if self.members.get(target) is None or len(nonce) != NONCE_BYTES:
            return []
        if not self._relays.take(sender, now.boot_s):
            return [Notify(Observed("swim_relays_refused"))]
        own_nonce, sent = self._ping(_Probe(target, now.boot_s, counts=False, for_peer=(sender, nonce)), now)
        nack_s = now.boot_s + self._settings.probe_timeout_s * 0.8
        return [*sent, Schedule(("swim", "nack", own_nonce), nack_s)]

    def _echoed(self, sender: NodeId, nonce: bytes, now: Now) -> Effects:
        probe = self._probes.get(nonce)
        if probe is None or not probe.may_be_answered_by(sender):
            return []
        del self._probes[nonce]
        effects: Effects = [Cancel(("swim", kind, nonce)) for kind in ("over", "direct", "nack")]
        if sender != probe.target:  # a helper reached it: it lives, though our own way to it is broken
            return effects + self.members.hear(probe.target, now)
        member = self.members.get(sender)
        if member is not None:
            member.echoed = True
        self._view.add_rtt(sender, now.boot_s - probe.sent_s)
        effects.append(Notify(PingEchoed(sender)))
        if not self._joined:
            self._joined = True
            effects.append(Schedule(_JOINED, now.boot_s + self._randomness.uniform(*JOINED_TOLD_S)))
        if probe.counts:
            self.members.health.probe_succeeded()
        if probe.for_peer is not None:
            asker, asked_nonce = probe.for_peer
            effects.append(Send(asker, Ack(asked_nonce)))
        return effects

    def _probe_over(self, nonce: bytes, now: Now) -> Effects:
        probe = self._probes.pop(nonce, None)
        member = self.members.get(probe.target) if probe is not None else None
        if probe is None or member is None:
            return []
        if not probe.counts:
            return self._bear_witness(probe, member, now) if probe.witness_for else []
        if now.boot_s - probe.over_s > STALL_S:  # we stood still: the echo may wait in a queue of ours
            self.members.health.stalled()
            return []
        self.members.health.probe_failed(helpers=len(probe.helpers), nacks=len(probe.nacks))
        if member.heard_s > probe.sent_s or member.incarnation != probe.incarnation:
            return []
        return [Notify(Observed("swim_probes_failed")), *self.members.accuse(member, now)]

    def _bear_witness(self, probe: _Probe, member: Member, now: Now) -> Effects:
        late = now.boot_s - probe.over_s > STALL_S or self.members.ear.is_deaf(now.boot_s)
        if probe.witness_for is None or late or self._view.status(member.node_id) != "dead":
            return []
        return [Send(probe.witness_for, Claims((self.members.accusation(member, now),)))]

    def _nack_due(self, nonce: bytes) -> Effects:
        probe = self._probes.get(nonce)
        if probe is None or probe.for_peer is None:
            return []
        return [Send(probe.for_peer[0], Nack(probe.for_peer[1]))]

    def _ping_for_floor(self, node_id: NodeId, now: Now) -> Effects:
        if self.members.get(node_id) is None:
            return []
        if now.boot_s - self._floor_pinged_s.get(node_id, float("-inf")) < FLOOR_PING_EVERY_S:
            return []
        self._floor_pinged_s[node_id] = now.boot_s
        return self._ping(_Probe(node_id, now.boot_s, counts=False), now, hello=True)[1]

    # --- timers ---------------------------------------------------------------------------------------------------

    def _timer(self, key: Any, now: Now) -> Effects:
        match key:
            case ("swim", "probe"):
                return self._probe_next(now)
            case ("swim", "gossip"):
                return self._gossip(now)
            case ("swim", "announce"):
                return self._announce(now)
            case ("swim", "push-pull"):
                pause_s = self._exchange.pause_s(now, early=self._early(now))
                return [*self._exchange.compare(now), Schedule(_PUSH_PULL, now.boot_s + pause_s)]
            case ("swim", "joined"):
                return [self.members.event("NodeJoined", now, f"node {self._name()} is in touch with the mesh")]
            case ("swim", "cards"):
                return self._exchange.ask_for_cards(now)
            case ("swim", "direct", nonce):
                return self._direct_failed(nonce, now)
            case ("swim", "over", nonce):
                return self._probe_over(nonce, now)
            case ("swim", "nack", nonce):
                return self._nack_due(nonce)
            case ("swim", "suspicion", node_id):
                return self.members.suspicion_due(node_id, now)
        return []

    def _gossip(self, now: Now) -> Effects:
        peers, newcomer = self.members.listeners(self._settings.gossip_fanout)
        if not peers or not self.members.rumours.has_urgent:
            self._gossiping = False
            return []
        self._gossiped_s = now.boot_s
        effects: Effects = [Schedule(_GOSSIP, now.boot_s + self._settings.gossip_interval_s)]
        if newcomer is not None and not self._early(now):
            peers = [peer for peer in peers if peer != newcomer]
            effects += self._ping_for_floor(newcomer, now)
        backlog = 1 + self.members.rumours.untold // CLAIMS_PER_DATAGRAM
        for _ in range(min(backlog, GOSSIP_DATAGRAMS_MAX)):
            for peer in peers:
                claims = self._news(to=peer)
                if claims:
                    effects.append(Send(peer, Claims(claims)))
        return effects

    def _announce(self, now: Now) -> Effects:
        """Ping one absent member, so that a healed partition and a late joiner are noticed from both sides."""
        settings = self._settings
        pause_s = settings.announce_early_interval_s if self._early(now) else settings.announce_interval_s
        effects: Effects = [Schedule(_ANNOUNCE, now.boot_s + pause_s * self._randomness.uniform(0.8, 1.2))]
        absent = self._view.absent()
        for node_id in self._randomness.sample(absent, min(ANNOUNCED_AT_ONCE, len(absent))):
            effects += self._ping(_Probe(node_id, now.boot_s, counts=False), now, hello=True)[1]
        return effects

    def _greet(self, intent: Intent, now: Now) -> Effects:
        """A card arrived: greet whom we never heard of."""
        card = self._roster.named(intent.key.removeprefix(node_key("")))
        if intent.kind != "membership" or card is None or self._view.status(card.node_id) != "unknown":
            return []
        if len(self._view.alive()) < 2:  # alone: whoever this is may let us in
            self._hopeful_s = now.boot_s
            return [Schedule(_PUSH_PULL, now.boot_s)] if card.node_id != self._self_id else []
        if self._randomness.random() * len(self._view.alive()) >= GREETERS:
            return []
        return self._ping_for_floor(card.node_id, now) if self._greetings.take(b"", now.boot_s) else []

    def _early(self, now: Now) -> bool:
        return now.boot_s - max(self._started_s, self._hopeful_s) < EARLY_S

    def _name(self) -> str:
        card = self._roster.member(self._self_id)
        return card.name if card else ""

    def _leave(self, now: Now) -> Effects:
        told = self.members.event("NodeLeft", now, f"node {self._name()} was stopped and left")
        goodbye = self.members.say_goodbye()
        chosen = self.members.some_present(GOODBYE_TO_MAX)
        return [told, *(Send(peer, Claims((goodbye,))) for peer in chosen)]
