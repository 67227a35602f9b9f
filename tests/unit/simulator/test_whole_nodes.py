"""Whole nodes under a virtual clock: the job of the mesh from submission to running pods, and what it survives."""

from __future__ import annotations

from typing import Any

import pytest

from beemesh.custody.custodians import LISTENING_S
from beemesh.custody.submission import SUBMISSIONS_MAX
from beemesh.effects import Flush, Notify, Reply, Save
from beemesh.events import DeployPod, Submit, Submitted
from beemesh.intents.map import TABLE
from beemesh.intents.record import quota_key, workload_key
from beemesh.outward import Ask
from beemesh.workloads.policies import Quota
from simulator.operator import deployment, grant_operator, submission
from simulator.world import World

KEY = workload_key("deployment/default/hello")


def world_of(nodes: int, seed: int = 1, loss: float = 0.0) -> World:
    """A running mesh whose nodes know each other and one operator."""
    world = World(nodes, seed)
    world.faults.loss = loss
    grant_operator(world)
    world.start_all()
    assert world.run_until(lambda: all(len(world.node(i).view.alive()) == nodes for i in range(nodes)), 30)
    world.run_for(2)
    return world


def submit(world: World, replicas: int, at: int = 0, **more: Any) -> Submitted:
    """Seal and submit a workload at one node; its outcome. `more` are other fields of it."""
    _, command = submission(world, at, deployment("hello", replicas, **more), token=7)
    world.event(at, command)
    outcomes: list[Submitted] = []

    def answered() -> bool:
        outcomes[:] = [event for _, _, event in world.events if isinstance(event, Submitted)]
        return bool(outcomes)

    assert world.run_until(answered, 15)
    return outcomes[-1]


def running(world: World, *, dead: frozenset[int] = frozenset()) -> list[int]:
    """Ordinals that run on machines whose agent lives."""
    return sorted(
        pod.replica for machine in world.machines if machine.index not in dead for pod in machine.pods.values()
    )


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 12])
def test_what_is_accepted_runs(nodes: int) -> None:
    """Meshes of any size accept a workload and run each replica once, within a second of the apply."""
    world = world_of(nodes)

    outcome = submit(world, replicas=3)

    assert outcome.accepted, outcome.reason
    assert world.run_until(lambda: running(world) == [0, 1, 2], 2)


def test_replicas_spread_over_machines() -> None:
    """Three replicas on three idle machines: one each."""
    world = world_of(3)
    submit(world, replicas=3)

    assert world.run_until(lambda: [len(machine.pods) for machine in world.machines] == [1, 1, 1], 5)


def test_the_same_seed_gives_the_same_trace() -> None:
    """Two runs of one seed exchange the very same datagrams; another seed does not."""
    traces = []
    for seed in (4, 4, 5):
        world = world_of(4, seed, loss=0.1)
        submit(world, replicas=2)
        world.run_for(5)
        traces.append(world.trace)

    assert traces[0] == traces[1] != traces[2]


@pytest.mark.parametrize("seed", range(4))
def test_a_lossy_network_loses_no_accepted_work(seed: int) -> None:
    """With a fifth of all datagrams lost, what is accepted runs."""
    world = world_of(5, seed, loss=0.2)
    outcome = submit(world, replicas=4)

    assert outcome.accepted, outcome.reason
    assert world.run_until(lambda: running(world) == [0, 1, 2, 3], 30)


@pytest.mark.parametrize("seed", range(3))
def test_the_replicas_of_a_dead_machine_run_elsewhere(seed: int) -> None:
    """A machine loses power for good: its replicas run on the others."""
    world = world_of(5, seed)
    submit(world, replicas=5)
    assert world.run_until(lambda: running(world) == [0, 1, 2, 3, 4], 5)
    victim = next(machine.index for machine in world.machines if machine.pods)

    world.kill(victim, power=True)

    assert world.run_until(lambda: running(world, dead=frozenset({victim})) == [0, 1, 2, 3, 4], 60)


def test_a_power_cut_of_all_loses_nothing() -> None:
    """All machines at once, off and on: every replica runs again, and only once."""
    world = world_of(3)
    submit(world, replicas=3)
    assert world.run_until(lambda: running(world) == [0, 1, 2], 5)
    for index in range(3):
        world.kill(index, power=True)
    world.run_for(10)

    for index in range(3):
        world.start(index, knows=[])

    assert world.run_until(lambda: running(world) == [0, 1, 2], 60)
    world.run_for(30)
    assert running(world) == [0, 1, 2]


def test_a_partition_that_heals_leaves_no_duplicates() -> None:
    """Cut in two and joined again: ten seconds after the heal each replica runs once."""
    world = world_of(5)
    submit(world, replicas=4)
    assert world.run_until(lambda: running(world) == [0, 1, 2, 3], 5)
    world.faults.cut({0, 1}, {2, 3, 4})
    world.run_for(90)

    world.faults.heal()

    assert world.run_until(lambda: running(world) == [0, 1, 2, 3], 30), running(world)
    world.run_for(20)
    assert running(world) == [0, 1, 2, 3]


@pytest.mark.parametrize("others", [0, 1])
def test_who_has_just_started_does_not_take_itself_for_a_lone_node(others: int) -> None:
    """A lone node keeps a record once and says that it is accepted. One that has heard of nobody yet cannot tell: it
    waits, until it has somebody to keep it too, or stays alone."""
    world = World(3)
    grant_operator(world)
    world.start(0)
    quota = Quota("default", "most", {"pods": 5})
    record = world.sign(world.operator, "quota", quota_key("default", "most"), quota, 1)
    world.event(0, Submit(7, record))

    def outcome() -> Submitted | None:
        return next((event for _, _, event in world.events if isinstance(event, Submitted)), None)

    world.run_for(LISTENING_S - 1)
    assert outcome() is None
    if others:
        world.start(1)
    assert world.run_until(lambda: outcome() is not None, 5)
    told = outcome()
    assert told is not None
    assert told.accepted
    holders = [
        machine.index for machine in world.machines if (TABLE, quota_key("default", "most").encode()) in machine.disk
    ]
    assert holders == list(range(others + 1))


def test_what_is_being_started_when_the_power_goes_starts_nowhere() -> None:
    """A power cut takes the start that is under way along with what runs."""
    world = world_of(3)
    begun: list[int] = []
    world.watch = lambda index, event: begun.append(index) if isinstance(event, DeployPod) else None
    _, command = submission(world, 0, deployment("hello", 1), token=7)
    world.event(0, command)
    assert world.run_until(lambda: bool(begun), 15)
    for machine in world.machines:
        world.kill(machine.index, power=True)
    world.run_for(5)
    assert [machine.pods for machine in world.machines] == [{}, {}, {}]


def test_what_waits_for_a_young_agent_to_listen_is_bounded() -> None:
    """What comes on top is refused at once, and not kept by this node alone."""
    world = World(3)
    grant_operator(world)
    world.start(0)
    quota = Quota("default", "most", {"pods": 5})
    record = world.sign(world.operator, "quota", quota_key("default", "most"), quota, 1)
    for token in range(SUBMISSIONS_MAX + 1):
        world.event(0, Submit(token, record))
    (refused,) = [event for _, _, event in world.events if isinstance(event, Submitted)]
    assert refused.token == SUBMISSIONS_MAX
    assert not refused.accepted
    assert "busy" in refused.reason


def test_a_keeper_that_does_not_answer_is_named_once() -> None:
    """It was asked to keep a share and a copy; who reads the refusal wants to know which machine to look at."""
    world = world_of(3)
    world.kill(1)

    outcome = submit(world, replicas=1)

    assert outcome.reason == "not all keepers saved their part: n1: no answer in time"
    assert outcome.keepers == ("n1",)


def test_what_a_witness_saved_is_accepted_only_once_this_node_saved_it_too() -> None:
    """The witness's answer may come while the node's own save still waits, or after it failed."""
    world = world_of(2)
    assert submit(world, replicas=1).accepted
    world.run_for(3)
    here, there = world.machines
    gone = world.sign(world.operator, "tombstone", KEY, None, seq=2)
    handed_in = world.node(0).node.event(Submit(50, gone), world.now_of(here))
    (ask,) = [each for each in handed_in if isinstance(each, Ask) and type(each.message).__name__ == "PushIntents"]
    witness = world.node(1).node.asked(here.membership.node_id, 77, ask.message, world.now_of(there))
    (acknowledged,) = [each.message for each in witness if isinstance(each, Reply)]

    effects = world.node(0).node.answer(ask.request_id, ask.peer, acknowledged, "", world.now_of(here))

    assert any(isinstance(each, Save) and (each.table, each.key) == (TABLE, KEY.encode()) for each in handed_in)
    assert [each.event.accepted for each in effects if isinstance(each, Notify)] == [True]
    assert effects[0] == Flush(TABLE, KEY.encode())
