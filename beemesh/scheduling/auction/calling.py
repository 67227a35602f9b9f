"""Bringing a steward's tasks to those who may run them: to all in a small mesh, to a few candidates in a large one.

In a large mesh the steward asks a sample (`sampling`), each candidate answers it alone, and as soon as all have, or the
window is over, it awards the task to the best bidder, who claims the lease; the next best follows when no lease is
heard of. A wrong award costs nothing but a refused claim: the lease decides. What nobody has taken after a second is
told to all in a digest, many tasks in one message, and a growing share of those who could run one answer it: so a few
bids come, however many could, and the one node with room is found within a handful of digests.

Bids are one's own word. So none counts for more than its author's public summary supports, and among those that are
nearly equal the task's hash chooses: a flatterer gains little, and stewards do not all run to one node.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from beemesh.crypto import Crypto
from beemesh.effects import Broadcast, Cancel, Effects, Notify, Now, Randomness, Received, Schedule, Send, TimerFired
from beemesh.events import (
    EventHeard,
    IntentChanged,
    LeaseLost,
    MemberDown,
    MemberLeft,
    MemberUp,
    OfferHeard,
    PublishTask,
    TaskUnplaced,
)
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import Digest, NodeId, digest_of
from beemesh.intents.record import workload_id_of, workload_key
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.auction.pace import BACKOFF_MAX_S, CLAIM_AGAIN_S
from beemesh.scheduling.auction.sampling import Sampler
from beemesh.scheduling.counting import count
from beemesh.scheduling.leases import steward_key
from beemesh.scheduling.messages import (
    TASK_DIGEST_KIND,
    TOPIC_TASKS,
    Award,
    Bid,
    CallForBids,
    Event,
    Offer,
    SignedTask,
    SignedTaskDigest,
    Task,
    TaskDigest,
    TaskLine,
)
from beemesh.scheduling.tasks import OFFER_BYTES_MAX
from beemesh.settings.model import NodeSettings

CALLS_MAX = 10_000
"""Open calls of one steward; the oldest goes first, and its task is published again when its time is over."""

ANSWER_MIN_S = 0.05
"""How long a steward waits at least for the last candidate: some may be dead, or busy for a moment. Slow links add
their round trip, up to the selection window."""

LEASE_HEARD_S = 0.4
"""So long after an award the lease should be heard of: two round trips across a continent. Then the next best is
told."""

DIGEST_AFTER_S = 1.0
"""A task that nobody has taken is told to all after so long; and again so often, later and later."""

DIGEST_TASKS_MAX = 200
"""Tasks in one digest: some 20 KB. The others are in the next one."""

LOT_WANTED = 16
LOT_GROWTH = 8.0
"""Nodes that the first digest draws of the whole mesh, and by how much more each next one: of 6,100 the fourth asks
all."""

OFFERS_MAX = 64
"""Answers kept of one task."""

NEARLY = 0.01
"""Bids within this share of the best count as equal."""


@dataclass(slots=True)
class _Call:
    """One task that this node brings to others."""

    task: Task
    signed: Signed
    begun_s: float
    ends_s: float
    asked: dict[NodeId, None]
    bids: dict[NodeId, Bid] = field(default_factory=dict)
    refused: dict[NodeId, tuple[str, ...]] = field(default_factory=dict)
    told: set[NodeId] = field(default_factory=set)
    """Who was told to claim, since the last pause."""
    leader: NodeId | None = None
    holder: NodeId | None = None
    """Who holds the lease, as far as was heard."""
    closed: bool = False
    """Whether the window for the first bids is over."""
    lot: float = 0.0
    digests: int = 0
    next_digest_s: float = 0.0
    pauses: int = 0
    reported: int = 0


class Caller:
    """One steward's way to its candidates."""

    room = "calling"
    handles: tuple[type, ...] = (Offer,)
    listens: tuple[type, ...] = (PublishTask, EventHeard, IntentChanged, LeaseLost, MemberUp, MemberDown, MemberLeft)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        view: View,
        crypto: Crypto,
        randomness: Randomness,
        settings: NodeSettings,
    ) -> None:
        self._self_id = self_id
        self._view = view
        self._crypto = crypto
        self._randomness = randomness
        self._window_s = settings.scheduler.selection_window_ms / 1000
        self._lease_s = settings.scheduler.lease_ttl_ms / 1000
        self._sampler = Sampler(roster, view, settings)
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._digest_s: float | None = None

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept: the next steward publishes again what nobody runs."""

    def start(self, now: Now) -> Effects:
        """Nothing to do before the first task."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about an event."""
        match event:
            case PublishTask(task=task, signed=signed):
                return self._publish(task, signed, now)
            case Received(sender=sender, message=Offer() as offer):
                return self._offered(sender, offer, now)
            case EventHeard(event=told) if told.task_id in self._calls:
                return self._told(told, now)
            case TimerFired(key=(_, "digest")):
                return self._digest(now)
            case TimerFired(key=(_, str(what), str(task_id))) if task_id in self._calls:
                return self._timer(what, self._calls[task_id], now)
            case IntentChanged(intent=intent, signed=signed) if self._calls and workload_id_of(intent.key):
                return self._record_changed(intent.key, digest_of(signed.body))
            case LeaseLost(key=key) if self._calls and key.startswith("steward/"):
                return self._drop_all(lambda call: steward_key(call.task.workload_id) == key)
            case MemberUp(node_id=node_id) if self._calls:
                open_calls = [call for call in self._calls.values() if call.holder is None]
                return [effect for call in open_calls for effect in self._call(call, [node_id])]
            case MemberDown(node_id=node_id) | MemberLeft(node_id=node_id) if self._calls:
                return [effect for call in self._calls.values() for effect in self._gone(call, node_id, now)]
        return []

    # --- asking -----------------------------------------------------------------------------------------------------

    def _publish(self, task: Task, signed: Signed, now: Now) -> Effects:
        if not self._view.is_large:
            return [Broadcast(TOPIC_TASKS, SignedTask(signed))]
        ends_s = now.boot_s + (task.expires_ms - task.issued_ms) / 1000
        call = _Call(task, signed, now.boot_s, ends_s, {}, next_digest_s=now.boot_s + DIGEST_AFTER_S)
        self._calls[task.task_id] = call
        effects: Effects = []
        if len(self._calls) > CALLS_MAX:
            effects += self._drop(next(iter(self._calls.values())))
        chosen = self._sampler.choose(task)
        effects += self._call(call, chosen)
        effects.append(Schedule((self.room, "close", task.task_id), now.boot_s + self._answer_s(chosen)))
        if self._digest_s is None:
            self._digest_s = call.next_digest_s
            effects.append(Schedule((self.room, "digest"), self._digest_s))
        return effects

    def _call(self, call: _Call, node_ids: list[NodeId]) -> Effects:
        effects: Effects = []
        for node_id in node_ids:
            if node_id not in call.asked and len(call.asked) < OFFERS_MAX:
                call.asked[node_id] = None
                effects.append(Send(node_id, CallForBids(call.signed)))
        return effects

    def _answer_s(self, asked: list[NodeId]) -> float:
        """How long the answers may take."""
        rtts = [self._view.rtt_s(node_id) or 0.0 for node_id in asked]
        return min(self._window_s, ANSWER_MIN_S + 1.5 * max(rtts, default=0.0))

    # --- hearing ----------------------------------------------------------------------------------------------------

    def _offered(self, sender: NodeId, offer: Offer, now: Now) -> Effects:
        call = self._calls.get(offer.task_id)
        if call is None:
            return [count("offers", result="late")]
        known = sender in call.asked or sender in call.bids or sender in call.refused
        if not known and (not call.lot or len(call.bids) + len(call.refused) >= OFFERS_MAX):
            return [count("offers", result="uncalled")]
        bid = offer.bid
        if bid is not None and (bid.node_id != sender or bid.task_id != offer.task_id or not 0.0 <= bid.score <= 1.0):
            return [count("offers", result="malformed")]
        if len(msgspec.msgpack.encode(offer)) > OFFER_BYTES_MAX:
            return [count("offers", result="size")]
        effects: Effects = [
            Notify(OfferHeard(offer.task_id, sender, bid, offer.reasons)),
            count("offers", result="refusal" if bid is None else "bid"),
        ]
        if bid is not None:
            call.bids[sender] = bid
            call.refused.pop(sender, None)
            call.told.discard(sender)  # it speaks again: room has appeared
        else:
            call.refused[sender] = offer.reasons
            call.bids.pop(sender, None)
        if call.leader == sender and call.holder is None:
            self._sampler.awards.drop(offer.task_id)
            if offer.wait_ms > 0:
                return [*effects, self._pause(call, now, offer.wait_ms / 1000)]
            call.leader = None
            return effects + self._award(call, now)
        answered = len(call.bids) + len(call.refused) >= len(call.asked)
        if call.leader is None and call.holder is None and (call.closed or answered):
            effects += self._award(call, now)
        return effects

    def _told(self, event: Event, now: Now) -> Effects:
        """It is held by somebody, or over."""
        call = self._calls[event.task_id]
        if event.status in ("Deployed", "Failed", "Cancelled"):
            return self._drop(call)
        if event.status != "Scheduled":
            return []
        call.holder, call.closed = event.node_id, True
        call.told.add(event.node_id)
        # Without a word the next one claims; the lease keeps it out while the holder is at work.
        again = Schedule((self.room, "again", event.task_id), now.boot_s + self._lease_s + CLAIM_AGAIN_S)
        return [Cancel((self.room, "close", event.task_id)), again]

    def _gone(self, call: _Call, node_id: NodeId, now: Now) -> Effects:
        """A node is lost: its bid counts no more, and where it held the lease the next one follows when that ends."""
        call.bids.pop(node_id, None)
        if call.holder != node_id:
            return []
        call.holder = None
        return [Schedule((self.room, "again", call.task.task_id), now.boot_s + self._lease_s)]

    # --- awarding ---------------------------------------------------------------------------------------------------

    def _award(self, call: _Call, now: Now) -> Effects:
        """Tell the best of those who have not been told; where there is none, say why."""
        call.closed = True
        best = self._best(call)
        task_id = call.task.task_id
        if best is None:
            call.leader = None
            return self._unplaced(call)
        call.leader = best
        call.told.add(best)
        self._sampler.awards.add(call.task, best, now.boot_s)
        return [
            Cancel((self.room, "close", task_id)),
            # Once a digest went out, its bid may answer that: the call to it may have been lost on its way.
            Send(best, Award(task_id, None if best in call.asked and not call.digests else call.signed)),
            Schedule((self.room, "again", task_id), now.boot_s + LEASE_HEARD_S),
            count("awards"),
        ]

    def _best(self, call: _Call) -> NodeId | None:
        believed = {
            node_id: min(bid.score, self._sampler.ceiling(call.task, node_id))
            for node_id, bid in call.bids.items()
            if node_id not in call.told
        }
        if not believed:
            return None
        enough = max(believed.values()) * (1.0 - NEARLY)
        salt = call.task.task_id.encode()
        equal = [node_id for node_id, score in believed.items() if score >= enough]
        # Another hash than the one that candidates are drawn by: else the first drawn would always win.
        return min(equal, key=lambda node_id: hashlib.blake2b(salt + node_id, person=b"award", digest_size=8).digest())

    def _unplaced(self, call: _Call) -> Effects:
        """Nobody takes it: tell whom it concerns, when there is more to say than before."""
        asked_nobody = not call.asked and not call.refused
        if call.bids or (len(call.refused) == call.reported and not asked_nobody):
            return []
        call.reported = len(call.refused)
        reasons = tuple(sorted(call.refused.items(), key=lambda each: each[0]))
        return [Notify(TaskUnplaced(call.task.task_id, reasons))]

    def _pause(self, call: _Call, now: Now, least_s: float = 0.0) -> Schedule:
        """All bidders were told and none holds the lease: begin again with them after a while, each time later."""
        call.pauses += 1
        call.told.clear()
        backoff_s = 0.5 * 2.0**call.pauses * self._randomness.uniform(0.7, 1.0)
        after_s = min(BACKOFF_MAX_S, max(least_s, backoff_s))
        return Schedule((self.room, "again", call.task.task_id), now.boot_s + after_s)

    def _timer(self, what: str, call: _Call, now: Now) -> Effects:
        if now.boot_s >= call.ends_s:
            return self._drop(call)
        if what == "close":
            return self._award(call, now) if call.leader is None and call.holder is None else []
        call.holder = None
        effects = self._award(call, now)
        return effects if call.leader is not None or not call.bids else [*effects, self._pause(call, now)]

    # --- digests ----------------------------------------------------------------------------------------------------

    def _digest(self, now: Now) -> Effects:
        """Tell everybody of what nobody has taken."""
        self._digest_s = None
        effects: Effects = []
        for call in [call for call in self._calls.values() if now.boot_s >= call.ends_s]:
            effects += self._drop(call)
        due: dict[float, list[_Call]] = {}
        for call in [call for call in self._calls.values() if self._is_untaken(call, now)][:DIGEST_TASKS_MAX]:
            call.lot = min(1.0, LOT_WANTED / len(self._view.alive()) * LOT_GROWTH**call.digests)
            call.digests += 1
            # Once all were asked they speak up by themselves when room appears: say it again less and less often.
            call.next_digest_s = now.boot_s + DIGEST_AFTER_S * (2 ** max(0, call.digests - 4))
            due.setdefault(call.lot, []).append(call)
        for lot, calls in sorted(due.items()):
            lines = tuple(
                TaskLine(each.task.task_id, each.task.workload_id, each.task.revision, each.task.replica)
                for each in calls
            )
            digest = TaskDigest(self._self_id, now.wall_ms, lot, lines)
            signed = sign_statement(self._crypto, TASK_DIGEST_KIND, digest)
            effects += [Broadcast(TOPIC_TASKS, SignedTaskDigest(signed)), count("digests")]
        if self._calls:
            waiting = (call.next_digest_s for call in self._calls.values() if call.holder is None)
            soonest_s = min(waiting, default=now.boot_s + DIGEST_AFTER_S)
            self._digest_s = max(soonest_s, now.boot_s + DIGEST_AFTER_S / 4)
            effects.append(Schedule((self.room, "digest"), self._digest_s))
        return effects

    def _is_untaken(self, call: _Call, now: Now) -> bool:
        return call.holder is None and call.next_digest_s <= now.boot_s

    # --- ending -----------------------------------------------------------------------------------------------------

    def _drop(self, call: _Call) -> Effects:
        task_id = call.task.task_id
        del self._calls[task_id]
        return [Cancel((self.room, what, task_id)) for what in ("close", "again")]

    def _record_changed(self, key: str, record: Digest) -> Effects:
        """What names another record of that key is not wanted any more; a call for the new one may have begun."""
        return self._drop_all(
            lambda call: workload_key(call.task.workload_id) == key and call.task.record_digest != record
        )

    def _drop_all(self, which: Any) -> Effects:
        return [effect for call in list(self._calls.values()) if which(call) for effect in self._drop(call)]
