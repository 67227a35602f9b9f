"""The checker of placements bites: a start against its record, an order or its neighbours is blamed, no other."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.events import DeployPod, PutIntent, TaskWon
from beemesh.identity.membership_card import Taint
from beemesh.intents.record import Cordon, Move, cordon_key
from beemesh.scheduling.messages import LeaseProof, Task
from beemesh.secret import SecretBytes
from beemesh.workloads.record import Constraints, PodTerm, Toleration
from simulator.checkers.placements import CALM_S, PlacementChecker
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime, PodStarted
from simulator.operator import grant_operator
from simulator.spec import machine
from simulator.world import World
from tests.unit.simulator.test_scheduling_checkers import SIGNED, WORK, steady, task

ZONE = "topology.kubernetes.io/zone"
TAINT = Taint("dedicated", "batch", "NoSchedule")


def zoned() -> tuple[World, MockRuntime]:
    """Two machines in zone a, one in b, and one with a taint in c."""
    specs = [machine(f"n{index}", zone=zone) for index, zone in enumerate("aab")]
    specs.append(machine("n3", zone="c", taints=(TAINT,)))
    world = World(specs, 1)
    runtime = MockRuntime(world, steady())
    grant_operator(world)
    world.start_all()
    world.run_for(3)
    return world, runtime


def asking(asks: Constraints, replica: int = 0, kind: str = "Deployment") -> Task:
    """A task whose record asks for something."""
    named = msgspec.structs.replace(task(number=replica), constraints=asks, replica=replica, kind=kind)
    return msgspec.structs.replace(named, task_id=f"task{replica}")


def begin(world: World, runtime: MockRuntime, where: Machine, what: Task) -> None:
    """A pod of it runs."""
    pod = f"web-{what.revision}-{what.replica}"
    where.begin(DeployPod(pod, what, 1, SecretBytes(b"")), world.wall_ms)
    runtime.tasks[where.index, f"default/{pod}"] = what


def blames(world: World, checker: PlacementChecker, index: int, what: Task) -> list[str]:
    """What is said of a task that is won and led to a pod."""
    blamed: list[str] = []
    won = TaskWon(what, "lease/x", LeaseProof(SIGNED, ()), 1, 0.0)
    checker.saw(world, world.now_s, index, won, blamed.append)
    checker.saw(world, world.now_s, index, PodStarted(what, 1), blamed.append)
    return blamed


@pytest.mark.parametrize(
    ("asks", "allowed"),
    [
        (Constraints(), [0, 1, 2]),
        (Constraints(node_selector={ZONE: "a"}), [0, 1]),
        (Constraints(node_selector={"disk": "ssd"}), []),
        (Constraints(tolerations=(Toleration("dedicated", "Exists"),)), [0, 1, 2, 3]),
        (Constraints(node_name="n2"), [2]),
    ],
)
def test_a_start_on_a_machine_of_another_kind_is_blamed(asks: Constraints, allowed: list[int]) -> None:
    """By labels, taints and name of the machine."""
    world, runtime = zoned()
    checker = PlacementChecker(runtime)
    assert [index for index in range(4) if not blames(world, checker, index, asking(asks))] == allowed


def test_two_that_may_not_share_a_machine_are_blamed() -> None:
    """Another of the workload, not the same replica anew, nor where nobody asked for it."""
    world, runtime = zoned()
    checker, apart = PlacementChecker(runtime), Constraints(anti_affinity_hosts=True)
    begin(world, runtime, world.machines[0], asking(apart))
    assert not blames(world, checker, 0, asking(apart))
    assert not blames(world, checker, 1, asking(apart, 1))
    assert not blames(world, checker, 0, asking(Constraints(), 1))
    assert "no two of it may share" in blames(world, checker, 0, asking(apart, 1))[0]


@pytest.mark.parametrize(
    ("cordon", "kind", "why"),
    [
        (Cordon("n0", True), "Deployment", "it was cordoned"),
        (Cordon("n0", True), "DaemonSet", ""),
        (Cordon("n0", False), "Deployment", ""),
        (Cordon("n0", False, moves=(Move(WORK, 0),), moves_until_ms=1 << 60), "Deployment", "it was moved away"),
        (Cordon("n0", False, moves=(Move(WORK, 0),), moves_until_ms=1), "Deployment", ""),
    ],
)
def test_a_task_that_an_order_forbade_is_blamed(cordon: Cordon, kind: str, why: str) -> None:
    """By what the machine itself knew when it won the task: an order that came later lets it go on."""
    world, runtime = zoned()
    checker, blamed = PlacementChecker(runtime), list[str]()
    early, late = asking(Constraints(), kind=kind), msgspec.structs.replace(asking(Constraints()), task_id="late")
    checker.saw(world, 0.0, 0, TaskWon(late, "lease/x", LeaseProof(SIGNED, ()), 1, 0.0), blamed.append)
    world.event(0, PutIntent(world.sign(world.operator, "cordon", cordon_key("n0"), cordon)))
    checker.saw(world, 0.0, 0, PodStarted(late, 1), blamed.append)
    assert not blamed
    found = blames(world, checker, 0, early)
    assert (why in found[0]) if why else not found


@pytest.mark.parametrize(
    ("calm", "lasting", "is_blamed"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_what_makes_a_spread_uneven_is_blamed(calm: bool, lasting: bool, is_blamed: bool) -> None:
    """Once all was well for a while, and whatever moment of the last seconds its steward had gone by."""
    world, runtime = zoned()
    checker, blamed = PlacementChecker(runtime), list[str]()
    term = PodTerm("spread", ZONE, (), 0, max_skew=1)
    asks = Constraints(pod_terms=(term,), tolerations=(Toleration("dedicated", "Exists"),))
    first = TaskWon(asking(asks), "lease/x", LeaseProof(SIGNED, ()), 1, 0.0)
    checker.saw(world, world.now_s, 0, first, blamed.append)
    begin(world, runtime, world.machines[0], asking(asks))
    for _ in range(int(CALM_S) + 8):
        world.run_for(1)
        checker.look(world, blamed.append)
    if not calm:
        world.kill(3)
        checker.look(world, blamed.append)
        world.start(3)
        world.run_for(2)
    if not lasting:
        world.machines[0].pods.clear()
        checker.look(world, blamed.append)
    assert not blames(world, checker, 2, asking(asks, 1))
    assert bool(blames(world, checker, 1, asking(asks, 1))) is is_blamed
