"""What this node believes of every member, and the rules by which claims and contact change it.

A member is alive by its own signed word at the highest incarnation, or because it just spoke to us. It is suspected by
the signed word of whoever failed to reach it, and dead by this node's own judgement (`beemesh.membership.suspicion`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from itertools import islice

from beemesh.effects import Cancel, Effect, Effects, Notify, Now, Randomness, Schedule, Send
from beemesh.events import EmitEvent, MemberDown, MemberLeft, MemberUp, Observed
from beemesh.ids import NodeId, short, ulid
from beemesh.membership.claims import ClaimDesk, decode, size_of
from beemesh.membership.drawing import drawn
from beemesh.membership.ear import Ear
from beemesh.membership.local_health import LocalHealth
from beemesh.membership.messages import Alive, Claim, Claims, Leave, Suspect
from beemesh.membership.roster import Roster
from beemesh.membership.rows import Member, Own
from beemesh.membership.rumours import GOSSIP_BYTES_MAX, RENEWAL_RETOLD, Rumours, retransmit_limit
from beemesh.membership.settings import SwimSettings
from beemesh.membership.summaries import Summary, is_news
from beemesh.membership.suspicion import (
    CONFIRMATIONS_WANTED,
    Budgets,
    Suspicion,
    is_fresh,
    timeout_bounds_s,
    verdict,
)
from beemesh.membership.versions import PROTOCOL_VERSION
from beemesh.membership.view import PRESENT, View
from beemesh.scheduling.messages import Event, EventStatus

PAST_BOOTS_KEPT = 4
"""Former boot ids of a member, by which a clone is told from a restart."""

CLONE_ANSWER_S = 1.0
"""Two agents with one identity outbid each other no faster than this."""

CLONE_REPORT_S = 60.0
"""One clone is reported so often."""

STALL_S = 1.0
"""A timer that fires this much too late says more about this machine than about others."""

ASKED_AROUND = 3
"""Members that are asked what they know of a suspect, each time: all of them missed the same news once in ten thousand
times."""
ASKED_ABOUT_MAX = 8
"""Members that one question may name: the claims of about one fill the answer."""


class Members:
    """The table of members. Everything that changes returns what is to be told."""

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        view: View,
        desk: ClaimDesk,
        randomness: Randomness,
        settings: SwimSettings,
        own: Own,
    ) -> None:
        self.self_id = self_id
        self.roster = roster
        self.view = view
        self.desk = desk
        self.health = LocalHealth()
        self.ear = Ear(settings.probe_interval_s)
        self.rumours = Rumours()
        self.own = own
        self.ask: Callable[[NodeId, Now], Effects] = lambda _node_id, _now: []
        """Pings a member; set by whoever sends."""
        self._randomness = randomness
        self._settings = settings
        self._table: dict[NodeId, Member] = {}
        self._begun: Mapping[NodeId, Member] = {}
        self._failing: dict[NodeId, None] = {}
        """Members whose row says that our own probes fail: so few that a verdict need not look at all rows."""
        self._budgets = Budgets(settings.probe_interval_s)

    # --- reading --------------------------------------------------------------------------------------------------

    def get(self, node_id: NodeId) -> Member | None:
        """The row of a member other than this node; None for strangers."""
        row = self._table.get(node_id)
        if node_id == self.self_id or self.roster.member(node_id) is None:
            return None
        if row is None:
            shared = self._begun.get(node_id)
            row = self._table[node_id] = copy(shared) if shared is not None else Member(node_id)
        return row

    def others(self) -> Iterator[Member]:
        """The rows of all other members of the roster, by node ID, to be read only."""
        for card in self.roster.members():
            member = self._table.get(card.node_id) or self._begun.get(card.node_id) or self.get(card.node_id)
            if member is not None and card.node_id != self.self_id:
                yield member

    def begin_with(self, rows: Mapping[NodeId, Member]) -> None:
        """Start from rows that many nodes of one process share; one that changes is copied first."""
        self._begun = rows

    def some_present(self, count: int, *, unsuspected: bool = False) -> list[NodeId]:
        """Up to `count` others that count as alive, at random; with `unsuspected` no suspects where there are enough
        others. It looks at a few, not at all."""
        return drawn(self.view, self._randomness, count, unsuspected=unsuspected)[:count]

    def listeners(self, count: int) -> tuple[list[NodeId], NodeId | None]:
        """Up to `count` unsuspected others, rather those that echoed us, since others may not listen to us yet; and
        whoever was drawn first, if it did not echo: somebody has to tell it too."""
        some = drawn(self.view, self._randomness, count, unsuspected=True)
        newcomer = some[0] if some and not self._has_echoed(some[0]) else None
        first = list(islice(filter(self._has_echoed, some), count))
        return [*first, *(peer for peer in some if peer not in first)][:count], newcomer

    def _has_echoed(self, node_id: NodeId) -> bool:
        row = self._table.get(node_id) or self._begun.get(node_id)
        return row is not None and row.echoed

    @property
    def retransmits(self) -> int:
        """How often each rumour is passed on."""
        return retransmit_limit(len(self.view.alive()))

    # --- this node ------------------------------------------------------------------------------------------------

    def speak(self, incarnation: int) -> Claim:
        """Sign and spread this node's Alive at `incarnation`."""
        own = self.own
        own.incarnation = incarnation
        host, port = own.address
        statement = Alive(self.self_id, incarnation, own.boot_id, host, port, own.started_ms, PROTOCOL_VERSION)
        own.claim = self.desk.sign("alive", statement)
        self.rumours.add(("alive", self.self_id, b""), own.claim)
        return own.claim

    def say_goodbye(self) -> Claim:
        """Sign and spread this node's Leave: one incarnation on, so that comparisons tell it from the Alive."""
        self.own.leaving = True
        claim = self.desk.sign("leave", Leave(self.self_id, self.own.incarnation + 1))
        self.rumours.drop(("alive", self.self_id, b""))
        self.rumours.add(("leave", self.self_id, b""), claim)
        return claim

    # --- contact --------------------------------------------------------------------------------------------------

    def hear(self, node_id: NodeId, now: Now) -> Effects:
        """A member spoke to us itself: whatever others say, it lives."""
        member = self.get(node_id)
        if member is None:
            return []
        self.ear.heard(now.boot_s)
        member.heard_s = now.boot_s
        member.failed_since_s = None
        self._failing.pop(node_id, None)
        status = self.view.status(node_id)
        if status == "left" or (status == "alive" and member.suspicion is None):
            return []
        out = self._clear_suspicion(member)
        self.view.set_status(node_id, "alive")
        return out if status in PRESENT else [*out, Notify(MemberUp(node_id))]

    # --- claims ---------------------------------------------------------------------------------------------------

    def take(self, claim: Claim, now: Now, relay: NodeId | None = None) -> Effects:
        """Believe a claim where it is new and its author signed it; stale ones cost no signature check. `relay` told of
        it, and answers for a signature that is false."""
        statement = decode(claim)
        if statement is None:
            return [_count("swim_claims_refused", "shape")]
        match statement:
            case Summary():
                return self._take_summary(statement, claim, relay, now)
            case Alive():
                return self._take_alive(statement, claim, relay, now)
            case Suspect():
                return self._take_suspect(statement, claim, relay, now)
            case Leave():
                return self._take_leave(statement, claim, relay, now)

    def _take_alive(self, alive: Alive, claim: Claim, relay: NodeId | None, now: Now) -> Effects:
        if alive.node_id == self.self_id:
            return self._take_own_alive(alive, claim, relay, now)
        member = self.get(alive.node_id)
        if member is None or alive.incarnation <= member.incarnation:
            return []
        if not self.desk.holds(claim, alive, relay, now):
            return [_count("swim_claims_refused", "signature")]
        out = self._note_boot(member, alive, now)
        member.incarnation, member.alive, member.leave = alive.incarnation, claim, None
        member.protocol_version = alive.protocol_version
        if alive.host:
            self.view.set_address(alive.node_id, (alive.host, alive.port))
        was = self.view.status(alive.node_id)
        out += self._clear_suspicion(member)
        self.view.set_status(alive.node_id, "alive")
        self.rumours.drop(("leave", alive.node_id, b""))
        self.rumours.add(("alive", alive.node_id, b""), claim)
        return out if was in PRESENT else [*out, Notify(MemberUp(alive.node_id))]

    def _note_boot(self, member: Member, alive: Alive, now: Now) -> Effects:
        """A boot id that comes back after another one took its place belongs to a second agent with the same keys:
        boot ids are drawn anew at each start."""
        if alive.boot_id == member.boot_id:
            return []
        out: Effects = []
        if alive.boot_id in member.past_boots and now.boot_s - member.clone_reported_s >= CLONE_REPORT_S:
            member.clone_reported_s = now.boot_s
            out = self._report_clone(alive.node_id, now)
        if member.boot_id:
            member.past_boots = (*member.past_boots, member.boot_id)[-PAST_BOOTS_KEPT:]
        member.boot_id, member.echoed = alive.boot_id, member.echoed and member.boot_id is None
        return out

    def _take_own_alive(self, alive: Alive, claim: Claim, relay: NodeId | None, now: Now) -> Effects:
        """Our own word from an earlier boot, or from a clone: ours must be the highest."""
        own = self.own
        if alive.boot_id == own.boot_id or alive.incarnation < own.incarnation or own.leaving:
            return []
        if now.boot_s - own.foreign_answered_s < CLONE_ANSWER_S or not self.desk.holds(claim, alive, relay, now):
            return []
        own.foreign_answered_s = now.boot_s
        own.foreign_seen += 1
        self.speak(alive.incarnation + 1)
        return self._report_clone(self.self_id, now) if own.foreign_seen == 2 else []

    def _report_clone(self, node_id: NodeId, now: Now) -> Effects:
        card = self.roster.member(node_id)
        name = card.name if card else short(node_id)
        return [
            _count("swim_identity_cloned", ""),
            self.event("IdentityCloned", now, f"two agents run at once with the keys of node {name}", node=name),
        ]

    def _take_leave(self, leave: Leave, claim: Claim, relay: NodeId | None, now: Now) -> Effects:
        if leave.node_id == self.self_id:
            return self._outlive_own_leave(leave, claim, relay, now)
        member = self.get(leave.node_id)
        if member is None or leave.incarnation < member.incarnation or self.view.status(leave.node_id) == "left":
            return []
        if not self.desk.holds(claim, leave, relay, now):
            return [_count("swim_claims_refused", "signature")]
        was = self.view.status(leave.node_id)
        member.incarnation, member.leave, member.alive = leave.incarnation, claim, None
        out = self._clear_suspicion(member)
        self.view.set_status(leave.node_id, "left")
        self.rumours.drop(("alive", leave.node_id, b""))
        self.rumours.add(("leave", leave.node_id, b""), claim)
        return [*out, Notify(MemberLeft(leave.node_id))] if was != "unknown" else out

    def _outlive_own_leave(self, leave: Leave, claim: Claim, relay: NodeId | None, now: Now) -> Effects:
        matters = leave.incarnation >= self.own.incarnation and not self.own.leaving
        if matters and self.desk.holds(claim, leave, relay, now):
            self.speak(leave.incarnation + 1)
        return []

    def _take_summary(self, summary: Summary, claim: Claim, relay: NodeId | None, now: Now) -> Effects:
        if summary.node_id == self.self_id:
            if summary.seq > self.own.summary_seq and self.desk.holds(claim, summary, relay, now):
                self.own.summary_seq = summary.seq  # of an earlier life
            return []
        member = self.get(summary.node_id)
        known = self.view.summary(summary.node_id)
        if member is None or (known is not None and summary.seq <= known.seq):
            return []
        if not self.desk.holds(claim, summary, relay, now):
            return [_count("swim_claims_refused", "signature")]
        member.summary = claim
        self.view.set_summary(summary)
        patient = not is_news(summary, known)
        told = max(0, self.retransmits - RENEWAL_RETOLD) if patient else self.retransmits // 2
        self.rumours.add(("summary", summary.node_id, b""), claim, told=told, patient=patient)
        return []

    # --- suspicion ------------------------------------------------------------------------------------------------

    def _take_suspect(self, suspect: Suspect, claim: Claim, relay: NodeId | None, now: Now) -> Effects:
        if suspect.accused == self.self_id:
            return self._refute(suspect, claim, relay, now)
        member, accuser = self.get(suspect.accused), self.get(suspect.accuser)
        if member is None or accuser is None or suspect.incarnation != member.incarnation:
            return []
        known = member.suspicion
        if self.view.status(suspect.accused) not in PRESENT or not is_fresh(suspect, now):
            return []
        if known and (suspect.accuser in known.accusers or known.is_settled):
            return []
        if self._budgets.accusations.is_empty(suspect.accuser, now.boot_s):
            return [_count("swim_claims_refused", "budget")]
        if not self.desk.holds(claim, suspect, relay, now):
            return [_count("swim_claims_refused", "signature")]
        self._budgets.accusations.take(suspect.accuser, now.boot_s)  # now that it is its own word
        return self._count_accuser(member, suspect.accuser, claim, now)

    def _refute(self, suspect: Suspect, claim: Claim, relay: NodeId | None, now: Now) -> Effects:
        """Nobody but us can say that we live: say it at the next incarnation. What is past the accuser's budget is told
        again while anybody believes it: whoever suspects us says so on each ping."""
        if suspect.incarnation != self.own.incarnation or self.own.leaving:
            return []
        if self._budgets.refutations.is_empty(suspect.accuser, now.boot_s):
            return [_count("swim_claims_refused", "budget")]
        if not self.desk.holds(claim, suspect, relay, now):
            return []
        self._budgets.refutations.take(suspect.accuser, now.boot_s)
        if self._budgets.blame.take(suspect.accuser, now.boot_s):
            self.health.was_suspected()
        self.speak(self.own.incarnation + 1)
        return [_count("swim_refutations", "")]

    def accuse(self, member: Member, now: Now) -> Effects:
        """Our direct and indirect probes of a member failed."""
        if member.failed_since_s is None:
            member.failed_since_s = now.boot_s
            self._failing[member.node_id] = None
        if self.view.status(member.node_id) not in PRESENT:
            return []
        if member.suspicion and (self.self_id in member.suspicion.accusers or member.suspicion.is_settled):
            self._accuse_again(member.suspicion, member.node_id)
            return []
        claim = self.accusation(member, now)
        return [_count("swim_accusations", ""), *self._count_accuser(member, self.self_id, claim, now)]

    def accusation(self, member: Member, now: Now) -> Claim:
        """Our signed word that we do not reach a member at its present incarnation."""
        return self.desk.sign("suspect", Suspect(self.self_id, member.node_id, member.incarnation, now.wall_ms))

    def _accuse_again(self, suspicion: Suspicion, accused: NodeId) -> None:
        """While there is no verdict, say it again: whoever missed it, or judged already, answers with its own word."""
        mine = suspicion.accusers.get(self.self_id)
        if mine is not None:
            self.rumours.add(("suspect", accused, self.self_id), mine)

    def _count_accuser(self, member: Member, accuser: NodeId, claim: Claim, now: Now) -> Effects:
        suspicion = member.suspicion or self._open_suspicion(member, now)
        suspicion.add(accuser, claim)
        self.rumours.add(("suspect", member.node_id, accuser), claim)
        return self._look_later(suspicion, member.node_id, now)

    def _look_later(self, suspicion: Suspicion, node_id: NodeId, now: Now) -> Effects:
        suspicion.check_s = self._next_look_s(suspicion, now)
        return [Schedule(("swim", "suspicion", node_id), suspicion.check_s)]

    @property
    def _patience_s(self) -> float:
        """How long this node waits for a word before it goes on without."""
        return self._settings.probe_interval_s * self.health.factor

    def _next_look_s(self, suspicion: Suspicion, now: Now) -> float:
        """When there is somebody to ask, or else the time is over."""
        wonders_s = suspicion.wonders_from_s(self._patience_s)
        look_s = suspicion.due_s
        if self._is_hearsay(suspicion):
            look_s = suspicion.next_question_s(self._settings.probe_interval_s, self._patience_s)
        return max(now.boot_s, look_s if wonders_s is None else min(look_s, wonders_s))

    def _is_hearsay(self, suspicion: Suspicion) -> bool:
        """Whether no probe of our own, made since we hear well, speaks against the suspect."""
        return suspicion.must_ask or self.self_id not in suspicion.accusers

    def _open_suspicion(self, member: Member, now: Now) -> Suspicion:
        members = len(self.view.alive())
        shortest_s, longest_s = timeout_bounds_s(members, self._settings.probe_interval_s)
        wanted = CONFIRMATIONS_WANTED if members - 2 >= CONFIRMATIONS_WANTED else 0
        member.suspicion = Suspicion(member.incarnation, now.boot_s, wanted, shortest_s, longest_s)
        self.view.set_status(member.node_id, "suspect")
        return member.suspicion

    def suspicion_due(self, node_id: NodeId, now: Now) -> Effects:
        """The suspicion time of a member is over: judge, for this node alone."""
        member = self.get(node_id)
        suspicion = member.suspicion if member else None
        if member is None or suspicion is None or self.view.status(node_id) != "suspect":
            return []
        if now.boot_s - suspicion.check_s > STALL_S:
            self._start_over(suspicion, now)
        if self.ear.since_s > suspicion.since_s:  # deaf meanwhile: a refutation may have gone by
            suspicion.start_over(self.ear.since_s)
        if self._next_look_s(suspicion, now) > now.boot_s:
            return self._look_later(suspicion, node_id, now)
        asked = not self._is_hearsay(suspicion) or suspicion.had_its_say(now.boot_s, self._patience_s)
        if not asked or suspicion.due_s > now.boot_s:
            return [*self._ask_around(suspicion, node_id, now), *self._look_later(suspicion, node_id, now)]
        rows = (self._table[failing] for failing in self._failing)
        failed = {row.node_id: row.failed_since_s for row in rows if row.failed_since_s is not None}
        possible = (other for other in self.view.alive() if other not in (self.self_id, node_id))
        deaf = self.ear.is_deaf(now.boot_s)
        if verdict(suspicion, self.self_id, possible=possible, failed_since=failed, now_s=now.boot_s, deaf=deaf):
            return self._judge_dead(member, suspicion, now)
        ours = self.self_id in suspicion.accusers
        if not (deaf or ours) and now.boot_s - suspicion.since_s >= suspicion.longest_s:
            self.view.set_status(node_id, "alive")
            return self._clear_suspicion(member)
        self._accuse_again(suspicion, node_id)
        effects = self._ask_around(suspicion, node_id, now)
        suspicion.check_s = now.boot_s + self._settings.probe_interval_s
        return [*effects, Schedule(("swim", "suspicion", node_id), suspicion.check_s)]

    def _ask_around(self, suspicion: Suspicion, node_id: NodeId, now: Now) -> Effects:
        """Ask the suspect itself, where we know it by hearsay, and others for what we missed: a few of all that tell of
        an accusation or of its end tell everybody but one."""
        effects: Effects = []
        if self._is_hearsay(suspicion):
            suspicion.ask(now.boot_s)
            effects = self.ask(node_id, now)
        if now.boot_s < suspicion.wondered_s + self._patience_s:
            return effects
        suspicion.wondered_s = now.boot_s
        question = Claims(tuple(suspicion.accusers.values()), (node_id,))
        peers = self.some_present(ASKED_AROUND, unsuspected=True)
        return [*effects, *(Send(peer, question) for peer in peers if peer != node_id)]

    def known_of(self, node_ids: tuple[NodeId, ...], asker: NodeId, now: Now) -> tuple[Claim, ...]:
        """For somebody who wonders: the last word of each member, and fresh accusations of it, as far as they fit."""
        known: list[Claim] = []
        left = GOSSIP_BYTES_MAX
        for member in filter(None, map(self.get, node_ids[:ASKED_ABOUT_MAX])):
            evidence = member.suspicion.evidence(asker, now) if member.suspicion else ()
            for claim in filter(None, (member.alive, member.leave, *evidence)):
                left -= size_of(claim)
                if left >= 0:
                    known.append(claim)
        return tuple(known)

    def _start_over(self, suspicion: Suspicion, now: Now) -> None:
        """We stood still: what happened meanwhile was never heard, so everything is asked again."""
        self.health.stalled()
        suspicion.start_over(now.boot_s)
        for failing in self._failing:
            self._table[failing].failed_since_s = now.boot_s

    def _judge_dead(self, member: Member, suspicion: Suspicion, now: Now) -> Effects:
        self.view.set_status(member.node_id, "dead")
        member.echoed = False
        out: Effects = [_count("swim_deaths", ""), Notify(MemberDown(member.node_id))]
        if min(suspicion.accusers) == self.self_id:
            card = self.roster.member(member.node_id)
            name = card.name if card else short(member.node_id)
            is_out = self.roster.standing(member.node_id, now.wall_ms) == "out"
            reason = f"the membership of node {name} has ended" if is_out else f"node {name} answers nobody"
            out.append(self.event("NodeDead", now, reason, node=name))
        return out

    def _clear_suspicion(self, member: Member) -> Effects:
        if member.suspicion is None:
            return []
        for accuser in member.suspicion.accusers:
            self.rumours.drop(("suspect", member.node_id, accuser))
        member.suspicion = None
        return [Cancel(("swim", "suspicion", member.node_id))]

    # --- the roster -----------------------------------------------------------------------------------------------

    def follow_roster(self) -> Effects:
        """Forget whoever is no member any more, and what it said of others."""
        out: Effects = []
        gone = [known for known in self._table if self.roster.member(known) is None]
        for node_id in gone:
            member = self._table.pop(node_id)
            self._failing.pop(node_id, None)
            out += self._clear_suspicion(member)
            for kind in ("alive", "leave", "summary"):
                self.rumours.drop((kind, node_id, b""))
            self._budgets.forget(node_id)
            self.desk.forget(node_id)
            self.view.forget(node_id)
            if member.incarnation or member.echoed:
                out.append(Notify(MemberDown(node_id)))
        for member in self._table.values():
            out += self._without(gone, member) if member.suspicion is not None else []
        return out

    def _without(self, gone: list[NodeId], member: Member) -> Effects:
        """A suspicion whose accusers all left the roster is none any more."""
        suspicion = member.suspicion
        dropped = suspicion.drop(gone) if suspicion is not None else []
        for accuser in dropped:
            self.rumours.drop(("suspect", member.node_id, accuser))
        if not dropped or suspicion is None or suspicion.accusers or self.view.status(member.node_id) != "suspect":
            return []
        self.view.set_status(member.node_id, "alive")
        return self._clear_suspicion(member)

    def event(self, status: EventStatus, now: Now, reason: str, **details: str) -> Effect:
        """An event of this node, to be signed and published."""
        event_id = ulid(now.wall_ms, self._randomness.randbytes(10))
        return Notify(EmitEvent(Event(event_id, self.self_id, status, now.wall_ms, reason=reason, details=details)))


def _count(metric: str, reason: str) -> Effect:
    return Notify(Observed(metric, {"reason": reason} if reason else {}))
