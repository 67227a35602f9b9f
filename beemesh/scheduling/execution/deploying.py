"""From a won lease to a running pod: reserve, wait for room and for the right to run, open the manifest, deploy.

A deployment that fails leaves nothing behind, neither a reservation nor a lease; whoever hosts the reconciler decides
what comes next.
"""

from __future__ import annotations

from typing import Any

import msgspec

from beemesh.custody.local_copies import LocalCopies
from beemesh.effects import Cancel, Effects, JobFinished, Notify, Now, Run, Save, Schedule
from beemesh.events import (
    NOT_PERMITTED,
    DeployPod,
    LeaseDenied,
    LeaseGranted,
    LeaseLost,
    ManifestDenied,
    OpenManifest,
    ReleaseLease,
    TaskWon,
)
from beemesh.intents.record import workload_key
from beemesh.scheduling.counting import count
from beemesh.scheduling.eligibility import name_refusal
from beemesh.scheduling.execution.evicting import Evictor
from beemesh.scheduling.execution.pod_keeper import PodKeeper
from beemesh.scheduling.execution.pods import GRACE_S, TABLE, Deploying, Placement, PodTable, restarts_alone
from beemesh.scheduling.execution.run_leases import RUN_LEASE_WAIT_S, RunLeases
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.score import Score
from beemesh.scheduling.tasks import IntentLookup, pod_of, workload_of
from beemesh.scheduling.telling import RETRYABLE, Teller
from beemesh.secret import SecretBytes
from beemesh.settings.model import NodeSettings
from beemesh.workloads.observation import ReplicaReport

RIGHT_ENDED = "the lease that lets it start ended before it did"

WAITS = {
    "queued": "the pod of another revision that runs by its right did not end",
    "evicting": "what makes room for it did not end",
    "clearing": "its predecessor did not end",
    "leasing": "no run lease was granted",
    "opening": "the manifest was not opened",
}
"""Steps that may take so long and no longer, and what they waited for. The runtime's own step has its own end."""


class Deployer:
    """One node's deployments. Part of the executor, which routes events to it; timers stand under `room`."""

    def __init__(
        self,
        room: str,
        pods: PodTable,
        settings: NodeSettings,
        judge: Judge,
        intent_for: IntentLookup,
        copies: LocalCopies,
        tell: Teller,
        run_leases: RunLeases,
        keeper: PodKeeper,
        local: LocalWork,
    ) -> None:
        self._room = room
        self._pods = pods
        self._settings = settings
        self._judge = judge
        self._intent_for = intent_for
        self._copies = copies
        self._tell = tell
        self._run_leases = run_leases
        self._keeper = keeper
        self._evictor = Evictor(pods, local, keeper)

    def won(self, won: TaskWon, now: Now) -> Effects:
        """A task is this node's to run."""
        task = won.task
        placement = Placement(pod_of(task), task, won.fence, won.proof.tentative)
        if self._pods.has(task):
            details = {"already": "true"}
            told = self._tell.about_task("Deployed", task, now, "it runs here already", details)
            return [Notify(ReleaseLease(won.key)), told]
        in_the_way = self._in_the_way(placement)
        verdict = [in_the_way] if in_the_way else self._judge.judge(task, (), now.wall_ms)
        if not isinstance(verdict, Score):
            why = "; ".join(verdict)
            return [Notify(ReleaseLease(won.key)), self._tell.about_task("Cancelled", task, now, why)]
        deploying = Deploying(placement, won.key, won.proof, "queued", now.boot_s)
        deploying.right.until(won.key, won.expires_boot_s)
        self._pods.deploying[placement.name] = deploying
        details = {"fence": str(won.fence), "tentative": str(won.proof.tentative).lower()}
        return [
            *self._keeper.promise(placement.name, task, started=False),
            self._tell.about_task("Scheduled", task, now, details=details),
            self._deadline(placement.name, now, GRACE_S),
            *self._evictor.begin(deploying, verdict.victims, now),
            *self._begin_next(now),
        ]

    def _in_the_way(self, placement: Placement) -> str:
        """Which pod of the same name keeps a replica from starting here; empty when none does. None of these is ended
        for it: another workload's never, its own earlier one only by a steward's order."""
        name, owner = placement.name, self._pods.owner(placement.name)
        if owner not in ("", placement.task.workload_id):
            return name_refusal(owner)
        under_way = self._pods.deploying.get(name)
        if under_way is not None and under_way.step == "cancelled":
            return "an earlier start of it is still being undone here"
        is_there = under_way is not None or self._pods.active(name)
        return "an earlier one of it, not as it is wanted now, is here under its name" if is_there else ""

    def room_made(self, now: Now) -> Effects:
        """Pods are gone: go on with deployments that waited for just these."""
        self._evictor.room_made()
        return self._begin_next(now)

    def _begin_next(self, now: Now) -> Effects:
        """Begin with queued deployments, as far as the limit on concurrent ones allows."""
        effects: Effects = []
        for deploying in tuple(self._pods.deploying.values()):
            busy = sum(map(self._is_busy, self._pods.deploying.values()))
            if busy >= self._settings.runtime.max_concurrent_deployments:
                break
            if deploying.step == "queued":
                effects += self.begin(deploying, now)
        return effects

    def _is_busy(self, deploying: Deploying) -> bool:
        """Whether it counts as being started: what is only removed any more, however long that takes, does not."""
        removed = deploying.step == "cancelled" and deploying.placement.name in self._pods.stopping
        return deploying.step != "queued" and not removed

    def begin(self, deploying: Deploying, now: Now) -> Effects:
        """Go on with a deployment: make room, and get the right to run and the manifest."""
        placement = deploying.placement
        if placement.name in self._pods.stopping:  # it is going already, though it may never have been seen
            deploying.step = "clearing"
            return [self._deadline(placement.name, now, self._pods.stopping[placement.name].grace_s)]
        if placement.name in self._pods.seen:
            deploying.step = "clearing"
            removal = self._keeper.stop_job(placement.name, "making room for its successor", grace_s=0)
            return [self._deadline(placement.name, now), *removal]
        if not placement.task.duplicate_tolerant:
            if self._run_leases.is_taken(placement):
                deploying.step = "queued"  # until the pod that runs by this right, of another revision, is gone
                return []
            deploying.step = "leasing"
            return [self._run_leases.claim(placement), self._deadline(placement.name, now, RUN_LEASE_WAIT_S)]
        return self.open_manifest(deploying, now)

    def _deadline(self, name: str, now: Now, besides_s: float = 0.0) -> Schedule:
        """Until when the step of a deployment may take, which has to wait for something else besides."""
        timeout_s = self._settings.scheduler.deploy_timeout_ms / 1000
        return Schedule((self._room, "deadline", name), now.boot_s + timeout_s + besides_s)

    def open_manifest(self, deploying: Deploying, now: Now) -> Effects:
        """Have the manifest opened."""
        deploying.step = "opening"
        task = deploying.placement.task
        assert deploying.proof is not None, "a won task comes with the proof of its lease"
        return [
            self._deadline(deploying.placement.name, now),
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

    def opened(self, ref: str, plaintext: SecretBytes, now: Now) -> Effects:
        """The manifest is here, in memory; it is of no use where a lease ended meanwhile (this machine slept)."""
        deploying = self._pods.by_task(ref)
        if deploying is None or deploying.step != "opening":
            return []
        if deploying.right.has_ended(now.boot_s):
            return self.cancel(deploying, RIGHT_ENDED, now)
        if restarts_alone(deploying.placement.task):
            deploying.plaintext = plaintext
        return [Cancel((self._room, "deadline", deploying.placement.name)), *self.deploy(deploying, plaintext)]

    def deploy(self, deploying: Deploying, plaintext: SecretBytes) -> Effects:
        """Hand the plaintext to the runtime."""
        deploying.step = "deploying"
        placement = deploying.placement
        # Saved before it begins: an agent that starts meanwhile finds a pod, and has to know what it is.
        self._pods.placed[placement.name] = placement
        saved = Save(TABLE, placement.name.encode(), msgspec.msgpack.encode(placement))
        workload = workload_of(self._intent_for(workload_key(placement.task.workload_id)))
        asks = workload.as_of(placement.task.revision) if workload else None
        labels = dict(asks.pod_labels) if asks else {}
        job = DeployPod(placement.pod, placement.task, placement.fence, plaintext, labels, deploying.right)
        return [saved, Run(self._keeper.job_id("deploy", placement.name), job)]

    def denied(self, denied: ManifestDenied, now: Now) -> Effects:
        """The manifest cannot be opened now."""
        deploying = self._pods.by_task(denied.ref)
        if deploying is None or deploying.step != "opening":
            return []
        if denied.alone and (plaintext := self._copies.open_another(deploying.placement.task)) is not None:
            return self.opened(denied.ref, plaintext, now)
        return self._fail(deploying, "ManifestDenied", "; ".join(denied.reasons), now, retryable=denied.retryable)

    def _deployed(self, deploying: Deploying, report: Any, now: Now) -> Effects:
        placement = deploying.placement
        name, task = placement.name, placement.task
        del self._pods.deploying[name]
        self._pods.deployed_s[name] = now.boot_s
        if isinstance(report, ReplicaReport):
            self._pods.seen[name] = report
        effects: Effects = []
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
            count("deployments", result="ok", reason=""),
            *self._begin_next(now),
        ]

    def finished(self, name: str, job: JobFinished, now: Now) -> Effects:
        """The runtime has done what it was asked for."""
        deploying = self._pods.deploying.get(name)
        if deploying is None:
            return []
        if deploying.step == "cancelled":
            if job.error:
                return self._undone(deploying, now)
            del self._pods.deploying[name]
            # What it needs stays reserved, and its run lease held, until it is gone.
            return [
                *self._keeper.ending(name),
                *self._keeper.stop_job(name, deploying.why, deploying.grace_s),
                *self._begin_next(now),
            ]
        if job.error:
            code, _, message = job.error.partition(": ")
            if code == NOT_PERMITTED:
                told = self._tell.about_task("Cancelled", deploying.placement.task, now, RIGHT_ENDED)
                return [*self.drop(deploying, now), told]
            return self._failed_to_start(deploying, code, message or code, now)
        return self._deployed(deploying, job.result, now)

    def overdue(self, name: str, now: Now) -> Effects:
        """A step took longer than it may."""
        deploying = self._pods.deploying.get(name)
        waited = WAITS.get(deploying.step) if deploying is not None else None
        if deploying is None or waited is None:
            return []
        if deploying.step == "queued" and not self._run_leases.is_taken(deploying.placement):
            return [self._deadline(name, now, GRACE_S)]  # all that is before it in the line comes to an end
        if deploying.step != "clearing":
            return self._fail(deploying, "Timeout", f"{waited} in time", now, retryable=True)
        # What is there under its name keeps its reservation and its right to run until it is gone.
        deploying.step, deploying.why = "cancelled", f"Timeout: {waited} in time"
        told = self._told_failure(deploying, "Timeout", f"{waited} in time", now, retryable=True)
        return [*self._give_up_placement(deploying), *told, *self._begin_next(now)]

    def lease(self, event: LeaseGranted | LeaseDenied | LeaseLost, now: Now) -> Effects:
        """News of the lease by which a task was won."""
        deploying = next((each for each in self._pods.deploying.values() if each.lease == event.key), None)
        if deploying is None or deploying.step == "cancelled":
            return []
        if isinstance(event, LeaseLost):
            return self.cancel(deploying, f"its lease was lost: {event.reason}", now)
        if isinstance(event, LeaseGranted):
            deploying.proof = event.proof
            deploying.right.until(event.key, event.expires_boot_s)
        return []

    def _failed_to_start(self, deploying: Deploying, code: str, message: str, now: Now) -> Effects:
        deploying.step, deploying.why = "cancelled", f"{code}: {message}"
        return [*self._told_failure(deploying, code, message, now), *self._undone(deploying, now)]

    def _undone(self, deploying: Deploying, now: Now) -> Effects:
        """An engine that failed may have left something that runs: what must not be doubled keeps its right to run
        until nothing is there for sure."""
        if deploying.placement.task.duplicate_tolerant:
            return self.drop(deploying, now)
        removal = self._keeper.stop_job(deploying.placement.name, deploying.why, grace_s=0)
        return [*self._give_up_placement(deploying), *removal, *self._begin_next(now)]

    def _fail(self, deploying: Deploying, code: str, message: str, now: Now, *, retryable: bool = False) -> Effects:
        """Nothing of it is left; whoever hosts the reconciler decides what comes next."""
        return [*self.drop(deploying, now), *self._told_failure(deploying, code, message, now, retryable=retryable)]

    def _told_failure(
        self, deploying: Deploying, code: str, message: str, now: Now, *, retryable: bool = False
    ) -> Effects:
        details = {"message": message, "record": deploying.placement.task.record_digest.hex()[:16]}
        if retryable:
            details[RETRYABLE] = "true"
        told = self._tell.about_task("Failed", deploying.placement.task, now, code, details)
        return [told, count("deployments", result="failed", reason=code)]

    def cancel(self, deploying: Deploying, why: str, now: Now) -> Effects:
        """Give a deployment up. What the runtime is busy with is undone when it has finished."""
        told = self._tell.about_task("Cancelled", deploying.placement.task, now, why)
        deploying.right.revoke()
        if deploying.step in ("deploying", "clearing"):
            deploying.step, deploying.why = "cancelled", why
            return [*self._give_up_placement(deploying), told]
        return [*self.drop(deploying, now), told]

    def drop(self, deploying: Deploying, now: Now) -> Effects:
        """Forget a deployment, and give back all that was held for it."""
        name = deploying.placement.name
        self._pods.deploying.pop(name, None)
        effects: Effects = [Cancel((self._room, "deadline", name)), *self._give_up_placement(deploying)]
        effects += self._run_leases.release(name)
        return [*effects, *self._keeper.forget(name), *self._keeper.withdraw(name), *self._begin_next(now)]

    def _give_up_placement(self, deploying: Deploying) -> Effects:
        """Once: a newer task of the replica may hold the same key here by the time that this one is undone."""
        key, deploying.lease = deploying.lease, ""
        return [Notify(ReleaseLease(key))] if key else []
