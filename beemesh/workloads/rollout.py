"""How far a rollout is, when it has failed, and where to go back to: what a steward knows of a workload's revisions.

A revision is complete once exactly its replicas run and are available, as far as quotas admit them. Only one whose
beginning was seen, and that was never complete, can fail: what breaks later is repaired, not taken back. A verdict
holds until the operator makes another revision (an undo and a restart are such). Times are of our boot clock. See
docs/adr/0007.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from beemesh.workloads.daemons import DAEMON_SET
from beemesh.workloads.observation import MANIFEST_MARK_BYTES, ReplicaReport
from beemesh.workloads.reconciler import Declared, Observed, Slot, is_settled
from beemesh.workloads.record import Revision, Workload


@dataclass(frozen=True, slots=True)
class Verdict:
    """Revision `revision` (whose manifest's address begins with `mark`) has failed, for `reason`; `target` is where to
    go back to, 0 for nowhere."""

    revision: int
    mark: bytes
    reason: str
    target: int
    by_attempts: bool = False
    """Whether it failed by attempts to start a replica, not by time or crashes."""

    def is_about(self, revision: Revision) -> bool:
        """Whether it is about that very revision: numbers may clash, and a restart makes another one."""
        return (self.revision, self.mark) == (revision.number, mark_of(revision))


def mark_of(revision: Revision) -> bytes:
    """The beginning of its manifest's address."""
    return revision.manifest[:MANIFEST_MARK_BYTES]


@dataclass(slots=True)
class Rollout:
    """The rollout of a workload's current revision. `good` is the newest one known to have been complete before it."""

    begun: bool = False
    complete: bool = False
    verdict: Verdict | None = None
    good: int = 0
    progress_s: float = 0.0
    """When it last got on."""
    _available: int = 0
    _wanted: int = 0
    _old: int = 1 << 30

    def renew(self, before: Workload | None, after: Workload, now_s: float) -> None:
        """Another record stands in the place of `before`, which was None when nothing did."""
        if before is None or not is_same(before.current, after.current):
            if before is not None and self.complete:
                self.good = before.current.number
            self.begun, self.complete, self.verdict = True, False, None
            self._start_clock(now_s)
        elif before.strategy != after.strategy or before.replicas != after.replicas:
            self._start_clock(now_s)

    def take_over(self, now_s: float, *, hears_all: bool = True) -> None:
        """We are to judge from now on: the one before us may have seen progress that we did not. Unless we hear of each
        rollout that is complete (`hears_all`), this one may have been so for long: only what runs tells."""
        self._start_clock(now_s)
        self.begun &= hears_all

    def completed(self, revision: int, current: Revision) -> None:
        """Somebody whom we believe saw revision `revision` complete."""
        if current.covers(revision):
            self.complete = True
        else:
            self.good = max(self.good, revision)

    def observe(
        self,
        workload: Workload,
        observed: Observed,
        now_s: float,
        daemons: Iterable[int] | None = None,
        admitted: int | None = None,
    ) -> bool:
        """Look at what runs; whether the current revision has just become complete. `daemons` are the ordinals of a
        DaemonSet; `admitted` is how many replicas quotas leave it, where that is fewer than it declares: what they hold
        back says nothing of the revision."""
        current, declared = workload.current, Declared.of(workload, daemons=daemons)
        held = _held_back(declared, observed, admitted)
        self._wanted = declared.replicas - len(held)
        if self.complete or self.verdict is not None:
            return False
        if any(each.ready and not current.covers(each.revision) for each in observed.replicas):
            self.begun = True
        shows = self._wanted > 0 or not held
        if shows and is_settled(declared, replace(observed, finished=observed.finished | held)):
            self.complete = True
            return True
        new = [each for each in observed.replicas if current.covers(each.revision)]
        available, old = sum(map(observed.is_available, new)), len(observed.replicas) - len(new)
        there = {(current.number, each.replica) for each in new if observed.is_available(each)} | held
        # What is left to stop once all are available is not the revision's fault.
        whole = all((current.number, ordinal) in there for ordinal in declared.ordinals)
        if whole or available > self._available or old < self._old or workload.strategy.paused:
            self.progress_s = now_s
        self._available, self._old = max(self._available, available), min(self._old, old)
        return False

    def judge(self, workload: Workload, observed: Observed, now_s: float, max_attempts: int) -> Verdict | None:
        """The verdict, when the current revision has failed and that is news; it stands from then on."""
        if self.verdict is not None or self.complete or not self.begun or workload.strategy.paused:
            return None
        attempts = _attempts_failed(workload.current, observed, max_attempts)
        reason = attempts or self._why_failed(workload, observed, now_s, max_attempts)
        if not reason:
            return None
        current = workload.current
        allowed = workload.strategy.rollback == "auto"
        target = self._older(workload, observed.replicas) if allowed else 0
        self.verdict = Verdict(current.number, mark_of(current), reason, target, bool(attempts))
        return self.verdict

    def ends_s(self, workload: Workload) -> float:
        """When it will have failed if it does not get on; infinite where it will not by that."""
        deadline_s = workload.strategy.progress_deadline_s
        judged = self.verdict is None and not self.complete and self.begun and not workload.strategy.paused
        return self.progress_s + deadline_s if deadline_s and judged else float("inf")

    def target(self, workload: Workload) -> int:
        """The revision to drive toward: the current one, or where a verdict says."""
        verdict = self.verdict
        if verdict is None or not verdict.is_about(workload.current) or workload.strategy.rollback != "auto":
            return workload.current.number
        return verdict.target if verdict.target and workload.revision(verdict.target) else workload.current.number

    def base(self, workload: Workload, replicas: Iterable[ReplicaReport]) -> int:
        """The revision of which missing replicas are started while the rollout is paused; 0 for none. Where we did not
        see it begin, and nothing but the current one runs, it began before and was complete."""
        current, found = workload.current, tuple(replicas)
        alone = any(each.ready for each in found) and all(current.covers(each.revision) for each in found)
        if self.complete or (alone and not self.begun and self.verdict is None):
            return current.number
        return self._older(workload, found)

    def _older(self, workload: Workload, replicas: Iterable[ReplicaReport]) -> int:
        """The last revision that was complete; where nobody knows, the newest that works, else the one before."""
        history = workload.revisions[1:]
        good = workload.covering(self.good) if self.good else None
        if good is not None and good in history:
            return good.number
        ready = [each.revision for each in replicas if each.ready]
        working = [revision for revision in history if any(map(revision.covers, ready))]
        return next((revision.number for revision in (*working, *history)), 0)

    def _why_failed(self, workload: Workload, observed: Observed, now_s: float, max_attempts: int) -> str:
        current = workload.current
        for each in observed.replicas:
            if current.covers(each.revision) and not each.ready:
                for container in each.containers:
                    if container.restarts >= max_attempts:
                        why = container.reason or f"it ended with code {container.exit_code}"
                        return f"container {container.name} of {each.pod} crashed {container.restarts} times: {why}"
        deadline_s = workload.strategy.progress_deadline_s
        if workload.kind == DAEMON_SET and all(
            each.ready for each in observed.replicas if current.covers(each.revision)
        ):
            return ""  # a node without room for it says nothing against the revision
        if deadline_s and now_s - self.progress_s > deadline_s:
            got = f"{self._available} of {self._wanted} replicas were available"
            return f"no progress for {deadline_s} s (progressDeadlineSeconds): {got}"
        return ""

    def _start_clock(self, now_s: float) -> None:
        self.progress_s, self._available, self._old = now_s, 0, 1 << 30


def _attempts_failed(current: Revision, observed: Observed, max_attempts: int) -> str:
    for (revision, replica), failures in sorted(observed.failures.items()):
        if revision == current.number and failures.count >= max_attempts:
            reasons = "; ".join(dict.fromkeys(failures.reasons))
            return f"all {failures.count} attempts to start replica {replica} failed: {reasons}"
    return ""


def _held_back(declared: Declared, observed: Observed, admitted: int | None) -> frozenset[Slot]:
    """Slots that quotas leave no room for, as long as nothing runs there."""
    if admitted is None:
        return frozenset()
    there = {each.replica for each in observed.replicas if each.revision == declared.revision}
    return frozenset((declared.revision, each) for each in declared.ordinals if each >= admitted and each not in there)


def is_same(one: Revision, other: Revision) -> bool:
    """Whether both are one: numbers may clash, and a restart makes another one of the same manifest."""
    return (one.number, one.manifest) == (other.number, other.manifest)
