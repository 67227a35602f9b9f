"""A more important replica makes room for itself: on several nodes, under a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.effects import JobFinished
from beemesh.events import StopPod
from beemesh.scheduling.eligibility import Resources
from beemesh.scheduling.execution.pods import GRACE_S
from beemesh.scheduling.preemption import Candidate
from beemesh.scheduling.score import CROWD_MAX, Place, score
from beemesh.scheduling.telling import RETRYABLE
from beemesh.settings.model import Weights
from beemesh.workloads.record import Constraints, HostPort, Qos, Requirements
from tests.unit.scheduling.samples import settings, workload
from tests.unit.scheduling.test_drain import FULL
from tests.unit.scheduling.world import PLENTY, World, WorldNode

BIG = Requirements(cpu_m=100, mem_mb=2000)
"""A node of these tests has room for one."""

CHEAP = Qos(preemptible=True)
URGENT = Qos(priority=1000)


def full_world(seed: int = 0) -> World:
    """Three nodes, each with one replica that may be evicted."""
    world = World(seed=seed)
    world.apply(workload("cheap", replicas=3, requirements=BIG, qos=CHEAP))
    assert world.run_until(lambda: len(world.pods()) == 3, 10)
    return world


def running(world: World, name: str) -> int:
    """How many replicas of a workload run."""
    return sum(1 for pod in world.pods() if pod.workload_id.endswith(f"/{name}"))


@pytest.mark.parametrize("seed", range(5))
def test_one_of_the_less_important_goes(seed: int) -> None:
    """On a full mesh one replica is evicted for a more important one, told with by whom, and stays pending after."""
    world = full_world(seed)
    world.apply(workload("urgent", requirements=BIG, qos=URGENT))
    world.run_until(lambda: running(world, "urgent") == 1, 10)
    world.run(8)

    assert (running(world, "urgent"), running(world, "cheap")) == (1, 2)
    (told,) = world.events("Preempted")
    assert told.workload_id == "deployment/default/cheap"
    assert told.details["by"] == "deployment/default/urgent"
    tasks = [task for _, task in world.tasks() if task.replica == told.replica and "cheap" in task.workload_id]
    assert len(tasks) >= 2, "its steward published it again"


def test_the_evicted_comes_back_when_there_is_room() -> None:
    """What was evicted runs again once the more important one is gone."""
    world = full_world()
    world.apply(workload("urgent", requirements=BIG, qos=URGENT))
    world.run_until(lambda: running(world, "urgent") == 1, 10)
    world.delete(workload("urgent", requirements=BIG, qos=URGENT))
    world.run_until(lambda: running(world, "cheap") == 3, 60)

    assert running(world, "cheap") == 3


def test_never_two_where_one_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newcomer starts only when its victim is gone: at no moment do both run on one node, though ending takes
    longer than starting."""
    monkeypatch.setattr("tests.unit.scheduling.world.STOP_S", 1.0)
    world = full_world()
    world.apply(workload("urgent", replicas=2, requirements=BIG, qos=URGENT))
    for _ in range(200):
        world.run(0.05)
        assert all(len(pods) <= 1 for pods in world.running().values())

    assert (running(world, "urgent"), running(world, "cheap")) == (2, 1)


def test_who_counts_on_room_that_others_make_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second newcomer's own victim is gone at once, the first one's takes long: it starts when both are gone, since
    there is no room for it before."""
    monkeypatch.setattr("tests.unit.scheduling.world.STOP_S", 3.0)
    world = World(["one"])
    world.apply(workload("large", requirements=Requirements(mem_mb=2000), qos=CHEAP))
    world.apply(workload("small", requirements=Requirements(mem_mb=1300), qos=Qos(priority=5, preemptible=True)))
    assert world.run_until(lambda: len(world.pods()) == 2, 10)
    world.apply(workload("first", requirements=Requirements(mem_mb=1850), qos=URGENT))
    assert world.run_until(lambda: len(world.events("Preempted")) == 1, 10)
    monkeypatch.setattr("tests.unit.scheduling.world.STOP_S", 0.1)
    world.apply(workload("second", requirements=Requirements(mem_mb=1600), qos=URGENT))
    for _ in range(200):
        world.run(0.05)
        together = {pod.workload_id.rpartition("/")[2] for pod in world.pods()}
        assert not {"large", "second"} <= together

    assert (running(world, "first"), running(world, "second")) == (1, 1)
    assert [told.workload_id for told in world.events("Preempted")] == [
        "deployment/default/large",
        "deployment/default/small",
    ]


@pytest.mark.parametrize(
    ("cheap", "urgent"),
    [
        (Qos(preemptible=False), URGENT),
        (CHEAP, Qos(priority=1000, preempts=False)),
        (CHEAP, Qos(priority=0)),
        (Qos(priority=2000, preemptible=True), URGENT),
    ],
)
def test_who_may_not_be_evicted_stays(cheap: Qos, urgent: Qos) -> None:
    """Not preemptible, not less important, or a newcomer that never preempts: the newcomer waits."""
    world = World()
    world.apply(workload("cheap", replicas=3, requirements=BIG, qos=cheap))
    world.run_until(lambda: len(world.pods()) == 3, 10)
    world.apply(workload("urgent", requirements=BIG, qos=urgent))
    world.run(10)

    assert (running(world, "urgent"), running(world, "cheap")) == (0, 3)
    assert world.events("Preempted") == []


def test_room_elsewhere_spares_everybody() -> None:
    """While any node has room, nobody is evicted."""
    world = World()
    world.apply(workload("cheap", replicas=2, requirements=BIG, qos=CHEAP))
    world.run_until(lambda: len(world.pods()) == 2, 10)
    world.apply(workload("urgent", requirements=BIG, qos=URGENT))
    world.run(5)

    assert (running(world, "urgent"), running(world, "cheap")) == (1, 2)
    assert world.events("Preempted") == []


def test_a_host_port_is_freed_by_who_holds_it() -> None:
    """A newcomer that needs a taken host port has its holder evicted, and nobody else."""
    port = (HostPort(8080),)
    world = World()
    world.apply(workload("cheap", replicas=3, requirements=Requirements(mem_mb=100, ports=port), qos=CHEAP))
    world.apply(workload("other", replicas=3, requirements=Requirements(mem_mb=100), qos=CHEAP))
    world.run_until(lambda: len(world.pods()) == 6, 10)
    world.apply(workload("urgent", requirements=Requirements(mem_mb=100, ports=port), qos=URGENT))
    world.run_until(lambda: running(world, "urgent") == 1, 10)

    assert (running(world, "cheap"), running(world, "other")) == (2, 3)


def test_the_only_replica_goes_last() -> None:
    """Of two that would do, the one whose workload has other replicas goes, though it is older and equal."""
    world = World(["one"])
    half, apart = Requirements(mem_mb=1200), Constraints(anti_affinity_hosts=True)
    world.apply(workload("pair", replicas=2, requirements=half, qos=CHEAP, constraints=apart))
    world.run_until(lambda: running(world, "pair") == 1, 10)
    world.apply(workload("lone", requirements=half, qos=CHEAP))
    world.run_until(lambda: running(world, "lone") == 1, 10)
    world.apply(workload("urgent", requirements=half, qos=URGENT))
    world.run_until(lambda: running(world, "urgent") == 1, 10)

    assert running(world, "lone") == 1
    assert {event.workload_id for event in world.events("Preempted")} == {"deployment/default/pair"}


crowds = st.lists(
    st.builds(Candidate, st.text("ab", max_size=3), st.just(Requirements()), st.integers(-(10**9), 10**9),
              st.just(0), st.booleans()),
    min_size=1, max_size=16,
)  # fmt: skip
fullness = st.integers(0, 4000)


@given(crowds, crowds, fullness, fullness)
def test_bids_rank_by_the_harm_they_do(
    one: list[Candidate], other: list[Candidate], free_one: int, free_other: int
) -> None:
    """Any bid without victims beats any with; less harm beats more, whatever the rest of the score says."""
    scores = [
        score(Requirements(), Resources(4000, 4000, 1, free, free, 1), Place(victims=tuple(victims)), Weights()).total
        for victims, free in ((one, free_one), (other, free_other))
    ]
    worst = Place(crowd=CROWD_MAX, uneven=CROWD_MAX, failed=True, reliability=0.0, wished=0.0)
    assert all(
        0.0 < total < score(Requirements(), Resources(1, 1, 1, 0, 0, 0, 1.0), worst, Weights()).total
        for total in scores
    )
    harm = [(sum(v.guarded for v in these), max(v.priority for v in these), len(these)) for these in (one, other)]
    if min(harm[0][0], 15) == min(harm[1][0], 15) and harm[0][0] != harm[1][0]:
        return  # more than so many are told apart no longer
    if harm[0] < harm[1]:
        assert scores[0] > scores[1]
    elif harm[0] > harm[1]:
        assert scores[0] < scores[1]


@pytest.mark.parametrize("tolerant", [True, False])
def test_the_more_important_goes_elsewhere_when_its_victim_cannot_be_ended(
    monkeypatch: pytest.MonkeyPatch, tolerant: bool
) -> None:
    """A runtime fails at each stop: the placement is given up in time, nobody is blamed, and a node that has got room
    meanwhile takes it. The victim is still there, and counted."""
    done = WorldNode._done

    def ends_nothing(node: WorldNode, job_id: str, job: Any, epoch: int) -> None:
        if not isinstance(job, StopPod):
            done(node, job_id, job, epoch)
        elif node.epoch == epoch:
            node.tell(JobFinished(job_id, None, "Timeout: podman did not end"))

    monkeypatch.setattr(WorldNode, "_done", ends_nothing)
    world = World(("one", "two"))
    world.nodes["two"].set_resources(FULL)
    world.apply(workload("cheap", requirements=BIG, qos=CHEAP))
    assert world.run_until(lambda: running(world, "cheap") == 1, 10)
    world.apply(workload("urgent", requirements=BIG, qos=URGENT, duplicate_tolerant=tolerant))
    world.run(5)
    world.nodes["two"].set_resources(PLENTY)
    world.run(GRACE_S + settings().scheduler.deploy_timeout_ms / 1000 + 5)

    assert world.running() == {"one": ["cheap-1-0"], "two": ["urgent-1-0"]}
    (failed,) = world.events("Failed")
    assert (failed.reason, RETRYABLE in failed.details) == ("Timeout", True)
    assert world.nodes["one"].local.totals() == BIG
