"""DaemonSets: golden cases, and a random walk of a dumb world in which nodes come, go, and stop being eligible."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.errors import InvalidInput
from beemesh.ids import NodeId
from beemesh.workloads.daemons import ordinal_of
from beemesh.workloads.kubedaemons import DaemonSetView, daemon_set
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.policies import Quota, quota_objection
from beemesh.workloads.reconciler import Declared, Failures, Observed, StartReplica, StopReplicaAction, is_settled, plan
from beemesh.workloads.record import Strategy, Workload
from beemesh.workloads.resolve import resolve
from beemesh.workloads.revising import scaled, with_paused
from beemesh.workloads.rollout import Rollout
from beemesh.workloads.rollout_report import line_of, report_of
from beemesh.workloads.strategies import for_nodes
from beemesh.workloads.validation import check
from tests.unit.workloads.samples import deployment
from tests.unit.workloads.test_rollout import pod, revision

NODES = [NodeId(bytes([number]) * 32) for number in range(1, 8)]
ONE_BY_ONE = Strategy(max_surge=0, max_unavailable=1)


def manifest(template: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A DaemonSet as people write it."""
    return {**deployment(template=template, **spec), "kind": "DaemonSet"}


def rolling(**amounts: int | str) -> dict[str, Any]:
    """The field `updateStrategy`."""
    return {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": amounts}}


def wanted(*numbers: int, strategy: Strategy = ONE_BY_ONE) -> Workload:
    """A record with these revisions, newest first."""
    revisions = tuple(revision(number) for number in numbers)
    return Workload("DaemonSet", "default", "hello", 0, revisions, strategy=strategy)


def daemon(number: int, node: int, *, ready: bool = True) -> ReplicaReport:
    """One on a node."""
    ordinal, node_id = ordinal_of(NODES[node]), NODES[node]
    return msgspec.structs.replace(pod(number, ordinal, ready=ready), kind="DaemonSet", node_id=node_id)


def test_a_manifest_becomes_a_record() -> None:
    """Kubernetes' defaults where nothing is said, each field where it is; it has no number of replicas."""
    found = check(manifest()).object
    assert found is not None
    resolved = resolve([found]).workloads[0]
    assert (resolved.kind, resolved.replicas, resolved.strategy) == (
        "DaemonSet",
        0,
        Strategy(max_surge=0, max_unavailable=1),
    )
    said = check(manifest(minReadySeconds=5, revisionHistoryLimit=2, **rolling(maxUnavailable="30%"))).object
    assert said is not None
    resolved = resolve([said]).workloads[0]
    assert resolved.strategy == Strategy("RollingUpdate", 0, 0, 0, 30, 5)
    assert resolved.history_limit == 2


def test_percentages_round_up() -> None:
    """As Kubernetes does for DaemonSets, and one at least may go."""
    percent = Strategy("RollingUpdate", 0, 0, 0, 30)
    assert [for_nodes(percent, nodes).max_unavailable for nodes in (0, 1, 4, 10)] == [1, 1, 2, 3]
    assert for_nodes(Strategy("RollingUpdate", 0, 0, 10, 0), 11).max_surge == 2
    assert for_nodes(ONE_BY_ONE, 100) == ONE_BY_ONE


@pytest.mark.parametrize(
    ("document", "place", "text"),
    [
        (manifest(updateStrategy={"type": "OnDelete"}), ("spec", "updateStrategy", "type"), "updateStrategy.type"),
        (manifest(**rolling(maxUnavailable=0)), ("spec", "updateStrategy", "rollingUpdate"), "cannot both be 0"),
        (manifest(**rolling(maxSurge=1)), ("spec", "updateStrategy", "rollingUpdate"), "must be 0"),
        (manifest(replicas=3), ("spec", "replicas"), "replicas"),
        (manifest({"restartPolicy": "Never"}), ("spec", "template", "spec", "restartPolicy"), "must be Always"),
        (manifest(selector={"matchLabels": {"app": "other"}}), ("spec", "selector"), "does not match"),
    ],
)
def test_what_is_wrong_is_refused(document: dict[str, Any], place: tuple[str, ...], text: str) -> None:
    """Each with its place."""
    (finding,) = check(document).findings
    assert finding.path == place
    assert text in finding.message


def test_it_is_neither_scaled_nor_paused() -> None:
    """As with kubectl."""
    with pytest.raises(InvalidInput, match="has no number of replicas"):
        scaled(wanted(1), 3)
    with pytest.raises(InvalidInput, match="cannot be paused"):
        with_paused(wanted(1), paused=True)


def test_a_quota_keeps_it_out() -> None:
    """What cannot be counted is not let in beside a quota; what stands already may change."""
    quota = Quota("default", "team", {"pods": 3})
    assert "quota team" in quota_objection(wanted(1), None, [], [quota])
    assert quota_objection(wanted(2, 1), wanted(1), [], [quota]) == ""
    assert quota_objection(wanted(1), None, [], [msgspec.structs.replace(quota, namespace="other")]) == ""


def test_a_node_without_room_is_no_failure() -> None:
    """The deadline is about what runs and does not become ready, not about a node that takes none."""
    strategy = msgspec.structs.replace(ONE_BY_ONE, progress_deadline_s=60)
    workload = wanted(2, 1, strategy=strategy)
    ordinals = [ordinal_of(node_id) for node_id in NODES[:2]]
    for ready, fails in ((True, False), (False, True)):
        rollout = Rollout(begun=True, complete=True)
        rollout.renew(wanted(1, strategy=strategy), workload, 100.0)
        observed = Observed((daemon(2, 0, ready=ready),))
        rollout.observe(workload, observed, 101.0, ordinals)
        verdict = rollout.judge(workload, observed, 1_000.0, 5)
        assert (verdict is not None) == fails
        assert verdict is None or "0 of 2" in verdict.reason


def test_how_far_a_rollout_is() -> None:
    """In kubectl's words, by the numbers of its status."""
    done = report_of(daemon_set(DaemonSetView("hello", "default", 3, current=3, ready=3, updated=3, revision=2)))
    assert (done.state, done.revision) == ("complete", 2)
    assert line_of(done) == 'daemonset "hello" successfully rolled out'
    going = report_of(daemon_set(DaemonSetView("hello", "default", 3, current=3, ready=2, updated=1)))
    assert "1 out of 3 new replicas" in line_of(going)
    failed = report_of(
        daemon_set(
            DaemonSetView("hello", "default", 3, current=3, ready=3, revision=2, failed="no image", rolled_back_to=1)
        )
    )
    assert (failed.state, failed.rolled_back_to) == ("failed", 1)
    stray = report_of(daemon_set(DaemonSetView("hello", "default", 1, current=1, misscheduled=1, ready=1, updated=1)))
    assert stray.state == "progressing"


def test_a_surge_has_its_bound() -> None:
    """As many nodes at a time as the strategy says have two; a node that has none does not count."""
    strategy = Strategy(max_surge=2, max_unavailable=0)
    declared = Declared.of(wanted(2, 1, strategy=strategy), daemons=[ordinal_of(node_id) for node_id in NODES[:5]])
    olds = tuple(daemon(1, node) for node in range(4))

    def starts(*news: ReplicaReport) -> list[int]:
        actions = plan(declared, Observed((*olds, *news)), 0.0, 5)
        return [action.replica for action in actions if isinstance(action, StartReplica)]

    first, second, third, _, empty = (ordinal_of(node_id) for node_id in NODES[:5])
    assert starts() == [empty, first, second]
    assert starts(daemon(2, 0, ready=False)) == [empty, second]
    assert starts(daemon(2, 0, ready=False), daemon(2, 1, ready=False)) == [empty]
    assert third not in starts(daemon(2, 0), daemon(2, 1, ready=False))


def test_what_does_not_work_makes_room_for_a_fix() -> None:
    """On so many nodes at a time as may be without one; on all as soon as the new revision works on one, for what ails
    another node says nothing of it."""
    ordinals = [ordinal_of(node_id) for node_id in NODES[:4]]
    declared = Declared.of(wanted(2, 1, strategy=Strategy(max_surge=0, max_unavailable=1)), daemons=ordinals)
    olds = [daemon(1, node, ready=False) for node in range(3)]

    def stops(*reports: ReplicaReport) -> list[ReplicaReport]:
        actions = plan(declared, Observed(reports), 0.0, 5)
        return [action.report for action in actions if isinstance(action, StopReplicaAction)]

    assert len(stops(*olds, daemon(1, 3, ready=False))) == 1
    assert len(stops(*olds, daemon(1, 3))) == 1
    assert stops(*olds, daemon(2, 3, ready=False)) == []
    assert sorted(each.node_id for each in stops(*olds, daemon(2, 3))) == sorted(NODES[:3])
    assert stops(daemon(1, 0), daemon(1, 1, ready=False), daemon(2, 2, ready=False), daemon(2, 3)) == [olds[1]]


class Twin:
    """A dumb world of nodes."""

    def __init__(self, seed: int, strategy: Strategy) -> None:
        self.rng = random.Random(seed)
        self.workload = wanted(1, strategy=strategy)
        self.alive = set(self.rng.sample(NODES, self.rng.randrange(1, len(NODES))))
        self.eligible = set(NODES)
        self.pods: list[ReplicaReport] = []
        self.starting: set[tuple[int, int]] = set()
        self.failures: dict[tuple[int, int], Failures] = {}
        self.now_s, self.serial = 0.0, 0
        self.broken: set[int] = set()
        """Revisions of which none gets ready."""

    @property
    def nodes(self) -> set[NodeId]:
        """Where one is wanted."""
        return self.alive & self.eligible

    def declared(self) -> Declared:
        """What is wanted now."""
        return Declared.of(self.workload, daemons=[ordinal_of(node_id) for node_id in self.nodes])

    def observed(self) -> Observed:
        """What is."""
        seen = tuple(each for each in self.pods if each.node_id in self.alive)
        return Observed(seen, frozenset(self.starting), dict(self.failures))

    def step(self) -> None:
        """One look, carried out; pods start, become ready and end."""
        declared = self.declared()
        strategy = declared.strategy
        ready = {each.node_id for each in self.pods if each.ready and each.node_id in self.nodes}
        for action in plan(declared, self.observed(), self.now_s, 5):
            if isinstance(action, StartReplica):
                assert action.replica in {ordinal_of(node_id) for node_id in self.nodes}
                self.starting.add((action.revision, action.replica))
            elif isinstance(action, StopReplicaAction):
                self.pods.remove(action.report)
                self.pods.append(msgspec.structs.replace(action.report, phase="Terminating", ready=False))
        still = {each.node_id for each in self.pods if each.ready and each.node_id in self.nodes}
        if len(ready) == len(self.nodes):
            assert len(still) >= len(self.nodes) - (strategy.max_unavailable if not strategy.max_surge else 0)
        for node_id in NODES:
            here = [each for each in self.pods if each.node_id == node_id]
            due = [slot for slot in self.starting if slot[1] == ordinal_of(node_id)]
            assert len(here) + len(due) <= (2 if strategy.max_surge else 1), (here, due)
        self.move()

    def move(self) -> None:
        """Something of what is under way comes to pass."""
        self.now_s += 1.0
        by_ordinal = {ordinal_of(node_id): index for index, node_id in enumerate(NODES)}
        for slot in sorted(self.starting):
            index = by_ordinal[slot[1]]
            if NODES[index] not in self.alive:
                self.starting.discard(slot)  # its time is over
            elif self.rng.random() < 0.5:
                self.starting.discard(slot)
                self.serial += 1
                new = daemon(slot[0], index, ready=False)
                self.pods.append(msgspec.structs.replace(new, task_id=f"t{self.serial}"))
        for each in list(self.pods):
            if each.node_id not in self.alive:
                continue
            if each.phase == "Terminating" and self.rng.random() < 0.5:
                self.pods.remove(each)
            elif each.revision in self.broken:
                self.pods[self.pods.index(each)] = msgspec.structs.replace(each, ready=False)
            elif each.phase == "Running" and not each.ready and self.rng.random() < 0.5:
                self.pods[self.pods.index(each)] = msgspec.structs.replace(each, ready=True)

    def disturb(self) -> None:
        """A node dies or returns, with or without what it ran; one changes what it is; the revision breaks; or there is
        a new one."""
        node_id = self.rng.choice(NODES)
        what = self.rng.randrange(5)
        if what < 2:
            if node_id in self.alive and what:
                self.pods = [each for each in self.pods if each.node_id != node_id]
                self.starting = {slot for slot in self.starting if slot[1] != ordinal_of(node_id)}
            self.alive ^= {node_id}
        elif what == 2:
            self.eligible ^= {node_id}
        elif what == 3:
            self.broken.add(self.workload.current.number)
        else:
            self.renew()

    def renew(self) -> None:
        """The operator applies another revision."""
        number = self.workload.current.number + 1
        self.workload = wanted(
            number, *(each.number for each in self.workload.revisions), strategy=self.workload.strategy
        )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(0, 1), (0, 3), (1, 0), (2, 0)]))
def test_each_node_has_one_in_the_end(seed: int, bounds: tuple[int, int]) -> None:
    """Whatever comes and goes: never two on a node (but for the moment of a surge), none starts where none is wanted,
    an update leaves as many as it may, and after a quiet while exactly the eligible nodes that live have one, of the
    newest revision, once that works."""
    twin = Twin(seed, Strategy(max_surge=bounds[0], max_unavailable=bounds[1]))
    for turn in range(120):
        twin.step()
        if turn % 5 == 0:
            twin.disturb()
    if twin.workload.current.number in twin.broken:
        twin.renew()
    for _ in range(300):
        twin.step()

    living = [each for each in twin.pods if each.node_id in twin.alive]
    assert sorted(each.node_id for each in living) == sorted(twin.nodes)
    assert {each.revision for each in living} <= {twin.workload.current.number}
    assert is_settled(twin.declared(), twin.observed())
