"""Moves of one workload, step by step: what is done, and what the reconciler is shown meanwhile."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beemesh.ids import NodeId
from beemesh.workloads.budgets import Allowance
from beemesh.workloads.moves import Arranged, Leave, Terms, arrange
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.reconciler import Declared, Failures, Observed, StartReplica, StopReplicaAction, plan
from beemesh.workloads.record import Strategy

HERE, THERE, ELSEWHERE = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))


def report(replica: int, node: NodeId, **changes: Any) -> ReplicaReport:
    """A replica that runs and is ready."""
    values: dict[str, Any] = {
        "pod": f"hello-{replica}",
        "workload_id": "deployment/default/hello",
        "namespace": "default",
        "kind": "Deployment",
        "revision": 1,
        "replica": replica,
        "node_id": node,
        "phase": "Running",
        "ready": True,
        "task_id": f"{replica}-{node[0]}",
        "fence": node[0],
    }
    return ReplicaReport(**(values | changes))


def look(*reports: ReplicaReport, replicas: int = 1, least: int = 1, **changes: Any) -> Arranged:
    """One look while everything is to leave `HERE`."""
    terms = Terms(
        lambda each: Leave() if each.node_id == HERE else None, Allowance(least), changes.pop("tolerant", True)
    )
    declared = Declared("Deployment", replicas, 1, strategy=changes.pop("strategy", Strategy()))
    return arrange(declared, Observed(reports, **changes), terms, 100.0)


def test_a_successor_that_is_not_ready_lets_nothing_go() -> None:
    """The old replica serves until the new one can; the reconciler sees only the old one, and stops neither."""
    old, new = report(0, HERE), report(0, THERE, ready=False)
    arranged = look(old, new)

    assert arranged.actions == ()
    assert arranged.moving
    assert arranged.observed.replicas == (old,)
    assert plan(Declared("Deployment", 1, 1), arranged.observed, 100.0, 3) == ()


def test_a_ready_successor_lets_the_old_one_go() -> None:
    """And from then on it is the one that the reconciler sees."""
    old, new = report(0, HERE), report(0, THERE)
    arranged = look(old, new)

    assert arranged.actions == (StopReplicaAction(old, "drained"),)
    assert arranged.observed.replicas == (new,)


def test_a_move_that_nobody_takes_lets_the_next_one_try() -> None:
    """As many move at once as the surge allows; those that were tried in vain wait for the others."""
    reports = [report(ordinal, HERE) for ordinal in range(3)]
    assert look(*reports, replicas=3).actions == (StartReplica(1, 0, 1, (HERE,)),)
    tried = {(1, 0): 9.0, (1, 1): 8.0}
    assert look(*reports, replicas=3, in_vain=tried).actions == (StartReplica(1, 2, 1, (HERE,)),)


def test_a_budget_keeps_nothing_that_has_a_successor() -> None:
    """All must stay available: the old one still may go, since its successor is ready; also while a sibling is not,
    which may be waiting for the very room that the old one takes."""
    pair, sibling = (report(0, HERE), report(0, THERE)), report(1, ELSEWHERE)

    assert look(*pair, sibling, replicas=2, least=2).actions
    assert look(*pair, report(1, ELSEWHERE, ready=False), replicas=2, least=2).actions


def test_a_replica_and_its_successor_count_once() -> None:
    """For what stops before it starts elsewhere: one of two is ready, twice, and the other one may not go."""
    pair = (report(0, THERE), report(0, ELSEWHERE))

    assert not look(*pair, report(1, HERE), replicas=2, least=2, tolerant=False).actions
    assert look(*pair, report(1, HERE), replicas=2, least=1, tolerant=False).actions


def test_a_failed_successor_waits_for_its_turn() -> None:
    """A move that failed is tried again after a pause, elsewhere, and the old one stays meanwhile."""
    failed = {(1, 0): Failures(1, 99.5, ("no room",), (THERE,), 1)}

    assert look(report(0, HERE), failures=failed).actions == ()
    later = {(1, 0): Failures(1, 90.0, ("no room",), (THERE,), 1)}
    assert look(report(0, HERE), failures=later).actions == (StartReplica(1, 0, 2, (), (THERE,)),)


def test_what_a_rollout_replaces_is_not_moved() -> None:
    """A replica of an older revision goes anyway: its successor starts elsewhere."""
    assert look(report(0, HERE, revision=0)).actions == ()


Somewhere = st.sampled_from([HERE, THERE, ELSEWHERE])
Reports = st.lists(
    st.builds(
        report,
        st.integers(0, 4),
        Somewhere,
        ready=st.booleans(),
        phase=st.sampled_from(["Running", "Pending", "Terminating", "Failed"]),
    ),
    max_size=10,
    unique_by=lambda each: each.task_id,
)


@given(Reports, st.integers(0, 5), st.booleans(), st.sampled_from(["RollingUpdate", "Recreate"]))
def test_no_step_breaks_the_budget(reports: list[ReplicaReport], least: int, tolerant: bool, kind: Any) -> None:
    """Whatever runs: after all stops of one look as many ordinals are healthy as must be, or as were."""
    arranged = look(*reports, replicas=5, least=least, tolerant=tolerant, strategy=Strategy(type=kind))
    healthy = [each for each in reports if each.ready and each.phase == "Running"]
    stopped = [each.report for each in arranged.actions if isinstance(each, StopReplicaAction)]
    before = {each.replica for each in healthy}
    after = {each.replica for each in healthy if each not in stopped}

    assert after == before or len(after) >= least
    assert all(each.node_id == HERE for each in stopped)


@given(Reports, st.integers(1, 3))
def test_no_more_are_on_their_way_than_the_surge(reports: list[ReplicaReport], surge: int) -> None:
    """Successors that start in one look are at most so many, each for a replica that leaves, never two for one."""
    arranged = look(*reports, replicas=5, least=0, strategy=Strategy(max_surge=surge))
    starts = [each for each in arranged.actions if isinstance(each, StartReplica)]

    assert len(starts) <= surge
    assert len({each.replica for each in starts}) == len(starts)
    assert all(any(each.replica == start.replica and each.node_id == HERE for each in reports) for start in starts)
