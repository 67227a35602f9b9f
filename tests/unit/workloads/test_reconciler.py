"""The reconciler: golden cases, and against a dumb twin of the world that does what it says."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.ids import NodeId
from beemesh.workloads.observation import Phase, ReplicaReport
from beemesh.workloads.reconciler import (
    EXHAUSTED_RETRY_S,
    Action,
    Declared,
    Failures,
    Observed,
    StartReplica,
    StopReplicaAction,
    Wait,
    backoff_s,
    is_settled,
    plan,
)
from beemesh.workloads.record import Strategy

NODES = [NodeId(bytes([number]) * 32) for number in range(1, 6)]
NOW_S = 1_000.0
NO_QUOTA = 1_000


def report(
    replica: int, revision: int = 1, node: int = 0, phase: Phase = "Running", ready: bool = True, fence: int = 1
) -> ReplicaReport:
    """A replica as its node tells of it."""
    return ReplicaReport(
        pod=f"hello-{revision}-{replica}",
        workload_id="deployment/default/hello",
        namespace="default",
        kind="Deployment",
        revision=revision,
        replica=replica,
        node_id=NODES[node],
        phase=phase,
        ready=ready and phase == "Running",
        task_id=f"task-{revision}-{replica}-{node}",
        fence=fence,
    )


def wanted(replicas: int = 3, revision: int = 1, *, kind: str = "Deployment", policy: str = "Always") -> Declared:
    """What is declared, with the default strategy."""
    return Declared(kind, replicas, revision, Strategy(), policy)


def steps(declared: Declared, *reports: ReplicaReport, attempts: int = 5, **observed: object) -> tuple[Action, ...]:
    """What the reconciler says."""
    return plan(declared, Observed(tuple(reports), **observed), NOW_S, attempts)  # type: ignore[arg-type]


def starts(actions: tuple[Action, ...]) -> list[tuple[int, int]]:
    """(revision, replica) of what is to start."""
    return [(each.revision, each.replica) for each in actions if isinstance(each, StartReplica)]


def stops(actions: tuple[Action, ...]) -> list[tuple[str, str]]:
    """(pod, reason) of what is to stop."""
    return [(each.report.pod, each.reason) for each in actions if isinstance(each, StopReplicaAction)]


def test_missing_replicas_start() -> None:
    """Nothing runs: every ordinal starts. One is being started: the others start."""
    assert starts(steps(wanted())) == [(1, 0), (1, 1), (1, 2)]
    assert starts(steps(wanted(), report(0), starting=frozenset({(1, 2)}))) == [(1, 1)]


def test_what_is_as_wanted_is_left_alone() -> None:
    """All run: nothing to do, and that counts as settled."""
    reports = (report(0), report(1), report(2))

    assert steps(wanted(), *reports) == ()
    assert is_settled(wanted(), Observed(reports))
    assert not is_settled(wanted(), Observed(reports[:2]))
    assert not is_settled(wanted(), Observed(reports, starting=frozenset({(1, 0)})))


def test_a_new_replica_avoids_its_siblings_and_where_it_failed() -> None:
    """A task names the nodes on which this replica failed, and those that run others."""
    failures = {(1, 1): Failures(1, NOW_S - 60, ("StartFailed",), (NODES[3],))}
    (start,) = steps(wanted(2), report(0, node=2), failures=failures)

    assert start == StartReplica(1, 1, attempt=2, avoid=(NODES[2],), failed=(NODES[3],))


def test_a_deleted_workload_stops_everywhere() -> None:
    """Nothing is spared, and what is ending already is not told again."""
    gone = Declared("Deployment", 3, 1, gone=True)

    assert stops(steps(gone, report(0), report(1, phase="Terminating"))) == [("hello-1-0", "deleted")]


def test_surplus_ordinals_stop() -> None:
    """Scaled down: those from the new number on stop, of any revision."""
    assert stops(steps(wanted(1), report(0), report(1), report(2, revision=7))) == [
        ("hello-1-1", "surplus"),
        ("hello-7-2", "surplus"),
    ]


def stopped_for(actions: tuple[Action, ...]) -> list[tuple[ReplicaReport, ReplicaReport | None]]:
    """Which replica stops for which."""
    return [(each.report, each.instead) for each in actions if isinstance(each, StopReplicaAction)]


def test_of_duplicates_the_lower_fence_drains() -> None:
    """The higher fence stays, then the higher node ID; three of one kind leave one."""
    low, high, other = report(0, fence=3), report(0, node=1, fence=4), report(0, node=2, fence=4)

    actions = steps(wanted(1), low, high, other)
    assert [each.report for each in actions if isinstance(each, StopReplicaAction)] == [low, high]
    assert all(each.instead == other for each in actions if isinstance(each, StopReplicaAction))


def test_nothing_that_runs_stops_for_what_does_not_yet() -> None:
    """A duplicate with a better lease that is still starting replaces nobody before it runs."""
    runs, starts_up = report(0, fence=3), report(0, node=1, fence=4, phase="Pending", ready=False)

    assert steps(wanted(1), runs, starts_up) == ()
    assert stops(steps(wanted(1), runs, report(0, node=1, fence=4))) == [("hello-1-0", "duplicate")]


def test_nothing_that_is_ready_stops_for_what_is_not() -> None:
    """The successor of a move that was not done in its time gives way to the one that serves, unless that one has
    no majority behind it; of two that do not serve the later one stays. Where no two may run, the lease decides."""
    serves, starts_up = report(0, fence=3), report(0, node=1, fence=4, ready=False)
    exclusive = replace(wanted(1), exclusive=True)
    tentative = msgspec.structs.replace(serves, tentative=True)

    assert stopped_for(steps(wanted(1), serves, starts_up)) == [(starts_up, serves)]
    assert stopped_for(steps(exclusive, serves, starts_up)) == [(serves, starts_up)]
    assert stopped_for(steps(wanted(1), tentative, starts_up)) == [(tentative, starts_up)]
    neither = report(0, fence=3, ready=False)
    assert stopped_for(steps(wanted(1), neither, starts_up)) == [(neither, starts_up)]
    assert stopped_for(steps(wanted(1), serves, report(0, node=1, fence=4))) == [(serves, report(0, node=1, fence=4))]


def test_a_rolling_update_starts_first() -> None:
    """Default bounds: one new replica at a time, and the old one stops once the new one is ready."""
    new = wanted(2, revision=2)
    assert steps(new, report(0), report(1)) == (StartReplica(2, 0, 1, (NODES[0],)),)
    assert steps(new, report(0), report(1), report(0, 2, ready=False)) == ()
    assert stops(steps(new, report(0), report(1), report(0, 2))) == [("hello-1-0", "outdated")]
    assert starts(steps(new, report(1), report(0, 2))) == [(2, 1)]


def test_a_rolling_update_without_surge_stops_first() -> None:
    """Surge 0, unavailable 1: one old replica stops, then its successor starts."""
    new = Declared("Deployment", 2, 2, Strategy(max_surge=0, max_unavailable=1))

    assert stops(steps(new, report(0), report(1))) == [("hello-1-0", "outdated")]
    assert starts(steps(new, report(1))) == [(2, 0)]
    assert steps(new, report(1), report(0, 2, ready=False)) == ()


def test_what_does_not_work_makes_room_for_a_fix() -> None:
    """More old replicas are down than may be missing, and there is no surge: they go first, so many at a time as may be
    missing, each once the new one before it works."""
    new = Declared("Deployment", 4, 2, Strategy(max_surge=0, max_unavailable=1))
    down, up = [report(ordinal, ready=False) for ordinal in range(4)], report(3)

    assert stops(steps(new, *down)) == [("hello-1-0", "outdated")]
    assert steps(new, report(0, phase="Terminating"), *down[1:]) == ()
    assert starts(steps(new, *down[1:3], up)) == [(2, 0)]
    assert steps(new, report(0, 2, ready=False), *down[1:3], up) == ()
    assert stops(steps(new, report(0, 2), *down[1:3], up)) == [("hello-1-1", "outdated")]
    assert stops(steps(new, report(0, phase="Pending"), *down[1:])) == [("hello-1-0", "outdated")]


def test_what_serves_is_not_stopped_for_a_fix() -> None:
    """A replica that is ready, though not for long enough, stays while too few are available; one that is not goes. Who
    has just taken over knows of none since when it is ready."""
    new = Declared("Deployment", 4, 2, Strategy(max_surge=0, max_unavailable=1, min_ready_s=30))
    serving = [report(ordinal) for ordinal in range(3)]
    unripe = frozenset((each.node_id, each.task_id) for each in serving)

    assert stops(steps(new, *serving, report(3, ready=False), unripe=unripe)) == [("hello-1-3", "outdated")]
    assert steps(new, *serving[:2], unripe=unripe, starting=frozenset({(2, 2), (2, 3)})) == ()


def test_a_revision_that_fails_is_not_tried_everywhere() -> None:
    """While the first new replica fails, the next ordinals keep their old ones, untouched."""
    new = Declared("Deployment", 3, 2, Strategy(max_surge=3))
    failures = {(2, 0): Failures(1, NOW_S, ("ImageNotFound",))}

    actions = steps(new, report(0), report(1), report(2), failures=failures)
    assert [type(each) for each in actions] == [Wait]


def test_a_bare_pod_is_recreated() -> None:
    """A Pod has one name: the old one goes before the new one comes, even where surge would be allowed."""
    new = wanted(1, revision=2, kind="Pod")

    assert stops(steps(new, report(0))) == [("hello-1-0", "outdated")]
    assert steps(new, report(0, phase="Terminating")) == ()
    assert steps(new, starting=frozenset({(1, 0)})) == ()
    assert starts(steps(new)) == [(2, 0)]


def test_what_must_not_be_doubled_is_not_started_beside_an_old_one_that_is_ending() -> None:
    """An old replica may take its whole grace to end, while others have gone and there is room for new ones."""
    new = Declared("Deployment", 4, 2, Strategy(max_unavailable=2), "Always", exclusive=True)
    found = steps(new, report(0, phase="Terminating"), report(2), report(3))

    assert [each.replica for each in found if isinstance(each, StartReplica)] == [1]


def test_failures_back_off_and_end() -> None:
    """Each failure doubles the wait, up to a bound; after the last attempt it is exhausted, for ever where the pod is
    to run once, and for some minutes where it is to run always."""
    assert [backoff_s(count) for count in (1, 2, 3, 4, 20)] == [1, 2, 4, 8, 30]
    just = {(1, 0): Failures(2, NOW_S - 1.9, ("a", "b"))}
    assert steps(wanted(1), failures=just) == (Wait(1, 0, NOW_S + 0.1, ("a", "b"), 2),)
    ripe = {(1, 0): Failures(2, NOW_S - 2.1, ("a", "b"))}
    assert starts(steps(wanted(1), failures=ripe)) == [(1, 0)]
    out = {(1, 0): Failures(5, NOW_S - EXHAUSTED_RETRY_S - 1)}
    assert starts(steps(wanted(1), failures=out)) == [(1, 0)]
    (never,) = steps(wanted(1, kind="Pod", policy="Never"), failures=out)
    assert isinstance(never, Wait)
    assert never.exhausted
    assert never.until_s == float("inf")


def test_pods_that_run_once() -> None:
    """Succeeded is the end; Failed is it only for `Never`; where a pod is to run always, an ended one is cleared away
    and started again."""
    done, broken = report(0, phase="Succeeded"), report(0, phase="Failed")

    assert steps(wanted(1, policy="OnFailure"), done) == ()
    assert steps(wanted(1, policy="Never"), broken) == ()
    assert stops(steps(wanted(1, policy="OnFailure"), broken)) == [("hello-1-0", "failed")]
    assert stops(steps(wanted(1), done)) == [("hello-1-0", "failed")]
    assert steps(wanted(1, policy="Never"), finished=frozenset({(1, 0)})) == ()


def test_starts_are_bounded() -> None:
    """A thousand replicas are not all placed at once."""
    assert len(starts(steps(wanted(1_000)))) == 32
    assert len(starts(steps(wanted(1_000), starting=frozenset((1, n) for n in range(30))))) == 2


def test_what_was_tried_in_vain_goes_last() -> None:
    """So many that nobody takes as are placed at once keep none from its turn; among them, the longest ago is first."""
    in_vain = {(1, ordinal): 900.0 - ordinal for ordinal in range(32)}
    got = starts(steps(wanted(40), in_vain=in_vain))
    assert got == [(1, ordinal) for ordinal in (*range(32, 40), *reversed(range(8, 32)))]


def test_what_nobody_takes_holds_up_no_rollout() -> None:
    """Missing replicas go before those that are to be replaced, unless they were tried in vain; and they have their
    turn again while the revision fails elsewhere."""
    new, olds = wanted(40, revision=2), [report(ordinal) for ordinal in range(2)]
    assert starts(steps(new, *olds))[0] == (2, 2)
    in_vain = {(2, ordinal): 900.0 for ordinal in range(2, 40)}
    assert starts(steps(new, *olds, in_vain=in_vain))[:3] == [(2, 0), (2, 1), (2, 2)]

    failures = {(2, 0): Failures(1, NOW_S)}
    got = steps(new, *olds, in_vain=in_vain, failures=failures)
    assert isinstance(got[0], Wait)
    assert starts(got) == [(2, ordinal) for ordinal in range(2, 34)]


class Twin:
    """A dumb world: it does what it is told, late and in any order, and breaks things meanwhile."""

    def __init__(self, seed: int, strategy: Strategy, *, exclusive: bool) -> None:
        self.rng = random.Random(seed)
        self.declared = Declared("Deployment", self.rng.randrange(1, 6), 1, strategy, exclusive=exclusive)
        self.reports: list[ReplicaReport] = []
        self.starting: set[tuple[int, int]] = set()
        self.fence = 0
        self.now_s = NOW_S
        self.broken: set[int] = set()
        """Revisions of which no replica gets ready."""
        self.admitted = NO_QUOTA
        """How many replicas a quota leaves it."""
        self.in_vain: dict[tuple[int, int], float] = {}
        """When a start was refused for the quota."""

    def act(self) -> None:
        """One look of the reconciler, carried out."""
        before = len(self.reports) + len(self.starting)
        available, standing = self.available(), self.standing()
        observed = Observed(tuple(self.reports), frozenset(self.starting), in_vain=dict(self.in_vain))
        bound = self.declared.replicas + self.declared.strategy.max_surge
        there = {replica for _, replica in observed.existing}
        held = sum(each not in there for each in range(self.admitted, self.declared.replicas))
        for action in plan(replace(self.declared, held=held), observed, self.now_s, 5):
            if isinstance(action, StartReplica):
                assert (action.revision, action.replica) not in self.starting
                if action.replica >= self.admitted:
                    self.in_vain[action.revision, action.replica] = self.now_s
                else:
                    self.starting.add((action.revision, action.replica))
            elif isinstance(action, StopReplicaAction):
                self.reports.remove(action.report)
                self.reports.append(msgspec.structs.replace(action.report, phase="Terminating", ready=False))
        assert len(self.reports) + len(self.starting) <= max(bound, before)
        least = self.declared.replicas - held - max(self.declared.strategy.max_unavailable, self.declared.exclusive)
        assert self.available() >= min(available, least)
        assert self.standing() >= min(standing, least)

    def available(self) -> int:
        """Ordinals with a ready replica."""
        ready = {each.replica for each in self.reports if each.ready}
        return len(ready & set(range(self.declared.replicas)))

    def standing(self) -> int:
        """Ordinals with a replica that is ready, or was before this rollout and may be so again."""
        running = [each for each in self.reports if each.phase == "Running"]
        there = {each.replica for each in running if each.ready or each.revision != self.declared.revision}
        return len(there & set(range(self.declared.replicas)))

    def move(self) -> None:
        """Something of what is under way comes to pass."""
        self.now_s += 1
        for slot in sorted(self.starting):
            if self.rng.random() < 0.5:
                self.starting.discard(slot)
                self.fence += 1
                node = self.rng.randrange(len(NODES))
                self.reports.append(report(slot[1], slot[0], node, ready=False, fence=self.fence))
        for each in list(self.reports):
            if each.phase == "Terminating" and self.rng.random() < 0.5:
                self.reports.remove(each)
            elif each.revision in self.broken:
                continue
            elif each.phase == "Running" and not each.ready and self.rng.random() < 0.5:
                self.reports.remove(each)
                self.reports.append(msgspec.structs.replace(each, ready=True))

    def disturb(self) -> None:
        """A node dies, a duplicate appears, a revision breaks, or the operator changes his mind, or a quota."""
        what = self.rng.randrange(6)
        if what == 0:
            node = self.rng.choice(NODES)
            self.reports = [each for each in self.reports if each.node_id != node]
        elif what == 1 and self.reports:
            each = self.rng.choice(self.reports)
            self.fence += 1
            self.reports.append(msgspec.structs.replace(each, node_id=self.rng.choice(NODES), fence=self.fence))
        elif what == 2:
            self.declared = self._changed()
        elif what == 3:
            self.broken.add(self.declared.revision)
            hit = [each.revision in self.broken and each.ready for each in self.reports]
            pairs = zip(self.reports, hit, strict=True)
            self.reports = [msgspec.structs.replace(each, ready=False) if bad else each for each, bad in pairs]
        elif what == 4:
            self.admitted = self.rng.choice([NO_QUOTA, self.rng.randrange(6)])
        else:
            self.starting.clear()

    def fix(self) -> None:
        """The operator applies a revision that works."""
        while self.declared.revision in self.broken:
            self.declared = replace(self.declared, revision=self.declared.revision + 1)

    def settle(self) -> None:
        """Nothing disturbs it for a long while."""
        for _ in range(400):
            self.act()
            self.move()

    def _changed(self) -> Declared:
        replicas = self.rng.randrange(0, 6)
        revision = self.declared.revision + self.rng.randrange(2)
        return replace(self.declared, replicas=replicas, revision=revision)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 0), (3, 2)]), st.booleans())
def test_it_converges_within_its_bounds(seed: int, bounds: tuple[int, int], exclusive: bool) -> None:
    """Whatever happened before, a world left in peace comes to exactly what is declared, once that works: on the way
    never above replicas and surge by the reconciler's doing, and never with fewer available than it may, nor with fewer
    that may be so again. What a quota admits comes to that even while the quota holds others back."""
    twin = Twin(seed, Strategy(max_surge=bounds[0], max_unavailable=bounds[1]), exclusive=exclusive)
    for _ in range(40):
        twin.act()
        twin.move()
        if twin.rng.random() < 0.2:
            twin.disturb()
    twin.fix()
    twin.settle()
    admitted = {(twin.declared.revision, ordinal) for ordinal in range(min(twin.admitted, twin.declared.replicas))}
    assert {(each.revision, each.replica) for each in twin.reports if each.replica < twin.admitted} == admitted
    twin.admitted = NO_QUOTA
    twin.settle()

    expected = [(twin.declared.revision, ordinal) for ordinal in range(twin.declared.replicas)]
    assert sorted((each.revision, each.replica) for each in twin.reports) == expected
    assert is_settled(twin.declared, Observed(tuple(twin.reports)))
