"""Jobs: golden cases, and a random walk of a dumb world in which pods succeed, fail and vanish with their nodes."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.workloads.jobs import failures_of, state_of
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.reconciler import Declared, Failures, Observed, StartReplica, StopReplicaAction, plan
from beemesh.workloads.record import JobTerms, Strategy, Workload
from beemesh.workloads.resolve import resolve
from beemesh.workloads.validation import check
from tests.unit.workloads.samples import container
from tests.unit.workloads.test_rollout import pod, revision

CREATED_MS = 1_800_000_000_000


def job(completions: int = 3, terms: JobTerms | None = None) -> Workload:
    """A Job of so many completions."""
    return Workload(
        "Job", "default", "hello", completions, (revision(1),), job=terms or JobTerms(), created_ms=CREATED_MS,
        strategy=Strategy("Recreate", 0, 1), restart_policy="Never",
    )  # fmt: skip


def manifest(**spec: Any) -> dict[str, Any]:
    """A Job as people write it."""
    template = {"spec": {"restartPolicy": "Never", "containers": [container()]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "hello"},
        "spec": {"template": template, **spec},
    }


def messages(document: dict[str, Any]) -> list[str]:
    """What is wrong with it."""
    return [finding.message for finding in check(document).findings]


def test_a_manifest_becomes_terms() -> None:
    """Kubernetes' defaults where nothing is said; each field where it is."""
    found = check(manifest()).object
    assert found is not None
    assert resolve([found]).workloads[0].job == JobTerms(1, 6, 0)
    said = check(manifest(completions=5, parallelism=2, backoffLimit=1, activeDeadlineSeconds=60)).object
    assert said is not None
    resolved = resolve([said]).workloads[0]
    assert (resolved.replicas, resolved.job) == (5, JobTerms(2, 1, 60))


def test_what_is_not_supported_is_refused() -> None:
    """A queue of work, an indexed job, a time to live and a pod that always restarts, each by its place."""
    assert "a queue of work" in messages(manifest(parallelism=3))[0]
    assert "completionMode" in messages(manifest(completionMode="Indexed"))[0]
    assert "ttlSecondsAfterFinished" in messages(manifest(ttlSecondsAfterFinished=60))[0]
    always = manifest()
    del always["spec"]["template"]["spec"]["restartPolicy"]
    assert "must be OnFailure or Never" in messages(always)[0]


def test_how_a_job_ends() -> None:
    """All completions, one failure too many, or its deadline; nothing else."""
    workload = job(2, JobTerms(1, 1, 60))
    done = frozenset({(1, 0)})
    succeeded = msgspec.structs.replace(pod(1, 1), phase="Succeeded")
    assert state_of(workload, Observed(finished=done), CREATED_MS).state == "running"
    assert state_of(workload, Observed((succeeded,), finished=done), CREATED_MS).state == "complete"
    once = {(1, 1): Failures(1, 0.0, ("exit 3",), blamed=1)}
    assert state_of(workload, Observed(failures=once), CREATED_MS).state == "running"
    restarted = pod(1, 0, ready=False, restarts=1)
    failed = state_of(workload, Observed((restarted,), failures=once), CREATED_MS)
    assert (failed.reason, failures_of(workload, Observed((restarted,), failures=once))) == ("BackoffLimitExceeded", 2)
    assert "exit 3" in failed.message
    late = state_of(workload, Observed(finished=done), CREATED_MS + 60_001)
    assert late.reason == "DeadlineExceeded"


def test_what_is_over_stops() -> None:
    """Nothing starts any more, and what is active ends."""
    over = Declared("Job", 3, 1, restart_policy="Never", parallelism=3, over=True)
    (stop,) = plan(over, Observed((pod(1, 0),)), 0.0, 5)
    assert isinstance(stop, StopReplicaAction)
    assert stop.reason == "over"


class Twin:
    """A dumb world of a Job."""

    def __init__(self, seed: int, *, fails: float) -> None:
        self.rng = random.Random(seed)
        self.workload = job(self.rng.randrange(1, 8), JobTerms(self.rng.randrange(1, 5), self.rng.randrange(0, 6), 0))
        self.fails = fails
        self.pods: list[ReplicaReport] = []
        self.starting: set[tuple[int, int]] = set()
        self.failures: dict[tuple[int, int], Failures] = {}
        self.finished: set[tuple[int, int]] = set()
        self.succeeded: list[int] = []
        self.now_s, self.serial = 0.0, 0

    def observed(self) -> Observed:
        """What is."""
        return Observed(tuple(self.pods), frozenset(self.starting), dict(self.failures), frozenset(self.finished))

    def step(self) -> str:
        """One look, carried out; then something happens."""
        state = state_of(self.workload, self.observed(), CREATED_MS).state
        declared = Declared.of(self.workload)
        if state != "running":
            declared = Declared("Job", declared.replicas, 1, restart_policy="Never", parallelism=1, over=True)
        for action in plan(declared, self.observed(), self.now_s, 5):
            if isinstance(action, StartReplica):
                assert state == "running"
                assert action.replica not in self.succeeded
                self.starting.add((action.revision, action.replica))
            elif isinstance(action, StopReplicaAction):
                self.pods.remove(action.report)
        active = [each for each in self.pods if each.phase == "Running"]
        terms = self.workload.job
        assert terms is not None
        assert len(active) + len(self.starting) <= terms.parallelism
        self.move()
        return state

    def move(self) -> None:
        """Pods start, and end one way or the other; nodes die."""
        self.now_s += 10.0
        for slot in sorted(self.starting):
            self.starting.discard(slot)
            self.serial += 1
            self.pods.append(msgspec.structs.replace(pod(slot[0], slot[1]), task_id=f"t{self.serial}"))
        for each in list(self.pods):
            if each.phase != "Running" or self.rng.random() < 0.5:
                continue
            slot = (each.revision, each.replica)
            if self.rng.random() < 0.1:
                self.pods.remove(each)  # its node died
            elif self.rng.random() < self.fails:
                before = self.failures.get(slot, Failures(0, 0.0))
                self.failures[slot] = Failures(before.count + 1, self.now_s, ("exit 1",), blamed=before.blamed + 1)
                self.pods[self.pods.index(each)] = msgspec.structs.replace(each, phase="Failed", ready=False)
            else:
                self.finished.add(slot)
                self.succeeded.append(each.replica)
                self.pods[self.pods.index(each)] = msgspec.structs.replace(each, phase="Succeeded", ready=False)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.2, 1.0]))
def test_a_job_always_ends(seed: int, fails: float) -> None:
    """Never more at a time than its parallelism, no ordinal twice, and in the end it is complete or has failed as often
    as it may and once more."""
    twin = Twin(seed, fails=fails)
    state = "running"
    for _ in range(600):
        state = twin.step()

    terms = twin.workload.job
    assert terms is not None
    assert state == ("complete" if set(twin.succeeded) == set(range(twin.workload.replicas)) else "failed")
    assert len(twin.succeeded) == len(set(twin.succeeded))
    assert not [each for each in twin.pods if each.phase == "Running"]
    if state == "failed":
        assert failures_of(twin.workload, twin.observed()) > terms.backoff_limit
    if fails == 1.0:
        assert state == "failed"
