"""Whom a steward asks in a large mesh."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.identity.membership_card import Taint
from beemesh.ids import NodeId
from beemesh.scheduling.auction.sampling import (
    ASKED,
    ASKED_AT_RANDOM,
    AWARD_COUNTS_S,
    FLATTERY_MAX,
    Awards,
    Sampler,
    by_lot,
    draw,
)
from beemesh.workloads.record import Constraints
from tests.unit.scheduling.large import Large
from tests.unit.scheduling.samples import settings


def sampler(mesh: Large) -> Sampler:
    """Of the steward `n0`."""
    return Sampler(mesh.roster, mesh.view, settings("n0"))


def test_the_sample_is_drawn_by_the_task() -> None:
    """The same task asks the same nodes whoever is its steward; another task asks others."""
    mesh = Large()
    first = sampler(mesh).choose(mesh.task(1))
    assert len(first) == len(set(first)) == ASKED
    assert first == sampler(mesh).choose(mesh.task(1))
    assert set(first) != set(sampler(mesh).choose(mesh.task(2)))


def test_idle_nodes_are_asked_and_some_at_random() -> None:
    """Of a mesh in which twenty are idle, most that are asked are idle, and some are asked whatever their load."""
    mesh = Large()
    idle = {mesh.ids[f"n{index}"] for index in range(20)}
    for index in range(20):
        mesh.summarize(f"n{index}", cpu_load=0.0, mem_mb_free=8_000)
    for number in range(20):
        asked = sampler(mesh).choose(mesh.task(number))
        assert len(idle & set(asked)) >= ASKED - ASKED_AT_RANDOM
        assert len(set(asked) - idle) >= 1


@pytest.mark.parametrize("fitting", [1, 5, 40])
def test_cards_are_exact(fitting: int) -> None:
    """Only nodes that a selector allows are asked, and of a few all are found, however large the mesh."""
    cards = {f"n{index}": {"labels": {"disk": "fast"}} for index in range(fitting)}
    mesh = Large(cards=cards, constraints=Constraints(node_selector={"disk": "fast"}))
    asked = sampler(mesh).choose(mesh.task())
    assert {mesh.names[node_id] for node_id in asked} <= set(cards)
    assert len(asked) == min(fitting, ASKED)


def test_who_a_replica_is_sent_to_is_asked_alone() -> None:
    """An operator moves it to one node: no other would take it."""
    mesh = Large()
    task = msgspec.structs.replace(mesh.task(), hints={"node": "n77"})
    assert [mesh.names[node_id] for node_id in sampler(mesh).choose(task)] == ["n77"]


def test_tainted_nodes_are_not_asked() -> None:
    """A NoSchedule taint that is not tolerated keeps a node out of the sample."""
    tainted = {f"n{index}": {"taints": (Taint("maintenance", "", "NoSchedule"),)} for index in range(1, 200)}
    mesh = Large(cards=tainted)
    assert not {mesh.names[node_id] for node_id in sampler(mesh).choose(mesh.task())} & set(tainted)


def test_full_and_cordoned_nodes_come_last() -> None:
    """While others look as if they had room, few that seem full or are cordoned are asked."""
    mesh = Large()
    for index in range(100):
        mesh.summarize(f"n{index}", cpu_m_reserved=4_000)
    for index in range(100, 150):
        mesh.summarize(f"n{index}", cordoned=True)
    asked = {mesh.names[node_id] for node_id in sampler(mesh).choose(mesh.task())}
    assert sum(int(name[1:]) >= 150 for name in asked) >= ASKED - ASKED_AT_RANDOM


def test_own_awards_are_taken_off_what_summaries_say() -> None:
    """What a steward gave a node a moment ago counts against it, for its siblings doubly; later the summary has it."""
    mesh = Large()
    one = sampler(mesh)
    task, sibling = mesh.task(1), mesh.task(2, replica=1)
    winner = one.choose(task)[0]
    before = one.ceiling(sibling, winner)
    one.awards.add(task, winner, 100.0)

    assert one.ceiling(sibling, winner) < before - 0.1
    assert one.awards.siblings(winner, sibling) == 1
    one.awards.add(mesh.task(3, replica=2), mesh.ids["n9"], 100.1 + AWARD_COUNTS_S)
    assert winner not in one.awards


def test_awards_that_came_to_nothing_are_dropped() -> None:
    """A dropped award counts no longer, and dropping it again does nothing."""
    awards, mesh = Awards(), Large()
    task = mesh.task()
    awards.add(task, mesh.ids["n1"], 1.0)
    assert awards.held(mesh.ids["n1"]) == (task.reqs.cpu_m, task.reqs.mem_mb, task.reqs.storage_mb)
    awards.drop(task.task_id)
    awards.drop(task.task_id)
    assert awards.held(mesh.ids["n1"]) == (0, 0, 0)


def test_nobody_is_believed_much_better_than_its_summary() -> None:
    """The ceiling of a bid follows the public summary; without one it counts as the least of its band."""
    mesh = Large()
    mesh.summarize("n1", cpu_load=0.9, cpu_m_reserved=3_000, mem_mb_free=1_000)
    mesh.summarize("n2", cpu_load=0.0, mem_mb_free=8_192)
    one, task = sampler(mesh), mesh.task()
    assert one.ceiling(task, mesh.ids["n1"]) < one.ceiling(task, mesh.ids["n2"]) - FLATTERY_MAX
    mesh.view.forget(mesh.ids["n3"])
    assert one.ceiling(task, mesh.ids["n3"]) == 0.5


@given(st.integers(1, 300), st.integers(1, 300), st.text(max_size=30))
def test_a_draw_has_members_once_each(size: int, number: int, task_id: str) -> None:
    """Different members of the population, at most as many as wanted, or all where there are no more."""
    population = tuple(NodeId(index.to_bytes(32, "big")) for index in range(size))
    drawn = draw(task_id, population, number)
    assert len(drawn) == len(set(drawn)) <= number
    assert set(drawn) <= set(population)
    assert size > number or len(drawn) == size


def test_a_lot_falls_on_its_share_and_grows() -> None:
    """About the share is drawn, each larger lot contains the smaller, and a lot of 1 is everybody."""
    nodes = [NodeId(index.to_bytes(32, "big")) for index in range(2_000)]
    small = {node_id for node_id in nodes if by_lot("task", node_id, 0.1)}
    large = {node_id for node_id in nodes if by_lot("task", node_id, 0.5)}
    assert 140 < len(small) < 260
    assert small < large
    assert all(by_lot("task", node_id, 1.0) for node_id in nodes)
