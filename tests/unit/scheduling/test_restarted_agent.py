"""An agent that starts anew finds pods, and has to know by which right they run and what they hold."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.effects import Asked, Effects, Reply
from beemesh.events import PodsObserved
from beemesh.scheduling.execution.answering import QUESTIONS_WAITING_MAX, WAITED_FOR_S
from beemesh.scheduling.execution.pods import Deploying, Placement
from beemesh.scheduling.execution.recovery import ANSWER_S
from beemesh.scheduling.execution.run_leases import RUN_LEASE_TTL_MS
from beemesh.scheduling.judging import UNKNOWING
from beemesh.scheduling.leases import RUN_LEASE_MARGIN_S
from beemesh.scheduling.messages import SilenceQuestion
from beemesh.scheduling.stewardship.hearing import LIST_S
from beemesh.workloads.observation import ListReplicas, ReplicaList, ReplicaReport
from beemesh.workloads.record import Constraints, JobTerms, Requirements, Strategy, Terms
from tests.unit.scheduling.samples import revision, workload
from tests.unit.scheduling.test_drain import FULL
from tests.unit.scheduling.world import DEPLOY_S, World, WorldNode

ONCE = workload(duplicate_tolerant=False)
RUN_KEY = "run/deployment/default/hello/0"


def begun(seconds: float = 5.0) -> tuple[World, WorldNode]:
    """A replica that must not be doubled runs, and where."""
    world = World()
    world.apply(ONCE)
    world.run_until(lambda: bool(world.pods()))
    world.run(seconds)
    return world, next(node for node in world.nodes.values() if node.runtime)


def restart(node: WorldNode) -> None:
    """Its agent dies, and is started again."""
    node.crash()
    node.boot()


def report_of(placement: Placement, node: WorldNode) -> ReplicaReport:
    """What a runtime says of a pod that it has just started."""
    task = placement.task
    slot = (task.revision, task.replica)
    return ReplicaReport(
        placement.pod, task.workload_id, task.namespace, task.kind, *slot, node.node_id, "Running", True, task.task_id,
        placement.fence,
    )  # fmt: skip


def being_started(node: WorldNode) -> list[Deploying]:
    """What its runtime is busy with."""
    return [job for job in node.executor.pods.deploying.values() if job.step == "deploying"]


def test_a_pod_stops_with_the_lease_of_the_agent_before() -> None:
    """The new agent cannot renew the run lease: the pod ends before that lease does, as if the agent had never died."""
    world, holder = begun()
    ends_s = world.leases.held[RUN_KEY][1]
    holder.cut_from_leases = True
    restart(holder)
    world.run_until(lambda: not holder.runtime)

    assert ends_s - RUN_LEASE_MARGIN_S <= world.now_s < ends_s


def test_a_pod_goes_on_where_the_lease_is_granted_again() -> None:
    """A restart of the agent alone stops nothing, whatever must not be doubled."""
    world, holder = begun()
    restart(holder)
    world.run(2 * RUN_LEASE_TTL_MS / 1000)

    assert holder.runtime
    assert not holder.stopped


def unlisted(seconds: float = 0.3) -> tuple[World, WorldNode]:
    """A replica that must not be doubled runs, and where: its agent has started anew, and its engine lists nothing."""
    world, holder = begun()
    holder.crash()
    world.run(seconds)
    holder.boot(sees=False)
    return world, holder


def test_what_the_runtime_has_not_listed_yet_keeps_its_lease() -> None:
    """The engine takes long to get ready: nobody else is granted the right meanwhile, and the pod goes on."""
    world, holder = unlisted()
    world.run(3 * RUN_LEASE_TTL_MS / 1000)
    assert world.leases.held[RUN_KEY][0] == holder.node_id
    assert world.leases.held[RUN_KEY][1] > world.now_s
    holder.look()
    world.run(2 * RUN_LEASE_TTL_MS / 1000)

    assert holder.runtime
    assert not holder.stopped


def test_what_the_runtime_has_not_listed_yet_ends_with_its_lease() -> None:
    """It cannot be renewed, and the engine has not listed it: the stop is ordered in time all the same, and tried again
    where it fails."""
    world, holder = begun()
    ends_s = world.leases.held[RUN_KEY][1]
    holder.cut_from_leases = True
    holder.crash()
    holder.boot(sees=False)
    world.run_until(lambda: not holder.runtime)
    assert ends_s - RUN_LEASE_MARGIN_S <= world.now_s < ends_s
    world.run(1)

    assert RUN_KEY not in holder.leases
    assert not holder.executor.pods.placed


@pytest.mark.parametrize("ends_in_s", [-1.0, 3600.0])
def test_a_lease_that_is_over_keeps_nobody_away_from_what_may_not_be_there(ends_in_s: float) -> None:
    """The agent starts after the lease has ended, or after a boot, and its engine never gets ready: another node is
    granted the right, and runs it."""
    world, holder = begun()
    holder.kill(power=True)
    del world.leases.held[RUN_KEY]
    holder.disk["run_leases"][RUN_KEY.encode()] = msgspec.msgpack.encode([world.now_s + ends_in_s, 1])
    holder.boot(sees=False)
    world.run(60)

    assert world.leases.held[RUN_KEY][0] != holder.node_id
    assert len(world.pods()) == 1


def test_a_start_that_did_not_outlive_its_agent_gives_its_lease_back_once_it_cannot_come_any_more() -> None:
    """The engine may still be at it: it is ended first, and others may run it once its right to start is over."""
    world, holder = begun()
    over_s = world.leases.held[RUN_KEY][1] - RUN_LEASE_MARGIN_S
    holder.crash()
    world.run(0.3)
    holder.boot(sees=False)
    holder.set_resources(FULL)  # it does not take it again
    holder.runtime.clear()
    holder.look()
    world.run_until(lambda: bool(holder.stopped), 1)
    assert world.leases.held[RUN_KEY][0] == holder.node_id
    world.run_until(lambda: RUN_KEY not in world.leases.held)

    assert world.now_s == pytest.approx(over_s, abs=0.2)
    assert holder.stopped == ["hello-1-0"]


def test_a_start_that_shows_late_ends_before_others_may_run_it() -> None:
    """The engine was at it although the first list had nothing, and nothing was left to end: the pod that comes of it
    is ended under the lease."""
    world, holder = unlisted()
    found = dict(holder.runtime)
    holder.set_resources(FULL)
    holder.runtime.clear()
    holder.look()
    world.run_until(lambda: bool(holder.stopped), 1)
    holder.runtime.update(found)
    holder.look()
    world.run_until(lambda: not holder.runtime, 1)
    assert world.leases.held[RUN_KEY][0] == holder.node_id
    world.run_until(lambda: RUN_KEY not in world.leases.held)
    world.run(60)

    assert holder.stopped == ["hello-1-0"] * 2
    assert len(world.pods()) == 1
    assert not holder.runtime


def test_a_lease_of_another_boot_is_not_believed() -> None:
    """A saved end from before the machine's own restart may lie hours ahead: it counts for one lease at most."""
    world, holder = begun()
    holder.disk["run_leases"][RUN_KEY.encode()] = msgspec.msgpack.encode([world.now_s + 3600.0, 1])
    holder.cut_from_leases = True
    restart(holder)

    assert world.run_until(lambda: not holder.runtime) <= RUN_LEASE_TTL_MS / 1000


def test_a_pod_that_nothing_is_known_of_and_must_not_be_doubled_is_stopped() -> None:
    """Its start was asked for by an agent that left no word of it."""
    world, holder = begun()
    holder.disk.clear()
    restart(holder)
    world.run(1.0)

    assert holder.stopped


def test_a_start_that_outlives_its_agent_is_known() -> None:
    """The runtime goes on when the agent dies: what it has started then is counted, and holds its run lease."""
    world = World()
    world.apply(ONCE)
    world.run_until(lambda: any(key == RUN_KEY for _, key, _ in world.leases.history))
    holder = world.nodes_by_id[world.leases.held[RUN_KEY][0]]
    world.run_until(lambda: bool(holder.disk.get("placements")))
    job = next(iter(holder.executor.pods.deploying.values()))
    holder.crash()
    holder.runtime[job.placement.name] = report_of(job.placement, holder)
    holder.boot()
    world.run(DEPLOY_S)

    assert holder.local.totals().cpu_m == 100
    assert not holder.stopped


def test_a_start_that_outlives_its_agent_counts_as_done() -> None:
    """Nobody tells that it was deployed, and no other node may run it: the rollout is complete all the same, and what
    runs well is not taken back when its time is over."""
    world = World(("a", "b", "c"))
    apart = Constraints(anti_affinity_hosts=True)
    strategy = Strategy(progress_deadline_s=60)
    world.apply(workload(replicas=3, strategy=strategy, constraints=apart))
    world.run_until(lambda: world.slots() == [(1, 0), (1, 1), (1, 2)])
    old = msgspec.structs.replace(revision(1), terms=Terms(Requirements(cpu_m=100, mem_mb=64), constraints=apart))
    revisions = (revision(2), old)
    world.apply(workload(replicas=3, strategy=strategy, constraints=apart, revisions=revisions), seq=2)
    steward = world.leases.held["steward/deployment/default/hello"][0]
    others = [node for node in world.nodes.values() if node.node_id != steward]
    world.run_until(lambda: any(being_started(node) for node in others))
    holder = next(node for node in others if being_started(node))
    (job,) = being_started(holder)
    holder.crash()
    holder.runtime[job.placement.name] = report_of(job.placement, holder)
    world.later(1.0, holder.boot)
    world.run(120)

    assert world.slots() == [(2, 0), (2, 1), (2, 2)]
    assert [each.status for each in world.events() if each.status.startswith("Rolled")] == ["RolledOut"]


def test_a_pod_that_turns_up_late_is_counted() -> None:
    """Its start was under way when the agent died, and ends while the new one still asks who took it over."""
    world = World()
    world.apply(workload())
    world.run_until(lambda: any(node.disk.get("placements") for node in world.nodes.values()))
    holder = next(node for node in world.nodes.values() if node.disk.get("placements"))
    job = next(iter(holder.executor.pods.deploying.values()))
    for node in world.nodes.values():
        node.cut_from_leases = True  # nobody else may take it meanwhile
    restart(holder)
    world.run(0.5)
    holder.runtime[job.placement.name] = report_of(job.placement, holder)
    holder.look()
    world.run(3)

    assert holder.local.totals().cpu_m == 100
    assert not holder.started


def test_a_stop_goes_on_under_the_next_agent() -> None:
    """The agent dies while a pod is ending: the next one ends it, and counts it until it is gone."""
    world, holder = begun()
    name = next(iter(holder.runtime))
    holder.carry(holder.executor._keeper.stop(name, "surplus", world.now))
    restart(holder)
    held = holder.local.totals().cpu_m
    world.run_until(lambda: not holder.runtime)

    assert held == 100
    assert holder.stopped


def test_a_job_that_was_told_to_end_is_not_done_because_its_agent_was_away() -> None:
    """A Job's pod is drained, and heeds the request with exit code 0 while the agent starts anew: its work is not done,
    so it is placed again."""
    world = World()
    strategy = Strategy("Recreate", 0, 1, rollback="never")
    world.apply(workload("work", kind="Job", restart_policy="Never", strategy=strategy, job=JobTerms()))
    world.run_until(lambda: bool(world.pods()))
    world.run(3)
    holder = next(node for node in world.nodes.values() if node.runtime)
    (name,) = holder.runtime
    holder.lingers_s = 30.0
    holder.carry(holder.executor._keeper.stop(name, "drained", world.now))
    world.run(1)
    holder.crash()
    world.run(0.5)
    holder.runtime[name] = msgspec.structs.replace(holder.runtime[name], phase="Succeeded", ready=False)
    holder.boot()
    world.run(20)

    assert not world.events("Completed")
    assert len(world.tasks()) == 2
    assert world.slots() == [(1, 0)]


def asked(node: WorldNode, questions: int) -> list[object]:
    """The answers that a node gives at once when it is asked so often what it runs; None for each that has none."""
    told: Effects = []
    for token in range(questions):
        told += node.executor.handle(Asked(node.node_id, token, ListReplicas()), node.world.now)
    return [each.message for each in told if isinstance(each, Reply)]


def test_nobody_is_told_that_nothing_runs_before_the_runtime_has_said_so() -> None:
    """However many ask an agent that has just started: an empty list would be taken for the truth, and what runs would
    be replaced. Whoever waits when the runtime speaks is answered, and what nobody waits for any more is let go."""
    world, holder = begun()
    holder.crash()
    holder.boot(sees=False)
    assert asked(holder, QUESTIONS_WAITING_MAX + 3) == [None] * 3
    world.run(WAITED_FOR_S)
    assert asked(holder, 2) == [None] * QUESTIONS_WAITING_MAX

    effects = holder.executor.handle(PodsObserved(tuple(holder.runtime.values())), world.now)

    answers = [each.message for each in effects if isinstance(each, Reply)]
    assert [type(each) for each in answers] == [ReplicaList] * 2
    assert all(isinstance(each, ReplicaList) and len(each.replicas) == 1 for each in answers)
    assert max(LIST_S, ANSWER_S) <= WAITED_FOR_S


def test_no_room_is_given_away_before_the_runtime_has_said_what_holds_it() -> None:
    """An agent starts anew, and its engine takes long to list its pods: what asks for their room, or may not be beside
    them, waits. Whoever asks hears why."""
    on_one = Constraints(node_name="one")
    big = Requirements(cpu_m=2000, mem_mb=64)
    world = World()
    one = world.nodes["one"]
    world.apply(workload("first", requirements=big, constraints=on_one))
    world.run_until(lambda: bool(one.runtime))
    one.crash()
    world.run(0.5)
    one.boot(sees=False)
    world.apply(workload("second", requirements=big, constraints=on_one))
    world.run(4)
    silence = one.bidder.handle(Asked(one.node_id, 1, SilenceQuestion(world.tasks()[-1][1].task_id)), world.now)
    one.look()
    world.run(20)

    assert [each.message.reasons for each in silence if isinstance(each, Reply)] == [(UNKNOWING,)]
    assert world.running()["one"] == ["first-1-0"]
    assert one.local.totals().cpu_m == 2000


def test_a_task_that_waits_goes_to_a_node_as_soon_as_its_runtime_has_listed_its_pods() -> None:
    """Not only when the machine's figures are read the next time."""
    world = World(("one",))
    one = world.nodes["one"]
    one.crash()
    one.boot(sees=False)
    world.apply(workload())
    world.run(5)
    assert not one.started
    one.look()

    assert world.run_until(lambda: bool(one.started), 10) < 3


def test_what_is_deleted_is_counted_until_it_is_gone() -> None:
    """Deleted while its agent was away, a pod ends when the agent is back; nobody gets its room before that."""
    world, holder = begun()
    holder.crash()
    world.delete(ONCE)
    world.run(1)
    holder.boot()
    held = holder.local.totals().cpu_m
    world.run_until(lambda: not holder.runtime)
    world.run(1)

    assert (held, holder.local.totals().cpu_m) == (100, 0)


@pytest.mark.parametrize("tolerant", [True, False])
def test_what_a_cancelled_start_needs_stays_reserved_until_it_is_gone(tolerant: bool) -> None:
    """Deleted while it was being started, the pod runs for a moment: nobody else gets its room meanwhile."""
    world = World()
    wanted = workload(duplicate_tolerant=tolerant)
    world.apply(wanted)
    world.run_until(lambda: any(job.step == "deploying" for node in world.nodes.values() for job in
                                node.executor.pods.deploying.values()))  # fmt: skip
    world.delete(wanted)
    world.run_until(lambda: bool(world.pods()))
    holder = next(node for node in world.nodes.values() if node.runtime)

    def reserved() -> None:
        assert not holder.runtime or holder.local.totals().cpu_m == 100

    world.watch = reserved
    world.run(5)

    assert not world.pods()
    assert holder.local.totals().cpu_m == 0
