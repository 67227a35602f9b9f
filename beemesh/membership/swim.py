"""SWIM with Lifeguard: who probes whom and when, and how claims travel (Das 2002; Dadgar 2017).

What the probes and claims mean is decided in `members`; this class keeps the time. Claims ride on pings and acks, and
on gossip of their own while there is news.
"""

from __future__ import annotations

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
    Reply,
    Request,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.events import FloorWanted, IntentChanged, LeaveMesh, PingEchoed, PutIntent
from beemesh.identity.signing import Signed
from beemesh.ids import BootId, NodeId
from beemesh.membership.claims import ClaimDesk
from beemesh.membership.members import Member, Members, Own
from beemesh.membership.messages import (
    NONCE_BYTES,
    Ack,
    Claim,
    Claims,
    Known,
    Nack,
    Ping,
    PingReq,
    PushPull,
    PushPullAnswer,
)
from beemesh.membership.roster import Roster
from beemesh.membership.settings import SwimSettings
from beemesh.membership.view import PRESENT, Address, View

EARLY_S = 30.0
"""The first half minute after a start: absent members are announced to more often."""

JOIN_EVERY_S = 1.0
"""While nobody answers yet, a few members are tried so often."""
JOIN_TRIES = 3

PUSH_PULL_PATIENCE_S = 5.0
KNOWN_MAX = 8_000
CLAIMS_PER_ANSWER_MAX = 2_000
"""Claims in one push-pull answer, some 250 bytes each: half of a stream message."""

PROBES_OPEN_MAX = 1_024
"""Own probes, announcements and relayed ones that wait for an echo."""

FLOOR_PING_EVERY_S = 0.2
"""A member without a floor is pinged so often at the most, whatever comes in its name."""

GOODBYE_TO_MAX = 32
GREET_CHANCE_OF = 8
"""Of a large mesh about this many greet a new member at once; gossip does the rest."""

_PROBE = ("swim", "probe")
_GOSSIP = ("swim", "gossip")
_ANNOUNCE = ("swim", "announce")
_PUSH_PULL = ("swim", "push-pull")


@dataclass(slots=True)
class _Probe:
    target: NodeId
    sent_s: float
    counts: bool
    """A regular probe: its failure is an accusation."""
    for_peer: tuple[NodeId, bytes] | None = None
    """(who asked us to ping the target, the nonce of that request)."""
    helpers: tuple[NodeId, ...] = ()
    nacks: set[NodeId] = field(default_factory=set)


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
        self._card = card
        self._roster = roster
        self._view = view
        self._randomness = randomness
        self._new_request_id = new_request_id
        self.members = Members(
            self_id, roster, view, ClaimDesk(crypto, roster), randomness, self._settings, Own(boot_id, address)
        )
        self._probes: dict[bytes, _Probe] = {}
        self._round: list[NodeId] = []
        self._floor_pinged_s: dict[NodeId, float] = {}
        self._started_s = 0.0
        self._gossiping = False

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
        if not self._gossiping and len(self.members.rumours):
            self._gossiping = True
            effects.append(Schedule(_GOSSIP, now.boot_s + self._settings.gossip_interval_s))
        return effects

    def _handle(self, event: Any, now: Now) -> Effects:
        match event:
            case Received(sender=sender, message=message):
                return self._received(sender, message, now)
            case TimerFired(key=key):
                return self._timer(key, now)
            case Asked(token=token, message=PushPull() as question):
                return self._compared(token, question, now)
            case Answered(message=PushPullAnswer() as answer, peer=peer):
                return self._learned(peer, answer, now)
            case FloorWanted(node_id=node_id):
                return self._ping_for_floor(node_id, now)
            case IntentChanged(intent=intent) if intent.kind in ("membership", "revocation", "tombstone"):
                return self.members.follow_roster() + self._greet(now)
            case LeaveMesh():
                return self._leave()
        return []

    # --- messages -------------------------------------------------------------------------------------------------

    def _received(self, sender: NodeId, message: msgspec.Struct, now: Now) -> Effects:
        effects = self.members.hear(sender, now)
        match message:
            case Ping(nonce=nonce, claims=claims, hello=hello):
                effects += self._take(claims, now)
                own = self.members.own.claim
                first = (own,) if hello and own is not None else ()
                effects.append(Send(sender, Ack(nonce, self._news(first, sender))))
            case Ack(nonce=nonce, claims=claims):
                effects += self._take(claims, now) + self._echoed(sender, nonce, now)
            case PingReq(nonce=nonce, target=target, claims=claims):
                effects += self._take(claims, now) + self._ping_for(sender, nonce, target, now)
            case Nack(nonce=nonce):
                probe = self._probes.get(nonce)
                if probe is not None and sender in probe.helpers:
                    probe.nacks.add(sender)
            case Claims(claims=claims):
                effects += self._take(claims, now)
        return effects

    def _take(self, claims: Iterable[Claim], now: Now) -> Effects:
        return [effect for claim in claims for effect in self.members.take(claim, now)]

    def _news(self, first: tuple[Claim, ...] = (), to: NodeId | None = None) -> tuple[Claim, ...]:
        """Claims to ride along; whoever is suspected hears of it first from whoever meets it (Lifeguard's buddy)."""
        member = self.members.get(to) if to is not None else None
        if member is not None and member.suspicion is not None:
            first = (*first, *list(member.suspicion.accusers.values())[:1])
        return self.members.rumours.take(self.members.retransmits, first=first)

    # --- probes ---------------------------------------------------------------------------------------------------

    def _ping(self, probe: _Probe, now: Now, *, hello: bool = False) -> tuple[bytes, Effects]:
        if len(self._probes) >= PROBES_OPEN_MAX:
            del self._probes[next(iter(self._probes))]
        nonce = self._randomness.randbytes(NONCE_BYTES)
        self._probes[nonce] = probe
        own = self.members.own.claim
        first = (own,) if hello and own is not None else ()
        ping = Ping(nonce, self._news(first, probe.target), hello)
        over_s = now.boot_s + self._settings.probe_interval_s * self.members.health.factor
        return nonce, [Send(probe.target, ping), Schedule(("swim", "over", nonce), over_s)]

    def _probe_next(self, now: Now) -> Effects:
        interval_s = self._settings.probe_interval_s * self.members.health.factor
        effects: Effects = [Schedule(_PROBE, now.boot_s + interval_s)]
        target = self._next_target()
        if target is None:
            return effects
        member = self.members.get(target)
        nonce, sent = self._ping(
            _Probe(target, now.boot_s, counts=True), now, hello=member is None or not member.echoed
        )
        direct_s = now.boot_s + self._settings.probe_timeout_s * self.members.health.factor
        return [*effects, *sent, Schedule(("swim", "direct", nonce), direct_s)]

    def _next_target(self) -> NodeId | None:
        for _ in range(2):
            while self._round:
                target = self._round.pop()
                if self._view.status(target) in PRESENT:
                    return target
            self._round = self.members.present()
            self._randomness.shuffle(self._round)
        return None

    def _direct_failed(self, nonce: bytes, now: Now) -> Effects:
        probe = self._probes.get(nonce)
        if probe is None or not probe.counts:
            return []
        others = [peer for peer in self.members.present() if peer != probe.target]
        count = min(self._settings.indirect_probes, len(others))
        probe.helpers = tuple(self._randomness.sample(others, count))
        return [Send(helper, PingReq(nonce, probe.target)) for helper in probe.helpers]

    def _ping_for(self, sender: NodeId, nonce: bytes, target: NodeId, now: Now) -> Effects:
        if self.members.get(target) is None or len(nonce) != NONCE_BYTES:
            return []
        own_nonce, sent = self._ping(_Probe(target, now.boot_s, counts=False, for_peer=(sender, nonce)), now)
        nack_s = now.boot_s + self._settings.probe_timeout_s * 0.8
        return [*sent, Schedule(("swim", "nack", own_nonce), nack_s)]

    def _echoed(self, sender: NodeId, nonce: bytes, now: Now) -> Effects:
        probe = self._probes.get(nonce)
        if probe is None or (sender != probe.target and sender not in probe.helpers):
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
        if probe.counts:
            self.members.health.probe_succeeded()
        if probe.for_peer is not None:
            asker, asked_nonce = probe.for_peer
            effects.append(Send(asker, Ack(asked_nonce)))
        return effects

    def _probe_over(self, nonce: bytes, now: Now) -> Effects:
        probe = self._probes.pop(nonce, None)
        member = self.members.get(probe.target) if probe is not None else None
        if probe is None or member is None or not probe.counts:
            return []
        self.members.health.probe_failed(helpers=len(probe.helpers), nacks=len(probe.nacks))
        return self.members.accuse(member, now)

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
                return self._compare(now)
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
        present = self.members.present()
        if not present or not len(self.members.rumours):
            self._gossiping = False
            return []
        effects: Effects = [Schedule(_GOSSIP, now.boot_s + self._settings.gossip_interval_s)]
        for peer in self._randomness.sample(present, min(self._settings.gossip_fanout, len(present))):
            claims = self._news(to=peer)
            if claims:
                effects.append(Send(peer, Claims(claims)))
        return effects

    def _announce(self, now: Now) -> Effects:
        """Ping one absent member, so that a healed partition and a late joiner are noticed from both sides."""
        early = now.boot_s - self._started_s < EARLY_S
        pause_s = self._settings.announce_early_interval_s if early else self._settings.announce_interval_s
        effects: Effects = [Schedule(_ANNOUNCE, now.boot_s + pause_s)]
        absent = [row for row in self.members.others() if self._view.status(row.node_id) not in PRESENT]
        for row in self._randomness.sample(absent, min(JOIN_TRIES, len(absent))):
            effects += self._ping(_Probe(row.node_id, now.boot_s, counts=False), now, hello=True)[1]
        return effects

    def _greet(self, now: Now) -> Effects:
        """A card arrived: greet whom we never heard of."""
        strangers = [row for row in self.members.others() if self._view.status(row.node_id) == "unknown"]
        chance = GREET_CHANCE_OF / max(1, len(self._view.alive()))
        effects: Effects = []
        for row in strangers[:JOIN_TRIES]:
            if self._randomness.random() < chance:
                effects += self._ping_for_floor(row.node_id, now)
        return effects

    # --- push-pull ------------------------------------------------------------------------------------------------

    def _compare(self, now: Now) -> Effects:
        present = self.members.present()
        pause_s = self._settings.push_pull_interval_s if present else JOIN_EVERY_S
        effects: Effects = [Schedule(_PUSH_PULL, now.boot_s + pause_s * self._randomness.uniform(0.8, 1.2))]
        peers = present or [row.node_id for row in self.members.others()]
        for peer in self._randomness.sample(peers, min(1 if present else JOIN_TRIES, len(peers))):
            own = self.members.own.claim
            question = PushPull(self._known(), (own,) if own is not None else (), (self._card,))
            effects.append(Request(self._new_request_id(), peer, question, PUSH_PULL_PATIENCE_S))
        return effects

    def _known(self) -> tuple[Known, ...]:
        return tuple(
            Known(row.node_id, row.incarnation, summary.seq if (summary := self._view.summary(row.node_id)) else 0)
            for row in self.members.others()
        )[:KNOWN_MAX]

    def _compared(self, token: int, question: PushPull, now: Now) -> Effects:
        effects: Effects = [Notify(PutIntent(record)) for record in question.introduction[:1]]
        effects += self._take(question.claims, now)
        known = {line.node_id: line for line in question.known[:KNOWN_MAX]}
        own = self.members.own.claim
        claims: list[Claim] = [own] if own is not None else []
        wanted = []
        for row in self.members.others():
            line = known.get(row.node_id, Known(row.node_id, 0))
            claims += self._newer(row, line)
            if line.incarnation > row.incarnation:
                wanted.append(row.node_id)
        answer = PushPullAnswer(tuple(claims[:CLAIMS_PER_ANSWER_MAX]), tuple(wanted), (self._card,))
        return [*effects, Reply(token, answer)]

    def _newer(self, row: Member, line: Known) -> list[Claim]:
        life = row.alive or row.leave
        newer = [life] if life is not None and row.incarnation > line.incarnation else []
        summary = self._view.summary(row.node_id)
        if row.summary is not None and summary is not None and summary.seq > line.summary_seq:
            newer.append(row.summary)
        return newer

    def _learned(self, peer: NodeId, answer: PushPullAnswer, now: Now) -> Effects:
        effects: Effects = [Notify(PutIntent(record)) for record in answer.introduction[:1]]
        effects += self.members.hear(peer, now) + self._take(answer.claims, now)
        wanted: list[Claim] = []
        for node_id in answer.wanted[:CLAIMS_PER_ANSWER_MAX]:
            row = self.members.get(node_id)
            if row is not None:
                wanted += self._newer(row, Known(node_id, 0))
        return [*effects, Send(peer, Claims(tuple(wanted)))] if wanted else effects

    def _leave(self) -> Effects:
        goodbye = self.members.say_goodbye()
        present = self.members.present()
        chosen = self._randomness.sample(present, min(GOODBYE_TO_MAX, len(present)))
        return [Send(peer, Claims((goodbye,))) for peer in chosen]
