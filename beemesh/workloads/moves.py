"""Moving replicas off nodes on an operator's order: a drain of everything there, or moves of single replicas. Pure.

A replica that may be doubled starts elsewhere first, and the old one goes once the new one is ready. What may not be
doubled has to stop before it starts again, as far as the disruption budgets allow. All of it follows from the records
and from what runs, so the next steward goes on where one was lost.

It stands before the reconciler: of a replica and its successor it shows the reconciler the one that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from beemesh.workloads.budgets import Allowance
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.reconciler import Action, Declared, Failures, Observed, Slot, StartReplica, StopReplicaAction

ENDED = ("Succeeded", "Failed")

UNIQUE_KINDS = frozenset({"Pod", "Job", "StatefulSet", "BeemeshStatefulSet"})
"""Kinds whose replicas are never doubled on purpose, not even for a moment."""

FORCED_KINDS = frozenset({"Pod", "Job"})
"""Kinds that are moved only where the operator says `force`: what they have done so far is lost."""

STAYING_KINDS = frozenset({"DaemonSet"})
"""Kinds that belong to their node and stay on it."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The order that one replica is to leave its node. `stranded`: no other node fits what its record asks for."""

    grace_s: int | None = None
    force: bool = False
    towards: str = ""
    stranded: bool = False


Leaves = Callable[[ReplicaReport], Leave | None]
"""What is ordered of a replica; None for one that may stay."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for the whole workload while its replicas move. `ordered` are tasks whose stop is ordered already,
    `kept` the revisions that its record keeps."""

    leaves: Leaves
    allowance: Allowance
    tolerant: bool = True
    ordered: frozenset[str] = frozenset()
    kept: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Arranged:
    """What the reconciler is to see, the steps of the moves, and whether any is on its way."""

    observed: Observed
    actions: tuple[Action, ...] = ()
    moving: bool = False


def starts_first(declared: Declared, *, tolerant: bool) -> bool:
    """Whether a replica's successor may run beside it."""
    unique = declared.kind in UNIQUE_KINDS | STAYING_KINDS or declared.strategy.type == "Recreate"
    return tolerant and not unique


def arrange(declared: Declared, observed: Observed, terms: Terms, now_s: float) -> Arranged:
    """The next steps of all moves of one workload, and what of it the reconciler should see meanwhile."""
    if declared.gone or declared.kind in STAYING_KINDS:
        return Arranged(observed)
    return _Arrangement(declared, observed, terms, now_s).arranged()


def _serves(report: ReplicaReport) -> bool:
    return report.ready and report.phase == "Running"


class _Arrangement:
    """One look at one workload of which something is to move."""

    def __init__(self, declared: Declared, observed: Observed, terms: Terms, now_s: float) -> None:
        self.declared = declared
        self.observed = observed
        self.terms = terms
        self.now_s = now_s
        self.hidden: set[int] = set()
        """Reports (by `id`) that the reconciler is not to see."""
        self.moving = 0
        serving = [each for each in observed.replicas if _serves(each)]
        self.healthy = len({each.replica for each in serving if each.task_id not in terms.ordered})
        """Ordinals, so that a replica and its successor are one: budgets are about what the record wants."""

    def arranged(self) -> Arranged:
        """All of it."""
        replaced: list[tuple[ReplicaReport, Leave]] = []
        waiting: list[tuple[ReplicaReport, Leave]] = []
        for slot, reports in self._slots().items():
            leavers = [(each, leave) for each in reports if (leave := self.terms.leaves(each)) is not None]
            if leavers:
                self._sort(slot, reports, leavers, replaced, waiting)
        stops = [StopReplicaAction(report, "drained", grace_s=leave.grace_s) for report, leave in replaced]
        actions = [*stops, *self._next(waiting)]
        seen = tuple(each for each in self.observed.replicas if id(each) not in self.hidden)
        return Arranged(replace(self.observed, replicas=seen), tuple(actions), self.moving > 0 or bool(actions))

    def _slots(self) -> dict[Slot, list[ReplicaReport]]:
        """What runs or starts of the revision that is wanted. A rollout takes care of the others; while it is paused
        it does not, and they move as they are."""
        revisions = {self.declared.revision} | (self.terms.kept if self.declared.paused else set())
        slots: dict[Slot, list[ReplicaReport]] = {}
        for report in self.observed.replicas:
            wanted = report.revision in revisions and report.replica < self.declared.replicas
            if wanted and report.phase != "Terminating" and report.phase not in ENDED:
                slots.setdefault((report.revision, report.replica), []).append(report)
        return slots

    def _sort(
        self,
        slot: Slot,
        reports: list[ReplicaReport],
        leavers: list[tuple[ReplicaReport, Leave]],
        replaced: list[tuple[ReplicaReport, Leave]],
        waiting: list[tuple[ReplicaReport, Leave]],
    ) -> None:
        """How far the move of one slot has come. One with a successor that is ready goes whatever the budget says: it
        is one too many, and may take the very room that others of its workload wait for."""
        leaving = {id(each) for each, _ in leavers}
        successors = [each for each in reports if id(each) not in leaving]
        if any(_serves(each) for each in successors):
            self.hidden |= leaving
            replaced += leavers
        elif successors:
            self.moving += 1
            self.hidden |= {id(each) for each in successors}
        elif slot in self.observed.starting:
            self.moving += 1
        else:
            waiting.append(max(leavers, key=lambda pair: pair[0].order))

    def _next(self, waiting: Iterable[tuple[ReplicaReport, Leave]]) -> Iterator[Action]:
        """Those with whom nothing was begun."""
        gentle = starts_first(self.declared, tolerant=self.terms.tolerant)
        surge = max(1, self.declared.strategy.max_surge)
        for report, leave in sorted(waiting, key=lambda pair: self._turn_of(pair[0])):
            if leave.stranded or not gentle:
                forced = leave.force or not (leave.stranded or self.declared.kind in FORCED_KINDS)
                if forced and not leave.towards and self._may_go(report):
                    yield StopReplicaAction(report, "drained", grace_s=leave.grace_s)
            elif self.moving < surge and not self._must_wait((report.revision, report.replica)):
                self.moving += 1
                yield self._start(report, leave)

    def _may_go(self, report: ReplicaReport) -> bool:
        """Whether the budget allows this one to stop; it counts as stopped from then on."""
        if report.task_id in self.terms.ordered:
            return True
        if not self.terms.allowance.allows(self.healthy, ready=_serves(report)):
            return False
        self.healthy -= 1 if _serves(report) else 0
        return True

    def _turn_of(self, report: ReplicaReport) -> float:
        return self.observed.turn_of((report.revision, report.replica))

    def _must_wait(self, slot: Slot) -> bool:
        failures = self.observed.failures.get(slot)
        return failures is not None and failures.count > 0 and self.now_s < failures.last_s + failures.pause_s

    def _start(self, report: ReplicaReport, leave: Leave) -> StartReplica:
        slot = (report.revision, report.replica)
        failures = self.observed.failures.get(slot, Failures(0, self.now_s))
        siblings = {each.node_id for each in self.observed.replicas if each.replica != report.replica}
        return StartReplica(*slot, failures.count + 1, tuple(sorted(siblings)), failures.nodes, leave.towards)
