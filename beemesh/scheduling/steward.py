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
    Broadcast,
    Cancel,
    Effects,
    Notify,
    Now,
    Randomness,
    Request,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.events import (
    BidHeard,
    Claim,
    EventHeard,
    IntentChanged,
    LeaseDenied,
    LeaseGranted,
    LeaseLost,
    LeaveMesh,
    MemberDown,
    MemberLeft,
    MemberUp,
    Observed,
    ReleaseLease,
    TaskHeard,
)
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import NodeId
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.hosting import Hosted, rank_of
from beemesh.scheduling.leases import steward_key
from beemesh.scheduling.ledger import TaskLedger
from beemesh.scheduling.messages import TASK_KIND, TOPIC_TASKS, Event, EventStatus, SignedTask
from beemesh.scheduling.pending import Inquiry
from beemesh.scheduling.tasks import make_task, workload_of
from beemesh.scheduling.telling import FINAL, Teller
from beemesh.settings.model import NodeSettings
from beemesh.workloads.observation import ListReplicas, ReplicaList, ReplicaReport, StopReplica
from beemesh.workloads.reconciler import StartReplica, StopReplicaAction, Wait, is_settled, plan

LEASE_TTL_MS = 15_000
LEASE_RENEW_MS = 5_000

RANK_STEP_S = 1.5
"""How much later each next candidate claims."""

CLAIM_AGAIN_S = 20.0
"""A candidate looks again so often whether the lease is still held, even if nothing told it otherwise."""

SETTLE_S = 3.0
"""Time for membership to find who is there, before anybody counts itself the nearest to an older record."""

FRESH_RECORD_MS = 30_000
"""A record that was signed so lately, and came while this node was running, is run by nobody yet: no need to ask."""

LIST_S = 2.0
"""How long a node may take to say what it runs."""

ASKED_MAX = 3
"""Times that a silent node is asked at a takeover, before the rest goes on without its word."""

POLL_BUSY_S = 0.5
POLL_SETTLED_S = 10.0
"""How often those that run a workload are asked again, while it changes and when it is as wanted."""

FRESH_SURVEY = 64
POLL_SURVEY = 4
"""Nodes drawn at random that are asked too: of a name that was used before, and while all is as wanted."""

PREFIX = "workload/"


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
        BidHeard,
        EventHeard,
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
        new_request_id: Callable[[], int],
    ) -> None:
        """`workloads` yields the winning records whose keys begin with `workload/`."""
        self.ledger = TaskLedger()
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._crypto = crypto
        self._randomness = randomness
        self._settings = settings
        self._workloads = workloads
        self._new_request_id = new_request_id
        self._tell = Teller(self_id, randomness)
        self._inquiry = Inquiry(self_id, roster, view, new_request_id)
        self._hosted: dict[str, Hosted] = {}
        self._requests: dict[int, tuple[str, NodeId]] = {}
        self._started = False

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept: losing a steward loses nothing."""

    def start(self, now: Now) -> Effects:
        """Look at every workload that is wanted already."""
        effects: Effects = []
        for intent, signed in tuple(self._workloads()):
            effects += self._wanted(intent, signed, now, fresh=False)
        self._started = True
        return effects

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about an event."""
        match event:
            case IntentChanged(intent=intent, signed=signed, before=before):
                if not intent.key.startswith(PREFIX):
                    return []
                new = before is None or before.kind == "tombstone"
                return self._wanted(intent, signed, now, fresh=new and self._is_fresh(intent, now))
            case LeaseGranted() | LeaseDenied() | LeaseLost():
                hosted = self._hosted.get(event.key.removeprefix("steward/"))
                return self._lease(hosted, event, now) if hosted and event.key.startswith("steward/") else []
            case TaskHeard(task=task, signed=signed):
                self.ledger.heard(task, signed, now.boot_s)
            case BidHeard(bid=bid):
                self.ledger.bid(bid.task_id)
            case EventHeard(event=told):
                return self._told(told, now)
            case MemberUp(node_id=node_id):
                return self._member_up(node_id, now)
            case MemberDown(node_id=node_id) | MemberLeft(node_id=node_id):
                return self._member_down(node_id, now)
            case Answered(request_id=request_id):
                return self._answered(request_id, event, now)
            case TimerFired(key=(_, str(what), str(subject))):
                return self._timer(what, subject, now)
            case LeaveMesh():
                return [Notify(ReleaseLease(steward_key(each.workload_id))) for each in self._own()]
        return []

    # --- who hosts what ---------------------------------------------------------------------------------------------

    def _is_fresh(self, intent: Intent, now: Now) -> bool:
        return self._started and abs(now.wall_ms - intent.issued_ms) <= FRESH_RECORD_MS

    def _own(self) -> Iterator[Hosted]:
        return iter([each for each in self._hosted.values() if each.hosting])

    def _wanted(self, intent: Intent, signed: Signed, now: Now, *, fresh: bool) -> Effects:
        """A record stands; `fresh` when nobody can run anything of it yet."""
        workload_id = intent.key.removeprefix(PREFIX)
        workload = workload_of((intent, signed))
        hosted = self._hosted.get(workload_id)
        if hosted is None:
            hosted = self._hosted[workload_id] = Hosted(workload_id, workload, signed, fresh=fresh)
        else:
            hosted.renew(workload, signed)
        if workload is None:
            return self._withdrawn(hosted)
        self.ledger.drop_untaken(workload_id)  # bidders drop them as well: they name a record that no longer stands
        if hosted.hosting:
            return self._step(hosted, now)
        held = hosted.holder is not None and self._view.is_alive(hosted.holder)
        return self._claim_in_turn(hosted, now, CLAIM_AGAIN_S if held else 0.0 if fresh else SETTLE_S)

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
        keepers = [card.node_id for card in self._roster.keepers() if self._view.is_alive(card.node_id)]
        rank = rank_of(self._self_id, hosted.workload_id, keepers)
        if rank is None or hosted.hosting or hosted.claiming:
            return []
        wait_s = max(least_s, rank * RANK_STEP_S) * self._randomness.uniform(1.0, 1.2)
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
        if not fresh:
            self._mark_unknown(hosted)
            return [_count("takeovers"), *self._ask_unknown(hosted), *self._step(hosted, now)]
        return [*self._step(hosted, now), *self._survey(hosted, FRESH_SURVEY)]

    def _survey(self, hosted: Hosted, nodes: int) -> Effects:
        """Ask some live nodes, drawn at random: strays turn up that nobody remembers."""
        alive = self._view.alive()
        drawn = self._randomness.sample(alive, min(nodes, len(alive)))
        return [effect for node_id in drawn for effect in self._ask(hosted, node_id)]

    # --- what runs --------------------------------------------------------------------------------------------------

    def _mark_unknown(self, hosted: Hosted) -> None:
        """Every live node has to say what it runs before anything is concluded."""
        hosted.unknown = dict.fromkeys(self._view.alive(), 0)

    def _ask_unknown(self, hosted: Hosted) -> Effects:
        effects: Effects = []
        for node_id in tuple(hosted.unknown):
            if self._view.is_alive(node_id) and hosted.unknown[node_id] < ASKED_MAX:
                effects += self._ask(hosted, node_id)
            elif node_id not in hosted.asked:
                del hosted.unknown[node_id]
        return effects

    def _ask(self, hosted: Hosted, node_id: NodeId) -> Effects:
        if node_id in hosted.asked:
            return []
        request_id = self._new_request_id()
        hosted.asked[node_id] = request_id
        if node_id in hosted.unknown:
            hosted.unknown[node_id] += 1
        self._requests[request_id] = (hosted.workload_id, node_id)
        return [Request(request_id, node_id, ListReplicas(hosted.workload_id), LIST_S)]

    def _answered(self, request_id: int, answer: Answered, now: Now) -> Effects:
        question = self._requests.pop(request_id, None)
        if question is None:
            return self._inquired(request_id, answer, now)
        workload_id, node_id = question
        hosted = self._hosted.get(workload_id)
        if hosted is None or hosted.asked.get(node_id) != request_id:
            return []  # the answer to a stop, or to a question of before the lease was lost
        del hosted.asked[node_id]
        if not isinstance(answer.message, ReplicaList):
            return [*self._ask_unknown(hosted), *self._step(hosted, now)] if hosted.hosting else []
        hosted.unknown.pop(node_id, None)
        mine = tuple(
            each for each in answer.message.replicas if each.workload_id == workload_id and each.node_id == node_id
        )
        hosted.reports[node_id] = mine
        self._drop_dead_tasks(hosted, node_id, mine, now)
        return self._step(hosted, now) if hosted.hosting else []

    def _drop_dead_tasks(self, hosted: Hosted, node_id: NodeId, reports: tuple[ReplicaReport, ...], now: Now) -> None:
        """A node that won a task and knows nothing of it any more has lost it (its agent was killed)."""
        known = {each.task_id for each in reports}
        for each in self.ledger.of(hosted.workload_id):
            settled = now.boot_s - each.held_s > LIST_S
            if each.holder == node_id and settled and each.task.task_id not in known and now.boot_s >= each.ends_s:
                self.ledger.drop(each.task)

    def _busy_nodes(self, hosted: Hosted) -> set[NodeId]:
        """Nodes that run something of the workload, or are about to."""
        return hosted.runners() | {each.holder for each in self.ledger.of(hosted.workload_id) if each.holder}

    # --- what to do -------------------------------------------------------------------------------------------------

    def _step(self, hosted: Hosted, now: Now) -> Effects:
        """Compare, and do what is next. Looks again by itself after a while."""
        if not hosted.hosting:
            return []
        if hosted.unknown:
            return [Schedule((self.room, "step", hosted.workload_id), now.boot_s + POLL_BUSY_S)]
        self._drop_expired(hosted, now)
        starting = {(each.task.revision, each.task.replica) for each in self.ledger.of(hosted.workload_id)}
        observed = hosted.observed(starting, self._view.is_alive)
        declared = hosted.declared()
        effects: Effects = []
        wake_s = now.boot_s + (POLL_SETTLED_S if is_settled(declared, observed) else POLL_BUSY_S)
        for action in plan(declared, observed, now.boot_s, self._settings.scheduler.max_attempts):
            match action:
                case StartReplica():
                    effects += self._publish(hosted, action, now)
                case StopReplicaAction():
                    effects += self._order_stop(hosted, action, now)
                case Wait():
                    effects += self._waits(hosted, action, now)
        return [*effects, Schedule((self.room, "step", hosted.workload_id), wake_s)]

    def _publish(self, hosted: Hosted, action: StartReplica, now: Now) -> Effects:
        assert hosted.workload is not None, "nothing is started of a deleted workload"
        facts = (hosted.workload, hosted.record, action, now.wall_ms, self._randomness)
        task = make_task(*facts, tentative=hosted.tentative)
        signed = sign_statement(self._crypto, TASK_KIND, task)
        self.ledger.heard(task, signed, now.boot_s)
        timing = self._settings.scheduler
        patience_s = (timing.selection_window_ms + timing.selection_jitter_ms) / 1000
        return [
            Broadcast(TOPIC_TASKS, SignedTask(signed)),
            Schedule((self.room, "bids", task.task_id), now.boot_s + patience_s),
            _count("tasks_published"),
        ]

    def _order_stop(self, hosted: Hosted, action: StopReplicaAction, now: Now) -> Effects:
        report, instead = action.report, action.instead
        if not hosted.may_stop(report, now.boot_s):
            return []
        hosted.stops[report.node_id, report.task_id] = now.boot_s
        request_id = self._new_request_id()
        self._requests[request_id] = (hosted.workload_id, report.node_id)
        order = StopReplica(
            workload_id=report.workload_id,
            replica=report.replica,
            revision=report.revision,
            task_id=report.task_id,
            reason=action.reason,
            proof=hosted.proof,
            instead=instead.node_id if instead else None,
            instead_fence=instead.fence if instead else 0,
            instead_tentative=instead.tentative if instead else False,
        )
        return [Request(request_id, report.node_id, order, LIST_S), _count("stops_ordered", reason=action.reason)]

    def _waits(self, hosted: Hosted, wait: Wait, now: Now) -> Effects:
        slot = (wait.revision, wait.replica)
        if not wait.exhausted or slot in hosted.exhausted:
            return []
        hosted.exhausted.add(slot)
        details = {FINAL: "true", "attempts": str(wait.attempts), "message": "; ".join(dict.fromkeys(wait.reasons))}
        return [self._about(hosted, "Failed", slot, now, f"all {wait.attempts} attempts failed", details)]

    def _drop_expired(self, hosted: Hosted, now: Now) -> None:
        """Tasks whose time is over without anybody at work on them."""
        for each in self.ledger.of(hosted.workload_id):
            working = each.holder is not None and self._view.is_alive(each.holder)
            if now.boot_s >= each.ends_s and not working:
                self.ledger.drop(each.task)

    # --- why nothing happens ----------------------------------------------------------------------------------------

    def _no_bids(self, task_id: str, now: Now) -> Effects:
        """The window is over: if nobody spoke, ask why."""
        each = self.ledger.find(task_id)
        hosted = self._hosted.get(each.task.workload_id) if each else None
        if each is None or hosted is None or not hosted.hosting or each.bids or each.holder:
            return []
        return self._inquiry.ask(task_id)

    def _inquired(self, request_id: int, answer: Answered, now: Now) -> Effects:
        done = self._inquiry.answered(request_id, answer)
        each = self.ledger.find(done[0]) if done else None
        hosted = self._hosted.get(each.task.workload_id) if each else None
        if done is None or each is None or hosted is None or not hosted.hosting or each.bids or each.holder:
            return []
        details = done[1]
        slot = (each.task.revision, each.task.replica)
        text = "; ".join(f"{name}: {reason}" for name, reason in sorted(details.items()))
        if not hosted.should_tell(slot, text, now.boot_s):
            return []
        reason = f"no node takes it: {text}" if text else "no node answered"
        return [self._about(hosted, "Pending", slot, now, reason, details, task_id=each.task.task_id)]

    def _about(
        self,
        hosted: Hosted,
        status: EventStatus,
        slot: tuple[int, int],
        now: Now,
        reason: str,
        details: dict[str, str],
        task_id: str = "",
    ) -> Notify:
        namespace = hosted.workload.namespace if hosted.workload else ""
        subject = {"task_id": task_id, "workload_id": hosted.workload_id, "namespace": namespace}
        return self._tell.about(status, now, reason, details, **subject, revision=slot[0], replica=slot[1])

    # --- what happens elsewhere -------------------------------------------------------------------------------------

    def _told(self, event: Event, now: Now) -> Effects:
        self.ledger.told(event, now.boot_s)
        hosted = self._hosted.get(event.workload_id)
        if hosted is None:
            return []
        hosted.told_of(event, now.boot_s)
        if not hosted.hosting or event.status not in ("Deployed", "Failed", "Cancelled", "Stopped", "Preempted"):
            return []
        if event.status == "Deployed":
            hosted.deployed(event)
        return [*self._ask(hosted, event.node_id), *self._step(hosted, now)]

    def _member_up(self, node_id: NodeId, now: Now) -> Effects:
        """It may run something, and it may have room for what is pending."""
        effects: Effects = []
        for hosted in self._own():
            for each in self.ledger.of(hosted.workload_id):
                if each.holder is None and node_id != self._self_id:
                    effects.append(Send(node_id, SignedTask(each.signed)))
            hosted.hope()
            hosted.unknown.setdefault(node_id, 0)
            effects += self._ask(hosted, node_id)
        return effects

    def _member_down(self, node_id: NodeId, now: Now) -> Effects:
        effects: Effects = []
        for hosted in tuple(self._hosted.values()):
            hosted.reports.pop(node_id, None)
            hosted.unknown.pop(node_id, None)
            hosted.asked.pop(node_id, None)
            if hosted.hosting:
                effects += self._step(hosted, now)
            elif hosted.holder in (None, node_id):
                hosted.holder = None
                effects += self._claim_in_turn(hosted, now)
        return effects

    def _timer(self, what: str, subject: str, now: Now) -> Effects:
        if what == "bids":
            return self._no_bids(subject, now)
        hosted = self._hosted.get(subject)
        if hosted is None:
            return []
        if what == "claim":
            return self._claim(hosted)
        return self._poll(hosted, now)

    def _poll(self, hosted: Hosted, now: Now) -> Effects:
        """Ask again those that matter, then go on."""
        if not hosted.hosting:
            return []
        effects = [*self._ask_unknown(hosted), *self._survey(hosted, POLL_SURVEY)]
        for node_id in sorted(self._busy_nodes(hosted)):
            if self._view.is_alive(node_id):
                effects += self._ask(hosted, node_id)
        return [*effects, *self._step(hosted, now)]


def _count(metric: str, **labels: str) -> Notify:
    return Notify(Observed(f"scheduler_{metric}_total", labels))
