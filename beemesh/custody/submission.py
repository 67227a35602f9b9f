"""Accepting what an operator wants: manifest and shares to their keepers first, then the record, on two nodes.

`accepted` is a promise, so it is given late: every holder and custodian that the record names has saved its part, and
the record stands on this node's disk and on another's (on a lone node, on its own). Until the record is put nobody
sees anything of it; what a failed submission left with keepers is swept up after an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from beemesh.custody.custodians import LISTENING_S, TABLE_MANIFESTS, TABLE_SHARES, revisions_of
from beemesh.custody.messages import Stored, StoreManifest, StoreShare
from beemesh.effects import Answered, Effects, Flush, Notify, Now, Randomness, Request, Schedule, TimerFired
from beemesh.errors import Untrusted
from beemesh.events import IntentPut, PutIntent, Submit, Submitted
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId, digest_of, short
from beemesh.intents.map import TABLE as TABLE_INTENTS
from beemesh.intents.messages import IntentsAck, PushIntents
from beemesh.intents.record import Intent, version_of
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.workloads.record import Revision

PATIENCE_S = 5.0
DEADLINE_S = 10.0
SUBMISSIONS_MAX = 128
WITNESSES = 2
"""Other nodes that are asked to save the record; the first that did is enough."""

INTERNAL_TOKENS_START = 1 << 40
"""Tokens of our own `PutIntent`s, apart from those of the API."""


@dataclass(slots=True)
class _Submission:
    command: Submit
    intent: Intent
    stage: str = "storing"
    waiting: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    failed: dict[str, None] = field(default_factory=dict)
    """The keepers that did not save their part, by name."""
    put_token: int = 0
    stands_here: bool = False
    witnessed: bool = False

    def told(self) -> str:
        """What went wrong, each thing once: a keeper may have been asked for more than one part."""
        return "; ".join(dict.fromkeys(self.problems))


class Submission:
    """Carries each submission through its stages."""

    room = "submission"
    handles: tuple[type, ...] = ()
    listens = (Submit, IntentPut)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        view: View,
        randomness: Randomness,
        check_intent: Callable[[Signed], Intent],
        intent_for: Callable[[str], tuple[Intent, Signed] | None],
        new_request_id: Callable[[], int],
        objection: Callable[[Intent, Intent | None], str],
    ) -> None:
        """`objection` tells why policy refuses a record in the place of what stands; empty when it does not."""
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._randomness = randomness
        self._check_intent = check_intent
        self._intent_for = intent_for
        self._new_request_id = new_request_id
        self._objection = objection
        self._open: dict[int, _Submission] = {}
        self._questions: dict[int, _Submission] = {}
        self._puts: dict[int, _Submission] = {}
        self._next_put = INTERNAL_TOKENS_START
        self._held: dict[int, Submit] = {}
        """What came before this node could know whether it is alone."""
        self._started_s = 0.0

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept on disk: whoever was not answered submits again, and finds what stands already."""

    def start(self, now: Now) -> Effects:
        """Nothing to do before the first command."""
        self._started_s = now.boot_s
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case Submit():
                return self._submit(event, now)
            case Answered():
                return self._answered(event)
            case IntentPut(token=token):
                submission = self._puts.pop(token, None)
                return self._put(submission, event) if submission is not None else []
            case TimerFired(key=(_, "listened", int() as token)):
                held = self._held.pop(token, None)
                return self._submit(held, now) if held is not None else []
            case TimerFired(key=(str(), str(), int() as token)):
                late = self._open.get(token)
                return self._end(late, late.told() or "not all answered in time") if late else []
        return []

    def _submit(self, command: Submit, now: Now) -> Effects:
        try:
            intent = self._check_intent(command.record)
        except Untrusted as error:
            return [Notify(Submitted(command.token, False, error.message))]
        if len(self._open) + len(self._held) >= SUBMISSIONS_MAX:
            return [Notify(Submitted(command.token, False, "this agent is busy with other submissions; try again"))]
        if self._is_listening(now):
            self._held[command.token] = command
            return [Schedule(("submission", "listened", command.token), self._started_s + LISTENING_S)]
        conflict = self._conflict(intent, command.record)
        if conflict:
            return [Notify(Submitted(command.token, False, conflict, conflict=True))]
        found = self._intent_for(intent.key)
        against = self._objection(intent, found[0] if found else None)
        if against:
            return [Notify(Submitted(command.token, False, against))]
        submission = _Submission(command, intent)
        self._open[command.token] = submission
        effects: Effects = [Schedule(("submission", "deadline", command.token), now.boot_s + DEADLINE_S)]
        stores = self._stores(submission)
        if isinstance(stores, str):
            return self._end(submission, stores)
        effects += stores
        return effects if submission.waiting else effects + self._put_record(submission)

    def _is_listening(self, now: Now) -> bool:
        """Whether it cannot be told yet if this node is alone: a lone one accepts by itself, and what it kept alone
        would be kept once. What is handed in waits for so long."""
        young = now.boot_s < self._started_s + LISTENING_S
        return young and len(self._view.alive()) == 1 and len(self._roster.members()) > 1

    def _conflict(self, intent: Intent, signed: Signed) -> str:
        found = self._intent_for(intent.key)
        if found is None:
            return ""
        here = version_of(*found)
        if here == version_of(intent, signed) or (here.epoch, here.seq) < (intent.epoch, intent.seq):
            return ""
        author = self._roster.issued_grant(found[0].author)
        who = f"operator {author.name}" if author else "the mesh CA"
        return f"{intent.key} was changed by {who} in the meantime (it stands at {here.seq}, this is {intent.seq})"

    # --- holders and custodians -----------------------------------------------------------------------------------

    def _stores(self, submission: _Submission) -> Effects | str:
        """Requests to every keeper that the newest revision names, or why that cannot be."""
        command = submission.command
        if not command.ciphertext:
            return []
        manifest = digest_of(command.ciphertext)
        revision = next((each for each in revisions_of(submission.intent) if each.manifest == manifest), None)
        if revision is None:
            return "the record does not name the ciphertext that came with it"
        boxes = dict(command.boxes)
        if set(boxes) != {ticket.index for ticket in revision.sealing.tickets}:
            return "the shares that came with the record are not the ones that it names"
        dead = self._dead(revision)
        if dead:
            return f"these keepers are not alive: {', '.join(dead)}; apply again and others are chosen"
        effects: Effects = []
        for holder in revision.holders:
            effects.append(self._ask(submission, holder, StoreManifest(command.record, command.ciphertext)))
        for ticket in revision.sealing.tickets:
            share = StoreShare(command.record, manifest, ticket.index, boxes[ticket.index])
            effects.append(self._ask(submission, ticket.custodian, share))
        return effects

    def _dead(self, revision: Revision) -> list[str]:
        named = {*revision.holders, *(ticket.custodian for ticket in revision.sealing.tickets)}
        return sorted(self._name(node_id) for node_id in named if not self._view.is_alive(node_id))

    def _ask(self, submission: _Submission, peer: NodeId, message: msgspec.Struct) -> Request:
        request_id = self._new_request_id()
        self._questions[request_id] = submission
        submission.waiting.add(request_id)
        return Request(request_id, peer, message, PATIENCE_S)

    def _answered(self, event: Answered) -> Effects:
        submission = self._questions.pop(event.request_id, None)
        if submission is None or event.request_id not in submission.waiting:
            return []
        submission.waiting.discard(event.request_id)
        if submission.stage == "storing":
            if not isinstance(event.message, Stored) or not event.message.ok:
                why = event.message.reason if isinstance(event.message, Stored) else event.error
                submission.problems.append(f"{self._name(event.peer)}: {why or 'no answer'}")
                submission.failed[self._name(event.peer)] = None
            if submission.waiting:
                return []
            if submission.problems:
                return self._end(submission, "not all keepers saved their part: " + submission.told())
            return self._put_record(submission)
        return self._witness_answered(submission, event)

    # --- the record -----------------------------------------------------------------------------------------------

    def _put_record(self, submission: _Submission) -> Effects:
        # While its keepers saved their parts somebody else may have been faster: compare and set, in one step.
        conflict = self._conflict(submission.intent, submission.command.record)
        if conflict:
            return self._end(submission, conflict, conflict=True)
        submission.stage = "recording"
        token, self._next_put = self._next_put, self._next_put + 1
        self._puts[token] = submission
        effects: Effects = [Notify(PutIntent(submission.command.record, token))]
        others = [node_id for node_id in self._view.alive() if node_id != self._self_id]
        submission.witnessed = not others
        for peer in self._randomness.sample(others, min(WITNESSES, len(others))):
            effects.append(self._ask(submission, peer, PushIntents((submission.command.record,))))
        return effects

    def _put(self, submission: _Submission, outcome: IntentPut) -> Effects:
        if not outcome.accepted:
            return self._end(submission, outcome.reason, conflict=True)
        submission.stands_here = True
        return self._end(submission, "") if submission.witnessed else []

    def _witness_answered(self, submission: _Submission, event: Answered) -> Effects:
        digest = version_of(submission.intent, submission.command.record)
        if isinstance(event.message, IntentsAck) and any(entry.version == digest for entry in event.message.saved):
            submission.witnessed = True
            return self._end(submission, "") if submission.stands_here else []
        reasons = event.message.refused if isinstance(event.message, IntentsAck) else (event.error,)
        submission.problems.append(f"{self._name(event.peer)}: {'; '.join(reasons) or 'did not save it'}")
        if submission.waiting or submission.witnessed:
            return []
        return self._end(submission, "saved here, but on no second node: " + submission.told())

    def _end(self, submission: _Submission, reason: str, *, conflict: bool = False) -> Effects:
        if self._open.pop(submission.command.token, None) is None:
            return []
        for request_id in submission.waiting:
            self._questions.pop(request_id, None)
        keepers = tuple(submission.failed) if submission.stage == "storing" else ()
        told = Notify(Submitted(submission.command.token, not reason, reason, conflict, keepers))
        return [told] if reason else [*self._flushes(submission), told]

    @staticmethod
    def _flushes(submission: _Submission) -> Effects:
        """What this node itself saved, as keeper and beside the witness, in this call or an earlier one."""
        effects: Effects = [Flush(TABLE_INTENTS, submission.intent.key.encode())]
        if submission.command.ciphertext:
            manifest = digest_of(submission.command.ciphertext)
            effects += [Flush(TABLE_MANIFESTS, manifest), Flush(TABLE_SHARES, manifest)]
        return effects

    def _name(self, node_id: NodeId) -> str:
        member = self._roster.member(node_id)
        return member.name if member else short(node_id)
