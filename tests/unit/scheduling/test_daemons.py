"""DaemonSets on several nodes: one on each that is eligible, whatever comes, goes and changes."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from beemesh.events import ResourcesObserved
from beemesh.identity.membership_card import Taint
from beemesh.identity.signing import sign_statement
from beemesh.intents.record import Cordon
from beemesh.scheduling.execution.orders import objection_to
from beemesh.scheduling.leases import steward_key
from beemesh.scheduling.messages import LEASE_KIND, Event, EventStatus, Lease, LeaseProof
from beemesh.scheduling.stewardship.daemons import daemon_nodes
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.stewardship.ledger import MARGIN_S
from beemesh.scheduling.stewardship.polling import POLL_BUSY_S
from beemesh.scheduling.stewardship.repairs import PARALLEL_MAX
from beemesh.scheduling.tasks import TASK_LIFETIME_MS, make_task, objection
from beemesh.scheduling.telling import FINAL
from beemesh.workloads.daemons import may_have, ordinal_of
from beemesh.workloads.observation import ReplicaReport, StopReplica
from beemesh.workloads.reconciler import STARTING_MAX, StartReplica
from beemesh.workloads.record import Constraints, Strategy, Workload
from beemesh.workloads.revising import undone
from simulator.crypto import FakeCrypto
from tests.unit.scheduling.samples import WALL_MS, card, cordon_record, membership_intent, record, revision, workload
from tests.unit.scheduling.world import World, WorldNode

ONE_BY_ONE = Strategy(max_surge=0, max_unavailable=1)
FULL = ResourcesObserved(4000, 4096, 50_000, 0.1, 10, 40_000)

UNTAKEN_S = TASK_LIFETIME_MS / 1000 + MARGIN_S + 2 * POLL_BUSY_S
"""How long a task that nobody takes keeps its slot, until its steward has noticed."""


def daemon_set(*numbers: int, **changes: Any) -> Workload:
    """A DaemonSet with these revisions, newest first."""
    revisions = tuple(revision(number) for number in numbers or (1,))
    return workload(**{"kind": "DaemonSet", "replicas": 0, "revisions": revisions, "strategy": ONE_BY_ONE, **changes})


def where(world: World) -> dict[str, list[int]]:
    """The revisions that run on each node that runs any."""
    found = {name: sorted(each.revision for each in node.runtime.values()) for name, node in world.nodes.items()}
    return {name: revisions for name, revisions in found.items() if revisions}


def everywhere(world: World, number: int = 1) -> bool:
    """Whether each node that is on runs exactly one, of that revision."""
    return where(world) == {name: [number] for name, node in world.nodes.items() if not node.dead}


def by_ordinal(world: World) -> list[WorldNode]:
    """The nodes in the order in which their daemons start."""
    return sorted(world.nodes.values(), key=lambda node: ordinal_of(node.node_id))


def recard(world: World, name: str, **changes: Any) -> None:
    """A node gets another card, which every node learns."""
    world.cards[name] = card(name, serial=2, **changes)
    intent = msgspec.structs.replace(membership_intent(world.cards[name]), seq=2)
    for node in world.nodes.values():
        node.roster.apply(intent)


def test_one_on_each_node_and_each_stays_where_it_is() -> None:
    """Every node gets one, asked alone; its steward finds nothing more to do."""
    world = World(("one", "two", "three", "four"))
    world.apply(daemon_set())
    world.run_until(lambda: everywhere(world))
    tasks = world.tasks()
    world.run(60)

    assert everywhere(world)
    assert len(world.tasks()) == len(tasks) == 4
    assert {task.hints["node"] for _, task in tasks} == set(world.nodes)
    assert {each.replica for each in world.pods()} == {ordinal_of(node.node_id) for node in world.nodes.values()}


def test_a_newcomer_gets_one_and_who_is_dead_is_waited_for() -> None:
    """The dead one's replica starts nowhere else, and a machine that comes back has its own."""
    world = World()
    world.apply(daemon_set())
    world.run_until(lambda: everywhere(world))
    world.nodes["two"].kill(power=True)
    world.run(60)
    assert where(world) == {"one": [1], "three": [1]}
    assert not world.events("Failed")

    world.nodes["two"].boot()
    world.run_until(lambda: everywhere(world))
    world.run(30)
    assert everywhere(world)


def test_after_a_power_cut_each_starts_its_own_again() -> None:
    """By the copy that it keeps: nobody has to be asked, and no task is needed."""
    world = World()
    world.apply(daemon_set())
    world.run_until(lambda: everywhere(world))
    world.run(5)
    tasks = len(world.tasks())
    world.power_cut()
    for node in world.nodes.values():
        node.boot()
    world.run(60)
    assert everywhere(world)
    assert len(world.tasks()) == tasks


def test_no_node_speaks_for_another() -> None:
    """Who claims to run the replica of another node keeps it from nothing."""
    wanted = daemon_set()
    hosted = Hosted(wanted.workload_id, wanted, record(wanted)[1])
    hosted.daemons = {ordinal_of(ONE.node_id): "one", ordinal_of(ELSEWHERE.node_id): "two"}
    own = ReplicaReport(
        "hello-1-x", wanted.workload_id, "default", "DaemonSet", 1, ordinal_of(ONE.node_id), ONE.node_id, "Running"
    )
    hosted.reports = {ONE.node_id: (own, msgspec.structs.replace(own, replica=ordinal_of(ELSEWHERE.node_id)))}
    assert hosted.observed((), lambda _: True, 0.0).replicas == (own,)


def test_only_eligible_nodes() -> None:
    """By selector and taint; a node whose card changes gains or loses its replica."""
    world = World(one={"labels": {"disk": "ssd"}}, two={"labels": {"disk": "ssd"}})
    world.apply(daemon_set(constraints=Constraints(node_selector={"disk": "ssd"})))
    world.run(30)
    assert where(world) == {"one": [1], "two": [1]}

    recard(world, "three", labels={"disk": "ssd"})
    recard(world, "two", labels={"disk": "ssd"}, taints=(Taint("only", "gpu", "NoSchedule"),))
    world.run(60)
    assert where(world) == {"one": [1], "three": [1]}


def test_a_cordon_keeps_no_daemon_away() -> None:
    """As in Kubernetes: neither one that runs nor one that is to start."""
    world = World()
    world.put(*cordon_record(Cordon("two", True), 1, world.now.wall_ms))
    world.run(1)
    world.apply(daemon_set())
    world.run_until(lambda: everywhere(world))


@pytest.mark.parametrize("seed", range(3))
def test_an_update_goes_node_by_node(seed: int) -> None:
    """One is missing at most at any time, and none runs twice on a node."""
    world = World(("one", "two", "three", "four"), seed)
    world.apply(daemon_set(1))
    world.run_until(lambda: everywhere(world))
    world.run(5)
    least = [4]

    def look() -> None:
        least[0] = min(least[0], sum(each.ready for each in world.pods()))
        assert all(len(found) == 1 for found in where(world).values())

    world.watch = look
    world.apply(daemon_set(2, 1), 2)
    world.run_until(lambda: everywhere(world, 2), 120)
    assert least == [3]
    world.run(20)
    assert len(world.events("RolledOut")) == 2


def test_a_surge_starts_first() -> None:
    """With room for one more, no node is ever without one."""
    world = World()
    surging = Strategy(max_surge=1, max_unavailable=0)
    world.apply(daemon_set(1, strategy=surging))
    world.run_until(lambda: everywhere(world))
    world.run(5)
    least = [3]

    def look() -> None:
        least[0] = min(least[0], len({each.replica for each in world.pods() if each.ready}))

    world.watch = look
    world.apply(daemon_set(2, 1, strategy=surging), 2)
    world.run_until(lambda: everywhere(world, 2), 120)
    assert least == [3]


def test_a_bad_revision_is_taken_back() -> None:
    """After its attempts on the first node all run what was good, and the next steward keeps to it; an undo goes on
    from there."""
    world = World()
    world.apply(daemon_set(1))
    world.run_until(lambda: everywhere(world))
    world.run(15)
    world.bad[2] = "ImageNotFound: no such image"
    bad = daemon_set(2, 1)
    world.apply(bad, 2)
    world.run_until(lambda: bool(world.events("RolledBack")), 300)
    world.run_until(lambda: everywhere(world, 1), 60)
    assert len({task.replica for _, task in world.tasks() if task.revision == 2}) == 1

    holder = world.leases.held[steward_key(bad.workload_id)][0]
    world.nodes_by_id[holder].kill(power=True)
    world.run(90)
    assert everywhere(world, 1)
    world.apply(undone(bad, 0, world.now.wall_ms), 3)
    world.run(60)
    assert {each.revision for each in world.pods()} <= {1, 3}
    assert len(world.pods()) == 2


def test_nodes_without_room_keep_no_other_from_its_own() -> None:
    """More of them than are asked at once: the others have their turn next, also under a steward that takes over."""
    world = World([f"n{number}" for number in range(STARTING_MAX + 4)])
    nodes = by_ordinal(world)
    for node in nodes[: STARTING_MAX + 1]:
        node.set_resources(FULL)
    wanted = daemon_set()
    world.apply(wanted)
    world.run(20)
    assert not where(world)

    holder = world.nodes_by_id[world.leases.held[steward_key(wanted.workload_id)][0]]
    holder.kill()
    free = [node for node in nodes[STARTING_MAX + 1 :] if node is not holder]
    world.run_until(lambda: all(node.runtime for node in free), 2 * UNTAKEN_S)


def test_a_daemon_comes_back_although_others_cannot() -> None:
    """As many repairs as are begun at once find no room; one that could run again has its turn after them."""
    world = World([f"n{number}" for number in range(PARALLEL_MAX + 2)])
    world.apply(daemon_set())
    world.run_until(lambda: everywhere(world))
    world.run(10)
    nodes = by_ordinal(world)
    for node in nodes[:PARALLEL_MAX]:
        node.set_resources(FULL)
        node.runtime.clear()
        node.look()
    world.run(60)
    nodes[-1].runtime.clear()
    nodes[-1].look()
    world.run_until(lambda: bool(nodes[-1].runtime), UNTAKEN_S)


def test_only_what_the_record_has_is_remembered() -> None:
    """A member that publishes tasks for slots that there are not fills nobody's memory; another record starts anew."""
    wanted = daemon_set()
    hosted = Hosted(wanted.workload_id, wanted, record(wanted)[1])
    hosted.daemons = {ordinal_of(ONE.node_id): "one"}
    mine = (1, ordinal_of(ONE.node_id))
    hosted.in_vain = {mine: 5.0, (1, 7): 5.0, (2, mine[1]): 5.0}
    assert hosted.observed((), lambda _: True, 0.0).in_vain == hosted.in_vain == {mine: 5.0}
    hosted.renew(wanted, record(wanted)[1], 0.0)
    assert not hosted.in_vain


@pytest.mark.parametrize("status", ["Deployed", "Failed", "Cancelled"])
def test_what_somebody_took_was_not_in_vain(status: EventStatus) -> None:
    """Its next start has its ordinary turn. A steward's last word about a failed rollout says no such thing."""
    wanted = daemon_set()
    mine = ordinal_of(ONE.node_id)
    hosted = Hosted(wanted.workload_id, wanted, record(wanted)[1], in_vain={(1, mine): 5.0})
    hosted.told_of(Event("e", ONE.node_id, "Failed", WALL_MS, revision=1, replica=mine, details={FINAL: "true"}), 6.0)
    assert hosted.in_vain
    hosted.told_of(Event("e", ONE.node_id, status, WALL_MS, revision=1, replica=mine), 6.0)
    assert not hosted.in_vain


def test_deleting_it_ends_all() -> None:
    """On every node."""
    world = World()
    wanted = daemon_set()
    world.apply(wanted)
    world.run_until(lambda: everywhere(world))
    world.delete(wanted)
    world.run_until(lambda: not world.pods())


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_and_goes(seed: int) -> None:
    """Nodes die, return, and change what they are; at no time does one run two, and in the end each runs its own."""
    rng = random.Random(seed)
    names = tuple(f"n{number}" for number in range(5))
    ssd = {"labels": {"disk": "ssd"}}
    world = World(names, seed, **dict.fromkeys(names, ssd))
    wanted = {"constraints": Constraints(node_selector={"disk": "ssd"})}

    def look() -> None:
        assert all(len(found) == 1 for found in where(world).values())

    world.watch = look
    world.apply(daemon_set(1, **wanted))
    eligible = set(names)
    for turn in range(8):
        name = rng.choice(names)
        node = world.nodes[name]
        if rng.random() < 0.5:
            if node.dead:
                node.boot()
            elif sum(each.dead for each in world.nodes.values()) < 2:
                node.kill(power=rng.random() < 0.7)
        elif rng.random() < 0.6:
            eligible ^= {name}
            world.cards[name] = card(name, serial=turn + 2, **(ssd if name in eligible else {}))
            intent = msgspec.structs.replace(membership_intent(world.cards[name]), seq=turn + 2)
            for each in world.nodes.values():
                each.roster.apply(intent)
        else:
            world.apply(daemon_set(turn + 2, 1, **wanted), turn + 2)
        world.run(rng.uniform(0.0, 20.0))
    for node in world.nodes.values():
        if node.dead:
            node.boot()
    world.run(150)

    assert set(where(world)) == eligible
    newest = max(number for found in where(world).values() for number in found) if eligible else 0
    assert all(found == [newest] for found in where(world).values())


ONE = World().nodes["one"]
ELSEWHERE = World().nodes["two"]


def test_a_task_is_for_its_node_alone() -> None:
    """The record supports the ordinal of the node that asks, and no other; custodians judge by the same words."""
    wanted = daemon_set()
    start = StartReplica(1, ordinal_of(ONE.node_id), towards="one")
    task = make_task(wanted, record(wanted)[1], start, WALL_MS, random.Random(0))
    assert objection(task, wanted, ONE.node_id) == ""
    assert "belongs to another node" in objection(task, wanted, ELSEWHERE.node_id)
    assert may_have(wanted, task.replica, ONE.node_id, surge=1)
    assert not may_have(wanted, task.replica + 1, ONE.node_id, surge=1)
    assert not may_have(wanted, 0, ONE.node_id, surge=1)


def test_only_what_does_not_fit_is_surplus() -> None:
    """A steward cannot end a daemon that the node's card and record support."""
    wanted = daemon_set()
    ordinal = ordinal_of(ONE.node_id)
    lease = Lease(steward_key(wanted.workload_id), ELSEWHERE.node_id, "", 1, 15_000, 1, b"n")
    proof = LeaseProof(sign_statement(FakeCrypto(b"x"), LEASE_KIND, lease), ())
    order = StopReplica(wanted.workload_id, ordinal, 1, "", "surplus", proof)
    report = ReplicaReport(
        "hello-1-x", wanted.workload_id, "default", "DaemonSet", 1, ordinal, ONE.node_id, "Running", fence=3
    )
    facts = (order, ELSEWHERE.node_id, report, wanted, World.check_proof, WALL_MS)
    assert "wants one on this node" in objection_to(*facts)
    assert objection_to(*facts, suits=False) == ""


def test_who_is_eligible() -> None:
    """By the terms of the revision that is asked for, among those alive."""
    world = World(one={"labels": {"disk": "ssd"}})
    node = world.nodes["two"]
    wanted = daemon_set(constraints=Constraints(node_selector={"disk": "ssd"}))
    assert daemon_nodes(wanted, 1, node.roster, node.view) == {ordinal_of(world.nodes["one"].node_id): "one"}
    world.nodes["one"].kill()
    assert daemon_nodes(wanted, 1, node.roster, node.view) == {}


def test_a_node_where_its_pods_name_is_taken_is_waited_for() -> None:
    """Another workload's pod keeps a daemon from its node, and no other daemon from its own."""
    world = World()
    node = by_ordinal(world)[0]
    alike = workload(f"hello-1-{ordinal_of(node.node_id)}", kind="Pod", constraints=Constraints(node_name=node.name))
    world.apply(alike)
    world.run(5)
    world.apply(daemon_set())
    world.run(40)

    assert node.started == [alike.name]
    assert all(len(other.started) == 1 for other in world.nodes.values())
    assert f"a pod of that name, of {alike.workload_id}, is here" in world.events("Pending")[0].details[node.name]
    world.delete(alike)
    world.run_until(lambda: len(node.started) == 2, 10)
