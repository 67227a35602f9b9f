"""The pods that are here already: counting them, noticing when they end, stopping them, forgetting them."""

from __future__ import annotations

import msgspec

from beemesh.custody.local_copies import LocalCopies
from beemesh.effects import Effects, Erase, Notify, Now, Run, Save, Schedule
from beemesh.events import PodsObserved, ReservationsChanged, StopPod
from beemesh.intents.record import workload_key
from beemesh.scheduling.counting import count
from beemesh.scheduling.execution.pod_news import news_of
from beemesh.scheduling.execution.pods import ENDED, GRACE_S, TABLE, PodTable, Stopping, name_of
from beemesh.scheduling.execution.run_leases import RunLeases
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.messages import EventStatus, Task
from beemesh.scheduling.promises import promise_found, promise_of
from beemesh.scheduling.tasks import IntentLookup, workload_of
from beemesh.scheduling.telling import FINISHED, POD_MANIFEST, Teller
from beemesh.workloads.observation import ReplicaReport

VANISH_GRACE_S = 5.0
"""A pod started so lately may be missing from a list that was read before."""

WAS_ENDING = "it was ending already"


class PodKeeper:
    """One node's running pods. Part of the executor, which routes events to it."""

    def __init__(
        self,
        room: str,
        table: PodTable,
        local: LocalWork,
        intent_for: IntentLookup,
        copies: LocalCopies,
        tell: Teller,
        run_leases: RunLeases,
    ) -> None:
        self.table = table
        self._local = local
        self._intent_for = intent_for
        self._copies = copies
        self._tell = tell
        self._run_leases = run_leases
        self._room = room
        self._jobs = 0
        self._listed: dict[str, ReplicaReport] = {}
        """What the runtime listed last."""

    def observed(self, observed: PodsObserved, now: Now) -> Effects:
        """Compare with what was seen before."""
        pods = {name_of(report): report for report in observed.replicas}
        effects: Effects = []
        for name, report in pods.items():
            effects += self._changed(name, report, now)
        if observed.complete:
            self._listed = pods
            effects += self._missing(pods, now)
        return effects

    def look_again(self, now: Now) -> Effects:
        """A pod was missing in a list that may have been older than it: is it still?"""
        return self._missing(self._listed, now)

    def _changed(self, name: str, report: ReplicaReport, now: Now) -> Effects:
        before = self.table.seen.get(name)
        self.table.seen[name] = report
        if name in self.table.deploying:
            return []
        found = self._intent_for(workload_key(report.workload_id))
        if found is not None and found[0].kind == "tombstone":
            counted = self._adopt(name, report, now) if before is None else []
            return [*counted, *self.stop(name, "deleted", now)]
        if report.phase in ENDED:
            if before is None and self._was_ending(name):
                return self.stop_job(name, WAS_ENDING, 0)  # how it ended says nothing of its work; it is removed
            ended_now = before is not None and before.phase not in ENDED
            effects = self.withdraw(name) + self.forget(name) + self._run_leases.release(name)
            # How a pod ends that is being stopped says nothing of its work: its own `Stopped` follows once it is gone.
            told = ended_now and name not in self.table.stopping
            return effects + (self._told_end(report, now) if told else [])
        if before is None:
            return self._adopt(name, report, now)
        return [] if name in self.table.stopping else self._told_news(before, report, now)

    def _told_news(self, before: ReplicaReport, report: ReplicaReport, now: Now) -> Effects:
        return [self.about(report, each.status, now, each.reason, each.details) for each in news_of(before, report)]

    def _told_end(self, report: ReplicaReport, now: Now) -> Effects:
        done = report.phase == "Succeeded"
        details = {FINISHED: "true"} if done else {"message": report.reason}
        return [self.about(report, "Stopped" if done else "Failed", now, report.reason or report.phase, details)]

    def _adopt(self, name: str, report: ReplicaReport, now: Now) -> Effects:
        """A pod that was here before this agent: it is counted, and left alone unless it was ending or has no right to
        run."""
        placement = self.table.placed.get(name)
        if placement is not None:
            adopted = self.promise(name, placement.task, started=True)
            adopted += [] if placement.task.duplicate_tolerant else self._run_leases.adopt(placement, now)
            return adopted + (self.stop_job(name, WAS_ENDING, GRACE_S) if self._was_ending(name) else [])
        workload = workload_of(self._intent_for(workload_key(report.workload_id)))
        self._local.promise(name, promise_found(report, workload))
        effects = self.reservations()
        if workload is not None and not workload.duplicate_tolerant:
            effects += self.stop(name, "it must not be doubled, and nothing is known of its right to run", now, 0)
        return effects

    def _was_ending(self, name: str) -> bool:
        """Whether an earlier agent was asked to end the pod, and this one has not begun to."""
        placement = self.table.placed.get(name)
        return placement is not None and placement.ending and name not in self.table.stopping

    def _missing(self, pods: dict[str, ReplicaReport], now: Now) -> Effects:
        """Pods that were here and are not any more, without anybody having stopped them."""
        effects: Effects = []
        for name, report in list(self.table.seen.items()):
            if name in pods:
                continue
            if name in self.table.stopping:
                effects += self._end_again(name)
                continue
            if name in self.table.deploying:
                continue
            grace_ends_s = self.table.deployed_s.get(name, float("-inf")) + VANISH_GRACE_S
            if now.boot_s < grace_ends_s:
                # Nothing may change here for hours, so nobody need list the pods again: remember to look then.
                effects.append(Schedule((self._room, "vanished", name), grace_ends_s))
                continue
            effects += [*self.gone(name), self.about(report, "Stopped", now, "the pod vanished from its runtime")]
        return effects

    def _end_again(self, name: str) -> Effects:
        """A pod that the runtime could not end has ended by itself, it seems: what waits for its room, or counts it, is
        not left waiting for the next try."""
        stopping = self.table.stopping[name]
        return self.stop_job(name, stopping.reason, 0) if stopping.jobs <= 0 else []

    def gone(self, name: str) -> Effects:
        """Forget everything about a pod that is not there any more."""
        self.table.seen.pop(name, None)
        self.table.deployed_s.pop(name, None)
        return self.forget(name) + self.withdraw(name) + self._run_leases.release(name)

    def forget(self, name: str) -> Effects:
        """Nothing of the pod is kept, so no restart brings it back."""
        known = self.table.placed.pop(name, None) is not None
        return [*([Erase(TABLE, name.encode())] if known else []), *self._copies.forget(name)]

    def never_came(self, name: str) -> Effects:
        """A pod that was placed here is not among those that the runtime lists first. What must not be doubled keeps
        its right to run until nothing is left of its start for sure: an engine may be at it, and show it later."""
        forgotten = self.forget(name)
        if not self._run_leases.guards(name):
            return forgotten
        kept = self._run_leases.outlast(name)
        if name in self.table.stopping:
            return [*forgotten, *kept]
        return [*forgotten, *kept, *self.stop_job(name, "its start did not outlive the agent", 0)]

    # --- stopping -----------------------------------------------------------------------------------------------

    def stop(self, name: str, reason: str, now: Now, grace_s: int = GRACE_S) -> Effects:
        """End a pod that is here, or sooner, if it is ending already; nothing when it is not here."""
        if name in self.table.stopping:
            return self.hurry(name, grace_s)
        if name not in self.table.seen or name in self.table.deploying:
            return []
        report = self.table.seen[name]
        told = [self.about(report, "NotReady", now, reason)] if report.ready else []  # before it is stopped
        noted, job = self.ending(name), self.stop_job(name, reason, grace_s)
        # What must end at once, because its right to run is lost, waits for no disk.
        steps = [*noted, *job] if grace_s > 0 else [*job, *noted]
        return [*told, *steps, count("stops", result="accepted")]

    def hurry(self, name: str, grace_s: int) -> Effects:
        """Leave a pod that is ending less time for it; nothing when it has no more anyway."""
        under_way = self.table.stopping.get(name)
        if under_way is None or under_way.grace_s <= grace_s:
            return []
        return self.stop_job(name, under_way.reason, grace_s)

    def ending(self, name: str) -> Effects:
        """A pod was asked to end: no restart of the machine brings it back, and none of the agent spares it."""
        placement = self.table.placed.get(name)
        if placement is None:
            return self._copies.forget(name)
        placement = self.table.placed[name] = msgspec.structs.replace(placement, ending=True)
        return [Save(TABLE, name.encode(), msgspec.msgpack.encode(placement)), *self._copies.forget(name)]

    def stop_job(self, name: str, reason: str, grace_s: int) -> Effects:
        """Have the runtime end a pod, whether or not it is known here."""
        stopping = self.table.stopping.setdefault(name, Stopping(reason, grace_s))
        stopping.grace_s, stopping.jobs = min(stopping.grace_s, grace_s), stopping.jobs + 1
        namespace, _, pod = name.partition("/")
        return [Run(self.job_id("stop", name), StopPod(pod, grace_s, reason, namespace))]

    # --- counting -----------------------------------------------------------------------------------------------

    def promise(self, name: str, task: Task, *, started: bool) -> Effects:
        """Reserve what a task needs; `started` once the machine's own figures show it."""
        self._local.promise(name, promise_of(task, self._intent_for, started=started))
        return self.reservations()

    def withdraw(self, name: str) -> Effects:
        """Give back what was reserved for a pod."""
        return self.reservations() if self._local.withdraw(name) else []

    def reservations(self) -> Effects:
        """Tell others here how much is held."""
        held = self._local.totals()
        return [Notify(ReservationsChanged(held.cpu_m, held.mem_mb, held.storage_mb))]

    def about(
        self, report: ReplicaReport, status: EventStatus, now: Now, reason: str, details: dict[str, str] | None = None
    ) -> Notify:
        """Tell what happened to a pod."""
        mark = {POD_MANIFEST: report.manifest.hex()} if report.manifest else {}
        return self._tell.about(
            status,
            now,
            reason,
            {"pod": report.pod, **mark, **(details or {})},
            task_id=report.task_id,
            workload_id=report.workload_id,
            namespace=report.namespace,
            revision=report.revision,
            replica=report.replica,
        )

    def job_id(self, what: str, name: str) -> str:
        """`<what> <number> <pod>`, never the same twice."""
        self._jobs += 1
        return f"{what} {self._jobs} {name}"
