"""Acting on what the reconciler says of a hosted workload: tasks, orders to stop, and a word about what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from beemesh.crypto import Crypto
from beemesh.effects import Effects, Notify, Now, Randomness, Request, Schedule
from beemesh.events import PublishTask
from beemesh.identity.signing import sign_statement
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.counting import count
from beemesh.scheduling.messages import TASK_KIND, EventStatus, Occupancy
from beemesh.scheduling.stewardship.daemons import daemon_nodes
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.stewardship.ledger import TaskLedger
from beemesh.scheduling.stewardship.polling import POLL_BUSY_S, next_look_s, only_waits
from beemesh.scheduling.stewardship.repairs import Repairs
from beemesh.scheduling.stewardship.surroundings import in_turn, occupancy
from beemesh.scheduling.stewardship.upkeep import Upkeep
from beemesh.scheduling.tasks import make_task
from beemesh.scheduling.telling import FINAL, MANIFEST, TARGET, Teller
from beemesh.settings.model import NodeSettings
from beemesh.workloads.daemons import DAEMON_SET, may_have
from beemesh.workloads.jobs import state_of
from beemesh.workloads.observation import StopReplica
from beemesh.workloads.reconciler import Action, Declared, StartReplica, StopReplicaAction, Wait, is_settled, plan
from beemesh.workloads.reconciler import Observed as Observation
from beemesh.workloads.record import Workload
from beemesh.workloads.rollout import mark_of

ORDER_S = 2.0
"""How long a node may take to answer an order to stop; the pod's end is heard of when it is listed no more."""

DUPLICATE_GRACE_S = 5
"""Seconds that a replica has to end when its twin stays: doubled ones are to be gone ten seconds after they meet."""

TURN = "its turn has not come: its workload's replicas are placed one by one, and no node takes the one before it"


class Acting:
    """Carries one node's plans out. Part of the steward, in whose room its timers are."""

    def __init__(
        self,
        room: str,
        roster: Roster,
        view: View,
        crypto: Crypto,
        randomness: Randomness,
        settings: NodeSettings,
        ledger: TaskLedger,
        tell: Teller,
        upkeep: Upkeep,
        new_request_id: Callable[[], int],
    ) -> None:
        self.repairs = Repairs()
        self._room = room
        self._roster = roster
        self._view = view
        self._crypto = crypto
        self._randomness = randomness
        self._settings = settings
        self._ledger = ledger
        self._tell = tell
        self._upkeep = upkeep
        self._new_request_id = new_request_id

    def step(self, hosted: Hosted, now: Now) -> Effects:
        """Compare, and do what is next. Looks again by itself after a while. Nothing while it is another's to host."""
        if not hosted.hosting:
            return []
        if hosted.unknown:
            return [Schedule((self._room, "step", hosted.workload_id), now.boot_s + POLL_BUSY_S)]
        hosted.wait_for_words(now.boot_s)
        self._drop_expired(hosted, now)
        hosted.daemons = self._daemons(hosted)
        starting = {(each.task.revision, each.task.replica) for each in self._ledger.of(hosted.workload_id)}
        observed = hosted.observed(starting, self._view.is_alive, now.boot_s)
        most, over_quota = self._upkeep.policies.allowed(hosted.workload) if hosted.workload else (0, "")
        hosted.over_quota = bool(over_quota)
        effects: Effects = []
        if not hosted.unheard:  # what a node that came runs, and has not told yet, is no failure of the rollout
            effects += self._roll_on(hosted, observed, most if over_quota else None, now)
        declared = hosted.declared(observed)
        if over_quota:
            declared = replace(declared, held=_held_back(declared, observed, most))
        arranged = self._upkeep.arrange(hosted, declared, observed, now)
        settled = is_settled(declared, arranged.observed) and not arranged.moving
        settled |= declared.over and not starting
        steps = plan(declared, arranged.observed, now.boot_s, self._settings.scheduler.max_attempts)
        steps = (*steps, *arranged.actions)  # what is missing goes before what only moves
        steps = tuple(each for each in steps if not _waits_for_word(hosted, each, observed))
        steps, refusals = self._within_quota(hosted, steps, observed, most, over_quota, now)
        effects += refusals
        chosen = in_turn(steps, hosted.workload, self._ledger.of(hosted.workload_id), observed)
        effects += self._wait_their_turn(hosted, [each for each in steps if each not in chosen], observed, now)
        waits = not arranged.moving
        for action in chosen:
            match action:
                case StartReplica() if self._may_begin(hosted, action, now):
                    effects += self._publish(hosted, action, now)
                    waits &= (action.revision, action.replica) in hosted.in_vain
                case StopReplicaAction():
                    effects += self._order_stop(hosted, action, now)
                    waits = False
                case Wait():
                    effects += self._waits(hosted, action, now)
                case _:
                    waits = False
        outstanding = tuple(self._ledger.of(hosted.workload_id))
        waits = waits and only_waits(observed, outstanding)
        wake_s = next_look_s(hosted, steps, outstanding, now, settled=settled, waits=waits)
        return [*effects, Schedule((self._room, "step", hosted.workload_id), wake_s)]

    def wake(self, hosted: Hosted, now: Now) -> Effects:
        """Something was told that may end the waiting of a workload: look at it as soon as at any other."""
        if hosted.waits_since_s is None or now.boot_s - hosted.waits_since_s <= POLL_BUSY_S:
            return []
        hosted.waits_since_s = None
        return [Schedule((self._room, "step", hosted.workload_id), now.boot_s + POLL_BUSY_S)]

    def _daemons(self, hosted: Hosted) -> dict[int, str] | None:
        """The nodes that a DaemonSet is for, by what the revision asks that is driven toward; None for other kinds."""
        workload = hosted.workload
        if workload is None or workload.kind != DAEMON_SET:
            return None
        return daemon_nodes(workload, hosted.rollout.target(workload), self._roster, self._view)

    def _may_begin(self, hosted: Hosted, action: StartReplica, now: Now) -> bool:
        """Whether there is budget for it, if it replaces what ran before; what is denied is asked for again soon."""
        slot = (action.revision, action.replica)
        if slot not in hosted.ran:
            return True
        outstanding = self._ledger.of(hosted.workload_id)
        running = sum((each.task.revision, each.task.replica) in hosted.ran for each in outstanding)
        return self.repairs.take(len(self._roster), running, now.boot_s)

    def _roll_on(self, hosted: Hosted, observed: Observation, admitted: int | None, now: Now) -> Effects:
        """Notice when a rollout is complete, and when it has failed; tell it for those who will host it after us.
        `admitted`: how many replicas quotas leave it, None for all."""
        workload, rollout = hosted.workload, hosted.rollout
        if workload is None:
            return []
        if workload.kind == "Job":
            return self._work_off(hosted, workload, observed, now)
        current = workload.current
        details = {MANIFEST: mark_of(current).hex()}
        if rollout.observe(workload, observed, now.boot_s, hosted.daemons, admitted):
            reason = f"revision {current.number} is complete" + (", as far as quotas allow" if admitted else "")
            return [hosted.tell(self._tell, "RolledOut", (current.number, 0), now, reason, details)]
        verdict = rollout.judge(workload, observed, now.boot_s, self._settings.scheduler.max_attempts)
        if verdict is None:
            return []
        slot = (current.number, 0)
        if verdict.target:
            details |= {TARGET: str(verdict.target), "message": verdict.reason}
            reason = f"revision {current.number} failed, back to revision {verdict.target}"
            told = [hosted.tell(self._tell, "RolledBack", slot, now, reason, details)]
        elif verdict.by_attempts:
            told = []  # the slot's own last word says it
        else:
            details |= {FINAL: "true", "message": verdict.reason}
            why = "there is no older one to go back to" if hosted.may_roll_back else "its record forbids going back"
            told = [
                hosted.tell(self._tell, "Failed", slot, now, f"revision {current.number} failed, and {why}", details)
            ]
        return [*told, count("rollouts_failed", rolled_back=str(bool(verdict.target)).lower())]

    def _work_off(self, hosted: Hosted, workload: Workload, observed: Observation, now: Now) -> Effects:
        """Notice the end of a Job, good or bad, and tell it once."""
        job = state_of(workload, observed, now.wall_ms)
        if hosted.over or job.state == "running":
            return []
        status: EventStatus = "Completed" if job.state == "complete" else "Failed"
        hosted.over = status
        details = {MANIFEST: mark_of(workload.current).hex(), "message": job.message}
        if status == "Failed":
            details[FINAL] = "true"
        slot = (workload.current.number, 0)
        return [hosted.tell(self._tell, status, slot, now, job.reason, details)]

    def _publish(self, hosted: Hosted, action: StartReplica, now: Now) -> Effects:
        assert hosted.workload is not None, "nothing is started of a deleted workload"
        if hosted.daemons is not None:
            action = replace(action, towards=hosted.daemons[action.replica])
        action = replace(action, failed=(*action.failed, *hosted.stuck_on(now.boot_s)))
        facts = (hosted.workload, hosted.record, action, now.wall_ms, self._randomness)
        known = self._surroundings(hosted, action)
        task = make_task(*facts, tentative=hosted.tentative, occupancy=known)
        signed = sign_statement(self._crypto, TASK_KIND, task)
        self._ledger.heard(task, signed, now.boot_s)
        timing = self._settings.scheduler
        patience_s = (timing.selection_window_ms + timing.selection_jitter_ms) / 1000
        return [
            Notify(PublishTask(task, signed)),
            Schedule((self._room, "bids", task.task_id), now.boot_s + patience_s),
            count("tasks_published"),
        ]

    def _surroundings(self, hosted: Hosted, start: StartReplica) -> tuple[Occupancy, ...]:
        """Where the workload's other replicas are, as far as its pod terms ask for it."""
        wanted = hosted.workload.as_of(start.revision) if hosted.workload else None
        if wanted is None or not wanted.constraints.pod_terms:
            return ()
        reports = [each for node_id, told in hosted.reports.items() if self._view.is_alive(node_id) for each in told]
        cards = [card for card in self._roster.members() if self._view.is_alive(card.node_id)]
        return occupancy(wanted, start.replica, reports, self._ledger.of(hosted.workload_id), cards)

    def _order_stop(self, hosted: Hosted, action: StopReplicaAction, now: Now) -> Effects:
        report, instead = action.report, action.instead
        if not hosted.may_stop(report, now.boot_s):
            return []
        grace_s = DUPLICATE_GRACE_S if action.reason == "duplicate" else action.grace_s
        is_news = hosted.ordered(report, grace_s, now.boot_s)
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
            **({} if grace_s is None else {"grace_s": grace_s}),
            rollback_to=self._taken_back(hosted),
        )
        # Nobody waits for the answer: what counts is what the node lists when it is asked next.
        request = Request(self._new_request_id(), report.node_id, order, ORDER_S)
        counts = [count("stops_ordered", reason=action.reason)]
        if is_news and action.reason == "duplicate":
            counts.append(count("duplicates"))
        return [request, *counts]

    @staticmethod
    def _taken_back(hosted: Hosted) -> int:
        """The older revision that takes the place of the current one; 0 when none does."""
        workload = hosted.workload
        target = hosted.rollout.target(workload) if workload else 0
        return target if workload and target != workload.current.number else 0

    def _within_quota(
        self, hosted: Hosted, steps: Iterable[Action], observed: Observation, most: int, why: str, now: Now
    ) -> tuple[tuple[Action, ...], Effects]:
        """The steps without starts that a quota leaves no room for, and a word about each of those. An update may go
        beyond it by its surge, not by as many as are held back."""
        kept: list[Action] = []
        told: Effects = []
        there = {replica for _, replica in observed.existing}
        room = max(most, len(there)) + _surge_of(hosted.workload) - len(observed.existing)
        for step in steps:
            if not why or not isinstance(step, StartReplica):
                kept.append(step)
            elif step.replica >= most:
                told += self._over_quota(hosted, step, why, now)
            elif room > 0:
                kept.append(step)
                room -= 1
        return tuple(kept), told

    def _over_quota(self, hosted: Hosted, start: StartReplica, why: str, now: Now) -> Effects:
        """A quota leaves no room for a replica: it stays pending, and why is told when it is news."""
        slot = (start.revision, start.replica)
        hosted.in_vain[slot] = now.boot_s
        if not hosted.should_tell(slot, why, now.boot_s):
            return []
        return [hosted.tell(self._tell, "Pending", slot, now, why, {})]

    def _wait_their_turn(self, hosted: Hosted, held: Iterable[Action], observed: Observation, now: Now) -> Effects:
        """A word about each start that is held back while no node takes the one before: that may last for minutes."""
        untaken = (each.task for each in self._ledger.of(hosted.workload_id) if each.holder is None)
        if not any((task.revision, task.replica) in hosted.told for task in untaken):
            return []
        missing = [(each.revision, each.replica) for each in held if isinstance(each, StartReplica)]
        slots = [slot for slot in missing if slot not in observed.existing]
        news = [slot for slot in slots if hosted.should_tell(slot, TURN, now.boot_s)]
        return [hosted.tell(self._tell, "Pending", slot, now, TURN, {}) for slot in news]

    def _waits(self, hosted: Hosted, wait: Wait, now: Now) -> Effects:
        slot = (wait.revision, wait.replica)
        if not wait.exhausted or slot in hosted.exhausted:
            return []
        hosted.exhausted.add(slot)
        details = {FINAL: "true", "attempts": str(wait.attempts), "message": "; ".join(dict.fromkeys(wait.reasons))}
        return [hosted.tell(self._tell, "Failed", slot, now, f"all {wait.attempts} attempts failed", details)]

    def _drop_expired(self, hosted: Hosted, now: Now) -> None:
        """Tasks whose time is over without anybody at work on them; what nobody took goes last from now on."""
        for each in self._ledger.of(hosted.workload_id):
            working = each.holder is not None and self._view.is_alive(each.holder)
            if now.boot_s >= each.ends_s and not working:
                self._ledger.drop(each.task)
                if each.holder is None:
                    hosted.in_vain[each.task.revision, each.task.replica] = each.heard_s


def _waits_for_word(hosted: Hosted, step: Action, observed: Observation) -> bool:
    """Whether it starts what a node that came may be running already, and has not said; or ends what would then be
    missing, since its successor has to wait."""
    if hosted.workload is None or isinstance(step, Wait):
        return False
    replica = step.replica if isinstance(step, StartReplica) else step.report.replica
    if not any(may_have(hosted.workload, replica, node_id) for node_id in hosted.unheard):
        return False
    if isinstance(step, StartReplica):
        return True
    others = (each for each in observed.replicas if each.replica == replica and each is not step.report)
    return step.reason in ("outdated", "drained") and not any(map(observed.is_available, others))


def _held_back(declared: Declared, observed: Observation, most: int) -> int:
    """Ordinals that a quota leaves no room for, and of which nothing is there."""
    there = {replica for _, replica in observed.existing}
    return sum(ordinal >= most and ordinal not in there for ordinal in declared.ordinals)


def _surge_of(workload: Workload | None) -> int:
    return max(1, workload.strategy.max_surge) if workload is not None else 0
