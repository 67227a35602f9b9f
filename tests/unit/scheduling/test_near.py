"""Replicas go near to where their annotation wishes: by labels, by measured and by expected round trips."""

from __future__ import annotations

from beemesh.membership.coordinates import Coordinate
from beemesh.membership.summaries import Summary
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.score import Score
from beemesh.workloads.settings import NEAR
from tests.unit.scheduling.samples import card, membership_intent, settings, workload
from tests.unit.scheduling.world import PLENTY, World


def locality(world: World, near: str, *, told: bool = False, rtt_s: float | None = None) -> float:
    """The locality part of node `one` for a workload that wishes to be near."""
    node = world.nodes["one"]
    two = world.nodes["two"].node_id
    node.roster.apply(membership_intent(card("two", site="lake")))
    if told:
        node.view.set_summary(Summary(two, 1, 0, place=Coordinate((0.02, 0.0, 0.0, 0.0)).encode()))
        node.view.coordinates.heard(world.nodes["three"].node_id, Coordinate().encode(), 0.0001)
    if rtt_s is not None:
        node.view.add_rtt(two, rtt_s)
    world.apply(workload(annotations={NEAR: near}))
    world.run(0.2)
    (_, task), *_ = world.tasks()
    local = LocalWork(settings().reserve, settings().policies)
    local.observed = PLENTY
    judge = Judge(
        node.node_id, node.roster, node.view, settings("one"), local, world.intents.get, Disruption(world.records)
    )
    verdict = judge.judge(task, (), world.now.wall_ms)
    assert isinstance(verdict, Score)
    return verdict.parts["locality"]


def test_here_is_nearest() -> None:
    """By name, by site and by zone; and where nothing is wished."""
    assert [locality(World(), near) for near in ("one", "home", "attic", "")] == [1.0] * 4


def test_nearness_follows_round_trips() -> None:
    """Measured ones, to a node or to a site; without one, what coordinates let expect; of the unknown, nothing."""
    assert locality(World(), "two", rtt_s=0.02) == 0.5
    assert locality(World(), "lake", rtt_s=0.02) == 0.5
    assert 0.4 <= locality(World(), "two", told=True) <= 0.6
    assert locality(World(), "two") == 0.0
    assert locality(World(), "nowhere") == 0.0
