"""What to do so that what runs becomes what is wanted: one pure function, whoever hosts it.

Replicas are ordinals 0…n-1. A rolling update replaces each ordinal by one of the same number: the new one starts, and
when it is ready the old one stops, within the bounds that the strategy names. Everything it needs to know is in the
record and in what nodes report, so its host can be lost at any moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from beemesh.ids import NodeId
from beemesh.workloads.observation import ReplicaReport, StopReason
from beemesh.workloads.record import Strategy, Workload
from beemesh.workloads.strategies import for_nodes

STARTING_MAX = 32
"""Replicas of one workload that are being placed at the same time: a herd larger than this gains nothing."""

BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 30.0
"""A failed replica is tried again after 1, 2, 4 … s, at most this long."""

BLAMELESS_MAX_S = 10.0
"""The same where nobody is to blame (too few custodians in reach, a lease lost on the way): they may be back soon."""

EXHAUSTED_RETRY_S = 300.0
"""After the last attempt, one more so often where the pod is to run always: whatever was wrong may be mended."""

Slot = tuple[int, int]
"""(revision, replica)"""


@dataclass(frozen=True, slots=True)
class Declared:
    """What is wanted. `revision` is the one to drive toward, which is an older one while a rollout is taken back.
    `gone`: the workload was deleted. `paused`: no rollout goes on; replicas that are missing altogether are started of
    revision `base`, and of none where that is 0."""

    kind: str
    replicas: int
    revision: int
    strategy: Strategy = field(default_factory=Strategy)
    restart_policy: str = "Always"
    gone: bool = False
    exclusive: bool = False
    """No ordinal may be doubled: a new replica waits for the run lease of the old one, so the old one goes first."""
    paused: bool = False
    base: int = 0
    parallelism: int = 0
    """How many pods of a Job may be active at once."""
    over: bool = False
    """A Job that is complete or has failed: nothing more starts, and what is still active stops."""
    daemons: frozenset[int] | None = None
    """The ordinals of a DaemonSet, one per node; None where they are 0…n-1."""
    held: int = 0
    """How many ordinals nothing is there of because a quota holds them back: a rollout does not wait for these."""

    @staticmethod
    def of(workload: Workload, target: int = 0, base: int = 0, daemons: Iterable[int] | None = None) -> Declared:
        """From the operator's record; `target` when it is to be an older revision than the current one, `daemons` the
        ordinals of a DaemonSet."""
        ordinals = frozenset(daemons) if daemons is not None else None
        strategy = workload.strategy if ordinals is None else for_nodes(workload.strategy, len(ordinals))
        return Declared(
            kind=workload.kind,
            replicas=workload.replicas if ordinals is None else len(ordinals),
            revision=target or workload.current.number,
            strategy=strategy,
            restart_policy=workload.restart_policy,
            exclusive=not workload.duplicate_tolerant,
            paused=workload.strategy.paused,
            base=base,
            parallelism=workload.job.parallelism if workload.job is not None else workload.replicas,
            daemons=ordinals,
        )

    @property
    def ordinals(self) -> Sequence[int]:
        """All that are wanted, in order."""
        return range(self.replicas) if self.daemons is None else sorted(self.daemons)

    def wants(self, ordinal: int) -> bool:
        """Whether there is to be a replica of that ordinal."""
        return ordinal < self.replicas if self.daemons is None else ordinal in self.daemons


@dataclass(frozen=True, slots=True)
class Failures:
    """How often one slot failed, when last (on our boot clock), where and why. `count` leaves out failures that nobody
    is to blame for; `tries` has all since something changed for the better."""

    count: int
    last_s: float
    reasons: tuple[str, ...] = ()
    nodes: tuple[NodeId, ...] = ()
    tries: int = 0
    blamed: int = 0
    """Failures that the replica itself is to blame for."""
    runs_s: float | None = None
    """Since when it runs after all (on our boot clock); None while nobody said so since the last failure."""

    @property
    def pause_s(self) -> float:
        """How long to wait before the next try."""
        return max(backoff_s(self.count), min(BLAMELESS_MAX_S, backoff_s(self.tries)))


@dataclass(frozen=True, slots=True)
class Observed:
    """What is. `replicas` come from nodes that are alive; `starting` are slots with a task outstanding; `finished`
    are slots of a pod that runs once and has; `unripe` are (node, task id) of replicas that are ready, but have not
    been so for long enough to count as available; `in_vain` says of a slot whose last task nobody took when that one
    was published (on our boot clock)."""

    replicas: tuple[ReplicaReport, ...] = ()
    starting: frozenset[Slot] = frozenset()
    failures: Mapping[Slot, Failures] = field(default_factory=dict)
    finished: frozenset[Slot] = frozenset()
    unripe: frozenset[tuple[NodeId, str]] = frozenset()
    in_vain: Mapping[Slot, float] = field(default_factory=dict)

    @property
    def existing(self) -> frozenset[Slot]:
        """Slots that take up room, or will: what ended does not."""
        there = {(each.revision, each.replica) for each in self.replicas if each.phase not in ("Succeeded", "Failed")}
        return self.starting | there

    def turn_of(self, slot: Slot) -> float:
        """Slots start in ascending order of this: what was tried in vain goes last, the most lately of all. So
        those that no node takes now keep none from starting that one would take."""
        return self.in_vain.get(slot, float("-inf"))

    def is_available(self, report: ReplicaReport) -> bool:
        """Whether a replica is ready and has been so for long enough."""
        return report.ready and (report.node_id, report.task_id) not in self.unripe


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Publish a task for this slot."""

    revision: int
    replica: int
    attempt: int = 1
    avoid: tuple[NodeId, ...] = ()
    """Nodes that run other ordinals."""
    failed: tuple[NodeId, ...] = ()
    """Nodes where this slot failed."""
    towards: str = ""
    """The name of the one node that is to take it; empty for whichever does."""


@dataclass(frozen=True, slots=True)
class StopReplicaAction:
    """Have `report`'s node stop it. Of duplicates, `instead` is the one that stays."""

    report: ReplicaReport
    reason: StopReason
    instead: ReplicaReport | None = None
    grace_s: int | None = None
    """Seconds between asking it to end and ending it; None where nobody says."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for this slot before `until_s`; `exhausted` when all attempts failed."""

    revision: int
    replica: int
    until_s: float
    reasons: tuple[str, ...]
    attempts: int = 0
    exhausted: bool = False


Action = StartReplica | StopReplicaAction | Wait


def plan(declared: Declared, observed: Observed, now_s: float, max_attempts: int) -> tuple[Action, ...]:
    """The next steps; none when all is as wanted, or in progress."""
    if declared.gone:
        return tuple(StopReplicaAction(each, "deleted") for each in observed.replicas if each.phase != "Terminating")
    return _Plan(declared, observed, now_s, max_attempts).actions()


def is_settled(declared: Declared, observed: Observed) -> bool:
    """Whether exactly the wanted replicas run and are available, and nothing else is there."""
    working = [each for each in observed.replicas if each.phase == "Running" and observed.is_available(each)]
    ready = {(each.revision, each.replica) for each in working}
    wanted = {(declared.revision, ordinal) for ordinal in declared.ordinals} - observed.finished
    running = [each for each in observed.replicas if each.phase not in ("Succeeded", "Failed")]
    return not observed.starting and ready == wanted and len(running) == len(wanted)


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures."""
    return min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0 ** (min(max(failures, 1), 10) - 1))


class _Plan:
    """One look at one workload."""

    def __init__(self, declared: Declared, observed: Observed, now_s: float, max_attempts: int) -> None:
        self.declared = declared
        self.observed = observed
        self.now_s = now_s
        self.max_attempts = max_attempts
        self.ordinals = declared.ordinals
        self.leaving = [each for each in observed.replicas if each.phase == "Terminating"]
        self.done = {slot for slot in observed.finished if slot[0] == declared.revision}
        self.active: dict[Slot, list[ReplicaReport]] = {}
        self.stops: list[StopReplicaAction] = []
        self._sort_out()
        self._at: dict[int, list[ReplicaReport]] = {}
        """What is active, by ordinal."""
        for slot, (report,) in self.active.items():
            self._at.setdefault(slot[1], []).append(report)
        going = (*self.leaving, *(stop.report for stop in self.stops))
        self._going = {(each.revision, each.replica) for each in going}

    def _sort_out(self) -> None:
        """Put aside what has to go in any case; `active` keeps at most one report of a slot."""
        for report in sorted(self.observed.replicas, key=lambda each: (each.replica, each.revision, each.node_id)):
            slot = (report.revision, report.replica)
            if report.phase == "Terminating":
                continue
            if not self.declared.wants(report.replica):
                self.stops.append(StopReplicaAction(report, "surplus"))
            elif self._is_complete(report):
                if report.revision == self.declared.revision:
                    self.done.add(slot)
                else:
                    self.stops.append(StopReplicaAction(report, "outdated"))
            elif report.phase in ("Failed", "Succeeded"):
                self.stops.append(StopReplicaAction(report, "failed"))
            else:
                self.active.setdefault(slot, []).append(report)
        for slot, reports in self.active.items():
            self.active[slot] = [self._settle(reports)]

    def _settle(self, reports: list[ReplicaReport]) -> ReplicaReport:
        """The one of equal replicas that counts. The others stop, but none that runs stops for one that
        does not yet: that one may never come so far, for it may be waiting for the lease of the very one that runs."""
        running = [each for each in reports if each.phase == "Running"]
        stays = max(reports, key=lambda each: each.order)
        if running and stays.phase != "Running":
            return max(running, key=lambda each: each.order)
        if not self.declared.exclusive:
            stays = self._serving(stays, running)
        self.stops += [StopReplicaAction(each, "duplicate", instead=stays) for each in reports if each is not stays]
        return stays

    @staticmethod
    def _serving(stays: ReplicaReport, running: list[ReplicaReport]) -> ReplicaReport:
        """Nor does one that is ready stop for one that is not, and may never be: a move that was not done in its time
        would end what served."""
        peers = [each for each in running if each.ready and each.tentative == stays.tentative]
        return stays if stays.ready or not peers else max(peers, key=lambda each: each.order)

    def _is_complete(self, report: ReplicaReport) -> bool:
        """Whether a pod that is not to run always has come to its end."""
        policy = self.declared.restart_policy
        if self.declared.kind == "Job":
            return report.phase == "Succeeded"
        if report.phase == "Succeeded":
            return policy != "Always"
        return report.phase == "Failed" and policy == "Never"

    def actions(self) -> tuple[Action, ...]:
        """All steps, stops first."""
        if self.declared.kind == "Job":
            steps = list(self._work_off())
        elif self.declared.paused:
            steps = list(self._stand_still())
        elif self.declared.strategy.type == "Recreate" or self.declared.kind == "Pod":
            steps = list(self._recreate())
        else:
            steps = list(self._roll())
        return (*self.stops, *steps)

    # --- the two strategies -----------------------------------------------------------------------------------------

    def _stand_still(self) -> Iterator[Action]:
        """Paused: what is there stays as it is, of whichever revision, and what is missing altogether is started."""
        if not self.declared.base:
            return
        taken = {slot[1] for slot in (*self.active, *self.observed.starting, *self.done)}
        taken |= {each.replica for each in self.leaving}
        taken |= {stop.report.replica for stop in self.stops}
        missing = [ordinal for ordinal in self.ordinals if ordinal not in taken]
        yield from self._start_each(self.declared.base, missing, STARTING_MAX)

    def _recreate(self) -> Iterator[Action]:
        """Everything old goes before anything new comes."""
        revision = self.declared.revision
        old = [report for slot, (report,) in self.active.items() if slot[0] != revision]
        yield from (StopReplicaAction(each, "outdated") for each in old)
        going = [each for each in self.leaving if each.revision != revision]
        going += [stop.report for stop in self.stops if stop.report.revision != revision]
        if not old and not going and all(slot[0] == revision for slot in self.observed.starting):
            yield from self._starts(room=STARTING_MAX)

    def _work_off(self) -> Iterator[Action]:
        """A Job: so many at a time, each ordinal until it succeeded."""
        if self.declared.over:
            yield from (StopReplicaAction(report, "over") for (report,) in self.active.values())
            return
        busy = len(self.active) + len(self._ending()) + len(self._starting_unseen())
        yield from self._starts(room=self.declared.parallelism - busy)

    def _roll(self) -> Iterator[Action]:
        """Each ordinal in turn, within surge and unavailability."""
        declared, strategy = self.declared, self.declared.strategy
        unavailable = max(strategy.max_unavailable, 1) if declared.exclusive else strategy.max_unavailable
        surge = 0 if declared.exclusive else strategy.max_surge if strategy.max_surge or unavailable else 1
        yield from self._stop_outdated(unavailable)
        if declared.daemons is not None:
            yield from self._start_daemons(surge)
            return
        existing = len(self.observed.replicas) - self._finished_reports() + len(self._starting_unseen())
        yield from self._starts(room=declared.replicas + surge - existing)

    def _start_daemons(self, surge: int) -> Iterator[Action]:
        """A node's daemon starts once nothing of it is there any more; beside an old one on `surge` nodes at a time."""
        revision = self.declared.revision
        there = Counter(each.replica for each in self.observed.replicas)
        there.update(ordinal for _, ordinal in self._starting_unseen())
        empty = [ordinal for ordinal in self.ordinals if self._is_empty((revision, ordinal))]
        yield from self._start_each(revision, [ordinal for ordinal in empty if not there[ordinal]], STARTING_MAX)
        doubled = sum(there[ordinal] > 1 for ordinal in self.ordinals)
        beside = [ordinal for ordinal in empty if there[ordinal] == 1 and self._olds(ordinal)]
        yield from self._start_each(revision, beside, surge - doubled)

    def _stop_outdated(self, unavailable: int) -> Iterator[Action]:
        """Old replicas whose successor is ready, and such as may be missing for a while. Where more than that do not
        work, nothing is lost with one of these; but so many at a time, for they may recover, and a bad revision is not
        to have taken the place of all by then. What a quota holds back is missing anyway."""
        most_missing = self.declared.held + unavailable
        least_available = self.declared.replicas - most_missing
        available = sum(1 for ordinal in self.ordinals if self._is_available(ordinal))
        missing = sum(1 for each in self.ordinals if not self._is_available(each) and not self._kept_old(each))
        at_once = self._is_proven_on_a_node()
        for ordinal in self.ordinals:
            new = self.active.get((self.declared.revision, ordinal))
            olds = self._olds(ordinal)
            if new and self.observed.is_available(new[0]):
                yield from (StopReplicaAction(each, "outdated") for each in olds)
                continue
            # What is still on its way serves nobody, and the lease it was won by keeps its successor waiting; of
            # several generations only the newest that works is worth keeping.
            keep = self._kept_old(ordinal)
            yield from (StopReplicaAction(each, "outdated") for each in olds if each is not keep)
            if keep is None or unavailable == 0:
                continue
            cost = 1 if self.observed.is_available(keep) else 0
            may_be_missing = at_once or missing < most_missing
            if available - cost >= least_available or (may_be_missing and not keep.ready):
                available -= cost
                missing += 1
                yield StopReplicaAction(keep, "outdated")

    def _kept_old(self, ordinal: int) -> ReplicaReport | None:
        """Of the old replicas of an ordinal the one that may stay until its successor is ready."""
        started = (each for each in self._olds(ordinal) if each.phase != "Pending")
        return max(started, key=lambda each: (each.ready, each.revision), default=None)

    def _is_proven_on_a_node(self) -> bool:
        """Whether the new revision of a DaemonSet works somewhere: what keeps it from working on one node says nothing
        of the others, so it need not work there before it comes to those where the old one does not."""
        news = (each for slot, (each,) in self.active.items() if slot[0] == self.declared.revision)
        return self.declared.daemons is not None and any(map(self.observed.is_available, news))

    def _starts(self, room: int) -> Iterator[Action]:
        """Tasks for empty slots."""
        revision = self.declared.revision
        empty = [ordinal for ordinal in self.ordinals if self._is_empty((revision, ordinal))]
        if self.declared.exclusive:
            ending = {each.replica for each in self._ending()}
            empty = [ordinal for ordinal in empty if not self._olds(ordinal) and ordinal not in ending]
        yield from self._start_each(revision, empty, room)

    def _start_each(self, revision: int, ordinals: Iterable[int], room: int) -> Iterator[Action]:
        """Each in its turn; of equal ones those with no replica at all come first, and then the lowest ordinal."""
        room = min(room, STARTING_MAX - len(self.observed.starting))
        failing = False
        turns = sorted((self.observed.turn_of((revision, each)), bool(self._olds(each)), each) for each in ordinals)
        for _, replaces, ordinal in turns:
            slot = (revision, ordinal)
            if failing and replaces:
                continue  # a revision that fails must not be tried on every ordinal in turn
            wait = self._must_wait(slot)
            if wait is not None:
                yield wait
                failing = True
            elif room > 0:
                room -= 1
                failures = self.observed.failures.get(slot, Failures(0, self.now_s))
                siblings = tuple(self._siblings_of(ordinal))
                yield StartReplica(revision, ordinal, failures.count + 1, siblings, failures.nodes)

    # --- what is there ----------------------------------------------------------------------------------------------

    def _olds(self, ordinal: int) -> list[ReplicaReport]:
        return [each for each in self._at.get(ordinal, ()) if each.revision != self.declared.revision]

    def _is_available(self, ordinal: int) -> bool:
        return any(self.observed.is_available(each) for each in self._at.get(ordinal, ()))

    def _ending(self) -> list[ReplicaReport]:
        """What still runs, but not for long."""
        stopped = (stop.report for stop in self.stops)
        return [*self.leaving, *(each for each in stopped if each.phase not in ("Failed", "Succeeded"))]

    def _is_empty(self, slot: Slot) -> bool:
        taken = slot in self.active or slot in self.done or slot in self.observed.starting
        return not taken and slot not in self._going

    def _starting_unseen(self) -> set[Slot]:
        """Slots with a task of which no node reports a pod yet."""
        return {slot for slot in self.observed.starting if slot not in self.active}

    def _finished_reports(self) -> int:
        return sum(1 for each in self.observed.replicas if each.phase in ("Succeeded", "Failed"))

    def _must_wait(self, slot: Slot) -> Wait | None:
        failures = self.observed.failures.get(slot)
        if failures is None or failures.count == 0:
            return None
        # A Job has a limit of its own, over all its pods.
        exhausted = failures.count >= self.max_attempts and self.declared.kind != "Job"
        pause_s = EXHAUSTED_RETRY_S if exhausted else failures.pause_s
        if exhausted and self.declared.restart_policy != "Always":
            pause_s = float("inf")
        until_s = failures.last_s + pause_s
        if self.now_s >= until_s:
            return None
        return Wait(*slot, until_s, failures.reasons, failures.count, exhausted)

    def _siblings_of(self, ordinal: int) -> Iterable[NodeId]:
        if self.declared.daemons is not None:
            return ()  # one node alone may take it
        return sorted(reports[0].node_id for slot, reports in self.active.items() if slot[1] != ordinal)
