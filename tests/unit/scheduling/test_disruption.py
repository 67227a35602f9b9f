"""What budgets say of an eviction: whose replicas are guarded, and who goes instead."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from beemesh.events import ResourcesObserved
from beemesh.identity.signing import Signed
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.local_work import LocalWork, Promise
from beemesh.scheduling.score import Score
from beemesh.scheduling.stewardship.upkeep import Upkeep
from beemesh.settings.model import Policies, Reserve
from beemesh.workloads.budgets import Budget
from beemesh.workloads.record import Constraints, Qos, Requirements, Workload
from tests.unit.scheduling.samples import CA, MESH, WALL_MS, budget_record, record, settings, workload
from tests.unit.scheduling.test_eligibility import task
from tests.unit.scheduling.world import World

CHEAP = Qos(preemptible=True)
URGENT = Qos(priority=1000)
LABELS = {"app": "web"}


def records(*found: tuple[Intent, Signed]) -> Disruption:
    """What a node knows that holds these records."""
    disruption = Disruption(lambda prefix: [each for each in found if each[0].key.startswith(prefix)])
    disruption.load()
    return disruption


def runs(world: World, name: str) -> bool:
    """Whether any replica of that name runs."""
    return any(pod.workload_id.endswith(f"/{name}") for pod in world.pods())


def web(replicas: int) -> Workload:
    """A workload of so many replicas that the budgets here cover."""
    return workload(replicas=replicas, pod_labels=LABELS)


@pytest.mark.parametrize(
    ("replicas", "budget", "spares"),
    [
        (1, None, 0),
        (3, None, 2),
        (3, Budget("default", "b", max_unavailable="0"), 0),
        (3, Budget("default", "b", max_unavailable="1"), 1),
        (4, Budget("default", "b", min_available="50%"), 2),
        (2, Budget("default", "b", min_available="5"), 0),
        (1, Budget("default", "b", max_unavailable="1"), 1),
        (3, Budget("elsewhere", "b", max_unavailable="0"), 2),
    ],
)
def test_how_many_a_workload_spares(replicas: int, budget: Budget | None, spares: int) -> None:
    """All but one, or what the budgets over it say."""
    found = [record(web(replicas))] + ([budget_record(budget, 1, WALL_MS)] if budget else [])
    assert records(*found).spares(web(replicas)) == spares


def test_a_budget_that_is_shared_or_deleted_counts_anew() -> None:
    """Another workload under it takes its part; a tombstone ends it."""
    found = [record(web(3)), budget_record(Budget("default", "b", max_unavailable="2"), 1, WALL_MS)]
    disruption = Disruption(lambda prefix: [each for each in found if each[0].key.startswith(prefix)])
    disruption.load()
    assert disruption.spares(web(3)) == 2
    other = msgspec.structs.replace(web(3), name="other")
    found.append(record(other))
    disruption.changed(found[-1][0])
    assert disruption.spares(web(3)) == 1
    tombstone = msgspec.structs.replace(found[1][0], kind="tombstone", body=b"")
    disruption.changed(tombstone)
    assert disruption.spares(web(3)) == 2


def test_what_stands_at_the_start_is_read() -> None:
    """A node that was restarted is told of no change."""
    found = [record(web(3)), budget_record(Budget("default", "b", max_unavailable="0"), 1, WALL_MS)]

    def held(prefix: str) -> list[tuple[Intent, Signed]]:
        return [each for each in found if each[0].key.startswith(prefix)]

    disruption = Disruption(held)
    Upkeep(Roster(MESH, CA.sign_key), held, disruption).load()
    assert disruption.spares(web(3)) == 0


def test_of_one_workload_the_first_to_go_are_spared_and_the_rest_guarded() -> None:
    """As many as may be missing, those that are going already among them; the youngest go first."""
    local = LocalWork(Reserve(), Policies())
    for number in range(4):
        ours = Promise("deployment/default/web", 1, number, Requirements(), started=True, qos=CHEAP, since_ms=number)
        local.promise(f"default/web-1-{number}", ours)
    urgent = task(qos=URGENT)

    def guarded(spares: int) -> dict[str, bool]:
        return {each.name[-1]: each.guarded for each in local.candidates(urgent, lambda _workload: spares)}

    assert guarded(2) == {"3": False, "2": False, "1": True, "0": True}
    local.leave("default/web-1-3")
    assert guarded(2) == {"2": False, "1": True, "0": True}


@pytest.mark.parametrize("strict", ["left", "right"])
def test_a_strict_budget_decides_who_goes(strict: str) -> None:
    """Of two that would do, the one goes whose budget lets it."""
    world = World(["one"])
    half, apart = Requirements(mem_mb=1200), Constraints(anti_affinity_hosts=True)
    for seq, name in enumerate(("left", "right"), 1):
        most = "0" if name == strict else "1"
        budget = Budget("default", name, max_unavailable=most, match_labels={"app": name})
        world.put(*budget_record(budget, seq, world.now.wall_ms))
        labels = {"app": name}
        world.apply(workload(name, replicas=2, requirements=half, qos=CHEAP, constraints=apart, pod_labels=labels))
        assert world.run_until(partial(runs, world, name), 10)
    world.apply(workload("urgent", requirements=half, qos=URGENT))
    assert world.run_until(partial(runs, world, "urgent"), 10)

    assert {event.workload_id for event in world.events("Preempted")} == {
        f"deployment/default/{'right' if strict == 'left' else 'left'}"
    }


def test_what_is_not_wanted_any_more_is_guarded_by_nothing() -> None:
    """Of two that would do, the one goes whose workload was deleted; the other is the only replica of its own."""
    world = World(["one"])
    node = world.nodes["one"]
    world.put(*record(workload("kept")))
    world.run(0.2)
    node.local.observed = ResourcesObserved(4000, 4096, 50_000, 0.1, 3500, 40_000)
    held = Requirements(mem_mb=1700)
    for since_ms, name in enumerate(("deleted", "kept")):  # the younger of two equals would go
        ours = Promise(f"deployment/default/{name}", 1, 0, held, started=True, qos=CHEAP, since_ms=since_ms)
        node.local.promise(f"default/{name}-1-0", ours)
    disruption = Disruption(world.records)
    judge = Judge(node.node_id, node.roster, node.view, settings(), node.local, world.intents.get, disruption)

    verdict = judge.judge(task(qos=URGENT, reqs=held), (), world.now.wall_ms)

    assert isinstance(verdict, Score)
    assert [victim.name for victim in verdict.victims] == ["default/deleted-1-0"]
