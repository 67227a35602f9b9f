"""One node in auctions: judge a task, speak in the order of merit, claim in the lead, watch when another leads.

The better a node's score, the earlier it speaks; so once a node in the lead has waited as long as news of a better one
would need to arrive, it claims at once instead of waiting for the window to end. Several tasks of one workload sort
themselves out on the way: whoever leads in one steps back in the others, and comes forward again when it is outbid.
A wrong guess costs nothing but a refused claim: the lease decides, never the bids.
"""

from __future__ import annotations

from beemesh.crypto import Crypto
from beemesh.effects import Broadcast, Cancel, Effects, Notify, Now, Randomness, Schedule, Send
from beemesh.events import BidHeard, Claim, ReleaseLease
from beemesh.identity.signing import sign_statement
from beemesh.ids import NodeId
from beemesh.membership.view import View
from beemesh.scheduling.auction.pace import SLACK_MIN_S, Pace
from beemesh.scheduling.counting import count
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.leases import lease_key
from beemesh.scheduling.messages import BID_KIND, TOPIC_PROPOSALS, Bid, Offer, SignedBid, Task
from beemesh.scheduling.score import Score, better
from beemesh.scheduling.taskbook import Entry, TaskBook
from beemesh.scheduling.tasks import NONCE_BYTES, IntentLookup, names_record, objection, record_of, workload_of
from beemesh.settings.model import NodeSettings

ROOM = "bidding"
"""Whose timers these are."""

RECORD_WAIT_S = 2.0
"""How long a task may be ahead of the record that it names: gossip brings both, in any order."""

ENOUGH_BETTER_BIDS = 3
"""A node that heard so many better ones keeps silent: two of them may fail before it is missed."""

FREED_AT_ONCE_MAX = 2
"""Siblings that are looked at again when one lead is lost: one place came free, and one more for good measure."""


class Auctions:
    """All auctions that one node takes part in; `book` has an entry for each."""

    def __init__(
        self,
        self_id: NodeId,
        view: View,
        crypto: Crypto,
        randomness: Randomness,
        settings: NodeSettings,
        judge: Judge,
        intent_for: IntentLookup,
        book: TaskBook | None = None,
    ) -> None:
        self.book = TaskBook() if book is None else book
        self._self_id = self_id
        self._view = view
        self._crypto = crypto
        self._randomness = randomness
        self._engine = settings.runtime.engine
        self._timing = settings.scheduler
        self._intent_for = intent_for
        self._judge_task = judge.judge
        self._pace = Pace(view, randomness, settings.scheduler)
        self._leads: dict[str, Task] = {}
        """Tasks in which this node is ahead, or whose lease it is claiming: promised, until somebody is better."""

    # --- judging ----------------------------------------------------------------------------------------------------

    def consider(self, entry: Entry, now: Now) -> Effects:
        """Judge a task once its record is here."""
        found = record_of(entry.task, self._intent_for)
        task_id = entry.task.task_id
        if not names_record(entry.task, found):
            entry.reasons = ("this node does not hold the record that the task names",)
            until_s = entry.heard_s + RECORD_WAIT_S
            if now.boot_s < until_s:
                return [Schedule((ROOM, "record", task_id), until_s)]
            if entry.caller is not None:
                return self.refuse(entry, entry.reasons)
            entry.state = "silent"
            return []
        against = objection(entry.task, workload_of(found), self._self_id)
        if against:
            entry.state, entry.reasons = "over", (against,)
            if entry.caller is not None:
                return [Send(entry.caller, Offer(task_id, None, entry.reasons))]
            return [count("tasks_silent", reason="record")]
        return [*self._take_place(entry, now), *self._line_up(entry, now)]

    def _take_place(self, entry: Entry, now: Now) -> Effects:
        """A task that the record supports ends those before it for the same replica. Another one, which any member may
        publish, ends nothing."""
        effects: Effects = []
        task = entry.task
        for older in self.book.open_of(task.workload_id):
            if older.task.replica == task.replica and older.task.task_id < task.task_id:
                effects += self.end(older, f"task {task.task_id} took its place", now)
        return effects

    def _line_up(self, entry: Entry, now: Now) -> Effects:
        """Set the moment to speak, or keep silent with the reasons."""
        if now.boot_s >= entry.ends_s:
            return self.end(entry, "the task's time is over", now)
        verdict = self.judge(entry)
        if entry.caller is not None:
            return self._offer(entry, verdict, now)
        if not isinstance(verdict, Score):
            entry.state, entry.reasons = "silent", tuple(verdict)
            return [count("tasks_silent", reason="ineligible")]
        entry.state, entry.reasons = "due", ()
        entry.speak_s = max(now.boot_s, entry.heard_s + self._pace.delay_s(verdict.total)) + self._pace.jitter_s()
        return [Schedule((ROOM, "speak", entry.task.task_id), entry.speak_s)]

    def judge(self, entry: Entry) -> list[str] | Score:
        """The reasons against this node, or its score, with all that it leads in counted as promised."""
        return self.judge_task(entry.task, entry.heard_ms)

    def judge_task(self, task: Task, wall_ms: int) -> list[str] | Score:
        """The same for a task that is not in the book."""
        others = [lead for lead in self._leads.values() if lead.task_id != task.task_id]
        return self._judge_task(task, others, wall_ms)

    def look_again(self, entries: list[Entry], now: Now) -> Effects:
        """Room may have appeared: judge those again for which there was none."""
        effects: Effects = []
        for entry in entries:
            if entry.state == "silent" and names_record(entry.task, record_of(entry.task, self._intent_for)):
                effects += self._line_up(entry, now)
        return effects

    # --- speaking ---------------------------------------------------------------------------------------------------

    def weigh(self, entry: Entry, bid: Bid, now: Now) -> Effects:
        """What another's bid changes for us."""
        own = entry.bids.get(self._self_id)
        if own is None or entry.state != "spoken":
            return []
        if entry.task.task_id in self._leads and better(bid, own):
            return self.watch(entry, now)
        return self.close(entry, now) if self._all_spoke(entry) else []

    def speak(self, entry: Entry, now: Now) -> Effects:
        """It is this node's turn."""
        verdict = self.judge(entry)
        later_s = entry.heard_s + self._pace.delay_s(verdict.total) if isinstance(verdict, Score) else 0.0
        if not isinstance(verdict, Score) or later_s > now.boot_s + SLACK_MIN_S:
            # The places ahead went to siblings of this task meanwhile: stand back, behind those who have none.
            return self._line_up(entry, now)
        bid = self.bid_of(entry.task, verdict, entry.ends_s, now)
        ahead = entry.better_than(bid)
        if ahead >= ENOUGH_BETTER_BIDS:
            entry.reasons = (f"{ahead} better bids were heard before this node spoke",)
            return [count("tasks_silent", reason="outbid"), *self.watch(entry, now)]
        entry.bids[self._self_id] = bid
        entry.state = "spoken"
        effects: Effects = [
            Broadcast(TOPIC_PROPOSALS, SignedBid(sign_statement(self._crypto, BID_KIND, bid))),
            Notify(BidHeard(bid)),
            count("bids_sent"),
        ]
        if ahead:
            return effects + self.watch(entry, now)
        self._leads[entry.task.task_id] = entry.task
        if self._all_spoke(entry):
            return effects + self.close(entry, now)
        return [*effects, Schedule((ROOM, "close", entry.task.task_id), now.boot_s + self._pace.slack_s())]

    def bid_of(self, task: Task, verdict: Score, ends_s: float, now: Now) -> Bid:
        """This node's bid for a task."""
        return Bid(
            task_id=task.task_id,
            node_id=self._self_id,
            score=verdict.total,
            issued_ms=now.wall_ms,
            expires_ms=now.wall_ms + int((ends_s - now.boot_s) * 1000),
            nonce=self._randomness.randbytes(NONCE_BYTES),
            fit=verdict.fit,
            reasons=verdict.parts,
            capabilities=(self._engine,),
        )

    # --- answering a steward that asks this node alone --------------------------------------------------------------

    def _offer(self, entry: Entry, verdict: list[str] | Score, now: Now) -> Effects:
        """Bid to the steward, or tell it why not."""
        if not isinstance(verdict, Score):
            return self.refuse(entry, tuple(verdict))
        assert entry.caller is not None, "only a called task is answered to its steward"
        bid = self.bid_of(entry.task, verdict, entry.ends_s, now)
        entry.bids[self._self_id] = bid
        entry.state, entry.reasons = "offered", ()
        return [Send(entry.caller, Offer(entry.task.task_id, bid)), count("bids_sent")]

    def refuse(self, entry: Entry, reasons: tuple[str, ...]) -> Effects:
        """Tell the steward, once for each state of things, and wait for room."""
        assert entry.caller is not None, "only a called task is answered to its steward"
        told = entry.state == "silent" and entry.reasons != ()
        entry.state, entry.reasons = "silent", reasons
        entry.bids.pop(self._self_id, None)
        if told:
            return []
        return [
            Send(entry.caller, Offer(entry.task.task_id, None, reasons)),
            count("tasks_silent", reason="ineligible"),
        ]

    # --- claiming, and watching -------------------------------------------------------------------------------------

    def close(self, entry: Entry, now: Now) -> Effects:
        """Nobody better can still come: claim."""
        entry.state = "claiming"
        self._leads[entry.task.task_id] = entry.task
        task = entry.task
        return [
            Cancel((ROOM, "close", task.task_id)),
            Notify(
                Claim(
                    key=key_of(entry),
                    ttl_ms=self._timing.lease_ttl_ms,
                    renew_ms=self._timing.lease_renew_ms,
                    task_id=task.task_id,
                    workload_id=task.workload_id,
                    revision=task.revision,
                    replica=task.replica,
                    tentative_ok=task.duplicate_tolerant,
                )
            ),
        ]

    def watch(self, entry: Entry, now: Now, after_s: float | None = None) -> Effects:
        """Somebody else is ahead: be ready to step in, the next best first."""
        entry.state = "watching"
        freed = self.lead_no_more(entry)
        if after_s is None:
            own = entry.bids.get(self._self_id)
            after_s = self._pace.patience_s(entry.better_than(own) if own else len(entry.bids) + 1)
        effects: Effects = [
            Cancel((ROOM, "close", entry.task.task_id)),
            Schedule((ROOM, "retry", entry.task.task_id), now.boot_s + after_s),
        ]
        return effects + (self._come_forward(entry, now) if freed else [])

    def _come_forward(self, lost: Entry, now: Now) -> Effects:
        """A lead is lost, so there is room for a sibling that this node stood back from, or had no room for."""
        waiting = [each for each in self.book.open_of(lost.task.workload_id) if each.state == "due"]
        effects: Effects = []
        for entry in [*waiting, *(each for each in self.book.open() if each.state == "silent")][:FREED_AT_ONCE_MAX]:
            if names_record(entry.task, record_of(entry.task, self._intent_for)):
                effects += self._line_up(entry, now)
        return effects

    def claim_again(self, entry: Entry, now: Now) -> Effects:
        """Nobody was heard to have deployed it: step in, if there is room here."""
        if now.boot_s >= entry.ends_s:
            return self.end(entry, "the task's time is over", now)
        verdict = self.judge(entry)
        if isinstance(verdict, Score):
            return [count("claims_again"), *self.close(entry, now)]
        entry.reasons = tuple(verdict)
        return self.watch(entry, now, self.backoff_s(entry))

    def end(self, entry: Entry, outcome: str, now: Now) -> Effects:
        """A task is over for this node, with what became of it in words."""
        task_id = entry.task.task_id
        effects: Effects = [Cancel((ROOM, what, task_id)) for what in ("record", "speak", "close", "retry")]
        if entry.state == "claiming":
            effects.append(Notify(ReleaseLease(key_of(entry))))
        entry.state, entry.outcome = "over", outcome
        if self.lead_no_more(entry):
            effects += self._come_forward(entry, now)
        return effects

    def lead_no_more(self, entry: Entry) -> bool:
        """Whether this node counted on the task, which it does no longer."""
        return self._leads.pop(entry.task.task_id, None) is not None

    def backoff_s(self, entry: Entry) -> float:
        """How long to hold back from a task: longer with each call."""
        entry.retries += 1
        return self._pace.backoff_s(entry.retries)

    def _all_spoke(self, entry: Entry) -> bool:
        return all(node_id in entry.bids for node_id in self._view.alive())


def key_of(entry: Entry) -> str:
    """The lease that the auction is about."""
    return lease_key(entry.task.workload_id, entry.task.replica)
