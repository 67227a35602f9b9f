"""Jobs on several nodes: worked off in turn, told when over, and not done twice."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.events import LeaseDenied
from beemesh.ids import Digest
from beemesh.scheduling.leases import steward_key
from beemesh.scheduling.line import stewards_in_line
from beemesh.scheduling.messages import Event
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.telling import FINISHED, MANIFEST, POD_MANIFEST
from beemesh.workloads.record import Constraints, JobTerms, Strategy, Workload
from beemesh.workloads.rollout import mark_of
from tests.unit.scheduling.samples import WALL_MS, card, record, revision, workload
from tests.unit.scheduling.world import World, WorldNode


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


def end_one(node: WorldNode, phase: str) -> str:
    """The first pod of a node comes to its end; its name."""
    name, report = next(iter(node.runtime.items()))
    node.runtime[name] = msgspec.structs.replace(report, phase=phase, ready=False)
    node.look()
    return report.pod


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


def test_what_finished_before_a_keeper_restarted_counts_whatever_failed_since() -> None:
    """The machine that ran it is lost, the keepers' agents were restarted, and a sibling failed before one of them took
    over: neither is the finished one started again, nor is a failure counted twice."""
    world = World(("one", "two", "three", "four"), seed=11)
    wanted = job(4, JobTerms(parallelism=4, backoff_limit=6))
    world.apply(wanted)
    world.run(3)
    steward = world.steward_of(wanted.workload_id)
    ended, failing, *_ = [node for node in world.nodes.values() if node is not steward and node.runtime]
    others = [node for node in world.nodes.values() if node not in (steward, ended)]
    finished = end_one(ended, "Succeeded")
    world.run(5)
    for node in others:
        node.crash()
        world.run(0.2)
        node.boot()
        world.run(5)
    failed = end_one(failing, "Failed")
    world.run(0.5)
    ended.kill(power=True)
    steward.kill()
    world.run(40)

    starts = [pod for node in world.nodes.values() for pod in node.started]
    assert starts.count(finished) == 1
    assert starts.count(failed) == 2
    heir = world.steward_of(wanted.workload_id).steward
    assert [each.blamed for each in heir._hosted[wanted.workload_id].failures.values()] == [1]


def test_who_had_nothing_of_it_ends_no_job() -> None:
    """That its pods finished or failed counts from those that had them, and that it is over from its steward: neither
    this one nor the next one stops what runs, or leaves out what never ran; and no keeper's memory grows."""
    world = World(("one", "two", "three", "four", "five", "six"), seed=5)
    wanted = job(4, JobTerms(parallelism=2))
    world.apply(wanted)
    world.run(10)
    steward = world.steward_of(wanted.workload_id)
    line = stewards_in_line(wanted.workload_id, steward.roster, steward.view)
    liar = next(node for node in world.nodes.values() if node.node_id not in line)
    for replica in (*range(4), *range(10**6, 10**6 + 50)):
        world.lie(liar, "Stopped", wanted, replica, **{FINISHED: "true"})
        world.lie(liar, "Failed", wanted, replica)
        world.lie(liar, "Cancelled", wanted, replica)
    world.lie(liar, "Completed", wanted, 0, **{MANIFEST: mark_of(wanted.current).hex()})
    for node in world.nodes.values():
        hosted = node.steward._hosted[wanted.workload_id]
        assert node is liar or (not hosted.over and not hosted.failures and not hosted.finished)
        assert len(hosted.doubted) <= 1
    steward.kill()
    for _ in range(6):
        world.run(10)
        assert not world.events("Failed")
        end_all(world, "Succeeded")
    world.run(10)

    honest = {event.replica for event in world.events("Stopped") if event.task_id and FINISHED in event.details}
    assert honest == {0, 1, 2, 3}


def test_a_keeper_that_was_not_known_to_host_is_believed_once_it_shows() -> None:
    """The lease has gone from one to another, and a third hears the other's last word before it hears of that."""
    world = World(("one", "two", "three", "four"))
    wanted = job(2, JobTerms())
    world.apply(wanted)
    world.run(10)
    steward = world.steward_of(wanted.workload_id)
    line = [world.nodes_by_id[each] for each in stewards_in_line(wanted.workload_id, steward.roster, steward.view)]
    heir, third = [node for node in line if node is not steward][:2]
    world.lie(heir, "Completed", wanted, 0, **{MANIFEST: mark_of(wanted.current).hex()})
    hosted = third.steward._hosted[wanted.workload_id]
    assert not hosted.over
    third.tell(LeaseDenied(steward_key(wanted.workload_id), "held", heir.node_id, 10.0))

    assert hosted.over == "Completed"


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


NAMESAKES = [
    (workload(), job(1, JobTerms())),
    (workload(), workload("hello-1-0", kind="Pod", restart_policy="Never")),
    (workload("hello-1-0", kind="Pod"), workload()),
    (workload(duplicate_tolerant=False), workload(kind="StatefulSet", duplicate_tolerant=False)),
]
"""Two workloads whose pods have one name."""


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("first", "second"), NAMESAKES)
def test_pods_of_one_name_run_on_two_nodes(first: Workload, second: Workload, at_once: bool) -> None:
    """A node has one pod of a name: that of another workload runs elsewhere, soon, and is never called deployed before
    it is."""
    world = World(("one", "two"))
    world.apply(first)
    world.run(0 if at_once else 5)
    world.apply(second)
    world.run(10)

    assert {each.workload_id for each in world.pods()} == {first.workload_id, second.workload_id}
    assert sorted(map(len, world.running().values())) == [1, 1]
    assert len(world.events("Deployed")) == 2


@pytest.mark.parametrize(("first", "second"), NAMESAKES)
def test_a_pod_whose_name_is_taken_on_its_only_node_waits_and_says_why(first: Workload, second: Workload) -> None:
    """It is pending with that reason, without a flood of words, through restarts; and runs once the name is free."""
    world = World(("one", "two"))
    here = Constraints(node_name="one")
    first, second = (msgspec.structs.replace(each, constraints=here) for each in (first, second))
    world.apply(first)
    world.run(5)
    said = len(world.events())
    world.apply(second)
    world.run(40)
    world.nodes["one"].crash()
    world.nodes["one"].boot(sees=False)
    world.run(1)
    world.nodes["one"].look()
    world.run(60)

    assert [each.workload_id for each in world.pods()] == [first.workload_id]
    pending = world.events("Pending")
    assert pending
    assert all(f"a pod of that name, of {first.workload_id}, is here" in event.details["one"] for event in pending)
    assert not [event for event in world.events("Deployed") if event.workload_id == second.workload_id]
    assert len(world.events()) - said < 10
    world.delete(first)
    world.run_until(lambda: [each.workload_id for each in world.pods()] == [second.workload_id], 10)


def test_a_node_wins_one_of_two_pods_of_one_name() -> None:
    """Both are wanted in the same moment on one node: it does not win the other only to give it back."""
    world = World(("one", "two"))
    here = Constraints(node_name="one")
    for wanted in (workload(constraints=here), msgspec.structs.replace(job(1, JobTerms()), constraints=here)):
        world.apply(wanted)
    world.run(10)

    assert len(world.pods()) == 1
    assert len(world.events("Pending")) == 1
    assert not world.events("Cancelled")
