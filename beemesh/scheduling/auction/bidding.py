"""A node's part in every auction: hears tasks and bids, leases and events, and tells `auction` what follows from them.

How an auction goes is told in `beemesh.scheduling.auction.auctions`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beemesh.crypto import Crypto
from beemesh.effects import Asked, Cancel, Effects, Notify, Now, Randomness, Received, Reply, Schedule, TimerFired
from beemesh.events import (
    BidHeard,
    Delivered,
    EventHeard,
    IntentChanged,
    LeaseDenied,
    LeaseGranted,
    OfferHeard,
    PublishTask,
    ReleaseLease,
    ReservationsChanged,
    ResourcesObserved,
    TaskHeard,
    TaskWon,
)
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.intents.record import workload_id_of
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.auction.auctions import ROOM, Auctions, key_of
from beemesh.scheduling.auction.belief import Belief
from beemesh.scheduling.auction.candidacy import Candidacy, with_bid
from beemesh.scheduling.auction.pace import BACKOFF_MAX_S
from beemesh.scheduling.counting import count
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.leases import placed_workload
from beemesh.scheduling.messages import (
    TOPIC_PROPOSALS,
    TOPIC_TASKS,
    Award,
    Bid,
    CallForBids,
    Event,
    SignedBid,
    SignedTask,
    SignedTaskDigest,
    SilenceAnswer,
    SilenceQuestion,
    Task,
)
from beemesh.scheduling.taskbook import Entry, TaskBook
from beemesh.scheduling.tasks import IntentLookup, names_record, record_of
from beemesh.settings.model import NodeSettings

LOOK_EVERY_S = 0.1
"""What is pending is judged again at most so often: hundreds of tasks cost tens of milliseconds, of the loop that
answers probes too, and a pod that starts or ends changes what is reserved several times."""


class Bidder:
    """One node's part in every auction. List it after the executor, which keeps `local`."""

    room = ROOM
    handles: tuple[type, ...] = (SilenceQuestion, SignedTask, CallForBids, Award)
    listens: tuple[type, ...] = (
        Delivered,
        IntentChanged,
        LeaseGranted,
        LeaseDenied,
        EventHeard,
        ResourcesObserved,
        ReservationsChanged,
        PublishTask,
        OfferHeard,
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
        judge: Judge,
        intent_for: IntentLookup,
        book: TaskBook | None = None,
    ) -> None:
        """`book` is written here alone; one is made where nobody else reads it."""
        self._auctions = Auctions(self_id, view, crypto, randomness, settings, judge, intent_for, book)
        self.book = self._auctions.book
        self._self_id = self_id
        self._view = view
        self._intent_for = intent_for
        self._belief = Belief(crypto, roster, settings.scheduler.clock_skew_ms, self.book)
        self._candidacy = Candidacy(self_id, roster, crypto, self._auctions, intent_for)
        self._looked_s = float("-inf")
        self._is_look_due = False

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
            case Received(sender=sender, message=CallForBids(task=signed)):
                return self._called(signed, sender, now)
            case Received(sender=sender, message=Award() as award):
                return self._awarded(award, sender, now)
            case Delivered(message=SignedTaskDigest() as message) if event.topic == TOPIC_TASKS:
                return self._candidacy.hear_digest(message, now)
            case Delivered(message=SignedBid() as message) if event.topic == TOPIC_PROPOSALS:
                return self._hear_bid(message, now)
            case TimerFired(key=(_, "look", _)):
                return self._look(now)
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
                return self._room_appeared(now)
            case PublishTask(task=task, signed=signed):
                return self._keep_own(task, signed, now)
            case OfferHeard(task_id=task_id, node_id=node_id, bid=bid, reasons=reasons):
                return self._note_offer(task_id, node_id, bid, reasons)
            case Asked(message=SilenceQuestion(task_id=task_id), token=token):
                return [Reply(token, self._silence(task_id))]
        return []

    # --- hearing ----------------------------------------------------------------------------------------------------

    def _hear_task(self, message: SignedTask, now: Now) -> Effects:
        task = self._belief.task(message, now)
        if isinstance(task, Notify):
            return [task]
        if self.book.get(task.task_id) is not None:
            return []
        effects, entry = self._begin(task, message.task, now)
        entry.is_announced = True
        told = self.book.told_early(task.task_id)
        return [
            *effects,
            *self._auctions.consider(entry, now),
            *(self._told(told, now) if told is not None else []),
        ]

    def _begin(self, task: Task, signed: Signed, now: Now) -> tuple[Effects, Entry]:
        """A task that is new here."""
        entry = self._entry(task, signed, now)
        return [count("tasks_seen"), Notify(TaskHeard(task, signed)), *self._keep(entry, now)], entry

    def _keep(self, entry: Entry, now: Now) -> Effects:
        """Into the book. What falls out of it for that ends properly: a claim that nobody remembers would be granted
        and renewed for ever, and what it promised would count as taken."""
        effects: Effects = []
        for dropped in self.book.add(entry):
            effects += [count("tasks_dropped"), *self._auctions.end(dropped, _CROWDED_OUT, now)]
        return effects

    def _entry(self, task: Task, signed: Signed, now: Now) -> Entry:
        lifetime_s = (task.expires_ms - task.issued_ms) / 1000
        return Entry(task, signed, now.boot_s, now.wall_ms, now.boot_s + lifetime_s)

    def _hear_bid(self, message: SignedBid, now: Now) -> Effects:
        if message.bid.signer == self._self_id:
            return []
        bid = self._belief.bid(message, now)
        if isinstance(bid, Notify):
            return [bid]
        if not self.book.add_bid(bid):
            return []
        entry = self.book.get(bid.task_id)
        assert entry is not None, "add_bid kept it there"
        return [Notify(BidHeard(bid)), *self._auctions.weigh(entry, bid, now)]

    # --- in a large mesh --------------------------------------------------------------------------------------------

    def _called(self, signed: Signed, sender: NodeId, now: Now) -> Effects:
        """A steward asks this node, perhaps among few others."""
        if signed.signer != sender:
            return [count("tasks_refused", reason="relayed")]
        task = self._belief.task(SignedTask(signed), now)
        if isinstance(task, Notify):
            return [task]
        entry = self.book.get(task.task_id)
        if entry is not None and not (entry.caller is None and sender == self._self_id):
            return self._candidacy.asked_again(entry, now)
        effects, entry = self._begin(task, signed, now) if entry is None else ([], entry)
        self.book.reopen(entry)
        entry.caller, entry.state = sender, "waiting"
        return effects + self._candidacy.asked(entry, now)

    def _awarded(self, award: Award, sender: NodeId, now: Now) -> Effects:
        """The steward chose this node."""
        entry = self.book.get(award.task_id)
        effects: Effects = []
        if entry is None and award.task is not None and self._candidacy.stepped_in(award, sender):
            effects = self._called(award.task, sender, now)
            entry = self.book.get(award.task_id)
        return effects + self._candidacy.told_to_claim(sender, entry, now) if entry is not None else effects

    def _keep_own(self, task: Task, signed: Signed, now: Now) -> Effects:
        """A task that this node's steward calls for: its book has the bids and the reasons, for who asks."""
        if self._view.is_large and self.book.get(task.task_id) is None:
            entry = self._entry(task, signed, now)
            entry.state, entry.outcome = "over", CALLED
            return self._keep(entry, now)
        return []

    def _note_offer(self, task_id: str, node_id: NodeId, bid: Bid | None, reasons: tuple[str, ...]) -> Effects:
        entry = self.book.get(task_id)
        if entry is None:
            return []
        with_bid(entry, bid, node_id, reasons)
        return [Notify(BidHeard(bid))] if bid is not None and node_id != self._self_id else []

    def _timer(self, what: str, task_id: str, now: Now) -> Effects:
        entry = self.book.get(task_id)
        if entry is None:
            return []
        match what, entry.state:
            case "record", "waiting":
                return self._auctions.consider(entry, now)
            case "speak", "due":
                return self._auctions.speak(entry, now)
            case "close", "spoken":
                return self._auctions.close(entry, now)
            case "retry", "watching":
                return self._auctions.claim_again(entry, now)
        return []

    # --- room -------------------------------------------------------------------------------------------------------

    def _room_appeared(self, now: Now) -> Effects:
        """What is pending is judged again, at once if it was not a moment ago."""
        if self._is_look_due:
            return []
        next_s = self._looked_s + LOOK_EVERY_S
        if now.boot_s >= next_s:
            return self._look(now)
        self._is_look_due = True
        return [Schedule((self.room, "look", ""), next_s)]

    def _look(self, now: Now) -> Effects:
        self._looked_s, self._is_look_due = now.boot_s, False
        return [*self._auctions.look_again(self.book.open(), now), *self._candidacy.room_appeared(now)]

    # --- the lease --------------------------------------------------------------------------------------------------

    def _granted(self, granted: LeaseGranted, now: Now) -> Effects:
        entry = self._claiming(granted.key)
        if entry is None:
            return self._let_go(granted.key)
        self._auctions.lead_no_more(entry)
        if entry.task.tentative and not granted.proof.tentative:  # the majority's steward knows what runs here
            return [
                Notify(ReleaseLease(granted.key)),
                *self._auctions.end(entry, "its steward speaks for a minority", now),
            ]
        entry.state, entry.outcome = "won", "won by this node"
        won = TaskWon(entry.task, granted.key, granted.proof, granted.fence, granted.expires_boot_s)
        return [count("leases", result="granted"), Notify(won)]

    def _let_go(self, key: str) -> Effects:
        """The right to place a replica for which no task waits here would be renewed for ever, and keep all others
        from it."""
        states = {each.state for each in self.book.entries() if key_of(each) == key}
        if not states or "won" in states:
            return []
        return [Notify(ReleaseLease(key)), count("leases", result="unwanted")]

    def _denied(self, denied: LeaseDenied, now: Now) -> Effects:
        entry = self._claiming(denied.key)
        if entry is None:
            return []
        if entry.caller is not None:
            self._auctions.lead_no_more(entry)
            return [count("leases", result="denied"), *self._candidacy.denied(entry, denied)]
        after_s = min(BACKOFF_MAX_S, max(denied.retry_after_s, self._auctions.backoff_s(entry)))
        return [count("leases", result="denied"), *self._auctions.watch(entry, now, after_s)]

    def _claiming(self, key: str) -> Entry | None:
        mine = self.book.open_of(placed_workload(key))
        return next((each for each in mine if each.state == "claiming" and key_of(each) == key), None)

    # --- what others did --------------------------------------------------------------------------------------------

    def _told(self, event: Event, now: Now) -> Effects:
        match event.status:
            case "Scheduled":
                self.book.tell_early(event)
                entry = self.book.get(event.task_id)
                if entry is None or event.node_id == self._self_id or entry.state not in ("due", "spoken"):
                    return []
                return [Cancel((self.room, "speak", event.task_id)), *self._auctions.watch(entry, now)]
            case "Deployed":
                same, mine = (event.revision, event.replica), self.book.open_of(event.workload_id)
                done = [each for each in mine if (each.task.revision, each.task.replica) == same]
            case "Failed" | "Cancelled":
                done = [each for each in self.book.open_of(event.workload_id) if each.task.task_id == event.task_id]
            case _:
                return []
        self.book.tell_early(event)
        effects: Effects = []
        for entry in done:
            effects += self._auctions.end(entry, event.status, now)
        return effects

    def _intent_changed(self, key: str, now: Now) -> Effects:
        effects: Effects = []
        for entry in self.book.open_of(workload_id_of(key)):
            found = record_of(entry.task, self._intent_for)
            if entry.state == "waiting":
                effects += self._auctions.consider(entry, now)
            elif entry.state != "silent" and not names_record(entry.task, found):
                effects += self._auctions.end(entry, _WITHDRAWN, now)
        if key.startswith("cordon/"):
            effects += self._auctions.look_again(self.book.open(), now)
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


CALLED = "this node asks others for it"
_CROWDED_OUT = "too many tasks came at once"
_WITHDRAWN = "the operator changed or deleted the workload"
