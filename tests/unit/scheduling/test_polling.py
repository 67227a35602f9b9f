"""How often a steward asks about a workload by itself, and what has it look at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from beemesh.effects import Request
from beemesh.events import Delivered, ResourcesObserved
from beemesh.ids import NodeId
from beemesh.scheduling.messages import TOPIC_EVENTS
from beemesh.scheduling.stewardship.ledger import MARGIN_S
from beemesh.scheduling.stewardship.polling import POLL_BUSY_S, POLL_SETTLED_S
from beemesh.scheduling.tasks import TASK_LIFETIME_MS
from beemesh.workloads.observation import ListReplicas
from beemesh.workloads.record import Requirements, Strategy, Workload
from tests.unit.scheduling.samples import revision, workload
from tests.unit.scheduling.test_quotas import pods_quota
from tests.unit.scheduling.world import PLENTY, World, WorldNode

SCANT = ResourcesObserved(1000, 4096, 50_000, 0.1, 3500, 40_000)
BIG = Requirements(cpu_m=3000, mem_mb=64)
LIFETIME_S = TASK_LIFETIME_MS / 1000 + MARGIN_S
LONG_S = 90.0
"""Long enough for every pause to have become as long as it gets."""


class Asking(World):
    """Notes when a steward asks somebody what runs."""

    def __init__(self, names: tuple[str, ...] = ("one", "two", "three")) -> None:
        self.asked_s: list[float] = []
        super().__init__(names)

    def request(self, asker: WorldNode, request: Request, epoch: int) -> None:
        """A question goes out."""
        if isinstance(request.message, ListReplicas):
            self.asked_s.append(self.now_s)
        super().request(asker, request, epoch)

    def looks(self, seconds: float) -> list[float]:
        """When questions went out from now on."""
        self.asked_s.clear()
        self.run(seconds)
        return sorted(set(self.asked_s))


def waiting(wanted: Workload) -> Asking:
    """A mesh without room for all of a workload, for a long time."""
    world = Asking()
    for node in world.nodes.values():
        node.set_resources(SCANT)
    world.apply(wanted)
    world.run(LONG_S)
    return world


@pytest.mark.parametrize("small", [0, 2])
def test_what_only_waits_is_asked_about_rarely(small: int) -> None:
    """With no room for one replica, whatever others run: not twice a second, but as what is as wanted, and when its
    task is published anew, which comes no later than it did."""
    world = waiting(workload(replicas=1, requirements=BIG) if not small else half_placed(small))
    looks = world.looks(2 * LIFETIME_S)

    assert len(looks) <= 2 * (LIFETIME_S / POLL_SETTLED_S + 1)
    assert all(later - before <= POLL_SETTLED_S + 0.01 for before, later in pairwise(looks))
    published = [at_s for at_s, task in world.tasks() if task.replica == small]
    assert all(later - before <= LIFETIME_S + 0.01 for before, later in pairwise(published))


def half_placed(small: int) -> Workload:
    """One replica more than there are places for: each node has room for one of them, and one node is left out."""
    asks = Requirements(cpu_m=600, mem_mb=64)
    return workload(replicas=small + 2, requirements=asks, strategy=Strategy(max_surge=0, max_unavailable=1))


def test_room_that_appears_is_taken_at_once() -> None:
    """However long it has waited."""
    world = waiting(workload(replicas=1, requirements=BIG))
    world.run(POLL_SETTLED_S / 2)
    world.nodes["two"].set_resources(PLENTY)

    assert world.run_until(lambda: len(world.pods()) == 1) < 1.0


def test_a_start_whose_events_get_lost_is_still_noticed_soon() -> None:
    """A bid alone has the steward look as often as at anything that changes."""
    world = waiting(workload(replicas=1, requirements=BIG))
    steward = world.steward_of("deployment/default/hello")
    tell = steward.tell

    def deaf(event: Any) -> None:
        if not (isinstance(event, Delivered) and event.topic == TOPIC_EVENTS):
            tell(event)

    steward.tell = deaf  # type: ignore[method-assign]
    taker = next(node for node in world.nodes.values() if node is not steward)
    published = len(world.tasks())
    world.run_until(lambda: len(world.tasks()) > published)
    world.run(1.0)  # it has looked, and would look again in some seconds
    taker.set_resources(PLENTY)
    world.run_until(lambda: len(world.pods()) == 1)

    known = steward.steward._hosted["deployment/default/hello"].runners
    assert world.run_until(lambda: known() == {NodeId(taker.node_id)}, 10) < 4 * POLL_BUSY_S


def test_room_in_a_quota_is_taken_soon() -> None:
    """A quota that is raised, or another workload of its namespace that goes, wakes what waits for it."""
    world = Asking()
    world.put(*pods_quota(2))
    world.apply(workload("other", replicas=1))
    world.apply(workload(replicas=2))
    world.run(LONG_S)
    assert len(world.pods()) == 2
    assert len(world.looks(LIFETIME_S)) <= 2 * (LIFETIME_S / POLL_SETTLED_S + 1)

    world.delete(workload("other"))
    assert world.run_until(lambda: {each.replica for each in of_hello(world)} == {0, 1}) < 2.0
    world.apply(workload(replicas=3), seq=2)
    world.run(LONG_S)
    world.put(*pods_quota(3, seq=2))
    assert world.run_until(lambda: len(of_hello(world)) == 3) < 2.0


def of_hello(world: World) -> list[Any]:
    """Its pods."""
    return [each for each in world.pods() if each.workload_id == "deployment/default/hello"]


def test_a_rollout_that_only_waits_fails_in_time() -> None:
    """The progress deadline is looked at when it is over, whatever the pauses are by then."""
    world = Asking()
    world.apply(workload(replicas=3))
    world.run(20)
    strategy, asks = Strategy(progress_deadline_s=65), Requirements(cpu_m=100_000, mem_mb=64)
    second = workload(replicas=3, revisions=(revision(2), revision(1)), strategy=strategy, requirements=asks)
    world.apply(second, seq=2)

    assert 65 <= world.run_until(lambda: bool(world.events("RolledBack")), 90) <= 65 + 2 * POLL_BUSY_S
