"""Bidding for tasks: judge, speak in the order of merit, and let the best bidder claim the lease.

The better a node's score, the earlier it speaks; so once a node in the lead has waited as long as news of a better one
would need to arrive, it claims at once instead of waiting for the window to end. Several tasks of one workload sort
themselves out on the way: whoever leads in one steps back in the others, and comes forward again when it is outbid.
A wrong guess costs nothing but a refused claim: the lease decides, never the bids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beemesh.crypto import Crypto
from beemesh.effects import (
    Asked,
    Broadcast,
    Cancel,
    Effects,
    Notify,
    Now,
    Randomness,
    Received,
    Reply,
    Schedule,
    TimerFired,
)
from beemesh.errors import Untrusted
from beemesh.events import (
    BidHeard,
    Claim,
    Delivered,
    EventHeard,
    IntentChanged,
    LeaseDenied,
    LeaseGranted,
    Observed,
    ReleaseLease,
    ReservationsChanged,
    ResourcesObserved,
    TaskHeard,
    TaskWon,
)
from beemesh.identity.signing import sign_statement
from beemesh.ids import NodeId
from beemesh.intents.record import workload_key
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.rates import Rates
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.leases import lease_key
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.messages import (
    BID_KIND,
    TOPIC_PROPOSALS,
    TOPIC_TASKS,
    Bid,
    Event,
    SignedBid,
    SignedTask,
    SilenceAnswer,
    SilenceQuestion,
    Task,
)
from beemesh.scheduling.score import Score, better
from beemesh.scheduling.taskbook import Entry, TaskBook
from beemesh.scheduling.tasks import (
    NONCE_BYTES,
    IntentLookup,
    names_record,
    objection,
    open_member_statement,
    open_task,
    record_of,
    workload_of,
)
from beemesh.settings.model import NodeSettings

RECORD_WAIT_S = 2.0
"""How long a task may be ahead of the record that it names: gossip brings both, in any order."""

ENOUGH_BETTER_BIDS = 3
"""A node that heard so many better ones keeps silent: two of them may fail before it is missed."""

SLACK_MIN_S = 0.010
SLACK_MAX_S = 0.080
"""Bounds on how long news of a bid is expected to take: a scheduler's time slice, and a far continent."""

SPREAD_SHARE = 0.8
"""Part of the selection window over which scores 1…0 spread the moments to speak; the rest is for bids to arrive."""

JITTER_SHARE = 0.05
"""Part of `selection_jitter_ms` that is drawn, so that equal nodes do not speak in the same instant."""

CLAIM_AGAIN_S = 1.0
"""A loser claims when a lease's lifetime and this have passed without `Deployed`."""

RANK_STEP_S = 0.3
BACKOFF_MAX_S = 5.0
"""Losers step in one after the other, the better first, none later than this."""

FREED_AT_ONCE_MAX = 2
"""Siblings that are looked at again when one lead is lost: one place came free, and one more for good measure."""

BIDS_PER_S = 50.0
BIDS_BURST = 500.0
TASKS_PER_S = 50.0
TASKS_BURST = 1_000.0
"""What one member may publish: a large Deployment at once, and a steady stream after it."""


class Bidder:
    """One node's part in every auction. List it after the executor, which keeps `local`."""

    room = "bidding"
    handles: tuple[type, ...] = (SilenceQuestion, SignedTask)
    listens: tuple[type, ...] = (
        Delivered,
        IntentChanged,
        LeaseGranted,
        LeaseDenied,
        EventHeard,
        ResourcesObserved,
        ReservationsChanged,
    )
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        view: View,
        crypto: Crypto,
        randomness: Randomness,
        settings: NodeSettings,
        local: LocalWork,
        intent_for: IntentLookup,
    ) -> None:
        self.book = TaskBook()
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._crypto = crypto
        self._randomness = randomness
        self._engine = settings.runtime.engine
        self._timing = settings.scheduler
        self._intent_for = intent_for
        self._judge_task = Judge(self_id, roster, settings, local, intent_for).judge
        self._bid_rates = Rates(BIDS_PER_S, BIDS_BURST)
        self._task_rates = Rates(TASKS_PER_S, TASKS_BURST)
        self._leads: dict[str, Task] = {}
        """Tasks in which this node is ahead, or whose lease it is claiming: promised, until somebody is better."""

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept: an auction is over in less time than a restart takes."""

    def start(self, now: Now) -> Effects:
        """Nothing to do until a task comes."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about an event."""
        match event:
            case Delivered(message=SignedTask() as message) if event.topic == TOPIC_TASKS:
                return self._hear_task(message, now)
            case Received(message=SignedTask() as message):
                return self._hear_task(message, now)
            case Delivered(message=SignedBid() as message) if event.topic == TOPIC_PROPOSALS:
                return self._hear_bid(message, now)
            case TimerFired(key=(_, str(what), str(task_id))):
                return self._timer(what, task_id, now)
            case LeaseGranted(renewed=False):
                return self._granted(event, now)
            case LeaseDenied():
                return self._denied(event, now)
            case EventHeard(event=told):
                return self._told(told, now)
            case IntentChanged(intent=intent):
                return self._intent_changed(intent.key, now)
            case ResourcesObserved() | ReservationsChanged():
                return self._look_again(self.book.open(), now)
            case Asked(message=SilenceQuestion(task_id=task_id), token=token):
                return [Reply(token, self._silence(task_id))]
        return []

    # --- hearing ----------------------------------------------------------------------------------------------------

    def _hear_task(self, message: SignedTask, now: Now) -> Effects:
        if not self._task_rates.take(message.task.signer, now.boot_s):
            return [_count("tasks_refused", reason="rate")]
        try:
            task = open_task(self._crypto, self._roster, message, now.wall_ms, self._timing.clock_skew_ms)
        except Untrusted:
            return [_count("tasks_refused", reason="untrusted")]
        if self.book.get(task.task_id) is not None:
            return []
        effects: Effects = [_count("tasks_seen"), Notify(TaskHeard(task, message.task))]
        for older in self.book.open():
            same = (older.task.workload_id, older.task.replica) == (task.workload_id, task.replica)
            if same and older.task.task_id < task.task_id:
                effects += self._end(older, f"task {task.task_id} took its place", now)
        lifetime_s = (task.expires_ms - task.issued_ms) / 1000
        entry = Entry(task, message.task, now.boot_s, now.wall_ms, now.boot_s + lifetime_s)
        self.book.add(entry)
        told = self.book.told_early(task.task_id)
        return effects + self._consider(entry, now) + (self._told(told, now) if told is not None else [])

    def _hear_bid(self, message: SignedBid, now: Now) -> Effects:
        signer = NodeId(message.bid.signer)
        if signer == self._self_id:
            return []
        if not self._bid_rates.take(signer, now.boot_s):
            return [_count("bids_refused", reason="rate")]
        try:
            bid = open_member_statement(self._crypto, self._roster, message.bid, BID_KIND, Bid, now.wall_ms)
        except Untrusted:
            return [_count("bids_refused", reason="untrusted")]
        if bid.node_id != signer or not 0.0 <= bid.score <= 1.0:
            return [_count("bids_refused", reason="malformed")]
        if not self.book.add_bid(bid):
            return []
        entry = self.book.get(bid.task_id)
        assert entry is not None, "add_bid kept it there"
        return [Notify(BidHeard(bid)), *self._weigh(entry, bid, now)]

    def _weigh(self, entry: Entry, bid: Bid, now: Now) -> Effects:
        """What another's bid changes for us."""
        own = entry.bids.get(self._self_id)
        if own is None or entry.state != "spoken":
            return []
        if entry.task.task_id in self._leads and better(bid, own):
            return self._watch(entry, now)
        return self._close(entry, now) if self._all_spoke(entry) else []

    # --- judging ----------------------------------------------------------------------------------------------------

    def _consider(self, entry: Entry, now: Now) -> Effects:
        """Judge a task once its record is here."""
        found = record_of(entry.task, self._intent_for)
        task_id = entry.task.task_id
        if not names_record(entry.task, found):
            entry.reasons = ("this node does not hold the record that the task names",)
            until_s = entry.heard_s + RECORD_WAIT_S
            if now.boot_s < until_s:
                return [Schedule((self.room, "record", task_id), until_s)]
            entry.state = "silent"
            return []
        against = objection(entry.task, workload_of(found))
        if against:
            entry.state, entry.reasons = "over", (against,)
            return [_count("tasks_silent", reason="record")]
        return self._line_up(entry, now)

    def _line_up(self, entry: Entry, now: Now) -> Effects:
        """Set the moment to speak, or keep silent with the reasons."""
        if now.boot_s >= entry.ends_s:
            return self._end(entry, "the task's time is over", now)
        verdict = self._judge(entry)
        if not isinstance(verdict, Score):
            entry.state, entry.reasons = "silent", tuple(verdict)
            return [_count("tasks_silent", reason="ineligible")]
        entry.state, entry.reasons = "due", ()
        entry.speak_s = max(now.boot_s, entry.heard_s + self._delay_s(verdict.total)) + self._jitter_s()
        return [Schedule((self.room, "speak", entry.task.task_id), entry.speak_s)]

    def _judge(self, entry: Entry) -> list[str] | Score:
        """The reasons against this node, or its score, with all that it leads in counted as promised."""
        others = [lead for lead in self._leads.values() if lead.task_id != entry.task.task_id]
        return self._judge_task(entry.task, others, entry.heard_ms)

    def _look_again(self, entries: list[Entry], now: Now) -> Effects:
        """Room may have appeared: judge those again for which there was none."""
        effects: Effects = []
        for entry in entries:
            if entry.state == "silent" and names_record(entry.task, record_of(entry.task, self._intent_for)):
                effects += self._line_up(entry, now)
        return effects

    # --- speaking ---------------------------------------------------------------------------------------------------

    def _timer(self, what: str, task_id: str, now: Now) -> Effects:
        entry = self.book.get(task_id)
        if entry is None:
            return []
        match what, entry.state:
            case "record", "waiting":
                return self._consider(entry, now)
            case "speak", "due":
                return self._speak(entry, now)
            case "close", "spoken":
                return self._close(entry, now)
            case "retry", "watching":
                return self._claim_again(entry, now)
        return []

    def _speak(self, entry: Entry, now: Now) -> Effects:
        verdict = self._judge(entry)
        later_s = entry.heard_s + self._delay_s(verdict.total) if isinstance(verdict, Score) else 0.0
        if not isinstance(verdict, Score) or later_s > now.boot_s + SLACK_MIN_S:
            # The places ahead went to siblings of this task meanwhile: stand back, behind those who have none.
            return self._line_up(entry, now)
        bid = Bid(
            task_id=entry.task.task_id,
            node_id=self._self_id,
            score=verdict.total,
            issued_ms=now.wall_ms,
            expires_ms=now.wall_ms + int((entry.ends_s - now.boot_s) * 1000),
            nonce=self._randomness.randbytes(NONCE_BYTES),
            fit=verdict.fit,
            reasons=verdict.parts,
            capabilities=(self._engine,),
        )
        ahead = entry.better_than(bid)
        if ahead >= ENOUGH_BETTER_BIDS:
            entry.reasons = (f"{ahead} better bids were heard before this node spoke",)
            return [_count("tasks_silent", reason="outbid"), *self._watch(entry, now)]
        entry.bids[self._self_id] = bid
        entry.state = "spoken"
        effects: Effects = [
            Broadcast(TOPIC_PROPOSALS, SignedBid(sign_statement(self._crypto, BID_KIND, bid))),
            Notify(BidHeard(bid)),
            _count("bids_sent"),
        ]
        if ahead:
            return effects + self._watch(entry, now)
        self._leads[entry.task.task_id] = entry.task
        if self._all_spoke(entry):
            return effects + self._close(entry, now)
        return [*effects, Schedule((self.room, "close", entry.task.task_id), now.boot_s + self._slack_s())]

    def _close(self, entry: Entry, now: Now) -> Effects:
        """Nobody better can still come: claim."""
        entry.state = "claiming"
        self._leads[entry.task.task_id] = entry.task
        task = entry.task
        return [
            Cancel((self.room, "close", task.task_id)),
            Notify(
                Claim(
                    key=lease_key(task.workload_id, task.replica),
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

    def _watch(self, entry: Entry, now: Now, after_s: float | None = None) -> Effects:
        """Somebody else is ahead: be ready to step in, the next best first."""
        entry.state = "watching"
        freed = self._leads.pop(entry.task.task_id, None) is not None
        if after_s is None:
            own = entry.bids.get(self._self_id)
            place = entry.better_than(own) if own else len(entry.bids) + 1
            patience_s = self._timing.lease_ttl_ms / 1000 + CLAIM_AGAIN_S
            after_s = patience_s + min(BACKOFF_MAX_S, RANK_STEP_S * place) * self._randomness.uniform(0.8, 1.2)
        effects: Effects = [
            Cancel((self.room, "close", entry.task.task_id)),
            Schedule((self.room, "retry", entry.task.task_id), now.boot_s + after_s),
        ]
        return effects + (self._come_forward(entry, now) if freed else [])

    def _come_forward(self, lost: Entry, now: Now) -> Effects:
        """A lead is lost, so there is room for a sibling that this node stood back from, or had no room for."""
        waiting = [
            each for each in self.book.open() if each.state == "due" and each.task.workload_id == lost.task.workload_id
        ]
        effects: Effects = []
        for entry in [*waiting, *(each for each in self.book.open() if each.state == "silent")][:FREED_AT_ONCE_MAX]:
            if names_record(entry.task, record_of(entry.task, self._intent_for)):
                effects += self._line_up(entry, now)
        return effects

    def _claim_again(self, entry: Entry, now: Now) -> Effects:
        if now.boot_s >= entry.ends_s:
            return self._end(entry, "the task's time is over", now)
        verdict = self._judge(entry)
        if isinstance(verdict, Score):
            return [_count("claims_again"), *self._close(entry, now)]
        entry.reasons = tuple(verdict)
        return self._watch(entry, now, self._backoff_s(entry))

    # --- the lease --------------------------------------------------------------------------------------------------

    def _granted(self, granted: LeaseGranted, now: Now) -> Effects:
        entry = self._claiming(granted.key)
        if entry is None:
            return []
        self._leads.pop(entry.task.task_id, None)
        if entry.task.tentative and not granted.proof.tentative:  # the majority's steward knows what runs here
            return [Notify(ReleaseLease(granted.key)), *self._end(entry, "its steward speaks for a minority", now)]
        entry.state, entry.outcome = "won", "won by this node"
        won = TaskWon(entry.task, granted.key, granted.proof, granted.fence, granted.expires_boot_s)
        return [_count("leases", result="granted"), Notify(won)]

    def _denied(self, denied: LeaseDenied, now: Now) -> Effects:
        entry = self._claiming(denied.key)
        if entry is None:
            return []
        after_s = min(BACKOFF_MAX_S, max(denied.retry_after_s, self._backoff_s(entry)))
        return [_count("leases", result="denied"), *self._watch(entry, now, after_s)]

    def _claiming(self, key: str) -> Entry | None:
        return next((each for each in self.book.open() if each.state == "claiming" and _key(each) == key), None)

    def _backoff_s(self, entry: Entry) -> float:
        entry.retries += 1
        return min(BACKOFF_MAX_S, 0.5 * 2.0**entry.retries) * self._randomness.uniform(0.7, 1.0)

    # --- what others did --------------------------------------------------------------------------------------------

    def _told(self, event: Event, now: Now) -> Effects:
        match event.status:
            case "Scheduled":
                self.book.tell_early(event)
                entry = self.book.get(event.task_id)
                if entry is None or event.node_id == self._self_id or entry.state not in ("due", "spoken"):
                    return []
                return [Cancel((self.room, "speak", event.task_id)), *self._watch(entry, now)]
            case "Deployed":
                same = (event.workload_id, event.revision, event.replica)
                done = [e for e in self.book.open() if (e.task.workload_id, e.task.revision, e.task.replica) == same]
            case "Failed" | "Cancelled":
                done = [each for each in self.book.open() if each.task.task_id == event.task_id]
            case _:
                return []
        self.book.tell_early(event)
        effects: Effects = []
        for entry in done:
            effects += self._end(entry, event.status, now)
        return effects

    def _intent_changed(self, key: str, now: Now) -> Effects:
        effects: Effects = []
        for entry in self.book.open():
            if workload_key(entry.task.workload_id) != key:
                continue
            found = record_of(entry.task, self._intent_for)
            if entry.state == "waiting":
                effects += self._consider(entry, now)
            elif entry.state != "silent" and not names_record(entry.task, found):
                effects += self._end(entry, _WITHDRAWN, now)
        if key.startswith("cordon/"):
            effects += self._look_again(self.book.open(), now)
        return effects

    def _end(self, entry: Entry, outcome: str, now: Now) -> Effects:
        task_id = entry.task.task_id
        effects: Effects = [Cancel((self.room, what, task_id)) for what in ("record", "speak", "close", "retry")]
        if entry.state == "claiming":
            effects.append(Notify(ReleaseLease(_key(entry))))
        entry.state, entry.outcome = "over", outcome
        if self._leads.pop(task_id, None) is not None:
            effects += self._come_forward(entry, now)
        return effects

    def _silence(self, task_id: str) -> SilenceAnswer:
        entry = self.book.get(task_id)
        if entry is None:
            return SilenceAnswer(task_id, seen=False)
        if self._self_id in entry.bids:
            return SilenceAnswer(task_id, seen=True)
        settled = f"it was settled before this node's turn to speak ({entry.outcome})"
        return SilenceAnswer(
            task_id, seen=True, reasons=entry.reasons or (settled if entry.outcome else "it has not decided yet",)
        )

    # --- time -------------------------------------------------------------------------------------------------------

    def _delay_s(self, total: float) -> float:
        return (1.0 - total) * SPREAD_SHARE * self._timing.selection_window_ms / 1000

    def _jitter_s(self) -> float:
        return self._randomness.uniform(0.0, JITTER_SHARE * self._timing.selection_jitter_ms / 1000)

    def _slack_s(self) -> float:
        """How long a better bid that was spoken before ours may still be under way."""
        rtts = [self._view.rtt_s(node_id) or 0.0 for node_id in self._view.alive()]
        travel_s = min(SLACK_MAX_S, max(SLACK_MIN_S, 1.5 * max(rtts, default=0.0)))
        return travel_s + JITTER_SHARE * self._timing.selection_jitter_ms / 1000

    def _all_spoke(self, entry: Entry) -> bool:
        return all(node_id in entry.bids for node_id in self._view.alive())


_WITHDRAWN = "the operator changed or deleted the workload"


def _key(entry: Entry) -> str:
    return lease_key(entry.task.workload_id, entry.task.replica)


def _count(metric: str, **labels: str) -> Notify:
    return Notify(Observed(f"scheduler_{metric}_total", labels))
