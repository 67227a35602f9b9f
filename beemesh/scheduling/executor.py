"""Running what was won: reserve, open the manifest, deploy, tell everybody; and keep the table of this node's pods.

An agent's restart touches no pod: what runs is adopted by its labels. A machine's restart brings back those pods whose
manifests it may keep, once it has heard that nobody took them over. A pod ends when an operator deleted its workload
(this node sees the signed tombstone itself), when a steward proves its right and the record supports it, or when a run
lease could not be renewed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from beemesh.custody.local_copies import LocalCopies
from beemesh.effects import (
    Answered,
    Asked,
    Cancel,
    Effects,
    JobFinished,
    Notify,
    Now,
    Randomness,
    Reply,
    Run,
    Save,
    Schedule,
    TimerFired,
)
from beemesh.events import (
    DeployPod,
    IntentChanged,
    LeaseDenied,
    LeaseGranted,
    LeaseLost,
    ManifestDenied,
    ManifestOpened,
    Observed,
    OpenManifest,
    PodsObserved,
    ReleaseLease,
    ResourcesObserved,
    TaskWon,
)
from beemesh.ids import NodeId
from beemesh.intents.record import workload_key
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.orders import ProofCheck, objection_to
from beemesh.scheduling.pod_keeper import GRACE_S, PodKeeper
from beemesh.scheduling.pods import TABLE, Deploying, Placement, PodTable, name_of, pod_of, restarts_alone
from beemesh.scheduling.recovery import Recovery
from beemesh.scheduling.run_leases import RUN_LEASE_MARGIN_S, RUN_LEASE_WAIT_S, RunLeases
from beemesh.scheduling.score import Score
from beemesh.scheduling.tasks import IntentLookup, workload_of
from beemesh.scheduling.telling import RETRYABLE, Teller
from beemesh.secret import SecretBytes
from beemesh.settings.model import NodeSettings
from beemesh.undecodable import decoded_rows
from beemesh.workloads.observation import (
    ListReplicas,
    ReplicaList,
    ReplicaReport,
    StopAnswer,
    StopReplica,
)

STOP_AGAIN_S = 5.0
"""A stop that the runtime could not carry out is tried again."""

QUESTIONS_WAITING_MAX = 256
"""Peers that ask what runs here before the runtime has said so."""


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
    tables: tuple[str, ...] = (TABLE, LocalCopies.table)

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        view: View,
        randomness: Randomness,
        settings: NodeSettings,
        local: LocalWork,
        intent_for: IntentLookup,
        copies: LocalCopies,
        check_proof: ProofCheck,
        new_request_id: Callable[[], int],
    ) -> None:
        self.pods = PodTable(self_id)
        self._settings = settings
        self._local = local
        self._intent_for = intent_for
        self._copies = copies
        self._check_proof = check_proof
        self._judge = Judge(self_id, roster, settings, local, intent_for)
        self._tell = Teller(self_id, randomness)
        self._recovery = Recovery(self_id, view, new_request_id, self.room)
        self._self_id = self_id
        self._looked = False
        """Whether the runtime has listed its pods since this agent started."""
        self._questions: list[tuple[int, str]] = []
        self._run_leases = RunLeases(self.room)
        self._keeper = PodKeeper(self.pods, local, intent_for, copies, self._tell, self._run_leases)

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back what was placed here, and the sealed copies by which it may start again."""
        if table == LocalCopies.table:
            self._copies.restore(rows)
            return
        placements = (placement for _, placement in decoded_rows(rows, Placement) if placement is not None)
        self.pods.placed |= {placement.name: placement for placement in placements}

    def start(self, now: Now) -> Effects:
        """Nothing to do until the runtime says what runs."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about an event."""
        match event:
            case TaskWon():
                return self._won(event, now)
            case LeaseGranted() | LeaseDenied() | LeaseLost():
                return self._lease(event, now)
            case ManifestOpened(ref=ref, plaintext=plaintext):
                return self._opened(ref, plaintext)
            case ManifestDenied():
                return self._manifest_denied(event, now)
            case JobFinished(job_id=job_id):
                return self._finished(job_id, event, now)
            case PodsObserved():
                return self._observed(event, now)
            case ResourcesObserved():
                self._local.observed = event
                return []
            case IntentChanged(intent=intent) if intent.kind == "tombstone" and intent.key.startswith("workload/"):
                return self._deleted(intent.key.removeprefix("workload/"), now)
            case Asked(message=ListReplicas(workload_id=workload_id), token=token):
                return self._list(token, workload_id)
            case Asked(message=StopReplica() as order, sender=sender, token=token):
                return self._ordered(order, sender, token, now)
            case Answered(request_id=request_id, message=answer):
                known = self._recovery.answered(request_id, answer)
                return self._recover(now) if known and self._recovery.is_over else []
            case TimerFired(key=(_, str(what), str(name))):
                return self._timer(what, name, now)
        return []

    # --- from a won lease to a running pod --------------------------------------------------------------------------

    def _won(self, won: TaskWon, now: Now) -> Effects:
        task = won.task
        placement = Placement(pod_of(task), task, won.fence, won.proof.tentative)
        if placement.name in self.pods.deploying or self.pods.active(placement.name):
            details = {"already": "true"}
            told = self._tell.about_task("Deployed", task, now, "it runs here already", details)
            return [Notify(ReleaseLease(won.key)), told]
        verdict = self._judge.judge(task, (), now.wall_ms)
        if not isinstance(verdict, Score):
            why = "; ".join(verdict)
            return [Notify(ReleaseLease(won.key)), self._tell.about_task("Cancelled", task, now, why)]
        deploying = Deploying(placement, won.key, won.proof, "queued", now.boot_s)
        self.pods.deploying[placement.name] = deploying
        details = {"fence": str(won.fence), "tentative": str(won.proof.tentative).lower()}
        return [
            *self._keeper.promise(placement.name, task, started=False),
            self._tell.about_task("Scheduled", task, now, details=details),
            *self._begin_next(now),
        ]

    def _begin_next(self, now: Now) -> Effects:
        """Begin with queued deployments, as far as the limit on concurrent ones allows."""
        effects: Effects = []
        for deploying in tuple(self.pods.deploying.values()):
            busy = sum(1 for each in self.pods.deploying.values() if each.step != "queued")
            if busy >= self._settings.runtime.max_concurrent_deployments:
                break
            if deploying.step == "queued":
                effects += self._begin(deploying, now)
        return effects

    def _begin(self, deploying: Deploying, now: Now) -> Effects:
        placement = deploying.placement
        timeout_s = self._settings.scheduler.deploy_timeout_ms / 1000
        if placement.name in self.pods.seen:
            deploying.step = "clearing"
            if placement.name in self.pods.stopping:
                return []  # it is going already
            return self._keeper.stop_job(placement.name, "making room for its successor", grace_s=0)
        if not placement.task.duplicate_tolerant:
            deploying.step = "leasing"
            deadline = Schedule((self.room, "deadline", placement.name), now.boot_s + timeout_s + RUN_LEASE_WAIT_S)
            return [self._run_leases.claim(placement), deadline]
        return self._open(deploying, now)

    def _open(self, deploying: Deploying, now: Now) -> Effects:
        deploying.step = "opening"
        task = deploying.placement.task
        assert deploying.proof is not None, "a won task comes with the proof of its lease"
        timeout_s = self._settings.scheduler.deploy_timeout_ms / 1000
        return [
            Schedule((self.room, "deadline", deploying.placement.name), now.boot_s + timeout_s),
            Notify(
                OpenManifest(
                    ref=task.task_id,
                    key=workload_key(task.workload_id),
                    manifest=task.manifest_ref,
                    revision=task.revision,
                    replica=task.replica,
                    proof=deploying.proof,
                )
            ),
        ]

    def _opened(self, ref: str, plaintext: SecretBytes) -> Effects:
        deploying = self.pods.by_task(ref)
        if deploying is None or deploying.step != "opening":
            return []
        if restarts_alone(deploying.placement.task):
            deploying.plaintext = plaintext
        return [Cancel((self.room, "deadline", deploying.placement.name)), *self._deploy_job(deploying, plaintext)]

    def _deploy_job(self, deploying: Deploying, plaintext: SecretBytes) -> Effects:
        deploying.step = "deploying"
        placement = deploying.placement
        workload = workload_of(self._intent_for(workload_key(placement.task.workload_id)))
        labels = dict(workload.pod_labels) if workload else {}
        job = DeployPod(placement.pod, placement.task, placement.fence, plaintext, labels)
        return [Run(self._keeper.job_id("deploy", placement.name), job)]

    def _manifest_denied(self, denied: ManifestDenied, now: Now) -> Effects:
        deploying = self.pods.by_task(denied.ref)
        if deploying is None or deploying.step != "opening":
            return []
        if denied.alone and (plaintext := self._copies.open_another(deploying.placement.task)) is not None:
            return self._opened(denied.ref, plaintext)
        return self._fail(deploying, "ManifestDenied", "; ".join(denied.reasons), now, retryable=denied.retryable)

    def _deployed(self, deploying: Deploying, report: Any, now: Now) -> Effects:
        placement = deploying.placement
        name, task = placement.name, placement.task
        del self.pods.deploying[name]
        self.pods.placed[name] = placement
        self.pods.deployed_s[name] = now.boot_s
        if isinstance(report, ReplicaReport):
            self.pods.seen[name] = report
        effects: Effects = [Save(TABLE, name.encode(), msgspec.msgpack.encode(placement))]
        if deploying.plaintext is not None and deploying.proof is not None:
            effects += self._copies.keep(name, task, placement.fence, deploying.proof, deploying.plaintext)
        if deploying.lease:
            effects.append(Notify(ReleaseLease(deploying.lease)))
        details = {
            "pod": placement.pod,
            "fence": str(placement.fence),
            "took_ms": str(round(1000 * (now.boot_s - deploying.won_s))),
            **({"tentative": "true"} if placement.tentative else {}),
        }
        return [
            *effects,
            *self._keeper.promise(name, task, started=True),
            self._tell.about_task("Deployed", task, now, details=details),
            _count("deployments", result="ok"),
            *self._begin_next(now),
        ]

    def _fail(self, deploying: Deploying, code: str, message: str, now: Now, *, retryable: bool = False) -> Effects:
        """Nothing of it is left; whoever hosts the reconciler decides what comes next."""
        details = {"message": message, "record": deploying.placement.task.record_digest.hex()[:16]}
        if retryable:
            details[RETRYABLE] = "true"
        told = self._tell.about_task("Failed", deploying.placement.task, now, code, details)
        return [*self._drop(deploying, now), told, _count("deployments", result="failed", reason=code)]

    def _cancel(self, deploying: Deploying, why: str, now: Now) -> Effects:
        """Give a deployment up. What the runtime is busy with is undone when it has finished."""
        told = self._tell.about_task("Cancelled", deploying.placement.task, now, why)
        if deploying.step in ("deploying", "clearing"):
            deploying.step, deploying.why = "cancelled", why
            return [*self._give_up_placement(deploying), told]
        return [*self._drop(deploying, now), told]

    def _drop(self, deploying: Deploying, now: Now) -> Effects:
        name = deploying.placement.name
        self.pods.deploying.pop(name, None)
        effects: Effects = [Cancel((self.room, "deadline", name)), *self._give_up_placement(deploying)]
        effects += self._run_leases.release(name)
        if not deploying.lease:
            effects += self._keeper.forget(name)
        return [*effects, *self._keeper.withdraw(name), *self._begin_next(now)]

    def _give_up_placement(self, deploying: Deploying) -> Effects:
        return [Notify(ReleaseLease(deploying.lease))] if deploying.lease else []

    # --- leases -----------------------------------------------------------------------------------------------------

    def _lease(self, event: LeaseGranted | LeaseDenied | LeaseLost, now: Now) -> Effects:
        name = self._run_leases.pod(event.key)
        if name is None:
            return self._placement_lease(event, now)
        deploying = self.pods.deploying.get(name)
        match event:
            case LeaseGranted(expires_boot_s=expires_s):
                effects: Effects = [Schedule((self.room, "run-end", event.key), expires_s - RUN_LEASE_MARGIN_S)]
                go_on = deploying is not None and deploying.step == "leasing"
                return effects + (self._open(deploying, now) if deploying and go_on else [])
            case LeaseDenied(retry_after_s=retry_s):
                return [Schedule((self.room, "run-again", event.key), now.boot_s + max(0.5, retry_s))]
            case _:
                return self._run_lost(event.key, event.reason, now)

    def _placement_lease(self, event: LeaseGranted | LeaseDenied | LeaseLost, now: Now) -> Effects:
        deploying = next((each for each in self.pods.deploying.values() if each.lease == event.key), None)
        if deploying is None or deploying.step == "cancelled":
            return []
        if isinstance(event, LeaseLost):
            return self._cancel(deploying, f"its lease was lost: {event.reason}", now)
        if isinstance(event, LeaseGranted):
            deploying.proof = event.proof
        return []

    def _run_lost(self, key: str, reason: str, now: Now) -> Effects:
        """The right to run ends: stop. The lease is given up only once the pod is gone."""
        name = self._run_leases.pod(key) or ""
        deploying = self.pods.deploying.get(name)
        if deploying is None:
            return self._keeper.stop(name, f"its run lease was lost: {reason}", now, grace_s=0)
        if deploying.step == "cancelled":
            return []
        return self._cancel(deploying, f"its run lease was lost: {reason}", now)

    def _claim_run_again(self, key: str) -> Effects:
        name = self._run_leases.pod(key) or ""
        deploying = self.pods.deploying.get(name)
        placement = deploying.placement if deploying else self.pods.placed.get(name)
        return [self._run_leases.claim(placement)] if placement else []

    # --- what the runtime says --------------------------------------------------------------------------------------

    def _finished(self, job_id: str, job: JobFinished, now: Now) -> Effects:
        what, _, rest = job_id.partition(" ")
        name = rest.partition(" ")[2]
        if what == "stop":
            return self._stopped(name, job.error, now)
        deploying = self.pods.deploying.get(name)
        if deploying is None:
            return []
        if deploying.step == "cancelled":
            if job.error:
                return self._drop(deploying, now)
            del self.pods.deploying[name]
            undo = self._keeper.forget(name) + self._keeper.withdraw(name)
            return [*undo, *self._keeper.stop_job(name, deploying.why, GRACE_S), *self._begin_next(now)]
        if job.error:
            code, _, message = job.error.partition(": ")
            return self._fail(deploying, code, message or code, now)
        return self._deployed(deploying, job.result, now)

    def _observed(self, observed: PodsObserved, now: Now) -> Effects:
        effects = self._keeper.observed(observed, now)
        if observed.complete and not self._looked:
            self._looked = True
            effects += self._answer_questions() + self._begin_recovery(now)
        return effects

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _deleted(self, workload_id: str, now: Now) -> Effects:
        """The operator's tombstone is here, signed: no steward is needed to obey it."""
        effects: Effects = []
        for deploying in tuple(self.pods.deploying.values()):
            if deploying.placement.task.workload_id == workload_id and deploying.step != "cancelled":
                effects += self._cancel(deploying, "the workload was deleted", now)
        for name, report in tuple(self.pods.seen.items()):
            if report.workload_id == workload_id:
                effects += self._keeper.stop(name, "deleted", now)
        return effects

    def _ordered(self, order: StopReplica, sender: NodeId, token: int, now: Now) -> Effects:
        report = next(
            (
                each
                for each in self.pods.seen.values()
                if (each.workload_id, each.replica) == (order.workload_id, order.replica)
                and (order.task_id == each.task_id if order.task_id else order.revision == each.revision)
            ),
            None,
        )
        if report is None:
            return [Reply(token, StopAnswer(True, "there is no such replica here"))]
        workload = workload_of(self._intent_for(workload_key(order.workload_id)))
        against = objection_to(order, sender, self.pods.told(report), workload, self._check_proof, now.wall_ms)
        if against:
            return [Reply(token, StopAnswer(False, against)), _count("stops", result="refused")]
        stop = self._keeper.stop(name_of(report), order.reason, now, grace_s=max(0, min(order.grace_s, 600)))
        return [Reply(token, StopAnswer(accepted=True)), *stop]

    def _stopped(self, name: str, error: str, now: Now) -> Effects:
        deploying = self.pods.deploying.get(name)
        if error:
            return [Schedule((self.room, "stop-again", name), now.boot_s + STOP_AGAIN_S)]
        reason = self.pods.stopping.pop(name, "")
        report = self.pods.seen.get(name)
        if deploying is not None:
            self.pods.seen.pop(name, None)
            if deploying.step == "cancelled":
                return self._drop(deploying, now)
            return self._begin(deploying, now)
        told = [self._keeper.about(report, "Stopped", now, reason)] if report else []
        return [*self._keeper.gone(name), *told]

    # --- after a machine was off ------------------------------------------------------------------------------------

    def _begin_recovery(self, now: Now) -> Effects:
        effects: Effects = []
        for name, placement in list(self.pods.placed.items()):
            if name in self.pods.seen or name in self.pods.deploying:
                continue
            if restarts_alone(placement.task):
                self.pods.recovering[name] = placement
                effects += self._keeper.promise(name, placement.task, started=False)
            else:
                effects += self._keeper.forget(name)
        return effects + (self._recovery.begin(now) if self.pods.recovering else [])

    def _recover(self, now: Now) -> Effects:
        """Everybody who is there has been heard: start what is still ours."""
        effects: Effects = []
        for name, placement in list(self.pods.recovering.items()):
            del self.pods.recovering[name]
            workload = workload_of(self._intent_for(workload_key(placement.task.workload_id)))
            revision, replica = placement.task.revision, placement.task.replica
            wanted = workload is not None and workload.current.number == revision and replica < workload.replicas
            plaintext = self._copies.open(name) if wanted and not self._recovery.overtaken(placement) else None
            if plaintext is None:
                effects += self._keeper.forget(name) + self._keeper.withdraw(name)
                continue
            deploying = Deploying(placement, "", None, "deploying", now.boot_s)
            self.pods.deploying[name] = deploying
            effects += [_count("restarts_alone"), *self._deploy_job(deploying, plaintext)]
        self._recovery.running = False
        return effects

    # --- answering and counting -------------------------------------------------------------------------------------

    def _list(self, token: int, workload_id: str) -> Effects:
        if self._looked or len(self._questions) >= QUESTIONS_WAITING_MAX:
            return [Reply(token, ReplicaList(self._self_id, self.pods.reports(workload_id)))]
        self._questions.append((token, workload_id))
        return []

    def _answer_questions(self) -> Effects:
        answers: Effects = [
            Reply(token, ReplicaList(self._self_id, self.pods.reports(workload_id)))
            for token, workload_id in self._questions
        ]
        self._questions.clear()
        return answers

    def _timer(self, what: str, name: str, now: Now) -> Effects:
        match what:
            case "deadline":
                deploying = self.pods.deploying.get(name)
                if deploying is None or deploying.step not in ("opening", "leasing"):
                    return []
                waited = "the manifest was not opened" if deploying.step == "opening" else "no run lease was granted"
                return self._fail(deploying, "Timeout", f"{waited} in time", now, retryable=True)
            case "run-end":
                return self._run_lost(name, "it was not renewed in time", now)
            case "run-again":
                return self._claim_run_again(name)
            case "stop-again" if name in self.pods.stopping:
                return self._keeper.stop_job(name, self.pods.stopping[name], 0)
            case "recover":
                effects = self._recovery.ask(now)
                return effects or self._recover(now)
        return []


def _count(metric: str, **labels: str) -> Notify:
    return Notify(Observed(f"scheduler_{metric}_total", labels))
