"""Running what was won: reserve, open the manifest, deploy, tell everybody; and keep the table of this node's pods.

An agent's restart touches no pod: what runs is adopted by its labels. A machine's restart brings back those pods whose
manifests it may keep, once it has heard that nobody took them over. A pod ends when an operator deleted its workload
(this node sees the signed tombstone itself), when a steward proves its right and the record supports it, or when a run
lease could not be renewed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from beemesh.custody.local_copies import LocalCopies
from beemesh.effects import Answered, Asked, Effects, JobFinished, Now, Randomness, TimerFired
from beemesh.events import (
    IntentChanged,
    LeaseDenied,
    LeaseGranted,
    LeaseLost,
    ManifestDenied,
    ManifestOpened,
    PodsObserved,
    ResourcesObserved,
    TaskWon,
)
from beemesh.ids import NodeId
from beemesh.intents.record import workload_id_of
from beemesh.membership.view import View
from beemesh.scheduling.execution.answering import Answers
from beemesh.scheduling.execution.deploying import Deployer
from beemesh.scheduling.execution.orders import ProofCheck
from beemesh.scheduling.execution.pod_keeper import PodKeeper
from beemesh.scheduling.execution.pods import TABLE, Placement, PodTable
from beemesh.scheduling.execution.recovery import Recovery
from beemesh.scheduling.execution.restarting import Restarts
from beemesh.scheduling.execution.run_leases import TABLE as RUN_TABLE
from beemesh.scheduling.execution.run_leases import RunLeases
from beemesh.scheduling.execution.run_rights import RunRights
from beemesh.scheduling.execution.stopping import Stopper
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.tasks import IntentLookup
from beemesh.scheduling.telling import Teller
from beemesh.settings.model import NodeSettings
from beemesh.undecodable import decoded_rows
from beemesh.workloads.observation import ListReplicas, StopReplica


class Executor:
    """Runs this node's pods. List it before the bidder, which reads `local`."""

    room = "executor"
    handles: tuple[type, ...] = (ListReplicas, StopReplica)
    listens: tuple[type, ...] = (
        TaskWon,
        LeaseGranted,
        LeaseDenied,
        LeaseLost,
        ManifestOpened,
        ManifestDenied,
        PodsObserved,
        ResourcesObserved,
        IntentChanged,
    )
    tables: tuple[str, ...] = (TABLE, LocalCopies.table, RUN_TABLE)

    def __init__(
        self,
        self_id: NodeId,
        view: View,
        randomness: Randomness,
        settings: NodeSettings,
        local: LocalWork,
        judge: Judge,
        intent_for: IntentLookup,
        copies: LocalCopies,
        check_proof: ProofCheck,
        new_request_id: Callable[[], int],
    ) -> None:
        self.pods = pods = PodTable(self_id)
        self._local = local
        self._machine: ResourcesObserved | None = None
        """The machine's last reading; who bids sees it once it is known what runs here."""
        self._copies = copies
        tell, self._run_leases = Teller(self_id, randomness), RunLeases(self.room)
        run_leases = self._run_leases
        recovery = Recovery(self_id, view, new_request_id, self.room)
        self._keeper = keeper = PodKeeper(self.room, pods, local, intent_for, copies, tell, run_leases)
        self._deployer = deployer = Deployer(
            self.room, pods, settings, judge, intent_for, copies, tell, run_leases, keeper, local
        )
        self._rights = RunRights(self.room, pods, run_leases, keeper, deployer)
        self._stopper = Stopper(self.room, pods, intent_for, check_proof, judge, keeper, deployer)
        self._restarts = Restarts(self_id, pods, intent_for, copies, recovery, keeper, deployer)
        self._answers = Answers(self_id, pods)

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back what was placed here, and the sealed copies by which it may start again."""
        if table == LocalCopies.table:
            self._copies.restore(rows)
            return
        if table == RUN_TABLE:
            self._run_leases.restore(rows)
            return
        placements = (placement for _, placement in decoded_rows(rows, Placement) if placement is not None)
        self.pods.placed |= {placement.name: placement for placement in placements}

    def start(self, now: Now) -> Effects:
        """The runtime has still to say what runs; until then what may run and must not be doubled is guarded."""
        once = [each for each in self.pods.placed.values() if not each.task.duplicate_tolerant]
        return [effect for placement in once for effect in self._run_leases.resume(placement, now)]

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about an event."""
        match event:
            case TaskWon():
                return self._deployer.won(event, now)
            case LeaseGranted() | LeaseDenied() | LeaseLost():
                return self._rights.lease(event, now)
            case ManifestOpened(ref=ref, plaintext=plaintext):
                return self._deployer.opened(ref, plaintext, now)
            case ManifestDenied():
                return self._deployer.denied(event, now)
            case JobFinished(job_id=job_id):
                return self._finished(job_id, event, now)
            case PodsObserved():
                return self._observed(event, now)
            case ResourcesObserved():
                self._machine = event
                self._take_stock()
            case IntentChanged(intent=intent) if intent.kind == "tombstone" and workload_id_of(intent.key):
                return self._stopper.deleted(workload_id_of(intent.key), now)
            case Asked(message=ListReplicas(workload_id=workload_id), token=token):
                return self._answers.list(token, workload_id, now)
            case Asked(message=StopReplica() as order, sender=sender, token=token):
                return self._stopper.ordered(order, sender, token, now)
            case Answered():
                return self._restarts.answered(event, now)
            case TimerFired(key=(_, str(what), str(name))):
                return self._timer(what, name, now)
        return []

    def _finished(self, job_id: str, job: JobFinished, now: Now) -> Effects:
        what, _, rest = job_id.partition(" ")
        name = rest.partition(" ")[2]
        if what == "stop":
            return self._stopper.stopped(name, job.error, now)
        return self._deployer.finished(name, job, now)

    def _observed(self, observed: PodsObserved, now: Now) -> Effects:
        effects = self._keeper.observed(observed, now) + self._deployer.room_made(now)
        if observed.complete and not self._answers.have_looked:
            effects += self._answers.looked(now) + self._restarts.begin(now)
            self._take_stock()
            effects += self._keeper.reservations()  # who waited for that looks again
        return effects

    def _take_stock(self) -> None:
        """Let others see what there is, from the runtime's first list on: before that all that runs here would be
        given away a second time."""
        if self._answers.have_looked:
            self._local.observed = self._machine

    def _timer(self, what: str, name: str, now: Now) -> Effects:
        match what:
            case "deadline":
                return self._deployer.overdue(name, now)
            case "run-end":
                return self._rights.lost(name, "it was not renewed in time", now)
            case "run-over":
                return self._rights.outlasted(name)
            case "run-again":
                return self._rights.claim_again(name)
            case "stop-again":
                return self._stopper.again(name)
            case "vanished":
                return self._keeper.look_again(now)
            case "recover":
                return self._restarts.ask(now)
        return []
