"""What a drain and a rebalance would do, said beforehand from one picture of the mesh."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.scheduling.stewardship.drain_plan import DrainPlan, left_on, plan_drain
from beemesh.scheduling.stewardship.layout import Host, Layout, Pod
from beemesh.scheduling.stewardship.rebalance import GAIN_LEAST, imbalance, propose
from beemesh.workloads.budgets import Budget
from beemesh.workloads.record import Constraints, Requirements, Strategy, Terms, Workload
from tests.unit.scheduling.samples import card, revision, workload

ID = "deployment/default/hello"


def host(name: str, **changes: Any) -> Host:
    """A node of four cores and 4 GiB, with everything free."""
    values: dict[str, Any] = {"cpu_m": 4000, "mem_mb": 4096, "storage_mb": 50_000}
    values |= {"free_mem_mb": 4096, "free_storage_mb": 50_000}
    return Host(card(name, **changes.pop("card", {})), **(values | changes))


def pods_of(wanted: Workload, *nodes: str, **changes: Any) -> list[Pod]:
    """Its replicas, one on each of the nodes."""
    name, here = wanted.workload_id, wanted.namespace
    return [Pod(f"{wanted.name}-1-{n}", here, name, n, 1, node, **changes) for n, node in enumerate(nodes)]


def picture(wanted: Workload, *nodes: str, budgets: tuple[Budget, ...] = (), **hosts: Host) -> Layout:
    """Nodes one, two and three (unless said otherwise), and one workload on some of them."""
    known = {name: host(name) for name in ("one", "two", "three")} | hosts
    return Layout(known, pods_of(wanted, *nodes), {wanted.workload_id: wanted}, budgets)


def reasons(plan: DrainPlan) -> list[tuple[str, str]]:
    """What each blocker needs, and why it is there."""
    return [(each.needs, each.reason) for each in plan.blockers]


def test_a_deployment_moves_start_first() -> None:
    """With the nodes that would take it, the emptiest first; nothing stands against it."""
    wanted = workload(replicas=3)
    plan = plan_drain(picture(wanted, "one", "two", "two"), "one")

    assert not plan.blockers
    assert [(each.pod, each.how, each.candidates) for each in plan.moves] == [
        ("hello-1-0", "start-first", ("three", "two"))
    ]


@pytest.mark.parametrize(
    ("wanted", "because"),
    [
        (workload(kind="Pod"), "a bare pod stops before"),
        (workload(kind="Job"), "a job is running"),
        (workload(constraints=Constraints(node_name="one")), "fits no other node"),
        (workload(strategy=Strategy(type="Recreate")), "the last ready replica"),
        (workload(duplicate_tolerant=False), "the last ready replica"),
    ],
)
def test_what_would_be_lost_needs_force(wanted: Workload, because: str) -> None:
    """Nothing is begun before somebody says so; then it is planned, stop-first."""
    layout = picture(wanted, "one")
    (refused,) = plan_drain(layout, "one").refused
    forced = plan_drain(layout, "one", force=True)

    assert (refused.needs, because in refused.reason) == ("--force", True)
    assert not forced.refused
    assert [each.how for each in forced.moves] == ["stop-first"]


def test_daemons_need_a_word_and_stay() -> None:
    """As kubectl has it."""
    layout = picture(workload(kind="DaemonSet"), "one")

    assert reasons(plan_drain(layout, "one")) == [
        ("--ignore-daemonsets", "a DaemonSet's pod belongs to its node and stays")
    ]
    ignored = plan_drain(layout, "one", ignore_daemons=True)
    assert (ignored.blockers, ignored.moves, ignored.drained) == ((), (), True)
    assert left_on(layout, "one") == []


def test_no_room_is_told_with_each_nodes_reason() -> None:
    """It does not forbid to begin: room may come."""
    wanted = workload(requirements=Requirements(mem_mb=2048))
    full, shut = host("two", free_mem_mb=100), host("three", cordoned=True)
    plan = plan_drain(picture(wanted, "one", two=full, three=shut), "one")

    ((needs, reason),) = reasons(plan)
    assert not needs
    assert "three: it is cordoned" in reason
    assert "two: needs 2048 MiB of memory" in reason
    assert not plan.refused


def test_a_budget_that_allows_nothing_is_named() -> None:
    """A replica that must stop first waits for the budget; one whose successor comes first does not break it."""
    tight = Budget("default", "tight", max_unavailable="0")
    first = plan_drain(picture(workload(replicas=2), "one", "two", budgets=(tight,)), "one")
    recreate = workload(replicas=2, strategy=Strategy(type="Recreate"))
    stop = plan_drain(picture(recreate, "one", "two", budgets=(tight,)), "one")

    assert not first.blockers
    assert reasons(stop) == [("", "PodDisruptionBudget tight asks for 2 ready, and 2 are")]


@pytest.mark.parametrize(
    ("ready", "message", "told"),
    [
        (False, "readiness probe failed: HTTP status 503", ": readiness probe failed: HTTP status 503"),
        (False, "", ""),
        (True, "", None),
    ],
)
def test_a_successor_that_is_not_ready_is_named(*, ready: bool, message: str, told: str | None) -> None:
    """It runs elsewhere already, so no other node need have room: the old replica stays until it is ready, and the plan
    says where it is and what its probes complain of."""
    wanted = workload(requirements=Requirements(mem_mb=2048))
    shut = {name: host(name, cordoned=True) for name in ("two", "three")}
    layout = picture(wanted, "one", **(shut if not ready else {}))
    (old,) = layout.pods
    layout.pods.append(replace(old, node="two", ready=ready, message=message))
    layout.pods.append(replace(old, node="three", ready=False, leaving=True))

    plan = plan_drain(layout, "one")

    said = [("", f"its successor runs on two and is not ready yet{told}")] if told is not None else []
    assert reasons(plan) == said
    assert not plan.refused


def test_what_only_its_rollout_replaces_is_told() -> None:
    """Where the record forbids going back, an old replica waits for its successor, which may never get ready: the plan
    says so. A paused one moves as it is, and so does one of the current revision."""
    never, revisions = Strategy(rollback="never"), (revision(2), revision(1))
    plan = plan_drain(picture(workload(replicas=2, revisions=revisions, strategy=never), "one", "two"), "one")

    ((needs, reason),) = reasons(plan)
    assert not needs
    assert "beemesh.io/rollback: never" in reason
    assert not plan.refused
    paused = Strategy(rollback="never", paused=True)
    for wanted in (
        workload(replicas=2, revisions=revisions, strategy=paused),
        workload(replicas=2, revisions=revisions),
        workload(replicas=2, strategy=never),
    ):
        assert not plan_drain(picture(wanted, "one", "two"), "one").blockers


PINNED = Terms(constraints=Constraints(node_name="one"), requirements=Requirements(cpu_m=100, mem_mb=64))
ANYWHERE = Terms(requirements=Requirements(cpu_m=3000, mem_mb=64))
NOWHERE = Constraints(node_selector={"disk": "sssd"})


def with_history(terms: Terms, **changes: Any) -> Workload:
    """A record whose first revision asked for `terms`, under an earlier number too; its second is the current one."""
    old = msgspec.structs.replace(revision(3), aliases=(1,), terms=terms)
    return workload(replicas=2, revisions=(revision(4), old), **changes)


def test_an_older_revision_moves_by_what_it_asked_for() -> None:
    """A rollout that was taken back because it fits nowhere strands nothing; whoever is pinned by its own revision
    stays, whatever the current one says. Where nothing may start an older revision again the current one counts."""
    free = plan_drain(picture(with_history(ANYWHERE, constraints=NOWHERE), "one", "two"), "one")
    assert not free.blockers
    assert [(each.how, each.candidates) for each in free.moves] == [("start-first", ("three",))], "two has no room"

    pinned = plan_drain(picture(with_history(PINNED), "one", "two"), "one")
    assert ["fits no other node" in each.reason for each in pinned.refused] == [True]
    never = with_history(PINNED, strategy=Strategy(rollback="never"))
    assert not plan_drain(picture(never, "one", "two"), "one").refused


def test_what_an_older_revision_asked_for_is_what_its_node_promised() -> None:
    """The load of a node is that of what runs there, not of what would."""
    assert picture(with_history(ANYWHERE), "one").load("one") == 0.75


def test_what_ends_already_is_not_planned() -> None:
    """It is left to end, but the node is not drained before it has."""
    wanted = workload()
    layout = replace(picture(wanted), pods=pods_of(wanted, "one", leaving=True, ready=False))

    assert plan_drain(layout, "one").moves == ()
    assert len(left_on(layout, "one")) == 1


# --- rebalancing ------------------------------------------------------------------------------------------------------


def test_a_crowd_is_spread() -> None:
    """Everything on one node of three: a third of it is left there."""
    wanted = workload(replicas=9)
    proposal = propose(picture(wanted, *["one"] * 9))

    assert Counter(each.target for each in proposal.moves) == {"two": 3, "three": 3}
    assert proposal.imbalance_after < proposal.imbalance / 2


def test_an_even_mesh_is_left_alone() -> None:
    """Where nothing gets better by it, nothing is restarted."""
    assert propose(picture(workload(replicas=3), "one", "two", "three")).moves == ()


def test_a_small_mesh_becomes_even_too() -> None:
    """What matters is how the nodes differ, not how much runs: eight small replicas on two nodes of three."""
    wanted = workload(replicas=8, requirements=Requirements())
    proposal = propose(picture(wanted, *["one"] * 4, *["two"] * 4))

    assert Counter(each.target for each in proposal.moves) == {"three": 2}


Needs = st.builds(Requirements, cpu_m=st.integers(0, 1500), mem_mb=st.integers(0, 1500))
Names = ("one", "two", "three", "four", "five")


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any mesh of five nodes, some small, dead or cordoned, with workloads of every sort."""
    hosts = {}
    for name in Names:
        size = draw(st.sampled_from([1000, 4000, 16000]))
        flags = {"alive": draw(st.integers(0, 9)) > 0, "cordoned": draw(st.integers(0, 9)) == 0}
        zone = {"labels": {"disk": draw(st.sampled_from(["ssd", "hdd"]))}}
        hosts[name] = host(name, cpu_m=size, mem_mb=size, free_mem_mb=size, card=zone, **flags)
    workloads, pods = {}, []
    for number in range(draw(st.integers(1, 5))):
        wanted = workload(
            f"w{number}",
            replicas=draw(st.integers(1, 6)),
            kind=draw(st.sampled_from(["Deployment", "Deployment", "Pod", "StatefulSet", "DaemonSet"])),
            requirements=draw(Needs),
            pod_labels={"app": f"w{number}"},
            constraints=Constraints(
                node_selector=draw(st.sampled_from([{}, {}, {"disk": "ssd"}])), anti_affinity_hosts=draw(st.booleans())
            ),
        )
        workloads[wanted.workload_id] = wanted
        places = draw(st.lists(st.sampled_from(Names), min_size=wanted.replicas, max_size=wanted.replicas))
        pods += [replace(pod, ready=draw(st.integers(0, 9)) > 0) for pod in pods_of(wanted, *places)]
    budgets = (Budget("default", "b", min_available=draw(st.sampled_from(["1", "60%", "100%"]))),)
    return Layout(hosts, pods, workloads, budgets[: draw(st.integers(0, 1))])


@given(layouts(), st.integers(1, 8))
def test_every_move_is_allowed_and_lowers_the_imbalance(layout: Layout, moves_max: int) -> None:
    """Step by step: bounded, no replica twice, onto a node that would take it, never one that may not be doubled, and
    the mesh is more even after each."""
    before = list(layout.pods)
    proposal = propose(layout, moves_max)
    assert layout.pods == before, "the picture was changed"
    assert len(proposal.moves) <= moves_max
    assert len({(each.workload, each.replica) for each in proposal.moves}) == len(proposal.moves)

    current = replace(layout, pods=before)
    for move in proposal.moves:
        pod = next(each for each in current.pods if (each.workload_id, each.replica) == (move.workload, move.replica))
        wanted = current.workloads[move.workload]
        assert (pod.node, pod.ready, wanted.kind) == (move.source, True, "Deployment")
        assert not current.refusals(pod, move.target)
        assert current.allowance(wanted).allows(current.healthy(move.workload) + 1, ready=True)
        moved = [replace(each, node=move.target) if each is pod else each for each in current.pods]
        following = replace(current, pods=moved)
        pair = sum(current.load(name) ** 2 for name in (move.source, move.target))
        assert imbalance(following) <= imbalance(current) - GAIN_LEAST * pair + 1e-9
        assert imbalance(following) < imbalance(current)
        current = following
    assert proposal.imbalance_after == pytest.approx(imbalance(current))
