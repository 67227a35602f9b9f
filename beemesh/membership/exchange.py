"""Push-pull: whole states compared over a stream, with one random member from time to time, and to join.

In a large mesh hashes come first, and lines only of the parts that differ.

It also finds out who somebody is: a claim by a node that the roster does not know waits here while its card is fetched
from whoever relayed the claim.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from beemesh.effects import Effects, Notify, Now, Randomness, Reply, Request, Schedule, Send
from beemesh.events import Observed, PutIntent
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.intents.messages import FetchMembers, IntentRecords
from beemesh.membership.claims import author_of, decode
from beemesh.membership.digests import ALL_PARTS, LISTED_MAX, PARTS, differing, part_of, parts_of
from beemesh.membership.members import Members
from beemesh.membership.messages import Alive, Claim, Claims, Known, PushPull, PushPullAnswer, Suspect
from beemesh.membership.partners import Partners
from beemesh.membership.rows import Member
from beemesh.membership.rumours import GOSSIP_BYTES_MAX
from beemesh.membership.settings import SwimSettings
from beemesh.membership.summaries import Summary

JOIN_EVERY_S = 1.0
"""While nobody answers yet, a few members are tried so often in the first half minute; later at the pace of
announcements, for as long as it takes."""
JOIN_TRIES = 3

SETTLE_FIRST_S = 0.2
SETTLING_S = 1.0
"""Where a site joins at once, gossip misses some: it goes to members that do not know its sender yet. So whoever has
just found others compares again soon, with the same one, which costs no handshake."""

PUSH_PULL_PATIENCE_S = 5.0
KNOWN_MAX = 40_000
"""Members in one comparison, some 50 bytes each: half of a stream message. Whoever is left out is told of each time."""
CLAIMS_PER_ANSWER_MAX = 2_000
"""Claims in one push-pull answer, some 250 bytes each: an eighth of a stream message."""
CLAIMS_PER_MESSAGE_MAX = 2 * CLAIMS_PER_ANSWER_MAX
"""Claims in any other message: the most that an honest member sends are the last word and the summary of each member
that an answer wants. Whatever is left out is told of at the next comparison."""

STRETCH_FROM = 32
"""Above so many members, states are compared less often, by the logarithm of the size (memberlist)."""

STRANGERS_MAX = 1_024
"""Claims kept by authors whose cards are not here yet: a site that joins at once."""
STRANGER_ASKED_EVERY_S = 2.0
"""The card of one stranger is asked for no more often, however many relay its claims."""
STRANGER_TRIES_MAX = 5
CARDS_SOON_S = 0.15
"""Cards of strangers that gossip names are asked for together, and not at all where news of them come by themselves
meanwhile: each question to somebody else costs a handshake."""
CARDS_PER_ANSWER_MAX = 512


@dataclass(slots=True)
class _Stranger:
    claim: Claim
    """Its newest Alive."""
    relay: NodeId
    """Who told of it last."""
    asked_s: float = float("-inf")
    tries: int = 0


def newest(claims: tuple[Claim, ...]) -> list[Claim]:
    """Of what one message says of a member by its own word, only the last word of each kind: each older one would cost
    a verification first. Accusations have budgets, and what has no shape costs nothing."""
    said = [decode(claim) for claim in claims]
    last: dict[tuple[type, NodeId], tuple[int, int]] = {}
    for index, statement in enumerate(said):
        if statement is not None and not isinstance(statement, Suspect):
            number = statement.seq if isinstance(statement, Summary) else statement.incarnation
            key = (type(statement), statement.node_id)
            last[key] = max(last.get(key, (0, index)), (number, index))
    kept = {index for _, index in last.values()}
    words = zip(claims, said, strict=True)
    return [
        claim for index, (claim, word) in enumerate(words) if index in kept or word is None or isinstance(word, Suspect)
    ]


class Exchange:
    """One node's comparisons with others."""

    def __init__(
        self,
        members: Members,
        card: Signed,
        randomness: Randomness,
        settings: SwimSettings,
        new_request_id: Callable[[], int],
    ) -> None:
        self._members = members
        self._card = card
        self._randomness = randomness
        self._settings = settings
        self._new_request_id = new_request_id
        self._strangers: OrderedDict[NodeId, _Stranger] = OrderedDict()
        self.partners = Partners(members.view, randomness)
        self._partner: NodeId | None = None
        """With whom states were compared last: there is a stream to it."""
        self._hashed: NodeId | None = None
        """Who was sent hashes, and may ask for the lines of parts, once."""
        self._asking = False
        self._found_s: float | None = None
        """When this node, alone before, noticed that it is not any more."""

    # --- comparing ------------------------------------------------------------------------------------------------

    def pause_s(self, now: Now, *, early: bool) -> float:
        """How long to wait before the next comparison. After a node found others it doubles from `SETTLE_FIRST_S`."""
        alive = len(self._members.view.alive())
        if alive < 2:
            self._found_s = None
            pause_s = JOIN_EVERY_S if early else self._settings.announce_interval_s
        else:
            usual_s = self._settings.push_pull_interval_s * max(1.0, 1.0 + math.log2(alive / STRETCH_FROM))
            self._found_s = now.boot_s if self._found_s is None else self._found_s
            pause_s = min(usual_s, max(SETTLE_FIRST_S, now.boot_s - self._found_s))
        return pause_s * self._randomness.uniform(0.8, 1.2)

    def compare(self, now: Now) -> Effects:
        """Ask one partner (soon after joining the one with which there is a stream already), and one absent member that
        may not know us; or a few absent ones while nobody is present."""
        partner = self.partners.one()
        chosen = [partner] if partner is not None else []
        settling = self._found_s is None or now.boot_s - self._found_s < SETTLING_S
        if chosen and settling and self._partner is not None and self._members.view.is_alive(self._partner):
            chosen = [self._partner]
        if not chosen:
            peers = [row.node_id for row in self._members.others()]
            chosen = self._randomness.sample(peers, min(JOIN_TRIES, len(peers)))
        own = self._members.own.claim
        claims, introduction = (own,) if own is not None else (), (self._card,)
        known = self._known()
        if partner is None or settling or len(known) <= LISTED_MAX:
            question = PushPull(known, claims, introduction)
        else:
            question = PushPull((), claims, introduction, hashes=parts_of(known, without=partner))
            self._hashed = partner
        asked = [(peer, question) for peer in chosen]
        if partner is not None:
            asked += [(peer, PushPull(known, claims, introduction)) for peer in self._unmet()]
        return [Request(self._new_request_id(), peer, each, PUSH_PULL_PATIENCE_S) for peer, each in asked]

    def _unmet(self) -> list[NodeId]:
        """An absent member that never echoed us, if there is one. Where some machines joined while they reached nobody
        but each other, all others refuse their datagrams, as those of strangers, until one is shown a card."""
        absent = (self._members.get(node_id) for node_id in self._members.view.absent())
        unmet = [row.node_id for row in absent if row is not None and not row.echoed]
        return [self._randomness.choice(unmet)] if unmet else []

    def _known(self, parts: bytes = ALL_PARTS) -> tuple[Known, ...]:
        rows = (row for row in self._members.others() if part_of(row.node_id) in parts)
        return tuple(Known(row.node_id, row.incarnation, self._summary_seq(row)) for row in rows)[:KNOWN_MAX]

    def _summary_seq(self, row: Member) -> int:
        summary = self._members.view.summary(row.node_id) if row.summary is not None else None
        return summary.seq if summary is not None else 0

    def compared(self, sender: NodeId, token: int, question: PushPull, now: Now) -> Effects:
        """A member, or a joiner with its card, compares itself with us."""
        effects: Effects = [Notify(PutIntent(record)) for record in question.introduction[:1]]
        effects += self.take(sender, question.claims[:1], now)
        self._partner = sender
        own = self._members.own
        claims = [claim for claim in (own.claim, own.summary) if claim is not None]
        if question.hashes:
            differ = differing(parts_of(self._known(), without=sender), question.hashes)
            return [*effects, Reply(token, PushPullAnswer(tuple(claims), (), (self._card,), differ))]
        known = {line.node_id: line for line in question.known[:KNOWN_MAX]}
        parts = question.parts or ALL_PARTS
        wanted = []
        for row in self._members.others():
            if part_of(row.node_id) not in parts:
                continue
            line = known.get(row.node_id) or Known(row.node_id, 0)
            claims += self._newer(row, line)
            if line.incarnation > row.incarnation or line.summary_seq > self._summary_seq(row):
                wanted.append(row.node_id)
        roster = self._members.roster
        for line in known.values():  # whose cards are not even here
            if line.incarnation and roster.member(line.node_id) is None and not roster.is_revoked(line.node_id):
                wanted.append(line.node_id)
        wanted = wanted[:CLAIMS_PER_ANSWER_MAX]
        answer = PushPullAnswer(tuple(claims[:CLAIMS_PER_ANSWER_MAX]), tuple(wanted), (self._card,))
        return [*effects, Reply(token, answer)]

    def _newer(self, row: Member, line: Known) -> list[Claim]:
        life = row.alive or row.leave
        newer = [life] if life is not None and row.incarnation > line.incarnation else []
        if row.summary is not None and self._summary_seq(row) > line.summary_seq:
            newer.append(row.summary)
        return newer

    def learned(self, peer: NodeId, answer: PushPullAnswer, now: Now) -> Effects:
        """The answer: take what is newer there, send what is newer here."""
        effects: Effects = [Notify(PutIntent(record)) for record in answer.introduction[:1]]
        effects += self._members.hear(peer, now)
        self._partner = peer
        effects += self.take(peer, answer.claims[:CLAIMS_PER_ANSWER_MAX], now, over_stream=True)
        wanted: list[Claim] = []
        for node_id in answer.wanted[:CLAIMS_PER_ANSWER_MAX]:
            row = self._members.get(node_id)
            if row is not None:
                wanted += self._newer(row, Known(node_id, 0))
        if wanted:
            effects.append(Send(peer, Claims(tuple(wanted))))
        if answer.differ and peer == self._hashed:
            self._hashed = None
            question = PushPull(self._known(answer.differ), parts=answer.differ[:PARTS])
            effects.append(Request(self._new_request_id(), peer, question, PUSH_PULL_PATIENCE_S))
        return effects

    # --- claims, also by strangers --------------------------------------------------------------------------------

    def take(self, relay: NodeId, claims: tuple[Claim, ...], now: Now, *, over_stream: bool = False) -> Effects:
        """Believe what can be checked; see to the cards of authors that are not known here: at once where there is a
        stream to the relay, else soon."""
        effects: Effects = []
        unknown = False
        for claim in newest(claims):
            if self._members.desk.is_forger(relay, now):
                effects.append(Notify(Observed("swim_claims_refused", {"reason": "relay"})))
                break
            unknown = self._keep_stranger(claim, relay) or unknown
            effects += self._members.take(claim, now, relay)
        if not unknown or relay == self._members.self_id:
            return effects
        if over_stream:
            return effects + self.ask_for_cards(now)
        return effects + self._ask_later(now, CARDS_SOON_S)

    def _keep_stranger(self, claim: Claim, relay: NodeId) -> bool:
        """Keep an Alive whose author has no card here; whether its card is to be asked for."""
        if claim.kind != "alive" or len(claim.body) > GOSSIP_BYTES_MAX:
            return False
        alive = decode(claim)
        roster = self._members.roster
        if not isinstance(alive, Alive) or roster.member(author_of(alive)) or roster.is_revoked(alive.node_id):
            return False
        known = self._strangers.pop(alive.node_id, None) or _Stranger(claim, relay)
        known.claim, known.relay = claim, relay
        self._strangers[alive.node_id] = known
        while len(self._strangers) > STRANGERS_MAX:
            self._strangers.popitem(last=False)
        return known.tries < STRANGER_TRIES_MAX

    def _ask_later(self, now: Now, pause_s: float) -> Effects:
        if self._asking:
            return []
        self._asking = True
        return [Schedule(("swim", "cards"), now.boot_s + pause_s)]

    def ask_for_cards(self, now: Now) -> Effects:
        """Ask for the cards of strangers: first whom we compared with last, then whoever told of them."""
        self._asking = False
        partner = self._partner if self._partner and self._members.view.is_alive(self._partner) else None
        wanted: dict[NodeId, list[NodeId]] = {}
        waiting = False
        for node_id, stranger in self._strangers.items():
            if stranger.tries >= STRANGER_TRIES_MAX:
                continue
            waiting = True
            if now.boot_s - stranger.asked_s >= STRANGER_ASKED_EVERY_S:
                peer = partner if partner is not None and not stranger.tries else stranger.relay
                wanted.setdefault(peer, []).append(node_id)
                stranger.asked_s, stranger.tries = now.boot_s, stranger.tries + 1
        effects: Effects = [
            Request(
                self._new_request_id(), peer, FetchMembers(tuple(asked[:CARDS_PER_ANSWER_MAX])), PUSH_PULL_PATIENCE_S
            )
            for peer, asked in wanted.items()
        ]
        return effects + (self._ask_later(now, STRANGER_ASKED_EVERY_S) if waiting else [])

    def cards_came(self, answer: IntentRecords) -> Effects:
        """The cards that were asked for: the intent map judges them."""
        return [Notify(PutIntent(record, tell=False)) for record in answer.records[:CARDS_PER_ANSWER_MAX]]

    def roster_grew(self, now: Now) -> Effects:
        """Take what strangers said before they were known."""
        effects: Effects = []
        for node_id in [known for known in self._strangers if self._members.roster.member(known)]:
            stranger = self._strangers.pop(node_id)
            effects += self._members.take(stranger.claim, now, stranger.relay)
        return effects
