"""Bidder, executor and steward on several nodes: what a mesh promises, under a virtual clock."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from beemesh.effects import Asked, JobFinished, Reply
from beemesh.events import Claim, LeaseLost, ResourcesObserved
from beemesh.scheduling.execution.pods import Deploying
from beemesh.scheduling.messages import SignedBid
from beemesh.scheduling.stewardship.hosting import STOP_SEEN_S
from beemesh.workloads.care import DEFAULT_GRACE_S
from beemesh.workloads.observation import Phase, StopAnswer, StopReplica
from beemesh.workloads.record import Qos, Requirements, Strategy, Workload
from tests.unit.scheduling.samples import revision, workload
from tests.unit.scheduling.world import DEPLOY_S, PLENTY, World, WorldNode

FULL = ResourcesObserved(4000, 4096, 50_000, 0.1, 10, 40_000)


def spread(world: World) -> list[int]:
    """Pods per node, sorted."""
    return sorted(len(pods) for pods in world.running().values())


@pytest.mark.parametrize("seed", range(10))
def test_three_replicas_land_on_three_nodes(seed: int) -> None:
    """On three equal nodes, three replicas of one deployment run one on each, well within a second."""
    world = World(seed=seed)
    world.apply(workload(replicas=3))
    took_s = world.run_until(lambda: len(world.pods()) == 3)

    assert spread(world) == [1, 1, 1]
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]
    assert took_s < DEPLOY_S + 0.5


def test_the_decision_is_quick() -> None:
    """From the published task to the claim of its lease, an idle mesh of three takes at most 80 ms in the median."""
    took = []
    for seed in range(21):
        world = World(seed=seed)
        world.run(5)
        world.apply(workload())
        world.run_until(lambda world=world: bool(world.pods()))
        published_s = world.tasks()[0][0]
        claims = [at_s for at_s, _, note in world.notes if isinstance(note, Claim) and note.key.startswith("lease/")]
        took.append(claims[0] - published_s)

    assert sorted(took)[len(took) // 2] <= 0.080, sorted(took)


def test_the_task_follows_the_apply_at_once() -> None:
    """An apply becomes a task within 30 ms: the nearest keeper claims at once, and asks nobody about a new record."""
    world = World()
    world.run(5)
    start_s = world.now_s
    world.apply(workload())
    world.run(1)

    assert world.tasks()[0][0] - start_s <= 0.030


def test_many_replicas_spread_over_the_nodes() -> None:
    """Thirty replicas settle with not one task too many, and no node has more than half of them."""
    world = World()
    world.apply(workload(replicas=30))
    world.run_until(lambda: len(world.pods()) == 30, 30)
    world.run(5)

    assert len(world.slots()) == len(set(world.slots())) == 30
    assert len(world.tasks()) == 30
    assert max(spread(world)) <= 15, spread(world)


def test_a_winner_that_dies_is_replaced() -> None:
    """A node that dies between its lease and its pod is stepped in for, within the lease's time and a second or two."""
    world = World()
    world.apply(workload())
    world.run_until(lambda: bool(world.events("Scheduled")))
    winner = world.nodes_by_id[world.events("Scheduled")[0].node_id]
    winner.kill(power=True)
    took_s = world.run_until(lambda: bool(world.pods()))

    assert took_s < 3 + 1 + 2 + DEPLOY_S
    assert not winner.runtime


def test_pending_with_reasons_then_taken_up() -> None:
    """A replica that no node can take is pending with each node's reason, and runs as soon as one has room."""
    world = World()
    for node in world.nodes.values():
        node.set_resources(FULL)
    world.apply(workload(requirements=Requirements(cpu_m=100, mem_mb=2000)))
    world.run_until(lambda: bool(world.events("Pending")), 5)
    pending = world.events("Pending")[0]

    assert set(pending.details) == {"one", "two", "three"}
    assert "needs 2000 MiB of memory, this node has 3584 MiB, 10 free" in pending.details["two"]

    world.run(10)
    assert len(world.tasks()) == 1
    world.nodes["two"].set_resources(PLENTY)
    assert world.run_until(lambda: bool(world.pods()), 5) < 2
    assert world.running()["two"]


def test_impossible_work_stays_pending_with_one_task_at_a_time() -> None:
    """What can never run is tried again and again, never with two tasks outstanding, and its reasons do not flood."""
    world = World()
    world.apply(workload(requirements=Requirements(mem_mb=16_777_216)))
    world.run(200)
    tasks = [at_s for at_s, _ in world.tasks()]

    assert 4 <= len(tasks) <= 8
    assert all(later - earlier >= 30 for earlier, later in pairwise(tasks))
    assert 1 <= len(world.events("Pending")) <= 6


def test_a_newcomer_gets_what_is_pending() -> None:
    """A node that comes up is handed the outstanding tasks, so it takes what nobody else could."""
    world = World()
    world.nodes["three"].kill()
    for name in ("one", "two"):
        world.nodes[name].set_resources(FULL)
    world.run(1)
    world.apply(workload(requirements=Requirements(mem_mb=2000)))
    world.run(5)
    world.nodes["three"].boot()

    assert world.run_until(lambda: bool(world.pods()), 5) < 2


def test_a_tombstone_stops_everything() -> None:
    """A deleted workload ends on every node, also what was being started, and nothing comes back."""
    world = World()
    wanted = workload(replicas=3)
    world.apply(wanted)
    world.run_until(lambda: bool(world.pods()))
    world.delete(wanted)
    world.run(20)

    assert world.pods() == []
    assert all(not node.executor.pods.reports() for node in world.nodes.values())
    assert all(node.local.totals() == Requirements() for node in world.nodes.values())
    assert all(not node.disk.get("copies") and not node.disk.get("placements") for node in world.nodes.values())


def test_a_dead_nodes_replica_runs_elsewhere() -> None:
    """What a node ran is replaced when it is gone, also when it hosted the reconciler."""
    for victim in ("one", "two", "three"):
        world = World()
        world.apply(workload(replicas=3))
        world.run_until(lambda world=world: len(world.pods()) == 3)
        world.run(3)
        world.nodes[victim].kill(power=True)
        took_s = world.run_until(lambda world=world: len(world.pods()) == 3, 40)

        assert took_s < 25
        assert world.slots() == [(1, 0), (1, 1), (1, 2)]


def test_a_node_that_comes_back_doubles_nothing() -> None:
    """A machine that was off longer than its replica's replacement took keeps its hands off it."""
    world = World()
    world.apply(workload(replicas=3))
    world.run_until(lambda: len(world.pods()) == 3)
    world.run(3)
    world.nodes["two"].kill(power=True)
    world.run_until(lambda: len(world.pods()) == 3, 40)
    started = list(world.nodes["two"].started)
    world.nodes["two"].boot()
    world.run(30)

    assert world.slots() == [(1, 0), (1, 1), (1, 2)]
    assert world.nodes["two"].started == started
    assert not world.nodes["two"].disk["copies"]


def test_all_machines_off_and_on() -> None:
    """After a power cut of the whole mesh every machine starts its own pods again, without a single new task."""
    world = World()
    world.apply(workload(replicas=3))
    world.run_until(lambda: len(world.pods()) == 3)
    world.run(3)
    before = world.running()
    world.power_cut()
    world.run(60)
    for node in world.nodes.values():
        node.boot()
    took_s = world.run_until(lambda: len(world.pods()) == 3, 30)
    world.run(30)

    assert took_s < 6
    assert world.running() == before
    assert len(world.tasks()) == 3


def test_an_agents_restart_touches_no_pod() -> None:
    """An agent that comes back adopts what runs: nothing is stopped, started or asked for again."""
    for name in ("one", "two", "three"):
        world = World()
        world.apply(workload(replicas=3))
        world.run_until(lambda world=world: len(world.pods()) == 3)
        world.run(3)
        node = world.nodes[name]
        started = {each.name: list(each.started) for each in world.nodes.values()}
        node.epoch += 1
        node.boot()
        world.run(60)

        assert {each.name: each.started for each in world.nodes.values()} == started
        assert not any(each.stopped for each in world.nodes.values())
        assert len(world.tasks()) == 3
        assert node.local.totals() == Requirements(cpu_m=100, mem_mb=64)


def test_a_duplicate_is_drained() -> None:
    """Of two equal replicas the one with the lower fence stops, and the other is left alone."""
    world = World()
    world.apply(workload())
    world.run_until(lambda: bool(world.pods()))
    (report,) = world.pods()
    holder = world.nodes_by_id[report.node_id]
    other = next(node for node in world.nodes.values() if node is not holder)
    double = msgspec.structs.replace(report, node_id=other.node_id, task_id="0" * 26, fence=report.fence - 1)
    other.runtime["default/" + report.pod] = double
    other.look()
    other.kill()
    other.boot()
    world.run(10)

    assert not other.runtime
    assert holder.runtime


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1), (2, 1)])
def test_a_rolling_update_keeps_its_bounds(surge: int, unavailable: int) -> None:
    """During a rolling update there are never too few ready replicas nor too many altogether; and it ends."""
    world = World()
    strategy = Strategy(max_surge=surge, max_unavailable=unavailable)
    wanted = workload(replicas=3, strategy=strategy)
    world.apply(wanted)
    world.run_until(lambda: len(world.pods()) == 3)
    world.run(3)
    seen: list[int] = []
    world.watch = lambda: seen.append(len(world.pods()))
    world.apply(workload(number=2, replicas=3, strategy=strategy, revisions=(revision(2), revision(1))), seq=2)
    world.run_until(lambda: world.slots() == [(2, 0), (2, 1), (2, 2)], 60)

    assert min(seen) >= 3 - unavailable
    assert max(seen) <= 3 + surge


def test_recreate_stops_all_before_it_starts_any() -> None:
    """With strategy Recreate the two revisions never run at the same time."""
    world = World()
    wanted = workload(replicas=2, strategy=Strategy(type="Recreate"))
    world.apply(wanted)
    world.run_until(lambda: len(world.pods()) == 2)
    world.run(2)
    both: list[int] = []
    world.watch = lambda: both.append(len({report.revision for report in world.pods()}))
    world.apply(workload(number=2, replicas=2, strategy=Strategy(type="Recreate")), seq=2)
    world.run_until(lambda: world.slots() == [(2, 0), (2, 1)], 30)

    assert max(both) == 1


def test_scaling_down_stops_the_highest_ordinals() -> None:
    """Fewer replicas: the surplus ordinals end, the others never stop."""
    world = World()
    world.apply(workload(replicas=3))
    world.run_until(lambda: len(world.pods()) == 3)
    world.run(2)
    world.apply(workload(replicas=1), seq=2)
    world.run(10)

    assert world.slots() == [(1, 0)]
    assert sum(len(node.stopped) for node in world.nodes.values()) == 2


def test_failures_are_counted_and_told() -> None:
    """A pod that fails everywhere is tried so many times, elsewhere each time, then Failed with every reason."""
    world = World()
    for node in world.nodes.values():
        node.fails = "ImageNotFound: no image hello:1 here"
    world.apply(workload())
    world.run(60)
    failed = world.events("Failed")
    final = [event for event in failed if "final" in event.details]

    assert len(failed) == 6
    assert len(final) == 1
    assert "ImageNotFound: no image hello:1 here" in final[0].details["message"]
    assert len({event.node_id for event in failed[:3]}) == 3
    assert [task.attempt for _, task in world.tasks()] == [1, 2, 3, 4, 5]
    assert all(node.local.totals() == Requirements() for node in world.nodes.values())
    assert not any(key.startswith("lease/") for key in world.leases.held)


def test_a_changed_record_gives_failed_work_a_new_chance() -> None:
    """After the operator mended the manifest, what had failed for good is tried at once."""
    world = World()
    for node in world.nodes.values():
        node.fails = "ImageNotFound: no image"
    world.apply(workload())
    world.run(60)
    for node in world.nodes.values():
        node.fails = ""
    world.apply(workload(number=2), seq=2)

    assert world.run_until(lambda: world.slots() == [(2, 0)], 10) < 2


def test_too_few_custodians_is_pending_not_failed() -> None:
    """While the manifest cannot be opened, attempts are not used up, and it runs once custodians are back."""
    world = World()
    world.manifests_open = False
    world.apply(workload())
    world.run(120)

    assert not [event for event in world.events("Failed") if "final" in event.details]
    world.manifests_open = True
    world.run_until(lambda: bool(world.pods()), 40)


def test_never_two_tasks_of_one_replica_outstanding() -> None:
    """Through deaths, takeovers and updates, a replica's next task comes only when the one before is over."""
    world = World(("a", "b", "c", "d", "e"))
    world.apply(workload(replicas=5))
    world.run(2)
    world.nodes["a"].kill(power=True)
    world.run(20)
    world.apply(workload(number=2, replicas=5), seq=2)
    world.run(1)
    world.nodes["b"].kill()
    world.run(30)
    world.nodes["a"].boot()
    world.nodes["b"].boot()
    world.run(30)
    over = {event.task_id for event in world.events() if event.status in ("Deployed", "Failed", "Cancelled")}
    by_replica: dict[tuple[int, int], list[tuple[float, str, int]]] = {}
    for at_s, task in world.tasks():
        by_replica.setdefault((task.revision, task.replica), []).append((at_s, task.task_id, task.expires_ms))
    for tasks in by_replica.values():
        for earlier, later in pairwise(tasks):
            assert earlier[1] in over or later[0] - earlier[0] >= 30

    assert world.slots() == [(2, 0), (2, 1), (2, 2), (2, 3), (2, 4)]


def test_only_one_runs_where_duplicates_are_not_tolerated() -> None:
    """A replica that must not be doubled stops before its run lease ends, and another starts only after that."""
    world = World()
    world.apply(workload(duplicate_tolerant=False))
    world.run_until(lambda: bool(world.pods()))
    world.run(5)
    holder = next(node for node in world.nodes.values() if node.runtime)
    assert any(key.startswith("run/") for key in world.leases.held)
    most: list[int] = []
    ends: list[float] = []

    def look() -> None:
        most.append(len(world.pods()))
        if holder.runtime:
            assert world.leases.held["run/deployment/default/hello/0"][0] == holder.node_id
            ends.append(world.leases.held["run/deployment/default/hello/0"][1])

    world.watch = look
    holder.cut_from_leases = True
    world.run_until(lambda: not holder.runtime)
    assert ends[-1] - world.now_s > 1.5
    world.run(60)

    assert max(most) == 1
    assert holder.stopped
    assert len(world.pods()) == 1


def deleted_slowly() -> tuple[World, WorldNode]:
    """A workload of one replica that was just deleted, and the node whose pod takes a minute to end."""
    world, spec = World(), workload(duplicate_tolerant=False)
    world.apply(spec)
    world.run_until(lambda: bool(world.pods()))
    holder = next(node for node in world.nodes.values() if node.runtime)
    holder.lingers_s = 60.0
    world.delete(spec)
    world.run_until(lambda: bool(holder.graces))
    return world, holder


def test_what_is_ending_ends_at_once_when_its_run_lease_is_lost() -> None:
    """Deleted, with half a minute to end; then nobody hears of the node any more: it ends before its lease does, for
    a successor may begin then. That it is gone is told once."""
    world, holder = deleted_slowly()
    world.run(3)
    assert holder.runtime

    holder.cut_from_leases = True
    ends_s = world.leases.held["run/deployment/default/hello/0"][1]
    world.run_until(lambda: not holder.runtime)
    assert ends_s - world.now_s > 1.5
    world.run(40)

    assert holder.graces == [30, 0]
    assert not holder.executor.pods.stopping
    assert len([event for event in world.events("Stopped") if event.node_id == holder.node_id]) == 1


def test_a_pod_is_gone_when_the_last_of_its_stops_is_done() -> None:
    """Its end was hurried: as long as one of both orders is carried out, that one might end a successor of its name."""
    world, holder = deleted_slowly()
    world.run(1)
    holder.tell(LeaseLost("run/deployment/default/hello/0", "overtaken"))
    (jobs,) = holder.stops.values()
    (name,) = holder.executor.pods.stopping

    holder.tell(JobFinished(jobs[0]))
    assert name in holder.executor.pods.stopping
    holder.tell(JobFinished(jobs[1]))

    assert holder.graces == [30, 0]
    assert not holder.executor.pods.stopping


def test_a_pod_whose_successor_waits_for_it_ends_with_its_run_lease_too() -> None:
    """A task of the same name was won meanwhile and waits: both have lost their right, the old pod ends at once."""
    world, holder = deleted_slowly()
    pods = holder.executor.pods
    (name,) = pods.stopping
    pods.deploying[name] = Deploying(pods.placed[name], "", None, "clearing", world.now_s)

    holder.tell(LeaseLost("run/deployment/default/hello/0", "overtaken"))
    world.run(1)

    assert holder.graces == [30, 0]
    assert not holder.runtime
    assert not pods.deploying


def test_what_began_as_its_run_lease_was_lost_has_no_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine was at it already: the pod is ended at once, and not asked."""
    monkeypatch.setattr("tests.unit.scheduling.world.DEPLOY_S", 20.0)
    world = World()
    world.apply(workload(duplicate_tolerant=False))
    world.run_until(lambda: any(node.executor.pods.deploying for node in world.nodes.values()))
    world.run(1)
    holder = next(node for node in world.nodes.values() if node.executor.pods.deploying)

    holder.cut_from_leases = True
    world.run_until(lambda: bool(holder.graces))

    assert holder.graces == [0]


def test_what_must_not_be_doubled_is_updated_old_first() -> None:
    """A new revision waits for no run lease of the old one: each ordinal stops before its successor starts."""
    world = World()
    wanted = {"duplicate_tolerant": False, "replicas": 3}
    world.apply(workload(**wanted))
    world.run_until(lambda: len(world.pods()) == 3)
    world.run(3)
    fewest: list[int] = []
    world.watch = lambda: fewest.append(len(world.pods()))
    world.apply(workload(number=2, **wanted), seq=2)
    world.run(20)

    assert world.slots() == [(2, 0), (2, 1), (2, 2)]
    assert min(fewest) == 2


def test_one_pod_that_runs_once() -> None:
    """A Pod that ended well is not started again, not even when its node goes away."""
    world = World()
    world.apply(workload("job", kind="Pod", restart_policy="Never"))
    world.run_until(lambda: bool(world.pods()))
    (report,) = world.pods()
    node = world.nodes_by_id[report.node_id]
    world.run(2)
    node.runtime["default/" + report.pod] = msgspec.structs.replace(report, phase="Succeeded", ready=False)
    node.look()
    world.run(30)
    assert len(world.tasks()) == 1
    node.kill(power=True)
    world.run(60)

    assert len(world.tasks()) == 1


@pytest.mark.parametrize("takes_over", [False, True])
@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("phase", ["Failed", "Running"])
def test_what_cannot_be_removed_keeps_no_replica_from_running(
    phase: Phase, *, tolerant: bool, takes_over: bool
) -> None:
    """Its runtime answers each stop with an error, and its node lists it for ever. Another one runs elsewhere, once it
    has had time to end; but never where no replica may be doubled."""
    world = World(("one", "two", "three", "four"), seed=14)
    wanted = workload(duplicate_tolerant=tolerant)
    world.apply(wanted)
    world.run(20)
    stuck = next(node for node in world.nodes.values() if node.runtime)
    stuck.cannot_remove = "EngineError: removing container: device or resource busy"
    (name, report), *_ = stuck.runtime.items()
    if phase == "Failed":
        stuck.runtime[name] = msgspec.structs.replace(report, phase=phase, ready=False)
        stuck.look()
    else:
        world.apply(workload(replicas=0, duplicate_tolerant=tolerant), seq=2)
        world.run(5)
        world.apply(wanted, seq=3)
    world.run(5)
    if takes_over:
        world.steward_of(wanted.workload_id).kill()
    world.run(DEFAULT_GRACE_S + STOP_SEEN_S + 60)

    elsewhere = [report.phase for node in world.nodes.values() if node is not stuck for report in node.runtime.values()]
    assert elsewhere == (["Running"] if tolerant else [])


def test_a_pod_that_vanishes_is_replaced() -> None:
    """A pod that somebody removed behind the agent's back is reported, and runs again."""
    world = World()
    world.apply(workload())
    world.run_until(lambda: bool(world.pods()))
    world.run(10)
    node = next(node for node in world.nodes.values() if node.runtime)
    node.runtime.clear()
    node.look()
    world.run(5)

    assert any("vanished" in event.reason for event in world.events("Stopped"))
    assert len(world.pods()) == 1


def test_a_pod_that_vanishes_right_after_its_start_is_replaced() -> None:
    """The list without it may have been read before it was there; it is believed once it cannot have been."""
    world = World()
    world.apply(workload())
    world.run_until(lambda: bool(world.pods()))
    world.run(1.0)
    node = next(node for node in world.nodes.values() if node.runtime)
    node.runtime.clear()
    node.look()
    world.run(10)

    assert len(world.pods()) == 1


def test_bids_stay_few() -> None:
    """On twelve nodes a task hears a handful of bids: whoever heard three better ones keeps silent."""
    world = World(tuple(f"n{number}" for number in range(12)))
    for number, node in enumerate(world.nodes.values()):
        node.set_resources(ResourcesObserved(4000, 4096, 50_000, 0.05 * number, 3500, 40_000))
    world.run(5)
    world.apply(workload(qos=Qos()))
    world.run(2)
    bids = [message for _, _, message in world.published if isinstance(message, SignedBid)]

    assert len(world.pods()) == 1
    assert len(bids) <= 8


def test_a_forged_stop_is_refused() -> None:
    """A node that holds no steward lease, or whose reason the record does not support, stops nothing."""
    world = World()
    wanted: Workload = workload()
    world.apply(wanted)
    world.run_until(lambda: bool(world.pods()))
    world.run(2)
    (report,) = world.pods()
    node = world.nodes_by_id[report.node_id]
    other = next(each for each in world.nodes.values() if each is not node)
    steward = next(each for each in world.nodes.values() if each.steward._hosted["deployment/default/hello"].hosting)
    proof = steward.steward._hosted["deployment/default/hello"].proof
    base = StopReplica(report.workload_id, 0, 1, report.task_id, "surplus")
    stranger = next(each for each in world.nodes.values() if each is not steward)
    cases = [
        (steward, base),
        (stranger, msgspec.structs.replace(base, proof=proof)),
        (steward, msgspec.structs.replace(base, proof=proof)),
        (steward, msgspec.structs.replace(base, proof=proof, reason="outdated")),
        (steward, msgspec.structs.replace(base, proof=proof, reason="duplicate", instead=other.node_id)),
    ]
    for sender, order in cases:
        effects = node.executor.handle(Asked(sender.node_id, 1, order), world.now)
        (answer,) = [effect.message for effect in effects if isinstance(effect, Reply)]
        assert isinstance(answer, StopAnswer)
        assert not answer.accepted
    world.run(5)

    assert world.pods() == [report]
