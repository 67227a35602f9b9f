"""What trials of scheduling ask for: a mesh accepts it, and each kind of wish is drawn in a part of them."""

from __future__ import annotations

import random

from beemesh.events import Submitted
from beemesh.intents.record import Intent
from beemesh.workloads.record import Workload
from simulator.checkers.reservations import may_give
from simulator.demand import CLASSES, CROWDED_AMONG_MAX, CROWDED_LOAD, FILLERS, Demand, draw_demand
from simulator.fleet import draw_fleet
from simulator.operator import add_classes, deployment, grant_operator, submission
from simulator.script import AGAIN_S, LAWS, TRIES_MAX, Desk
from simulator.world import World

FLEET = draw_fleet(random.Random(1), 8)
SEEDS = range(40)


def drafted(demand: Demand, count: int = 60) -> list[Workload]:
    """Workloads with what they want."""
    chance = random.Random(1)
    works = (deployment(f"work{number}", 2, qos=demand.qos(chance.choice((0, 10, 100)), preemptible=True))
             for number in range(count))  # fmt: skip
    return [demand.wished(work) for work in works]


def meshed() -> World:
    """Five agents that know what people call important."""
    world = World(5)
    grant_operator(world)
    add_classes(world, CLASSES)
    world.start_all()
    world.run_for(3)
    return world


def test_every_kind_of_wish_is_drawn_in_a_part_of_the_trials_and_repeats() -> None:
    """Crowded or not, with disk or without, spread or not, overcommitted or not."""
    drawn = [draw_demand(seed, 8) for seed in SEEDS]
    kinds = [(bool(each.narrow_cpu_m), each.stores, each.spreads, each.overcommits) for each in drawn]
    assert [set(column) for column in zip(*kinds, strict=True)] == [{True, False}] * 4
    again = [draw_demand(seed, 8) for seed in SEEDS]
    assert [drafted(each) for each in drawn] == [drafted(each) for each in again]
    assert not any(draw_demand(seed, CROWDED_AMONG_MAX + 1).narrow_cpu_m for seed in SEEDS)


def test_workloads_want_disk_and_spread_where_trials_do() -> None:
    """Some of them; none where the trial does not."""
    plain = drafted(Demand(random.Random(1)))
    wished = drafted(Demand(random.Random(1), stores=True, spreads=True))
    assert not any(each.requirements.storage_mb or each.constraints.pod_terms for each in plain)
    assert {each.requirements.storage_mb > 0 for each in wished} == {True, False}
    assert {term.topology for each in wished for term in each.constraints.pod_terms} == {
        "topology.kubernetes.io/zone", "kubernetes.io/hostname",
    }  # fmt: skip


def test_a_mesh_accepts_what_is_important_by_its_class() -> None:
    """A refusal of all of them would make a trial blind to preemption."""
    world = meshed()
    works = drafted(Demand(random.Random(1)), 12)
    assert {each.qos.priority for each in works} == {0, 10, 50, 100}
    for token, work in enumerate(works, 1):
        world.event(0, submission(world, 0, work, token)[1])
        world.run_for(1)
    told = [event for _, _, event in world.events if isinstance(event, Submitted)]
    assert len(told) == len(works)
    assert all(event.accepted for event in told)


def test_owners_allow_more_or_less_than_there_is() -> None:
    """Where a trial overcommits; where it is crowded, little."""
    plain = World(Demand(random.Random(1)).owned(FLEET))
    varied = World(Demand(random.Random(1), overcommits=True).owned(FLEET))
    narrow = World(Demand(random.Random(1), narrow_cpu_m=500).owned(FLEET))
    pairs = [(may_give(one), may_give(two)) for one, two in zip(plain.machines, varied.machines, strict=True)]
    assert {one.cpu_m < two.cpu_m for one, two in pairs} == {True, False}
    assert {one.mem_mb < two.mem_mb for one, two in pairs} == {True, False}
    assert {may_give(machine).cpu_m for machine in narrow.machines} == {500}


def test_a_crowded_mesh_is_filled_with_what_may_be_evicted() -> None:
    """Three replicas for each machine, of which two fit; nothing where it is not crowded."""
    crowded, roomy = Demand(random.Random(1), narrow_cpu_m=500), Demand(random.Random(1))
    fillers = [draft for _, draft in crowded.fillers(8)]
    assert len(fillers) == FILLERS
    assert sum(draft.replicas * draft.requirements.cpu_m for draft in fillers) > 8 * 500
    assert all(draft.qos.preemptible for draft in fillers)
    assert not list(roomy.fillers(8))
    assert (crowded.load(0.1), crowded.load(9.0), roomy.load(9.0)) == (*CROWDED_LOAD, 9.0)


class Office:
    """A desk at one mesh, and what was told of it."""

    def __init__(self) -> None:
        self.world, self.submitted, self.lines = meshed(), dict[int, Intent](), list[str]()
        demand = Demand(random.Random(1))
        self.desk = Desk(self.world, self.submitted, self.lines.append, 1.0, demand, [], forgetful=False)

    def hand_in(self, draft: Workload) -> int:
        """The token of what was handed in at some node."""
        self.desk.hand_in(draft, random.Random(1))
        return len(self.submitted)


def test_what_was_refused_by_law_is_not_wanted() -> None:
    """A new one not at all, and of a changed one what stood before; it would be refused again."""
    office, web = Office(), deployment("web", 1)
    token = office.hand_in(web)
    assert office.desk.works == {web.workload_id: web}
    office.desk.answered(Submitted(token, accepted=False, reason=f"exceeded {LAWS[0]}: most"))
    assert office.desk.works == {}
    office.desk.answered(Submitted(office.hand_in(web), accepted=True))
    more = deployment("web", 4)
    office.desk.answered(Submitted(office.hand_in(more), accepted=False, reason=f"exceeded {LAWS[0]}: most"))
    assert office.desk.works == {web.workload_id: web}
    office.desk.forget(web.workload_id)
    office.world.run_for(2 * AGAIN_S)
    assert (office.desk.works, len(office.submitted)) == ({}, 3)


def test_what_no_keeper_answered_for_is_handed_in_again() -> None:
    """A few times, each after a pause."""
    office, web = Office(), deployment("web", 1)
    token = office.hand_in(web)
    for tries in range(1, TRIES_MAX + 2):
        assert len(office.submitted) == min(tries, TRIES_MAX)
        office.desk.answered(Submitted(token, accepted=False, reason="not all keepers saved their part"))
        office.world.run_for(AGAIN_S + 0.01)
        token = len(office.submitted)
    assert web.workload_id not in office.desk.works


def test_nothing_is_submitted_for_a_class_that_is_not_there() -> None:
    """What the trial names and what it puts are the same classes."""
    named = {Demand(random.Random(seed)).qos(value, preemptible=True).priority_class
             for seed in SEEDS for value in (10, 100)}  # fmt: skip
    assert named == {each.name for each in CLASSES}
