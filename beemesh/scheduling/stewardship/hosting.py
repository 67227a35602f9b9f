"""What a steward knows of one workload that it hosts, or may have to: reports, failures, who holds the lease."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import msgspec

from beemesh.effects import Notify, Now
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId, digest_of
from beemesh.scheduling.messages import Event, EventStatus, LeaseProof, Task
from beemesh.scheduling.stewardship.surroundings import takes_turns
from beemesh.scheduling.telling import (
    FINAL,
    FINISHED,
    RETRYABLE,
    TARGET,
    Teller,
    is_of_another,
    revision_told_of,
)
from beemesh.workloads.backoff import STEADY_S
from beemesh.workloads.care import DEFAULT_GRACE_S
from beemesh.workloads.daemons import DAEMON_SET, may_have, ordinal_of
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.reconciler import Declared, Failures, Observed, Slot
from beemesh.workloads.record import Workload
from beemesh.workloads.rollout import Rollout, Verdict, is_same, mark_of

LOST_REVISION = 0
"""Stands for a revision whose record lost against another of the same number; real ones count from 1."""

TAKERS_MAX = 4
"""Nodes that are remembered to have had a slot, the latest: its task may have gone from one to the next."""

REASONS_KEPT = 10
"""Reasons of failures that are remembered of one replica: as many attempts as anybody allows, for a person to read."""

STOP_AGAIN_S = 10.0
"""A stop that was ordered is not ordered again before."""

STOP_SEEN_S = 30.0
"""So long after its time to end a replica that is being stopped counts as gone, although it may be listed still: its
runtime may fail to remove it for ever."""

CLOCKS_MS = 60_000
"""How far an operator's clock may be ahead of a node's: what was told earlier belongs to a job of before."""

PENDING_REPEAT_S = 60.0
"""Why a replica is pending is told again so often while it does not change."""

NEWCOMER_S = 6.0
"""So long at most what a node that came may be running is not started elsewhere before it has said what it runs: as
long as one that is silent at a takeover is waited for."""

FLAP_S = 60.0
"""A node that comes again within so long has only what it left of that time: one that comes and goes holds nothing up
for ever."""


@dataclass(slots=True)
class Hosted:
    """One workload as this node knows it. `workload` is None once it was deleted."""

    workload_id: str
    workload: Workload | None
    record: Signed
    proof: LeaseProof | None = None
    """Of the steward lease, while this node holds it."""
    claiming: bool = False
    holder: NodeId | None = None
    fresh: bool = False
    """Nobody can run anything of it yet: a new record, signed a moment ago."""
    saw_all: bool = False
    """It was such a one when this node began to hear of it."""
    takers: dict[Slot, dict[NodeId, str]] = field(default_factory=dict)
    """Who was heard to have, or listed, a slot, and by which task; the latest last."""
    doubted: dict[NodeId, Event] = field(default_factory=dict)
    """What keepers told last of the whole workload that were not known to hold the lease."""
    reports: dict[NodeId, tuple[ReplicaReport, ...]] = field(default_factory=dict)
    """What each node said that it runs of this workload."""
    unknown: dict[NodeId, int] = field(default_factory=dict)
    """Of those that were alive when the lease was taken the ones that have not said so since, and how often they were
    asked: before they have, or stay silent, nothing is concluded."""
    unheard: dict[NodeId, float] = field(default_factory=dict)
    """Nodes that came later and have not said so → until when their word is waited for (on our boot clock)."""
    patience: dict[NodeId, tuple[float, float]] = field(default_factory=dict)
    """Node → when it first came of late, and for how many seconds its word may still be waited for."""
    asked: dict[NodeId, int] = field(default_factory=dict)
    """Open questions: node → request id."""
    silent: set[NodeId] = field(default_factory=set)
    """Live nodes that did not answer the last question: they may run what nobody knows of."""
    newcomers: set[NodeId] = field(default_factory=set)
    """Nodes that came lately, and have not been handed what nobody has taken yet."""
    failures: dict[Slot, Failures] = field(default_factory=dict)
    finished: set[Slot] = field(default_factory=set)
    in_vain: dict[Slot, float] = field(default_factory=dict)
    """Slots whose last task nobody took, and when it was published, or that a quota refused, and when."""
    told: dict[Slot, tuple[str, float]] = field(default_factory=dict)
    """The reason that was last given for a pending slot, and when."""
    stops: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """(node, task id) → when its stop was ordered."""
    gone_s: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """(node, task id) of what is being stopped → from when on it counts as gone."""
    exhausted: set[Slot] = field(default_factory=set)
    rollout: Rollout = field(default_factory=Rollout)
    daemons: dict[int, str] | None = None
    """Of a DaemonSet: ordinal → name of each node that is to have one."""
    over: str = ""
    """How a Job ended, by the status of the event that told it."""
    ran: set[Slot] = field(default_factory=set)
    """Slots that ran while we watched, or that did before we took over: another start of theirs is a repair."""
    waits_since_s: float | None = None
    """Since when it only waits (on our boot clock); None while something happens, or all is as wanted."""
    over_quota: bool = False
    """Whether a quota leaves no room for all of its replicas."""
    ready_s: dict[tuple[NodeId, str], float] = field(default_factory=dict)
    """(node, task id) → since when it is known to be ready without a break."""

    @property
    def hosting(self) -> bool:
        """Whether this node holds the steward lease."""
        return self.proof is not None

    @property
    def tentative(self) -> bool:
        """Whether no majority granted that lease."""
        return self.proof is not None and self.proof.tentative

    @property
    def may_roll_back(self) -> bool:
        """Whether the operator lets a failed revision be taken back."""
        return self.workload is not None and self.workload.strategy.rollback == "auto"

    def renew(self, workload: Workload | None, record: Signed, boot_s: float) -> None:
        """Another record stands: what failed before has a new chance."""
        before = self.workload
        if workload is not None:
            self.rollout.renew(before, workload, boot_s)
        self.workload, self.record = workload, record
        self.failures.clear()
        self.in_vain.clear()
        self.told.clear()
        self.exhausted.clear()
        self.ran.clear()
        self.takers = {slot: takers for slot, takers in self.takers.items() if self._is_of_record(*slot)}
        self.over = ""
        same = before is not None and workload is not None and is_same(before.current, workload.current)
        self.finished = self.finished if same else set()

    def lose(self) -> None:
        """The lease is gone; what was observed is soon stale."""
        self.proof = None
        self.claiming = False
        self.fresh = False
        self.reports.clear()
        self.unknown.clear()
        self.unheard.clear()
        self.patience.clear()
        self.asked.clear()
        self.silent.clear()
        self.newcomers.clear()
        self.stops.clear()
        self.ready_s.clear()
        self.gone_s.clear()
        self.waits_since_s = None

    def tell(
        self,
        tell: Teller,
        status: EventStatus,
        slot: Slot,
        now: Now,
        reason: str,
        details: dict[str, str],
        task_id: str = "",
    ) -> Notify:
        """Say what happened to one of its replicas, as the one who hosts it."""
        namespace = self.workload.namespace if self.workload else ""
        subject = {"task_id": task_id, "workload_id": self.workload_id, "namespace": namespace}
        return tell.about(status, now, reason, details, **subject, revision=slot[0], replica=slot[1])

    def takes_turns(self) -> bool:
        """Whether its replicas are placed one after the other."""
        return self.workload is not None and takes_turns(self.workload.constraints, self.workload.pod_labels)

    def declared(self, observed: Observed) -> Declared:
        """What is wanted, given what is: a rollout that failed is taken back."""
        if self.workload is None:
            return Declared("", 0, 0, gone=True)
        base = self.rollout.base(self.workload, observed.replicas) if self.workload.strategy.paused else 0
        declared = Declared.of(self.workload, self.rollout.target(self.workload), base, self.daemons)
        return replace(declared, over=True) if self.over else declared

    def observed(self, starting: Iterable[Slot], is_alive: Callable[[NodeId], bool], boot_s: float) -> Observed:
        """What is, as far as nodes that are alive have said."""
        replicas = [report for node_id, reports in self.reports.items() if is_alive(node_id) for report in reports]
        if self.daemons is not None:  # no node speaks for another's
            replicas = [each for each in replicas if each.replica == ordinal_of(each.node_id)]
        replicas = [self._numbered(report) for report in self._without_stuck(replicas, boot_s)]
        self.ran |= {(each.revision, each.replica) for each in replicas if each.phase == "Running"}
        for each in replicas:
            if each.ready:
                self._runs((each.revision, each.replica), boot_s)
        for slot in tuple(self.failures):
            self._forget(slot, boot_s)
        self.in_vain = {slot: at_s for slot, at_s in self.in_vain.items() if self._is_of_record(*slot)}
        return Observed(
            tuple(replicas),
            frozenset(starting),
            dict(self.failures),
            frozenset(self.finished),
            self._unripe(replicas, boot_s),
            dict(self.in_vain),
        )

    def _without_stuck(self, replicas: list[ReplicaReport], boot_s: float) -> list[ReplicaReport]:
        """Without those whose stop does not come to an end: where a replica may be doubled, they keep no other from
        starting. Of a DaemonSet no other node could have it."""
        listed = {(each.node_id, each.task_id) for each in replicas}
        self.gone_s = {who: at_s for who, at_s in self.gone_s.items() if who in listed}
        for each in replicas:
            if each.phase == "Terminating":
                self.gone_s.setdefault((each.node_id, each.task_id), boot_s + DEFAULT_GRACE_S + STOP_SEEN_S)
        if self.workload is None or not self.workload.duplicate_tolerant or self.workload.kind == DAEMON_SET:
            return replicas
        gone = {who for who, at_s in self.gone_s.items() if boot_s >= at_s}
        return [each for each in replicas if each.phase != "Terminating" or (each.node_id, each.task_id) not in gone]

    def stuck_on(self, boot_s: float) -> tuple[NodeId, ...]:
        """Nodes that do not get rid of a replica: there its successor would have to wait for that."""
        return tuple(dict.fromkeys(node_id for (node_id, _), at_s in self.gone_s.items() if boot_s >= at_s))

    def ordered(self, report: ReplicaReport, grace_s: int | None, boot_s: float) -> bool:
        """A stop is ordered; whether for the first time."""
        who = (report.node_id, report.task_id)
        is_news = who not in self.stops
        self.stops[who] = boot_s
        ends_s = 0 if report.phase in ("Failed", "Succeeded") else DEFAULT_GRACE_S if grace_s is None else grace_s
        self.gone_s.setdefault(who, boot_s + ends_s + STOP_SEEN_S)
        return is_news

    def _is_of_record(self, revision: int, replica: int) -> bool:
        """Whether the record has such a slot, as far as is known: anybody may name any, and is not to fill the memory.
        Of a DaemonSet only its host knows the ordinals."""
        if self.workload is None or self.workload.covering(revision) is None:
            return False
        if self.workload.kind == DAEMON_SET:
            return self.daemons is None or replica in self.daemons
        return 0 <= replica < self.workload.replicas

    def _is_told_of(self, event: Event) -> bool:
        """Whether an event is about a replica that the record has, and that its author may have."""
        mine = self.workload is not None and may_have(self.workload, event.replica, event.node_id)
        return mine and self._is_of_record(event.revision, event.replica)

    def taken(self, slot: Slot, node_id: NodeId, task_id: str) -> None:
        """A node was heard to have, or listed, a task of a slot."""
        if self._is_of_record(*slot):
            takers = self.takers.setdefault(slot, {})
            takers.pop(node_id, None)
            takers[node_id] = task_id
            while len(takers) > TAKERS_MAX:
                del takers[next(iter(takers))]

    def listed(self, node_id: NodeId, reports: tuple[ReplicaReport, ...]) -> None:
        """A node said what it runs."""
        self.reports[node_id] = reports
        for each in reports:
            self.taken((each.revision, each.replica), node_id, each.task_id)

    def is_named_by(self, task: Task) -> bool:
        """Whether a task names the very record that stands, and a replica of it."""
        kind = self.workload.kind if self.workload is not None else ""
        named = task.kind == kind and task.record_digest == digest_of(self.record.body)
        return named and self._is_of_record(task.revision, task.replica)

    def _unripe(self, replicas: Iterable[ReplicaReport], boot_s: float) -> frozenset[tuple[NodeId, str]]:
        """Those that are ready for too short a time to count as available."""
        ready = [(each.node_id, each.task_id) for each in replicas if each.ready]
        self.ready_s = {who: self.ready_s.get(who, boot_s) for who in ready}
        least_s = self.workload.strategy.min_ready_s if self.workload else 0
        return frozenset(who for who, since_s in self.ready_s.items() if boot_s - since_s < least_s)

    def _numbered(self, report: ReplicaReport) -> ReplicaReport:
        """The report under the number that its revision bears by now. Two operators may have made one number at once:
        what runs of the record that lost is outdated."""
        revision = self.workload.covering(report.revision) if self.workload else None
        if revision is None or (report.revision == revision.number and report.is_of(revision)):
            return report
        number = revision.number if report.is_of(revision) else LOST_REVISION
        return msgspec.structs.replace(report, revision=number)

    def remember(self, event: Event, boot_s: float) -> None:
        """What became of one replica before this node knew of the workload: the pods of a Job are counted to its end.
        Each event counts once, then or when it comes."""
        is_job = self.workload is not None and self.workload.kind == "Job"
        if self.workload is not None and is_job and event.issued_ms >= self.workload.created_ms - CLOCKS_MS:
            self.told_of(event, boot_s)

    def take_over(self) -> None:
        """We host it from now on, not as the first."""
        if self.workload is not None and self.rollout.complete:
            self.ran = {(self.workload.current.number, replica) for replica in range(self.workload.replicas)}

    def recall(self, event: Event) -> None:
        """Something that the steward of its time told of a rollout."""
        revision = revision_told_of(event, self.workload) if self.workload is not None else None
        if self.workload is None or revision is None:
            return
        if self.workload.kind == "Job":
            self.over = self.over or event.status
        elif event.status == "RolledOut":
            self.rollout.completed(event.revision, self.workload.current)
        elif (
            event.status == "RolledBack"
            and event.revision == self.workload.current.number
            and not self.rollout.complete
        ):
            to = event.details.get(TARGET, "")
            reason = event.details.get("message", "")
            self.rollout.verdict = Verdict(event.revision, mark_of(revision), reason, int(to) if to.isdigit() else 0)

    def told_of(self, event: Event, boot_s: float) -> None:
        """Something happened to one of its replicas."""
        if self.workload is None or is_of_another(event, self.workload) or not self._is_told_of(event):
            return
        slot = (event.revision, event.replica)
        if event.status == "Failed" and FINAL not in event.details:
            self._failed(slot, event, boot_s)
        elif event.status == "Cancelled":
            self._failed(slot, event, boot_s, counts=False)
        elif event.status == "Stopped" and FINISHED in event.details:
            if self.workload.restart_policy != "Always":
                self.finished.add(slot)
        elif event.status == "Deployed":
            self.told.pop(slot, None)
            self.in_vain.pop(slot, None)
            self._runs(slot, boot_s)

    def deployed(self, event: Event) -> None:
        """A pod runs on a node; that is all that is known of it until the node lists it."""
        fence = event.details.get("fence", "")
        report = ReplicaReport(
            pod=event.details.get("pod", ""),
            workload_id=event.workload_id,
            namespace=event.namespace,
            kind=self.workload.kind if self.workload else "",
            revision=event.revision,
            replica=event.replica,
            node_id=event.node_id,
            phase="Pending",
            task_id=event.task_id,
            fence=int(fence) if fence.isdigit() else 0,
            tentative=event.details.get("tentative") == "true",
        )
        others = tuple(each for each in self.reports.get(event.node_id, ()) if each.task_id != event.task_id)
        self.reports[event.node_id] = (*others, report)
        # An answer that is under way may have been given before the pod was there.
        self.asked.pop(event.node_id, None)

    def came(self, node_id: NodeId, boot_s: float) -> None:
        """A node came, or came back; it may run what nobody here knows of."""
        self.newcomers.add(node_id)
        self.patience = {who: kept for who, kept in self.patience.items() if boot_s - kept[0] < FLAP_S}
        _, left_s = self.patience.setdefault(node_id, (boot_s, NEWCOMER_S))
        if left_s > 0 and node_id not in self.unknown and node_id not in self.unheard:
            self.unheard[node_id] = boot_s + left_s

    def waits_no_more(self, node_id: NodeId, boot_s: float) -> None:
        """A node that came has said what it runs, or is gone again."""
        self.unknown.pop(node_id, None)
        until_s = self.unheard.pop(node_id, None)
        if until_s is not None and node_id in self.patience:
            self.patience[node_id] = (self.patience[node_id][0], max(0.0, until_s - boot_s))

    def wait_for_words(self, boot_s: float) -> None:
        """Whose word has been waited for long enough is not waited for any more."""
        for node_id in [node_id for node_id, until_s in self.unheard.items() if boot_s >= until_s]:
            self.waits_no_more(node_id, boot_s)

    def runners(self) -> set[NodeId]:
        """Nodes that run something of the workload."""
        return {node_id for node_id, reports in self.reports.items() if reports}

    def _runs(self, slot: Slot, boot_s: float) -> None:
        """What failed before runs now. Who does not host it hears no more of it than that it was deployed."""
        failures = self.failures.get(slot)
        if failures is not None and failures.runs_s is None:
            self.failures[slot] = replace(failures, runs_s=boot_s)

    def _forget(self, slot: Slot, boot_s: float) -> None:
        """What has run for so long without another failure begins with a clean sheet when it has to start again. The
        pods of a Job are counted to its end."""
        failures, is_job = self.failures.get(slot), self.workload is not None and self.workload.kind == "Job"
        if is_job or failures is None or failures.runs_s is None or boot_s - failures.runs_s < STEADY_S:
            return
        del self.failures[slot]
        self.exhausted.discard(slot)

    def _failed(self, slot: Slot, event: Event, boot_s: float, *, counts: bool = True) -> None:
        self._forget(slot, boot_s)
        before = self.failures.get(slot, Failures(0, boot_s))
        message = event.details.get("message", "")
        reason = f"{event.reason}: {message}" if message else event.reason
        blamed = counts and RETRYABLE not in event.details
        self.in_vain.pop(slot, None)  # somebody took it: from now on the pause after a failure says when its turn is
        self.failures[slot] = Failures(
            # A failure that is nobody's fault delays the next try, and leaves the count at one at most.
            count=before.count + 1 if blamed else max(1, before.count),
            last_s=boot_s,
            reasons=(*before.reasons, reason)[-REASONS_KEPT:],
            nodes=tuple(dict.fromkeys((*before.nodes, event.node_id)))[-REASONS_KEPT:],
            tries=before.tries + 1,
            blamed=before.blamed + blamed,
        )

    def hope(self) -> None:
        """A member came: what failed for want of others is tried again soon."""
        self.failures = {slot: replace(failures, tries=0) for slot, failures in self.failures.items()}

    def may_stop(self, report: ReplicaReport, boot_s: float) -> bool:
        """Whether a stop may be ordered (again)."""
        return boot_s - self.stops.get((report.node_id, report.task_id), float("-inf")) >= STOP_AGAIN_S

    def should_tell(self, slot: Slot, reason: str, boot_s: float) -> bool:
        """Whether a pending slot's reason is news; notes it if so."""
        before, when_s = self.told.get(slot, ("", float("-inf")))
        if before == reason and boot_s - when_s < PENDING_REPEAT_S:
            return False
        self.told[slot] = (reason, boot_s)
        return True
