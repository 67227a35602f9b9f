"""The budget for repairs: quick after one death, patient in a storm, bounded always."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.events import MemberDown, MemberUp
from beemesh.identity.signing import sign_statement
from beemesh.intents.record import workload_key
from beemesh.scheduling.messages import TASK_KIND, TOPIC_TASKS, SignedTask
from beemesh.scheduling.stewardship.repairs import (
    CALM_S,
    HESITATE_S,
    PARALLEL_MAX,
    REPAIRS_BURST,
    REPAIRS_PER_S,
    STORM_S,
    Repairs,
)
from beemesh.scheduling.tasks import TASK_LIFETIME_MS, make_task
from beemesh.scheduling.telling import FINAL
from beemesh.workloads.backoff import STEADY_S
from beemesh.workloads.reconciler import StartReplica
from beemesh.workloads.record import Strategy
from tests.unit.scheduling.samples import record, workload
from tests.unit.scheduling.world import World


def test_one_death_costs_a_second_at_most() -> None:
    """In a mesh of three, one that dies is replaced at once; of ten, once it is seen that no others follow."""
    repairs = Repairs()
    repairs.died(100.0)
    assert repairs.take(3, 0, 100.0)
    assert not repairs.take(10, 0, 100.0)
    assert repairs.take(10, 0, 100.0 + HESITATE_S)


def test_a_storm_waits_until_it_is_calm() -> None:
    """Four of ten dead: nothing is replaced until nobody has died or come back for some seconds."""
    repairs = Repairs()
    for at_s in (100.0, 101.0, 102.0, 103.0):
        repairs.died(at_s)
    assert not repairs.take(10, 0, 103.0 + CALM_S - 0.1)
    repairs.came(107.0)
    assert not repairs.take(10, 0, 103.0 + CALM_S + 0.1)
    assert repairs.take(10, 0, 107.0 + CALM_S)


@pytest.mark.parametrize("members", [3, 10])
def test_deaths_of_long_ago_take_no_room(members: int) -> None:
    """A node that dies time and again, in a mesh of any size, is remembered no longer than a storm lasts."""
    repairs = Repairs()
    for number in range(200):
        repairs.died(number * STORM_S / 4)
        repairs.take(members, 0, number * STORM_S / 4)
    assert len(repairs._deaths) <= 5


def test_a_storm_is_forgotten() -> None:
    """Deaths of long ago are no storm together with a new one."""
    repairs = Repairs()
    for at_s in (100.0, 101.0, 102.0):
        repairs.died(at_s)
    repairs.died(103.0 + STORM_S)
    assert repairs.take(10, 0, 103.0 + STORM_S + HESITATE_S)


def test_one_workload_has_so_many_at_once() -> None:
    """What is under way of one workload bounds what begins of it."""
    assert Repairs().take(10, PARALLEL_MAX - 1, 0.0)
    assert not Repairs().take(10, PARALLEL_MAX, 0.0)


@given(st.lists(st.floats(0.0, 5.0), max_size=300))
def test_the_budget_holds(pauses: list[float]) -> None:
    """Whenever it is asked, no more begins than the burst and what has come back since."""
    repairs, now_s, begun = Repairs(), 0.0, 0
    for pause_s in [0.0] * 100 + pauses:
        now_s += pause_s
        begun += repairs.take(10, 0, now_s)
        assert begun <= REPAIRS_BURST + now_s * REPAIRS_PER_S + 1


def test_a_partition_that_flaps_moves_nothing() -> None:
    """Half of a mesh is judged dead, and is back before it is calm: not one replica is started elsewhere."""
    names = [f"n{number}" for number in range(8)]
    world = World(names)
    world.apply(workload(replicas=16))
    world.run_until(lambda: len(world.pods()) == 16, 30)
    world.run(5)
    tasks = len(world.tasks())
    holder = world.leases.held["steward/deployment/default/hello"][0]
    hosting = next(name for name, node in world.nodes.items() if node.node_id == holder)
    gone = [name for name in names if name != hosting][:4]
    steward = world.nodes[hosting]
    for _ in range(3):
        for name in gone:
            steward.view.set_status(world.nodes[name].node_id, "dead")
            steward.tell(MemberDown(world.nodes[name].node_id))
        world.run(CALM_S - 2)
        for name in gone:
            steward.view.set_status(world.nodes[name].node_id, "alive")
            steward.tell(MemberUp(world.nodes[name].node_id))
        world.run(3)

    assert len(world.tasks()) == tasks
    assert len(world.pods()) == 16


@pytest.mark.parametrize("kind", ["Deployment", "Pod"])
@pytest.mark.parametrize("steward_too", [False, True])
def test_what_ran_well_since_starts_with_all_its_attempts(kind: str, *, steward_too: bool) -> None:
    """Four starts failed long ago, then it ran for a while: when its machine dies, with that of its steward or alone,
    and the next start fails, it is tried again at once, and not given up."""
    world = World(("a", "b", "c", "d"))
    nodes = list(world.nodes.values())
    once = {"kind": "Pod", "restart_policy": "OnFailure", "strategy": Strategy("Recreate", 0, 1, rollback="never")}
    wanted = workload(**(once if kind == "Pod" else {}))
    for node in nodes:
        node.fails = "EngineError: a registry is away"
    world.apply(wanted)
    world.run_until(lambda: len(world.events("Failed")) == 4)
    for node in nodes:
        node.fails = ""
    world.run_until(lambda: bool(world.pods()))
    world.run(STEADY_S + 10)
    holder = world.leases.held[f"steward/{wanted.workload_id}"][0]
    lost = [node for node in nodes if node.runtime or (steward_too and node.node_id == holder)]
    for node in nodes:
        node.fails = "EngineError: a moment's trouble"
    for node in lost:
        node.kill(power=True)
    world.run_until(lambda: len(world.events("Failed")) == 5)
    for node in nodes:
        node.fails = ""
    world.run_until(lambda: bool(world.pods()), 60)

    assert not [event for event in world.events("Failed") if FINAL in event.details]


@pytest.mark.parametrize("takes_over", [False, True])
@pytest.mark.parametrize("bogus", ["record", "slot", "time"])
def test_tasks_of_others_keep_no_steward_from_repairing(bogus: str, *, takes_over: bool) -> None:
    """Whatever tasks a member publishes: for a record that nobody has, for replicas that there are not, or for those
    that are missing under an id of the end of all times. A steward that hosts starts what is missing at once; one that
    takes over has waited out what it heard until then after a task's lifetime at the latest."""
    world = World(("one", "two", "three", "four", "five", "six"), seed=9)
    wanted = workload("app", replicas=2)
    world.apply(wanted)
    world.run(30)
    steward = world.steward_of(wanted.workload_id)
    liar = next(node for node in world.nodes.values() if node is not steward and not node.runtime)
    ids = itertools.count(1)

    def lie() -> None:
        there = world.intents[workload_key(wanted.workload_id)][1] if bogus == "time" else record(workload())[1]
        for replica in range(10**9, 10**9 + 40) if bogus == "slot" else range(2):
            made = make_task(wanted, there, StartReplica(1, replica), world.now.wall_ms, random.Random(next(ids)))
            if bogus == "time":
                made = msgspec.structs.replace(made, task_id=f"7ZZZZZZZZZZZZZZZZZZZZZ{next(ids):04}", manifest_ref=b"")
            world.say(liar, TOPIC_TASKS, SignedTask(sign_statement(liar.crypto, TASK_KIND, made)))
        world.later(20, lie)

    lie()
    world.run(1)
    for node in [each for each in world.nodes.values() if each.runtime]:
        if node is not steward:
            node.kill(power=True)
    if takes_over:
        steward.kill(power=True)
    world.run(TASK_LIFETIME_MS / 1000 + 5 if takes_over else 15)

    assert world.slots() == [(1, 0), (1, 1)]
