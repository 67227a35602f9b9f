"""Draining nodes and moving replicas: what an operator orders, stewards carry out, whatever happens meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from beemesh.events import ResourcesObserved
from beemesh.intents.record import Cordon, Drain, Move
from beemesh.scheduling.leases import steward_key
from beemesh.workloads.budgets import Budget
from beemesh.workloads.record import Constraints, Strategy, Workload
from tests.unit.scheduling.samples import WALL_MS, budget_record, cordon_record, revision, workload
from tests.unit.scheduling.world import World

FULL = ResourcesObserved(4000, 4096, 50_000, 0.1, 10, 40_000)


class Floor:
    """Counts how many replicas of a world were ready at the worst of times."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.least = len(world.pods())
        self.most = self.least
        world.watch = self.look

    def look(self) -> None:
        """After each event."""
        ready = sum(report.ready for report in self.world.pods())
        self.least, self.most = min(self.least, ready), max(self.most, ready)


def settled(wanted: Workload, seed: int = 0, names: tuple[str, ...] = ("one", "two", "three")) -> World:
    """A world in which a workload runs as it should, and its steward has nothing left to do."""
    world = World(names, seed)
    world.apply(wanted)
    world.run_until(lambda: len(world.pods()) == wanted.replicas)
    world.run(5)
    return world


def busiest(world: World) -> str:
    """The node that runs most."""
    return max(world.running(), key=lambda name: len(world.running()[name]))


def drain(world: World, name: str, seq: int = 1, **how: Any) -> None:
    """An operator drains a node."""
    world.put(*cordon_record(Cordon(name, True, drain=Drain(**how)), seq, world.now.wall_ms))


def is_empty(world: World, name: str) -> bool:
    """Whether nothing runs on a node."""
    return not world.running()[name]


@pytest.mark.parametrize("replicas", [1, 3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_a_drained_node_runs_nothing_and_nothing_was_missing(replicas: int, seed: int) -> None:
    """Each replica is ready elsewhere before the old one stops: at no moment are fewer ready than were wanted."""
    world = settled(workload(replicas=replicas), seed)
    name, floor = busiest(world), Floor(world)

    drain(world, name)
    world.run_until(lambda: is_empty(world, name), 60)
    world.run(15)

    assert floor.least == replicas
    assert floor.most <= replicas + 1, "more than the surge at once"
    assert world.slots() == [(1, number) for number in range(replicas)]
    assert len(world.tasks()) <= 2 * replicas, "a replica was moved twice"


def test_more_move_at_once_where_the_surge_allows() -> None:
    """The strategy's surge bounds how many of a workload move at the same time."""
    world = settled(workload(replicas=9, strategy=Strategy(max_surge=3)))
    name, floor = busiest(world), Floor(world)

    drain(world, name)
    world.run_until(lambda: is_empty(world, name), 60)

    assert floor.least == 9
    assert 10 < floor.most <= 12


def test_a_paused_rollout_does_not_hold_a_drain_up() -> None:
    """What stands still of three revisions, forbidden to go back or not, moves as it is, start-first; the rollout goes
    no further for it."""
    strategy = Strategy(paused=True, rollback="never")
    world = settled(workload(replicas=3), names=("one", "two", "three", "four"))
    world.apply(workload(replicas=3, revisions=(revision(2), revision(1))), seq=2)
    world.run_until(lambda: len({number for number, _ in world.slots()}) == 2)
    world.apply(workload(replicas=3, revisions=(revision(3), revision(2), revision(1)), strategy=strategy), seq=3)
    world.run(10)
    slots = world.slots()
    assert {number for number, _ in slots} == {1, 2}
    floor = Floor(world)

    for name in world.nodes:
        drain(world, name)
        world.run_until(lambda name=name: is_empty(world, name), 60)
        world.run(10)
        world.put(*cordon_record(Cordon(name, False), 2, world.now.wall_ms))

    assert world.slots() == slots
    assert floor.least == len(slots)


def test_a_drain_goes_on_with_the_next_steward() -> None:
    """A steward that dies in the middle leaves nothing that the next one cannot see."""
    world = settled(workload(replicas=6, strategy=Strategy(max_surge=1)))
    holder = world.leases.held[steward_key("deployment/default/hello")][0]
    steward = world.nodes_by_id[holder].name
    name = next(name for name in world.nodes if name != steward and world.running()[name])
    drain(world, name)
    before = len(world.running()[name])
    world.run_until(lambda: len(world.running()[name]) < before, 60)

    world.nodes[steward].kill()
    world.run_until(lambda: is_empty(world, name), 120)
    world.run(20)

    left = [report for node in world.nodes.values() if not node.dead for report in node.runtime.values()]
    assert sorted((each.revision, each.replica) for each in left) == [(1, number) for number in range(6)]


def test_a_drain_outlives_every_agent() -> None:
    """All agents end in the middle and come back: the record still stands, and the rest leaves."""
    world = settled(workload(replicas=9))
    name = busiest(world)
    drain(world, name)
    before = len(world.running()[name])
    world.run_until(lambda: len(world.running()[name]) < before, 60)

    for node in world.nodes.values():
        node.crash()
    for node in world.nodes.values():
        node.boot()
    world.run_until(lambda: is_empty(world, name), 120)
    world.run(20)

    assert world.slots() == [(1, number) for number in range(9)]


def test_an_uncordoned_node_keeps_what_has_not_left() -> None:
    """The order is taken back in the middle: one replica of each number stays, and nothing more moves."""
    world = settled(workload(replicas=9))
    name = busiest(world)
    drain(world, name)
    before = len(world.running()[name])
    world.run_until(lambda: len(world.running()[name]) < before, 60)

    world.put(*cordon_record(Cordon(name, False), 2, world.now.wall_ms))
    world.run(30)

    assert world.running()[name]
    assert world.slots() == [(1, number) for number in range(9)]


def test_a_budget_holds_back_what_must_stop_first() -> None:
    """Replicas that may not be doubled stop one by one, and none while the budget would be broken."""
    world = settled(workload(replicas=3, strategy=Strategy(type="Recreate"), pod_labels={"app": "web"}))
    name, floor = busiest(world), Floor(world)
    tight = Budget("default", "web", max_unavailable="0", match_labels={"app": "web"})
    world.put(*budget_record(tight, 1, world.now.wall_ms))
    drain(world, name)
    world.run(30)
    assert floor.least == 3, "the budget was broken"

    loose = Budget("default", "web", min_available="2", match_labels={"app": "web"})
    world.put(*budget_record(loose, 2, world.now.wall_ms))
    world.run_until(lambda: is_empty(world, name), 60)
    world.run(15)

    assert floor.least == 2
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]


def test_the_last_replica_stays_unless_forced() -> None:
    """The only replica of what may not be doubled is not taken away before somebody says so."""
    world = settled(workload(strategy=Strategy(type="Recreate")))
    name = busiest(world)
    drain(world, name)
    world.run(30)
    assert not is_empty(world, name)

    drain(world, name, 2, force=True)
    world.run_until(lambda: is_empty(world, name) and len(world.pods()) == 1, 30)


@pytest.mark.parametrize("kind", ["Pod", "Job"])
def test_bare_pods_and_jobs_move_only_by_force(kind: str) -> None:
    """What a pod or a job has done so far is lost when it moves."""
    world = settled(workload(kind=kind, replicas=3 if kind == "Job" else 1))
    name = busiest(world)
    drain(world, name)
    world.run(30)
    assert not is_empty(world, name)

    drain(world, name, 2, force=True)
    world.run_until(lambda: is_empty(world, name), 30)


def test_what_fits_no_other_node_stays_unless_forced() -> None:
    """A replica that its record pins to the node waits there; forced, it stops, and says that nobody takes it."""
    world = settled(workload(replicas=2, constraints=Constraints(node_name="two")))
    drain(world, "two")
    world.run(30)
    assert len(world.running()["two"]) == 2

    drain(world, "two", 2, force=True)
    world.run_until(lambda: is_empty(world, "two"), 30)
    world.run(5)
    assert "cordoned" in world.events("Pending")[-1].reason


@pytest.mark.parametrize("force", [False, True])
def test_a_revision_that_was_taken_back_does_not_hold_a_drain_up(force: bool) -> None:
    """It fits no node, which is why it failed; what runs instead fits others, and moves there start-first."""
    quick = Strategy(progress_deadline_s=10)
    first = workload(replicas=2, strategy=quick)
    world = settled(first)
    old = msgspec.structs.replace(revision(1), terms=first.terms)
    nowhere = Constraints(node_selector={"disk": "sssd"})
    world.apply(workload(replicas=2, strategy=quick, revisions=(revision(2), old), constraints=nowhere), seq=2)
    world.run_until(lambda: bool(world.events("RolledBack")), 60)
    name, floor = busiest(world), Floor(world)

    drain(world, name, force=force)
    world.run_until(lambda: is_empty(world, name), 60)
    world.run(15)

    assert floor.least == 2
    assert world.slots() == [(1, 0), (1, 1)]


def test_what_its_own_revision_pins_stays_whatever_the_failed_one_asked_for() -> None:
    """The newer revision would run anywhere, but failed; what runs instead fits its node alone."""
    first = workload(constraints=Constraints(node_name="two"))
    world = settled(first)
    old = msgspec.structs.replace(revision(1), terms=first.terms)
    world.bad = {2: "ImageNotFound: no image hello:2"}
    world.apply(workload(revisions=(revision(2), old)), seq=2)
    world.run_until(lambda: bool(world.events("RolledBack")), 120)
    world.run(10)
    mark = len(world.tasks())

    drain(world, "two")
    world.run(60)

    assert world.slots() == [(1, 0)]
    assert len(world.tasks()) == mark, "a successor was asked for that no node may take"


def test_without_room_elsewhere_nothing_stops() -> None:
    """As long as nobody takes the successor, the old one serves; it moves when there is room."""
    world = settled(workload())
    name = busiest(world)
    others = [node for other, node in world.nodes.items() if other != name]
    for node in others:
        node.set_resources(FULL)
    drain(world, name)
    world.run(60)
    assert not is_empty(world, name)

    others[0].set_resources(ResourcesObserved(4000, 4096, 50_000, 0.1, 3500, 40_000))
    world.run_until(lambda: is_empty(world, name), 90)
    assert len(world.pods()) == 1


def test_daemons_stay() -> None:
    """What belongs to its node is not moved off it."""
    world = World()
    world.apply(workload(kind="DaemonSet", replicas=0))
    world.run_until(lambda: len(world.pods()) == 3)
    before = world.running()
    drain(world, "two", force=True)
    world.run(30)
    assert world.running() == before


def test_grace_is_what_the_operator_said() -> None:
    """The order to stop carries it."""
    world = settled(workload())
    name = busiest(world)
    drain(world, name, grace_s=7)
    world.run_until(lambda: is_empty(world, name), 60)

    assert world.nodes[name].graces == [7]


@pytest.mark.parametrize("seed", range(4))
def test_a_single_replica_moves_where_it_is_sent(seed: int) -> None:
    """To the node that the order names, start-first; the others of the same workload stay."""
    world = settled(workload(replicas=2), seed, names=("one", "two", "three", "four", "five"))
    floor = Floor(world)
    source = next(name for name, pods in world.running().items() if pods)
    report = next(iter(world.nodes[source].runtime.values()))
    target = [name for name, pods in world.running().items() if not pods][seed % 3]
    moves = (Move(report.workload_id, report.replica, target),)

    until_ms = world.now.wall_ms + 60_000
    world.put(*cordon_record(Cordon(source, False, moves=moves, moves_until_ms=until_ms), 1, world.now.wall_ms))
    world.run_until(lambda: is_empty(world, source), 30)
    world.run(10)

    assert floor.least == 2
    assert len(world.running()[target]) == 1


def test_a_move_that_is_over_moves_nothing() -> None:
    """The order holds for its time: later the replica stays where it is."""
    world = settled(workload())
    source = busiest(world)
    moves = (Move("deployment/default/hello", 0),)
    world.put(*cordon_record(Cordon(source, False, moves=moves, moves_until_ms=WALL_MS - 1), 1, world.now.wall_ms))
    world.run(30)

    assert not is_empty(world, source)


def test_a_node_obeys_no_order_to_drain_that_no_operator_gave() -> None:
    """A steward cannot make it up: the node looks at the record that it has itself."""
    world = settled(workload(replicas=1))
    name = busiest(world)
    for node in world.nodes.values():
        if node.name != name:
            found = cordon_record(Cordon(name, True, drain=Drain(force=True)), 1, world.now.wall_ms)
            node.steward._upkeep.changed(found[0])
    world.nodes[name].steward._upkeep.changed(found[0])
    world.run(30)

    assert not is_empty(world, name)
