"""Replicas over zones, on several nodes under a virtual clock: three machines in one zone, one in the other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from beemesh.intents.record import Cordon, Drain
from beemesh.workloads.node_keys import LABEL_ZONE
from beemesh.workloads.record import Constraints, Expression, PodTerm, Workload
from tests.unit.scheduling.samples import card, cordon_record, membership_intent, workload
from tests.unit.scheduling.world import World

ZONES = {"one": "x", "two": "x", "three": "x", "four": "y"}
WEB = (Expression("app", "In", ("web",)),)


def zoned(seed: int, zones: Mapping[str, str] = MappingProxyType(ZONES)) -> World:
    """These nodes in their zones; else four in two."""
    world = World(list(zones), seed=seed)
    for node in world.nodes.values():
        for name, zone in zones.items():
            node.roster.apply(membership_intent(card(name, zone=zone)))
    return world


def web(term: PodTerm, replicas: int) -> Workload:
    """A workload with that term about its own pods."""
    return workload("web", replicas=replicas, pod_labels={"app": "web"}, constraints=Constraints(pod_terms=(term,)))


def by_zone(world: World) -> dict[str, int]:
    """Pods per zone."""
    pods = {name: len(found) for name, found in world.running().items()}
    return {zone: sum(pods.get(name, 0) for name in ZONES if ZONES[name] == zone) for zone in ("x", "y")}


@pytest.mark.parametrize("seed", range(3))
def test_a_spread_goes_by_zones(seed: int) -> None:
    """Six replicas share themselves out evenly, though one zone has three times the machines."""
    world = zoned(seed)
    world.apply(web(PodTerm("spread", LABEL_ZONE, WEB, 0, 1), 6))
    world.run_until(lambda: len(world.pods()) == 6, 20)

    assert by_zone(world) == {"x": 3, "y": 3}


@pytest.mark.parametrize("seed", range(3))
def test_a_wished_spread_is_a_good_try(seed: int) -> None:
    """As a wish, replicas that are placed at once come out even, give or take one."""
    world = zoned(seed)
    world.apply(web(PodTerm("spread", LABEL_ZONE, WEB, 100, 1), 6))
    world.run_until(lambda: len(world.pods()) == 6, 20)

    assert by_zone(world)["y"] in (2, 3)


def test_apart_by_zone_leaves_the_third_pending() -> None:
    """With anti-affinity between zones, two of three replicas run, and the third says why it does not."""
    world = zoned(1)
    world.apply(web(PodTerm("anti-affinity", LABEL_ZONE, WEB), 3))
    world.run(10)

    assert by_zone(world) == {"x": 1, "y": 1}
    assert any("pod anti-affinity wants no pods with app In (web)" in each.reason for each in world.events("Pending"))


def test_each_replica_that_waits_its_turn_says_so() -> None:
    """No node takes the third of seven, and a task lasts for half a minute: the others tell at once why they wait, and
    once. Those that run tell nothing."""
    world = zoned(1)
    world.apply(web(PodTerm("anti-affinity", LABEL_ZONE, WEB), 7))
    world.run(10)

    told = [each.replica for each in world.events("Pending") if "its turn has not come" in each.reason]
    assert sorted(told) == [3, 4, 5, 6]


def test_together_in_one_zone() -> None:
    """With affinity between zones, the first chooses, and the others follow it."""
    world = zoned(2)
    world.apply(web(PodTerm("affinity", LABEL_ZONE, WEB), 3))
    world.run_until(lambda: len(world.pods()) == 3, 10)

    assert sorted(by_zone(world).values()) == [0, 3]


def test_a_move_that_cannot_be_keeps_no_replica_waiting() -> None:
    """The only node of a zone is drained, and its replica cannot leave the zone: new ones of the other zones start all
    the same, and the one that has no place is told of."""
    world = zoned(1, {"a": "x", "b": "y", "c": "y", "d": "z", "e": "z"})
    spread = PodTerm("spread", LABEL_ZONE, WEB, 0, 1)
    world.apply(web(spread, 3))
    world.run_until(lambda: len(world.pods()) == 3, 20)
    world.put(*cordon_record(Cordon("a", True, drain=Drain()), 1, world.now.wall_ms))
    world.run(20)
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]

    world.apply(web(spread, 6), seq=2)
    world.run_until(lambda: len(world.pods()) == 5, 10)
    world.run(40)
    assert world.slots() == [(1, ordinal) for ordinal in range(5)]
    assert any(event.replica == 5 for event in world.events("Pending"))
    moves = [task for at_s, task in world.tasks() if task.replica < 3 and at_s > 1_030]
    assert moves, "the move has its turn again"
