"""Rollouts: verdicts, and a random walk of a dumb world in which a revision is good, or is not."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.ids import Digest, NodeId
from beemesh.workloads.observation import ContainerReport, ReplicaReport
from beemesh.workloads.reconciler import (
    Declared,
    Failures,
    Observed,
    StartReplica,
    StopReplicaAction,
    is_settled,
    plan,
)
from beemesh.workloads.record import Revision, Sealing, Strategy, Workload
from beemesh.workloads.resolve import resolve
from beemesh.workloads.rollout import Rollout
from beemesh.workloads.validation import check
from tests.unit.workloads.samples import deployment

NODES = [NodeId(bytes([number]) * 32) for number in range(1, 6)]
ATTEMPTS = 3


def revision(number: int) -> Revision:
    """A sealed revision."""
    return Revision(number, Digest(bytes([number]) * 32), 1, Sealing("shamir", 1, 1, (), b"c"), (), b"f")


def wanted(*numbers: int, replicas: int = 3, strategy: Strategy | None = None) -> Workload:
    """A record with these revisions, newest first."""
    revisions = tuple(revision(number) for number in numbers)
    return Workload("Deployment", "default", "hello", replicas, revisions, strategy=strategy or Strategy())


def pod(number: int, replica: int, *, ready: bool = True, node: int = 0, restarts: int = 0) -> ReplicaReport:
    """A replica of a revision."""
    return ReplicaReport(
        pod=f"hello-{number}-{replica}",
        workload_id="deployment/default/hello",
        namespace="default",
        kind="Deployment",
        revision=number,
        replica=replica,
        node_id=NODES[node],
        phase="Running",
        ready=ready,
        task_id=f"{number}-{replica}-{node}",
        containers=(ContainerReport("web", restarts=restarts, reason="CrashLoopBackOff" if restarts else ""),),
    )


def begun(*numbers: int, strategy: Strategy | None = None) -> tuple[Workload, Rollout]:
    """A rollout of the first revision that was just begun, after the second one was complete."""
    before, after = wanted(*numbers[1:], strategy=strategy), wanted(*numbers, strategy=strategy)
    rollout = Rollout(begun=True, complete=True)
    rollout.renew(before, after, 100.0)
    return after, rollout


def test_exhausted_attempts_are_a_verdict() -> None:
    """As many failures as attempts are allowed end it, one fewer does not; and the verdict is news once."""
    workload, rollout = begun(2, 1)
    olds = tuple(pod(1, replica) for replica in range(3))
    few = Observed(olds, failures={(2, 0): Failures(2, 100.0, ("ImageNotFound: x",))})
    all_ = Observed(olds, failures={(2, 0): Failures(3, 100.0, ("ImageNotFound: x",))})

    assert rollout.judge(workload, few, 101.0, ATTEMPTS) is None
    verdict = rollout.judge(workload, all_, 101.0, ATTEMPTS)
    assert verdict is not None
    assert (verdict.revision, verdict.target) == (2, 1)
    assert "ImageNotFound: x" in verdict.reason
    assert rollout.judge(workload, all_, 102.0, ATTEMPTS) is None
    assert rollout.target(workload) == 1


def test_crashes_are_a_verdict() -> None:
    """A container that crashes as often as attempts are allowed, and is not ready, fails the rollout."""
    workload, rollout = begun(2, 1)

    assert rollout.judge(workload, Observed((pod(2, 0, ready=False, restarts=2),)), 101.0, ATTEMPTS) is None
    assert rollout.judge(workload, Observed((pod(2, 0, restarts=9),)), 101.0, ATTEMPTS) is None
    verdict = rollout.judge(workload, Observed((pod(2, 0, ready=False, restarts=3),)), 101.0, ATTEMPTS)
    assert verdict is not None
    assert "CrashLoopBackOff" in verdict.reason


def test_the_deadline_counts_from_the_last_progress() -> None:
    """Each further available replica, and each old one that is gone, gives the rollout its whole time again."""
    workload, rollout = begun(2, 1, strategy=Strategy(progress_deadline_s=60))
    olds = tuple(pod(1, replica) for replica in range(3))
    rollout.observe(workload, Observed(olds), 101.0)
    rollout.observe(workload, Observed((*olds, pod(2, 0))), 150.0)
    assert rollout.judge(workload, Observed((*olds, pod(2, 0))), 209.0, ATTEMPTS) is None
    rollout.observe(workload, Observed((*olds[1:], pod(2, 0))), 209.0)
    assert rollout.judge(workload, Observed((*olds[1:], pod(2, 0))), 268.0, ATTEMPTS) is None
    assert rollout.judge(workload, Observed((*olds[1:], pod(2, 0))), 270.0, ATTEMPTS) is not None


def test_what_quotas_hold_back_says_nothing_of_a_revision() -> None:
    """With all that they admit it is complete, or has time without end while an old replica has to stay."""
    workload, olds, news = wanted(2, 1, replicas=4), [pod(1, n) for n in range(4)], [pod(2, n) for n in range(4)]
    for pods, complete in ((news[:3], True), (news, True), ((*news[:3], olds[3]), False)):
        rollout = Rollout(begun=True)
        assert rollout.observe(workload, Observed(tuple(pods)), 10_000.0, admitted=3) == complete
        assert rollout.judge(workload, Observed(tuple(pods)), 10_000.0, ATTEMPTS) is None


def test_what_quotas_admit_is_judged() -> None:
    """A replica that is not available, or has not started, fails the revision at the deadline, also one that quotas
    would hold back by now, if it runs. Where they admit none, nothing is complete and nothing has failed."""
    workload, news = wanted(2, 1, replicas=4), [pod(2, n) for n in range(3)]
    for pods in ((*news[:2], pod(2, 2, ready=False)), (*news[:2], pod(1, 2)), (*news, pod(2, 3, ready=False)), ()):
        observed, rollout = Observed(tuple(pods)), Rollout(begun=True)
        assert not rollout.observe(workload, observed, 100.0, admitted=3)
        assert not rollout.observe(workload, observed, 10_000.0, admitted=3)
        assert rollout.judge(workload, observed, 10_000.0, ATTEMPTS) is not None
    rollout = Rollout(begun=True)
    assert not rollout.observe(workload, Observed(), 10_000.0, admitted=0)
    assert rollout.judge(workload, Observed(), 10_000.0, ATTEMPTS) is None


def test_nothing_is_judged_that_was_complete_or_is_paused_or_was_not_seen_to_begin() -> None:
    """What broke later is repaired; what stands still cannot fail; of what nobody saw begin nobody knows."""
    failed = Observed(failures={(2, 0): Failures(9, 0.0)})
    for rollout in (Rollout(begun=True, complete=True), Rollout()):
        assert rollout.judge(wanted(2, 1), failed, 10_000.0, ATTEMPTS) is None
    paused, rollout = begun(2, 1, strategy=Strategy(paused=True))
    assert rollout.judge(paused, failed, 10_000.0, ATTEMPTS) is None


def test_who_takes_over_without_hearing_all_judges_only_by_what_runs() -> None:
    """That we saw the record come says nothing, for we may not have been told that it was complete; where all is told
    it means that it was not."""
    failed = {(2, 0): Failures(9, 0.0)}
    for hears_all, replicas, judged in ((True, (), True), (False, (pod(2, 1),), False), (False, (pod(1, 1),), True)):
        workload, rollout = begun(2, 1)
        rollout.take_over(101.0, hears_all=hears_all)
        rollout.observe(workload, Observed(replicas, failures=failed), 102.0)
        verdict = rollout.judge(workload, Observed(replicas, failures=failed), 10_000.0, ATTEMPTS)
        assert (verdict is not None) == judged


def test_what_is_missing_while_paused_starts_as_it_was() -> None:
    """Of the revision that was complete; where nobody saw the current one begin and it runs alone, of that one."""
    paused, started = begun(2, 1, strategy=Strategy(paused=True))
    assert started.base(paused, (pod(2, 0),)) == 1
    assert Rollout(complete=True).base(paused, ()) == 2
    for replicas, base in (((pod(2, 0),), 2), ((pod(2, 0), pod(1, 1, ready=False)), 1), ((pod(2, 0, ready=False),), 1)):
        assert Rollout().base(paused, replicas) == base
    assert Rollout().base(wanted(1, strategy=Strategy(paused=True)), ()) == 0


def test_an_unfinished_rollout_is_recognised_by_what_runs() -> None:
    """A steward that knows nothing takes a ready replica of an older revision for the sign of one."""
    rollout = Rollout()
    rollout.observe(wanted(2, 1), Observed((pod(1, 0),)), 1.0)
    assert rollout.begun


def test_where_to_go_back_to() -> None:
    """The last that was complete; else the newest that works; else the one before; the record may forbid it."""
    workload, rollout = begun(4, 3, 2, 1)
    failed = {(4, 0): Failures(9, 0.0)}
    verdict = rollout.judge(workload, Observed((pod(2, 0),), failures=failed), 101.0, ATTEMPTS)
    assert verdict is not None
    assert verdict.target == 3
    for replicas, target in (((pod(2, 0),), 2), ((), 3)):
        found = Rollout(begun=True).judge(workload, Observed(replicas, failures=failed), 101.0, ATTEMPTS)
        assert found is not None
        assert found.target == target
    forbidden, rollout = begun(4, 3, strategy=Strategy(rollback="never"))
    verdict = rollout.judge(forbidden, Observed(failures=failed), 101.0, ATTEMPTS)
    assert verdict is not None
    assert verdict.target == 0
    assert rollout.target(forbidden) == 4


def test_another_revision_clears_the_verdict() -> None:
    """A new number is a new chance; another number of replicas is none."""
    workload, rollout = begun(2, 1)
    rollout.judge(workload, Observed(failures={(2, 0): Failures(9, 0.0)}), 101.0, ATTEMPTS)
    rollout.renew(workload, wanted(2, 1, replicas=5), 102.0)
    assert rollout.target(workload) == 1
    rollout.renew(workload, wanted(3, 2, 1), 103.0)
    assert rollout.verdict is None
    assert rollout.good == 1


class Twin:
    """A dumb world: it does what it is told, late and in any order; replicas of bad revisions never start."""

    def __init__(self, seed: int, strategy: Strategy, *, bad: bool) -> None:
        self.rng = random.Random(seed)
        replicas = self.rng.randrange(1, 6)
        self.before = wanted(1, replicas=replicas, strategy=strategy)
        self.workload = wanted(2, 1, replicas=replicas, strategy=strategy)
        self.bad = bad
        self.now_s = 100.0
        self.rollout = Rollout(begun=True, complete=True)
        self.rollout.renew(self.before, self.workload, self.now_s)
        self.pods = [pod(1, replica, node=self.rng.randrange(5)) for replica in range(replicas)]
        self.starting: set[tuple[int, int]] = set()
        self.failures: dict[tuple[int, int], Failures] = {}
        self.ready_s = {each.task_id: 0.0 for each in self.pods}
        self.serial = 0
        self.tried = 0

    def observed(self) -> Observed:
        """What is."""
        ripe_s = self.now_s - self.workload.strategy.min_ready_s
        unripe = {(each.node_id, each.task_id) for each in self.pods if self.ready_s.get(each.task_id, 1e9) > ripe_s}
        return Observed(tuple(self.pods), frozenset(self.starting), dict(self.failures), frozenset(), frozenset(unripe))

    def step(self) -> None:
        """One look of the steward, carried out; and something of what is under way comes to pass."""
        observed, strategy = self.observed(), self.workload.strategy
        self.rollout.observe(self.workload, observed, self.now_s)
        self.rollout.judge(self.workload, observed, self.now_s, ATTEMPTS)
        base = self.rollout.base(self.workload, observed.replicas) if strategy.paused else 0
        declared = Declared.of(self.workload, self.rollout.target(self.workload), base)
        for action in plan(declared, observed, self.now_s, ATTEMPTS):
            if isinstance(action, StartReplica):
                self.starting.add((action.revision, action.replica))
                self.tried += action.revision == 2
            elif isinstance(action, StopReplicaAction):
                self.pods.remove(action.report)
                self.pods.append(msgspec.structs.replace(action.report, phase="Terminating", ready=False))
        assert len(self.pods) + len(self.starting) <= self.workload.replicas + max(1, strategy.max_surge)
        ready = {each.replica for each in self.pods if each.ready}
        assert len(ready) >= self.workload.replicas - strategy.max_unavailable
        self.move()

    def move(self) -> None:
        """Pods start, fail, become ready, and end."""
        self.now_s += 1.0
        for slot in sorted(self.starting):
            if self.rng.random() < 0.5:
                self.starting.discard(slot)
                if self.bad and slot[0] == 2:
                    before = self.failures.get(slot, Failures(0, 0.0))
                    self.failures[slot] = Failures(before.count + 1, self.now_s, ("ImageNotFound",))
                    continue
                self.serial += 1
                new = pod(slot[0], slot[1], ready=False, node=self.rng.randrange(5))
                self.pods.append(msgspec.structs.replace(new, task_id=f"t{self.serial}"))
        for each in list(self.pods):
            if each.phase == "Terminating" and self.rng.random() < 0.5:
                self.pods.remove(each)
            elif each.phase == "Running" and not each.ready and self.rng.random() < 0.5:
                self.pods[self.pods.index(each)] = msgspec.structs.replace(each, ready=True)
                self.ready_s[each.task_id] = self.now_s


BOUNDS = st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 0), (3, 2)])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), BOUNDS, st.booleans(), st.sampled_from([0, 3]))
def test_a_rollout_ends_well_or_where_it_began(seed: int, bounds: tuple[int, int], bad: bool, ripens_s: int) -> None:
    """On the way there is never one ready replica fewer, nor one in all more, than the strategy allows; a good revision
    is complete in the end, a bad one is taken back after its attempts and not tried again."""
    strategy = Strategy(max_surge=bounds[0], max_unavailable=bounds[1], min_ready_s=ripens_s)
    twin = Twin(seed, strategy, bad=bad)
    for _ in range(400):
        twin.step()

    target = 1 if bad else 2
    assert sorted((each.revision, each.replica) for each in twin.pods) == [
        (target, replica) for replica in range(twin.workload.replicas)
    ]
    assert is_settled(Declared.of(twin.workload, target), twin.observed())
    assert (twin.rollout.verdict is not None) == bad
    if bad:
        assert twin.tried <= ATTEMPTS * sum(bounds)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), BOUNDS)
def test_a_paused_rollout_does_nothing(seed: int, bounds: tuple[int, int]) -> None:
    """Not one pod starts or stops while it is paused; afterwards it goes on to its end."""
    strategy = Strategy(max_surge=bounds[0], max_unavailable=bounds[1], paused=True)
    twin = Twin(seed, strategy, bad=False)
    before = list(twin.pods)
    for _ in range(50):
        twin.step()
    assert twin.pods == before
    resumed = msgspec.structs.replace(twin.workload, strategy=msgspec.structs.replace(strategy, paused=False))
    twin.rollout.renew(twin.workload, resumed, twin.now_s)
    twin.workload = resumed
    for _ in range(400):
        twin.step()
    assert {each.revision for each in twin.pods} == {2}


def manifest(**spec: object) -> dict[str, object]:
    """A Deployment as people write it."""
    return deployment(replicas=8, **spec)


def test_a_manifest_becomes_a_strategy() -> None:
    """Percentages are kept beside their counts, and each field of Kubernetes has its meaning."""
    bounds = {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}
    more = {"minReadySeconds": 5, "progressDeadlineSeconds": 60, "paused": True, "revisionHistoryLimit": 2}
    checked = check(manifest(strategy=bounds, **more))
    assert checked.object is not None
    resolved = resolve([checked.object]).workloads[0]
    assert resolved.strategy == Strategy("RollingUpdate", 2, 1, 25, 0, 5, 60, paused=True)
    assert (resolved.history_limit, resolved.stated) == (2, {"replicas", "paused"})


def test_a_deadline_that_leaves_no_time_is_refused() -> None:
    """As in Kubernetes, by its place; so is a history that is longer than any is kept."""
    (finding,) = check(manifest(minReadySeconds=60, progressDeadlineSeconds=60)).findings
    assert finding.path == ("spec", "progressDeadlineSeconds")
    assert "must be greater than minReadySeconds, 60" in finding.message
    (finding,) = check(manifest(revisionHistoryLimit=11)).findings
    assert "from 0 to 10" in finding.message
