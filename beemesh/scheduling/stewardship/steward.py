"""Hosting the reconciler of those workloads whose steward lease this node holds.

The live keeper nearest to a workload's key claims its lease at once, the next ones later and later; whoever holds it
keeps it. A steward asks nodes what they run, lets the pure reconciler say what to do, and publishes one task per
missing replica, never two at a time. All that it knows is in the intent map, in what runs and in what was published, so
the next one goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from beemesh.crypto import Crypto
from beemesh.effects import (
    Answered,
    Cancel,
    Effects,
    Notify,
    Now,
    Randomness,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.events import (
    BidHeard,
    Claim,
    EventHeard,
    EventRecalled,
    IntentChanged,
    LeaseDenied,
    LeaseGranted,
    LeaseLost,
    LeaveMesh,
    MemberDown,
    MemberLeft,
    MemberUp,
    ReleaseLease,
    TaskHeard,
    TaskUnplaced,
)
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.intents.record import Intent, workload_id_of
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.counting import count
from beemesh.scheduling.leases import steward_key
from beemesh.scheduling.line import stewards_in_line
from beemesh.scheduling.messages import Event, EventList, SignedTask, Task
from beemesh.scheduling.reading import EventsTold
from beemesh.scheduling.stewardship.acting import Acting
from beemesh.scheduling.stewardship.hearing import FRESH_SURVEY, Hearing
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.stewardship.ledger import TaskLedger
from beemesh.scheduling.stewardship.unplaced import Unplaced
from beemesh.scheduling.stewardship.upkeep import Upkeep
from beemesh.scheduling.stewardship.witnesses import Witnesses
from beemesh.scheduling.tasks import workload_of
from beemesh.scheduling.telling import MANIFEST, Teller
from beemesh.settings.model import NodeSettings
from beemesh.workloads.daemons import DAEMON_SET, ordinal_of

LEASE_TTL_MS = 15_000
LEASE_RENEW_MS = 5_000

RANK_STEP_S = 1.5
"""How much later each next candidate claims."""

CLAIM_AGAIN_S = 20.0
"""A candidate looks again so often whether the lease is still held, even if nothing told it otherwise."""

SETTLE_S = 3.0
"""Time for membership to find who is there, before anybody counts itself the nearest to an older record."""

FRESH_RECORD_MS = 30_000
"""A record that was signed so lately, and since the last member came, is run by nobody yet: no need to ask."""

LOOK_AGAIN = frozenset({"Deployed", "Failed", "Cancelled", "Stopped", "Preempted", "Ready", "NotReady"})
"""What a node tells of a replica and a steward asks it about at once."""


class Steward:
    """Keeps what runs in step with what is wanted, for those workloads that fall to this node."""

    room = "steward"
    handles: tuple[type, ...] = ()
    listens: tuple[type, ...] = (
        IntentChanged,
        LeaseGranted,
        LeaseDenied,
        LeaseLost,
        LeaveMesh,
        TaskHeard,
        TaskUnplaced,
        BidHeard,
        EventHeard,
        EventRecalled,
        MemberUp,
        MemberDown,
        MemberLeft,
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
        workloads: Callable[[], Iterable[tuple[Intent, Signed]]],
        upkeep: Upkeep,
        new_request_id: Callable[[], int],
        told_before: Callable[[str], Iterable[Event]] = lambda workload_id: (),
    ) -> None:
        """`workloads` yields the winning records whose keys begin with `workload/`; `told_before` the events of a
        workload that this node remembers, oldest first; of all for an empty name."""
        self.ledger = TaskLedger()
        self._witnesses = Witnesses(roster, view, self.ledger)
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._randomness = randomness
        self._workloads = workloads
        self._upkeep = upkeep
        self._told_before = told_before
        self._hosted: dict[str, Hosted] = {}
        self._tell = tell = Teller(self_id, randomness)
        self._hearing = Hearing(view, randomness, self.ledger, new_request_id)
        self._acting = Acting(
            self.room, roster, view, crypto, randomness, settings, self.ledger, tell, upkeep, new_request_id
        )
        self._unplaced = Unplaced(self_id, roster, view, self.ledger, self._hosted, tell, new_request_id)
        self._started = False
        self._met_ms = 0
        """When a member came last: what was signed before that, others may have known for long."""

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept: losing a steward loses nothing."""

    def start(self, now: Now) -> Effects:
        """Look at every workload that is wanted already."""
        effects: Effects = []
        self._upkeep.load()
        for intent, signed in tuple(self._workloads()):
            effects += self._wanted(intent, signed, now, fresh=False)
        self._remember(self._told_before(""), now)
        self._started, self._met_ms = True, now.wall_ms
        return effects

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about an event."""
        match event:
            case IntentChanged(intent=intent, signed=signed, before=before):
                self._upkeep.changed(intent)
                waiting = [each for each in self._own() if each.over_quota and self._upkeep.frees(intent, each)]
                woken = [effect for each in waiting for effect in self._acting.wake(each, now)]
                if not workload_id_of(intent.key):
                    return woken + self._ordered(intent, now)
                new = before is None or before.kind == "tombstone"
                return woken + self._wanted(intent, signed, now, fresh=new and self._is_fresh(intent, now))
            case LeaseGranted() | LeaseDenied() | LeaseLost():
                hosted = self._hosted.get(event.key.removeprefix("steward/"))
                return self._lease(hosted, event, now) if hosted and event.key.startswith("steward/") else []
            case TaskHeard(task=task, signed=signed) if self._counts(task, signed):
                self.ledger.heard(task, signed, now.boot_s)
            case TaskUnplaced():
                return self._unplaced.refused(event, now)
            case BidHeard(bid=bid):
                self.ledger.bid(bid.task_id)
                return self._woken(bid.task_id, now)
            case EventHeard(event=told):
                return self._told(told, now)
            case EventRecalled(event=told):
                self._remember((told,), now)
            case MemberUp(node_id=node_id):
                self._met_ms = now.wall_ms
                return self._member_up(node_id, now)
            case MemberDown(node_id=node_id):
                self._acting.repairs.died(now.boot_s)
                return self._member_down(node_id, now)
            case MemberLeft(node_id=node_id):
                return self._member_down(node_id, now)
            case Answered(message=EventList(events=events)):
                return [Notify(EventsTold(events))]
            case Answered(request_id=request_id):
                return self._answered(request_id, event, now)
            case TimerFired(key=(_, str(what), str(subject))):
                return self._timer(what, subject, now)
            case LeaveMesh():
                return [Notify(ReleaseLease(steward_key(each.workload_id))) for each in self._own()]
        return []

    # --- who hosts what ---------------------------------------------------------------------------------------------

    def _is_fresh(self, intent: Intent, now: Now) -> bool:
        is_late = abs(now.wall_ms - intent.issued_ms) > FRESH_RECORD_MS
        return self._started and not is_late and intent.issued_ms >= self._met_ms

    def _own(self) -> Iterator[Hosted]:
        return iter([each for each in self._hosted.values() if each.hosting])

    def _wanted(self, intent: Intent, signed: Signed, now: Now, *, fresh: bool) -> Effects:
        """A record stands; `fresh` when nobody can run anything of it yet."""
        workload_id = workload_id_of(intent.key)
        workload = workload_of((intent, signed))
        hosted = self._hosted.get(workload_id)
        if hosted is None:
            hosted = self._hosted[workload_id] = Hosted(workload_id, workload, signed, fresh=fresh, saw_all=fresh)
            if fresh and workload is not None:
                hosted.rollout.renew(None, workload, now.boot_s)
            elif self._started:
                self._remember(self._told_before(workload_id), now)
        else:
            hosted.renew(workload, signed, now.boot_s)
        if workload is None:
            return self._withdrawn(hosted)
        self.ledger.drop_untaken(workload_id)  # bidders drop them as well: they name a record that no longer stands
        if hosted.hosting:
            return self._acting.step(hosted, now)
        held = hosted.holder is not None and self._view.is_alive(hosted.holder)
        return self._claim_in_turn(hosted, now, CLAIM_AGAIN_S if held else 0.0 if fresh else SETTLE_S)

    def _remember(self, events: Iterable[Event], now: Now) -> None:
        """What was told before this node knew of the workloads; what comes later counts when it comes."""
        for event in events:
            hosted = self._hosted.get(event.workload_id)
            if hosted is not None:
                self._witnesses.remember(hosted, event, now.boot_s)

    def _ordered(self, intent: Intent, now: Now) -> Effects:
        """Something else was ordered about nodes, or about what must stay healthy."""
        concerned = [each for each in self._own() if self._upkeep.concerns(intent, each)]
        return [effect for hosted in concerned for effect in self._acting.step(hosted, now)]

    def _withdrawn(self, hosted: Hosted) -> Effects:
        """Every node that runs it obeys the tombstone by itself."""
        del self._hosted[hosted.workload_id]
        self.ledger.drop_all(hosted.workload_id)
        keys = (("claim", hosted.workload_id), ("step", hosted.workload_id))
        effects: Effects = [Cancel((self.room, *key)) for key in keys]
        if hosted.hosting or hosted.claiming:
            effects.append(Notify(ReleaseLease(steward_key(hosted.workload_id))))
        return effects

    def _claim_in_turn(self, hosted: Hosted, now: Now, least_s: float = 0.0) -> Effects:
        line = stewards_in_line(hosted.workload_id, self._roster, self._view)
        if self._self_id not in line or hosted.hosting or hosted.claiming:
            return []
        wait_s = max(least_s, line.index(self._self_id) * RANK_STEP_S) * self._randomness.uniform(1.0, 1.2)
        if wait_s == 0.0:
            return self._claim(hosted)
        return [Schedule((self.room, "claim", hosted.workload_id), now.boot_s + wait_s)]

    def _claim(self, hosted: Hosted) -> Effects:
        if hosted.hosting or hosted.claiming or hosted.workload is None:
            return []
        hosted.claiming = True
        return [
            Notify(
                Claim(
                    key=steward_key(hosted.workload_id),
                    ttl_ms=LEASE_TTL_MS,
                    renew_ms=LEASE_RENEW_MS,
                    workload_id=hosted.workload_id,
                    tentative_ok=hosted.workload.duplicate_tolerant,
                )
            )
        ]

    def _lease(self, hosted: Hosted, event: LeaseGranted | LeaseDenied | LeaseLost, now: Now) -> Effects:
        match event:
            case LeaseGranted(proof=proof, renewed=renewed):
                healed = hosted.tentative and not proof.tentative
                hosted.proof, hosted.claiming, hosted.holder = proof, False, self._self_id
                if healed:
                    self.ledger.drop_untaken(hosted.workload_id)  # no majority takes them: they are published anew
                return self._taken_over(hosted, now) if healed or not renewed else []
            case LeaseDenied(holder=holder, retry_after_s=retry_s):
                hosted.claiming, hosted.holder = False, holder
                self._witnesses.holds(hosted, holder)
                hosted.fresh &= holder is None  # whoever holds it has begun with it
                alive = holder is not None and holder != self._self_id and self._view.is_alive(holder)
                # A holder that lives goes on renewing: look again later, in case it does not host any more.
                return self._claim_in_turn(hosted, now, max(retry_s, CLAIM_AGAIN_S if alive else RANK_STEP_S))
            case _:
                hosted.lose()
                return self._claim_in_turn(hosted, now, RANK_STEP_S)

    def _taken_over(self, hosted: Hosted, now: Now) -> Effects:
        """Hear what runs before anything is decided; of a new record decide at once, and hear for safety's sake."""
        fresh, hosted.fresh = hosted.fresh, False
        hosted.rollout.take_over(now.boot_s, hears_all=fresh or not self._view.is_large)
        if not fresh:
            hosted.take_over()
            self._hearing.mark_unknown(hosted)
            asked = [*self._told_again(hosted, now), *self._hearing.ask_unknown(hosted)]
            asked += self._hearing.ask_words(hosted, self._neighbours(hosted)) if self._view.is_large else []
            return [count("takeovers"), *asked, *self._acting.step(hosted, now)]
        return [*self._acting.step(hosted, now), *self._hearing.survey(hosted, FRESH_SURVEY)]

    def _neighbours(self, hosted: Hosted) -> list[NodeId]:
        """The others that would host it: in a large mesh they have heard what was told of it, and this node may have
        come since."""
        line = stewards_in_line(hosted.workload_id, self._roster, self._view)
        return [node_id for node_id in line if node_id != self._self_id]

    def _told_again(self, hosted: Hosted, now: Now) -> Effects:
        """The last word on the workload, if a steward told it that was removed since: whoever joins believes nothing
        of that one, and has to know."""
        words = [event for event in self._told_before(hosted.workload_id) if MANIFEST in event.details]
        gone = [event for event in words[-1:] if self._roster.member(event.node_id) is None]
        return [self._tell.again(event, now) for event in gone]

    def _counts(self, task: Task, signed: Signed) -> bool:
        """Whether a task may stand for a start of its replica. Any member can publish one: it has to name the very
        record that stands here and a replica of it. As long as this node hosts the workload it counts its own alone;
        those of the steward before it were heard by then, or show when their pods are listed. So a liar delays the
        starts of a new steward by a task's lifetime at most, and once."""
        hosted = self._hosted.get(task.workload_id)
        if hosted is None or not hosted.is_named_by(task) or (hosted.hosting and signed.signer != self._self_id):
            return False
        is_daemon = task.kind == DAEMON_SET
        return not is_daemon or any(task.replica == ordinal_of(card.node_id) for card in self._roster.members())

    # --- what happens elsewhere -------------------------------------------------------------------------------------

    def _told(self, event: Event, now: Now) -> Effects:
        hosted = self._hosted.get(event.workload_id)
        believed = hosted is not None and self._witnesses.of_replica(hosted, event)
        self.ledger.told(event, now.boot_s)
        if hosted is None:
            return []
        if MANIFEST in event.details and not hosted.hosting:
            self._witnesses.heard(hosted, event)
        elif believed:
            hosted.told_of(event, now.boot_s)
        if hosted.hosting and event.status == "Scheduled":
            return self._acting.step(hosted, now) if hosted.takes_turns() else self._acting.wake(hosted, now)
        if not hosted.hosting or event.status not in LOOK_AGAIN:
            return []
        if event.status == "Deployed" and believed:
            hosted.deployed(event)
        return [*self._hearing.ask(hosted, event.node_id), *self._acting.step(hosted, now)]

    def _woken(self, task_id: str, now: Now) -> Effects:
        """Somebody bids for a task: what has waited for that may soon go on."""
        outstanding = self.ledger.find(task_id)
        hosted = self._hosted.get(outstanding.task.workload_id) if outstanding is not None else None
        return self._acting.wake(hosted, now) if hosted is not None and hosted.hosting else []

    def _member_up(self, node_id: NodeId, now: Now) -> Effects:
        """It may run something, and it may have room for what is pending."""
        self._acting.repairs.came(now.boot_s)
        effects: Effects = []
        for hosted in self._own():
            hosted.came(node_id, now.boot_s)
            hosted.hope()
            effects += self._hearing.ask(hosted, node_id)
        return effects

    def _member_down(self, node_id: NodeId, now: Now) -> Effects:
        effects: Effects = []
        for hosted in tuple(self._hosted.values()):
            hosted.reports.pop(node_id, None)
            hosted.waits_no_more(node_id, now.boot_s)
            hosted.asked.pop(node_id, None)
            hosted.silent.discard(node_id)
            hosted.newcomers.discard(node_id)
            if hosted.hosting:
                is_removed = self._roster.member(node_id) is None
                effects += self._told_again(hosted, now) if is_removed else []
                effects += self._acting.step(hosted, now)
            elif hosted.holder in (None, node_id):
                hosted.holder = None
                effects += self._claim_in_turn(hosted, now)
        return effects

    def _answered(self, request_id: int, answer: Answered, now: Now) -> Effects:
        question = self._hearing.question(request_id)
        if question is None:
            return self._unplaced.answered(request_id, answer, now)
        workload_id, node_id = question
        hosted = self._hosted.get(workload_id)
        heard = self._hearing.answered(hosted, node_id, request_id, answer, now) if hosted else None
        if hosted is None or heard is None:
            return []
        return [*heard, *self._hand_over(hosted, node_id, answer), *self._acting.step(hosted, now)]

    def _hand_over(self, hosted: Hosted, node_id: NodeId, answer: Answered) -> Effects:
        """A newcomer gets what nobody has taken once it has answered: before that it may let nothing in from us."""
        if answer.message is None or node_id not in hosted.newcomers:
            return []
        hosted.newcomers.discard(node_id)
        if self._view.is_large:
            return []  # there it gets what is announced to all
        untaken = [each for each in self.ledger.of(hosted.workload_id) if each.holder is None]
        return [Send(node_id, SignedTask(each.signed)) for each in untaken if node_id != self._self_id]

    def _timer(self, what: str, subject: str, now: Now) -> Effects:
        if what == "bids":
            return self._unplaced.no_bids(subject)
        hosted = self._hosted.get(subject)
        if hosted is None:
            return []
        if what == "claim":
            return self._claim(hosted)
        return [*self._hearing.poll(hosted), *self._acting.step(hosted, now)] if hosted.hosting else []
