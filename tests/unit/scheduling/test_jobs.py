"""Jobs on several nodes: worked off in turn, told when over, and not done twice."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.ids import Digest
from beemesh.scheduling.messages import Event
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.telling import FINISHED, POD_MANIFEST
from beemesh.workloads.record import JobTerms, Strategy, Workload
from beemesh.workloads.rollout import mark_of
from tests.unit.scheduling.samples import WALL_MS, card, record, revision, workload
from tests.unit.scheduling.world import World


def job(completions: int, terms: JobTerms) -> Workload:
    """A Job."""
    strategy = Strategy("Recreate", 0, 1, rollback="never")
    policy: dict[str, object] = {"restart_policy": "Never", "strategy": strategy, "created_ms": WALL_MS}
    return workload(kind="Job", replicas=completions, job=terms, **policy)


def end_all(world: World, phase: str) -> None:
    """Every pod that runs comes to its end."""
    for node in world.nodes.values():
        for name, report in node.runtime.items():
            if report.phase == "Running" and not node.dead:
                node.runtime[name] = msgspec.structs.replace(report, phase=phase, ready=False)
        if not node.dead:
            node.look()


def active(world: World) -> int:
    """Pods that run."""
    return sum(report.phase == "Running" for report in world.pods())


def test_a_job_is_worked_off_in_turn() -> None:
    """Two at a time until five have succeeded; then it is told once, and nothing starts any more."""
    world = World()
    world.apply(job(5, JobTerms(parallelism=2)))
    for _ in range(3):
        world.run(5)
        assert 1 <= active(world) <= 2
        end_all(world, "Succeeded")
    world.run(30)

    assert active(world) == 0
    (told,) = world.events("Completed")
    assert told.details["message"] == "5 of 5 completions"
    assert sum(len(node.started) for node in world.nodes.values()) == 5


def test_too_many_failures_end_it() -> None:
    """Failures of all its pods count together; after the last one nothing is tried again."""
    world = World()
    world.apply(job(3, JobTerms(parallelism=1, backoff_limit=2)))
    for _ in range(12):
        world.run(10)
        end_all(world, "Failed")
    world.run(60)

    final = [event for event in world.events("Failed") if event.reason == "BackoffLimitExceeded"]
    assert len(final) == 1
    assert "failed 3 times, 2 are allowed" in final[0].details["message"]
    assert sum(len(node.started) for node in world.nodes.values()) == 3


def test_the_next_steward_does_nothing_twice() -> None:
    """What was finished and what is over outlives the steward, and the nodes that ran it."""
    world = World(("a", "b", "c", "d", "e"))
    world.apply(job(3, JobTerms(parallelism=3)))
    world.run(5)
    end_all(world, "Succeeded")
    world.run(10)
    before = sum(len(node.started) for node in world.nodes.values())
    for _ in range(2):
        holder = world.leases.held["steward/deployment/default/hello".replace("deployment", "job")][0]
        next(node for node in world.nodes.values() if node.node_id == holder).kill(power=True)
        world.run(60)

    assert sum(len(node.started) for node in world.nodes.values()) == before == 3
    assert len(world.events("Completed")) == 1


def test_a_job_that_is_over_stays_over_whatever_was_told_since() -> None:
    """Neither a power cut nor a restart of all agents in turn has one run again that succeeded, or that failed for
    good, when its end is long past."""
    for phase in ("Succeeded", "Failed"):
        for power in (True, False):
            world = World()
            world.apply(job(2, JobTerms(parallelism=2, backoff_limit=0)))
            world.run(5)
            end_all(world, phase)
            world.run(10)
            for node in world.nodes.values():
                node.hear_noise()
            world.run(2)
            if power:
                world.power_cut()
            for node in world.nodes.values():
                if not power:
                    node.kill()
                    world.run(3)
                node.boot()
                world.run(20)
            world.run(60)

            assert sum(len(node.started) for node in world.nodes.values()) == 2, (phase, power)


def test_a_deadline_stops_what_runs() -> None:
    """What is active too long ends, and the job has failed."""
    world = World()
    world.apply(job(1, JobTerms(active_deadline_s=30)))
    world.run(20)
    assert active(world) == 1
    world.run(40)

    assert active(world) == 0
    assert [event.reason for event in world.events("Failed")] == ["DeadlineExceeded"]


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("deleted", [True, False])
def test_a_job_that_is_applied_anew_is_not_over_by_what_became_of_the_one_before(phase: str, *, deleted: bool) -> None:
    """Its pods bear the same numbers, and it follows within a minute: neither its steward nor the next one takes their
    ends for its own, also where nobody heard that the first one was deleted."""
    world = World(("a", "b", "c", "d", "e"))
    first = job(2, JobTerms(parallelism=2, backoff_limit=0))
    world.apply(first)
    world.run(5)
    end_all(world, phase)
    world.run(5)
    if deleted:
        world.delete(first, 2)
        world.run(5)
    sealed_anew = msgspec.structs.replace(revision(), manifest=Digest(bytes(32)))
    world.apply(msgspec.structs.replace(first, revisions=(sealed_anew,), created_ms=world.now.wall_ms), 3)
    world.run(10)
    assert active(world) == 2
    told = len(world.events("Completed") + world.events("Failed"))
    for _ in range(2):
        holder = world.leases.held["steward/job/default/hello"][0]
        steward = next(node for node in world.nodes.values() if node.node_id == holder)
        steward.kill()
        world.run(20)
        steward.boot()
        world.run(20)

    assert active(world) == 2
    assert len(world.events("Completed") + world.events("Failed")) == told


def test_ends_of_pods_count_by_their_manifest() -> None:
    """One of this job's own counts, one of another's does not; where an older agent tells none, the number decides."""
    mine = job(3, JobTerms())
    hosted = Hosted(mine.workload_id, mine, record(mine)[1])
    for replica, mark in enumerate(({POD_MANIFEST: mark_of(mine.current).hex()}, {}, {POD_MANIFEST: "00"})):
        details = {FINISHED: "true", **mark}
        told = Event("e", card("one").node_id, "Stopped", WALL_MS, revision=1, replica=replica, details=details)
        hosted.told_of(told, 5.0)

    assert hosted.finished == {(1, 0), (1, 1)}
