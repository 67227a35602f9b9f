"""Rollouts on several nodes: a revision that fails is taken back by itself, and stays taken back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from beemesh.scheduling.line import stewards_in_line
from beemesh.scheduling.telling import MANIFEST, TARGET
from beemesh.workloads.record import Requirements, Strategy, Terms, Workload
from beemesh.workloads.revising import restarted, undone, with_paused
from beemesh.workloads.rollout import mark_of
from tests.unit.scheduling.samples import WALL_MS, revision, workload
from tests.unit.scheduling.world import World

BAD = {2: "ImageNotFound: no image hello:2"}
OLD_TERMS = Terms(requirements=Requirements(cpu_m=100, mem_mb=64))


def second(strategy: Strategy | None = None, **changes: object) -> Workload:
    """The record with a new revision over a good one, which asks for more than that did."""
    old = msgspec.structs.replace(revision(1), terms=OLD_TERMS)
    more = Requirements(cpu_m=200, mem_mb=64)
    revisions = (revision(2), old)
    return workload(replicas=3, revisions=revisions, requirements=more, strategy=strategy or Strategy(), **changes)


def settled(strategy: Strategy | None = None) -> World:
    """Four nodes that run three replicas of revision 1."""
    world = World(("a", "b", "c", "d"))
    world.apply(workload(replicas=3, strategy=strategy or Strategy()))
    world.run_until(lambda: world.slots() == [(1, 0), (1, 1), (1, 2)])
    world.run(3)
    return world


def steward_of(world: World) -> str:
    """The node that hosts the workload."""
    holder = world.leases.held["steward/deployment/default/hello"][0]
    return next(name for name, node in world.nodes.items() if node.node_id == holder)


def test_a_complete_rollout_is_told_once() -> None:
    """Whoever hosts a workload says when its revision is complete, and does not repeat it after a repair."""
    world = settled()
    assert [event.revision for event in world.events("RolledOut")] == [1]
    world.nodes["b"].kill(power=True)
    world.run(30)
    assert len(world.events("RolledOut")) == 1


def test_a_bad_image_rolls_back_and_says_why() -> None:
    """No replica of the good revision stops, the bad one is given up after its attempts, and the event says why."""
    world = settled()
    fewest: list[int] = []
    world.watch = lambda: fewest.append(len(world.pods()))
    world.bad = dict(BAD)
    world.apply(second(), seq=2)
    world.run(120)

    assert world.slots() == [(1, 0), (1, 1), (1, 2)]
    assert min(fewest) == 3
    (told,) = world.events("RolledBack")
    assert (told.revision, told.details["target"]) == (2, "1")
    assert "ImageNotFound: no image hello:2" in told.details["message"]
    assert len([task for _, task in world.tasks() if task.revision == 2]) == 5


def test_what_was_stopped_for_it_comes_back_as_it_was() -> None:
    """With stop-first an old replica is gone by the time that the new one fails: it is started again, with what its own
    revision asked for."""
    strategy = Strategy(max_surge=0, max_unavailable=1)
    world = settled(strategy)
    world.bad = dict(BAD)
    world.apply(second(strategy), seq=2)
    world.run(120)

    assert world.slots() == [(1, 0), (1, 1), (1, 2)]
    last = world.tasks()[-1][1]
    assert (last.revision, last.instead_of, last.reqs) == (1, 2, OLD_TERMS.requirements)


def test_a_recreate_comes_back_too() -> None:
    """Where everything old stops first, everything old is started again."""
    strategy = Strategy("Recreate", 0, 3)
    world = settled(strategy)
    world.bad = dict(BAD)
    world.apply(second(strategy), seq=2)
    world.run(120)

    assert world.slots() == [(1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet", "exclusive"])
def test_a_fix_takes_the_place_of_what_crashes_everywhere(kind: str) -> None:
    """A revision that was complete breaks on all nodes; without surge, the one that works replaces it all the same."""
    world = World(("a", "b", "c"))
    how: dict[str, Any] = {"strategy": Strategy(max_surge=0, max_unavailable=1), "duplicate_tolerant": True}
    how |= {"kind": "DaemonSet", "replicas": 0} if kind == "DaemonSet" else {"replicas": 3}
    how |= {"strategy": Strategy(), "duplicate_tolerant": False} if kind == "exclusive" else {}
    world.apply(workload(**how))
    world.run_until(lambda: bool(world.events("RolledOut")))
    for node in world.nodes.values():
        node.runtime = {name: msgspec.structs.replace(each, ready=False) for name, each in node.runtime.items()}
        node.look()
    world.run(30)
    world.apply(workload(**how, revisions=(revision(2), revision(1))), seq=2)
    world.run_until(lambda: len(world.events("RolledOut")) == 2, 300)

    assert [(each.revision, each.ready) for each in world.pods()] == [(2, True)] * 3
    assert not world.events("RolledBack")


def test_never_means_never() -> None:
    """Where the operator forbids it nothing is taken back, and no node takes a task for the old revision."""
    strategy = Strategy(max_surge=0, max_unavailable=1, rollback="never")
    world = settled(strategy)
    world.bad = dict(BAD)
    world.apply(second(strategy), seq=2)
    world.run(120)

    assert len(world.slots()) == 2
    assert not world.events("RolledBack")


def test_the_next_steward_does_not_try_it_again() -> None:
    """The verdict outlives who spoke it: by the events that every node keeps, also over the loss of two stewards and
    the restart of a third."""
    world = settled()
    world.bad = dict(BAD)
    world.apply(second(), seq=2)
    world.run(60)
    tried = len([task for _, task in world.tasks() if task.revision == 2])
    for _ in range(2):
        world.nodes[steward_of(world)].kill(power=True)
        world.run(60)
    name = steward_of(world)
    world.nodes[name].kill()
    world.run(5)
    world.nodes[name].boot()
    world.run(120)

    assert len([task for _, task in world.tasks() if task.revision == 2]) == tried
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]
    assert len(world.events("RolledBack")) == 1


@pytest.mark.parametrize("dies", [False, True])
def test_who_had_nothing_of_it_fails_no_revision(*, dies: bool) -> None:
    """Failures of replicas that a member never had, and its word that the revision is taken back, which it does not
    host: neither the steward nor the next one goes back."""
    world = World(("one", "two", "three", "four", "five"))
    world.apply(workload(replicas=3))
    world.run(10)
    wanted = second()
    world.apply(wanted, seq=2)
    world.run(0.05)
    steward = world.steward_of(wanted.workload_id)
    line = stewards_in_line(wanted.workload_id, steward.roster, steward.view)
    liar = next(node for node in world.nodes.values() if node.node_id not in line)
    told = {MANIFEST: mark_of(wanted.current).hex(), TARGET: "1", "message": "a lie"}
    world.lie(liar, "RolledBack", wanted, 0, **told)
    for replica in (2, 2, 2, 2, 2, 10**6, -1):
        world.lie(liar, "Failed", wanted, replica, message="a lie")
    if dies:
        steward.kill(power=True)
    world.run(60)

    assert world.slots() == [(2, 0), (2, 1), (2, 2)]
    assert [event.node_id for event in world.events("RolledBack")] == []


def test_a_verdict_stands_whatever_was_told_since() -> None:
    """All agents are restarted in turn, long after: the bad revision is not tried again, and nothing stops for it."""
    strategy = Strategy(max_surge=0, max_unavailable=1)
    world = settled(strategy)
    world.bad = dict(BAD)
    world.apply(second(strategy), seq=2)
    world.run(120)
    tried = len([task for _, task in world.tasks() if task.revision == 2])
    fewest: list[int] = []
    world.watch = lambda: fewest.append(len(world.pods()))
    for node in world.nodes.values():
        node.hear_noise()
    world.run(2)
    for node in world.nodes.values():
        node.kill()
        world.run(3)
        node.boot()
        world.run(20)
    world.run(120)

    assert len([task for _, task in world.tasks() if task.revision == 2]) == tried
    assert min(fewest) == 3


def test_what_was_complete_last_is_known_whatever_was_told_since() -> None:
    """Replicas of a paused workload whose steward dies with one of them come back as they were, not as they were a
    revision before."""
    world = settled()
    world.apply(second(), seq=2)
    world.run_until(lambda: world.slots() == [(2, 0), (2, 1), (2, 2)], 60)
    world.apply(with_paused(second(), paused=True), seq=3)
    world.run(5)
    for node in world.nodes.values():
        node.hear_noise()
    world.run(2)
    for node in world.nodes.values():
        node.kill()
        node.boot(sees=False)
    ran = next(name for name, node in world.nodes.items() if node.runtime)
    world.nodes[ran].kill(power=True)
    for node in world.nodes.values():
        if not node.dead:
            node.look()
    world.run(60)

    assert {revision for revision, _ in world.slots()} == {2}


def test_a_restart_by_the_operator_tries_it_again() -> None:
    """What was wrong is mended: a restart is a new revision of the same manifest, and is rolled out."""
    world = settled()
    world.bad = dict(BAD)
    world.apply(second(), seq=2)
    world.run(60)
    world.bad = {}
    world.apply(restarted(second(), WALL_MS), seq=3)
    world.run(60)

    assert world.slots() == [(3, 0), (3, 1), (3, 2)]


def test_an_undo_moves_nothing_that_runs_already() -> None:
    """Going back to the revision that runs makes it the current one under a new number, and touches no pod."""
    world = settled()
    world.bad = dict(BAD)
    world.apply(second(), seq=2)
    world.run(60)
    started = [list(node.started) for node in world.nodes.values()]
    world.apply(undone(second(), 1, WALL_MS), seq=3)
    world.run(60)

    assert [list(node.started) for node in world.nodes.values()] == started
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]
    assert world.events("RolledOut")[-1].revision == 3


def test_no_progress_is_a_failure_too() -> None:
    """What no node has room for is given up at the progress deadline, not before."""
    world = settled()
    huge = msgspec.structs.replace(
        second(Strategy(progress_deadline_s=60)), requirements=Requirements(cpu_m=100_000, mem_mb=64)
    )
    world.apply(huge, seq=2)
    world.run(50)
    assert not world.events("RolledBack")
    world.run(40)

    (told,) = world.events("RolledBack")
    assert "no progress for 60 s" in told.details["message"]
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]


def test_what_was_complete_is_repaired_not_taken_back() -> None:
    """A revision that was complete once stays the wanted one, whatever breaks later."""
    world = settled()
    world.apply(second(), seq=2)
    world.run_until(lambda: world.slots() == [(2, 0), (2, 1), (2, 2)], 60)
    world.run(5)
    world.bad = dict(BAD)
    world.nodes["b"].kill(power=True)
    world.run(120)

    assert not world.events("RolledBack")
    assert all(revision == 2 for revision, _ in world.slots())


def test_a_paused_rollout_stands_still() -> None:
    """Paused: the new revision is not begun, what dies is replaced as it was, and resuming goes on."""
    world = settled()
    paused = with_paused(second(), paused=True)
    world.apply(paused, seq=2)
    world.run(30)
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]
    ran = next(name for name, node in world.nodes.items() if node.runtime)
    world.nodes[ran].kill(power=True)
    world.run(60)
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]
    world.apply(with_paused(paused, paused=False), seq=3)
    world.run(60)

    assert world.slots() == [(2, 0), (2, 1), (2, 2)]


def test_min_ready_seconds_slow_a_rollout_down() -> None:
    """Each new replica must have been ready for so long before the next old one stops."""
    world = settled(Strategy(min_ready_s=10))
    world.apply(second(Strategy(min_ready_s=10)), seq=2)

    assert world.run_until(lambda: world.slots() == [(2, 0), (2, 1), (2, 2)], 90) > 29


def test_what_ended_well_because_it_was_stopped_runs_again() -> None:
    """A pod that ends with code 0 when it is scaled away has not finished: scaled up again, its replica runs."""
    world = settled()
    world.apply(workload(replicas=1), seq=2)
    world.run(20)
    assert world.slots() == [(1, 0)]
    world.apply(workload(replicas=3), seq=3)
    world.run(20)
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]
