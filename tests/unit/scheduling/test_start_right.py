"""The right to start and to run: leases are looked at before anything begins, and while it does."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from beemesh.effects import Effects, JobFinished, Notify, Now, Run, Save, TimerFired
from beemesh.events import (
    NOT_PERMITTED,
    DeployPod,
    EmitEvent,
    LeaseGranted,
    LeaseLost,
    ManifestOpened,
    Observed,
    OpenManifest,
    PodsObserved,
    ReleaseLease,
    StopPod,
    TaskWon,
)
from beemesh.scheduling.execution.pods import Placement
from beemesh.scheduling.leases import RUN_LEASE_MARGIN_S, lease_key, run_key
from beemesh.scheduling.tasks import make_task
from beemesh.scheduling.telling import RETRYABLE
from beemesh.secret import SecretBytes
from beemesh.workloads.reconciler import StartReplica
from beemesh.workloads.record import Strategy
from tests.unit.scheduling.samples import revision, workload
from tests.unit.scheduling.test_drain import settled
from tests.unit.scheduling.test_restarted_agent import report_of
from tests.unit.scheduling.world import World, WorldNode

ID = "deployment/default/hello"


class Winner:
    """A node that has just won a task, whose steps are taken one by one."""

    def __init__(self, *, tolerant: bool = True) -> None:
        self.world = World(("one",))
        wanted = workload(duplicate_tolerant=tolerant)
        self.world.apply(wanted)
        self.node: WorldNode = self.world.nodes["one"]
        self.key = lease_key(ID, 0) if tolerant else run_key(ID, 0)
        record = self.world.intents[f"workload/{ID}"]
        self.task = make_task(wanted, record[1], StartReplica(1, 0), self.world.now.wall_ms, random.Random(1))
        self.now_s = self.world.now_s
        self.proof = self.world.leases.proof(self.node, lease_key(ID, 0))
        self.tell(TaskWon(self.task, lease_key(ID, 0), self.proof, 1, self.now_s + 3.0))
        if not tolerant:
            self.granted(self.now_s + 15.0)

    def tell(self, event: Any, after_s: float = 0.0) -> Effects:
        """What the executor does about an event, some time later."""
        self.now_s += after_s
        return self.node.executor.handle(event, Now(self.now_s, self.world.now.wall_ms))

    def granted(self, ends_s: float, fence: int = 1) -> Effects:
        """The lease that lets it run is granted, or renewed."""
        return self.tell(LeaseGranted(self.key, self.proof, fence, ends_s))

    def opened(self, after_s: float = 0.0) -> Effects:
        """Its manifest is open."""
        return self.tell(ManifestOpened(self.task.task_id, SecretBytes(b"plain")), after_s)

    def job(self) -> tuple[str, DeployPod]:
        """The start that it asks the runtime for."""
        (run,) = [each for each in self.opened() if isinstance(each, Run)]
        assert isinstance(run.job, DeployPod)
        return run.job_id, run.job


def told(effects: Effects) -> list[tuple[str, bool]]:
    """Status of each event that is published, and whether nobody is blamed."""
    events = [each.event.event for each in effects if isinstance(each, Notify) and isinstance(each.event, EmitEvent)]
    return [(event.status, RETRYABLE in event.details or event.status == "Cancelled") for event in events]


@pytest.mark.parametrize("tolerant", [True, False])
def test_what_was_opened_too_late_is_not_started(tolerant: bool) -> None:
    """The machine slept while its manifest was fetched: the lease is over, whatever its timers have told yet."""
    winner = Winner(tolerant=tolerant)
    effects = winner.opened(after_s=20.0)

    assert not any(isinstance(each, Run) for each in effects)
    assert told(effects) == [("Cancelled", True)]
    assert Notify(ReleaseLease(lease_key(ID, 0))) in effects


def test_the_runtime_is_given_the_right_to_look_at() -> None:
    """It lasts as long as the lease, grows with each renewal, and ends at once when the lease is lost."""
    winner = Winner()
    _, job = winner.job()
    assert not job.right.has_ended(winner.now_s + 2.9)
    assert job.right.has_ended(winner.now_s + 3.1)

    winner.granted(winner.now_s + 4.0)
    assert not job.right.has_ended(winner.now_s + 3.1)
    winner.tell(LeaseLost(winner.key, "overtaken"))
    assert job.right.has_ended(winner.now_s)


def test_what_must_not_be_doubled_starts_only_within_its_run_lease() -> None:
    """Two seconds before it ends the pod would have to stop again."""
    winner = Winner(tolerant=False)
    winner.tell(LeaseGranted(lease_key(ID, 0), winner.proof, 1, winner.now_s + 60.0))
    _, job = winner.job()

    assert not job.right.has_ended(winner.now_s + 12.9)
    assert job.right.has_ended(winner.now_s + 15.0 - RUN_LEASE_MARGIN_S)


def test_a_start_that_the_runtime_refused_is_nobodys_failure() -> None:
    """The right ended while images came: everything is given back, and the next try does not count as another one."""
    winner = Winner()
    job_id, _ = winner.job()
    effects = winner.tell(JobFinished(job_id, None, f"{NOT_PERMITTED}: its right to start has ended"))

    assert told(effects) == [("Cancelled", True)]
    assert Notify(ReleaseLease(winner.key)) in effects
    assert winner.node.local.totals().cpu_m == 0


def test_a_pod_stops_when_somebody_else_held_its_run_lease_meanwhile() -> None:
    """A new agent claims again and takes the next fence; a greater step means another ran it in between."""
    for fence, stops in ((2, False), (3, True)):
        world = settled(workload(duplicate_tolerant=False))
        holder = next(node for node in world.nodes.values() if node.runtime)
        holder.crash()
        world.leases.fences[run_key(ID, 0)] = fence - 1
        world.leases.held.pop(run_key(ID, 0))
        holder.boot()
        world.run(0.5)

        assert bool(holder.stopped) is stops


def test_doubled_replicas_are_counted_and_end_quickly() -> None:
    """The twin that goes has five seconds; steward and node both count it."""
    world = settled(workload(replicas=1))
    holder = next(node for node in world.nodes.values() if node.runtime)
    other = next(node for node in world.nodes.values() if node is not holder)
    for name, report in tuple(holder.runtime.items()):
        other.runtime[name] = world.twin(report, other)
    other.look()
    world.run(30)

    stopped = holder if holder.graces else other
    assert len(world.pods()) == 1
    assert stopped.graces == [5]
    counted = [note for _, _, note in world.notes if isinstance(note, Observed)]
    assert sum(note.metric == "scheduler_duplicates_total" for note in counted) == 1
    kills = [note.labels for note in counted if note.metric == "scheduler_reconcile_kills_total"]
    assert kills == [{"reason": "duplicate"}]


def test_a_twin_on_a_node_that_did_not_answer_is_found_when_it_does() -> None:
    """A new steward hears nothing of one node, which is alive all the while, and goes on without its word. It asks it
    again until it is answered: in a mesh of many, a few drawn at random would find the twin late."""
    world = World([f"n{number}" for number in range(40)])
    world.apply(workload(replicas=1))
    world.run_until(lambda: len(world.pods()) == 1)
    world.run(5)
    steward = next(node for node in world.nodes.values() if world.leases.held[f"steward/{ID}"][0] == node.node_id)
    holder = next(node for node in world.nodes.values() if node.runtime)
    other = next(node for node in world.nodes.values() if node not in (holder, steward))
    world.cut |= {frozenset((other.name, node.name)) for node in world.nodes.values()}
    for name, report in tuple(holder.runtime.items()):
        other.runtime[name] = world.twin(report, other)
    other.look()
    steward.crash()
    world.run(60)
    assert len(world.pods()) == 2

    world.cut.clear()

    assert world.run_until(lambda: len(world.pods()) == 1) < 8


def test_a_deleted_start_loses_its_right() -> None:
    """An operator deletes the workload while its image comes: it is not even started."""
    winner = Winner()
    _, job = winner.job()
    wanted = workload()
    winner.world.delete(wanted)
    winner.world.run(1)

    assert job.right.has_ended(0.0)
    assert not any(isinstance(each, StopPod) for _, _, each in winner.world.notes)


def test_no_revision_starts_by_a_right_that_another_ones_pod_still_uses() -> None:
    """A node wins a new revision while the old one takes its time to end there, and waits until it is gone."""
    world, old = World(("one",)), workload(duplicate_tolerant=False)
    world.apply(old)
    world.run_until(lambda: bool(world.pods()))
    world.run(5)
    (node,) = world.nodes.values()
    node.lingers_s = 20.0
    (name,) = node.runtime
    node.carry(node.executor._keeper.stop(name, "outdated", world.now, 20))
    new = workload(number=2, duplicate_tolerant=False)
    world.apply(new, seq=2)
    task = make_task(new, world.intents[f"workload/{ID}"][1], StartReplica(2, 0), world.now.wall_ms, random.Random(1))
    won = TaskWon(task, lease_key(ID, 0), world.leases.proof(node, lease_key(ID, 0)), 1, world.now_s + 60.0)
    node.tell(won)
    world.run(15)
    assert list(node.runtime) == [name]

    world.run(10)
    assert world.slots() == [(2, 0)]


@pytest.mark.parametrize("strategy", [Strategy("Recreate"), Strategy(max_surge=1, max_unavailable=0)])
def test_a_newer_revision_does_not_wait_for_the_image_of_an_older_one(strategy: Strategy) -> None:
    """What is on its way is ordered to stop like what runs, and its start is given up."""
    world = World(("one", "two", "three"))
    for node in world.nodes.values():
        node.pulls_s = 900.0
    world.apply(workload(replicas=3, strategy=strategy))
    world.run(5)
    assert not world.pods()
    for node in world.nodes.values():
        node.pulls_s = 0.0
    world.apply(workload(number=2, replicas=3, strategy=strategy), seq=2)

    assert world.run_until(lambda: world.slots() == [(2, 0), (2, 1), (2, 2)]) < 30
    world.run(5)
    assert not any(node.executor.pods.deploying for node in world.nodes.values())


def test_a_task_won_while_an_earlier_start_is_undone_is_not_called_deployed() -> None:
    """A workload is deleted and applied again during a pull: the same pod's name is still taken."""
    winner = Winner()
    job_id, job = winner.job()
    wanted = workload()
    winner.world.delete(wanted)
    winner.world.run(1)
    winner.world.apply(wanted, seq=3)
    won = TaskWon(winner.task, winner.key, winner.proof, 2, winner.now_s + 9.0)

    assert job.right.is_revoked
    assert told(winner.tell(won)) == [("Cancelled", True)]
    assert winner.node.executor.pods.deploying
    winner.tell(JobFinished(job_id, None, f"{NOT_PERMITTED}: given up"))
    assert not winner.node.executor.pods.deploying


def being_ended(winner: Winner) -> str:
    """Its start was cancelled when it was over, and the runtime ends what it brought; the job that does. Then the same
    replica is won here again, before the runtime has listed anything."""
    job_id, _ = winner.job()
    winner.tell(LeaseLost(winner.key, "not renewed"))
    (stop,) = [each for each in winner.tell(JobFinished(job_id)) if isinstance(each, Run)]
    task = msgspec.structs.replace(winner.task, task_id="again")
    effects = winner.tell(TaskWon(task, lease_key(ID, 0), winner.proof, 2, winner.now_s + 9.0))

    assert told(effects) == [("Scheduled", False)]
    assert not any(isinstance(getattr(each, "event", None), OpenManifest) for each in effects)
    return stop.job_id


def test_no_pod_starts_while_another_of_its_name_is_being_ended() -> None:
    """Not even one that no list has shown yet: the runtime would end the new one, or both would be begun with twice."""
    winner = Winner()
    stop_id = being_ended(winner)

    effects = winner.tell(JobFinished(stop_id))
    assert sum(isinstance(getattr(each, "event", None), OpenManifest) for each in effects) == 1


def test_a_replica_waits_only_for_a_time_until_its_predecessor_has_ended() -> None:
    """The runtime fails at each stop: the placement is given up, nobody is blamed, and what is there keeps its
    reservation until it is gone."""
    winner = Winner()
    stop_id = being_ended(winner)
    winner.tell(JobFinished(stop_id, None, "Timeout: podman hangs"))
    effects = winner.tell(TimerFired(("executor", "deadline", "default/hello-1-0")), after_s=60.0)

    assert told(effects) == [("Failed", True)]
    assert Notify(ReleaseLease(lease_key(ID, 0))) in effects
    assert winner.node.local.totals().cpu_m == 100
    (again,) = winner.tell(TimerFired(("executor", "stop-again", "default/hello-1-0")))
    assert isinstance(again, Run)
    winner.tell(JobFinished(again.job_id))
    assert winner.node.local.totals().cpu_m == 0


def test_a_pod_that_could_not_be_ended_and_is_gone_by_itself_holds_up_nobody() -> None:
    """The runtime does not list it any more: it is asked at once to see to its end, not at the next try, and
    only once; a list that still has it, or that comes while the runtime is at it, changes nothing."""
    winner = Winner(tolerant=False)
    job_id, job = winner.job()
    report = winner.node._start(job)
    winner.tell(JobFinished(job_id, report))
    winner.tell(PodsObserved((report,), complete=True))
    effects = winner.tell(LeaseLost(winner.key, "not renewed"))
    (stop,) = [each for each in effects if isinstance(each, Run)]
    assert not ran(winner.tell(PodsObserved((), complete=True)))
    winner.tell(JobFinished(stop.job_id, None, "StopFailed: it hangs"))

    assert not ran(winner.tell(PodsObserved((report,), complete=True)))
    (again,) = ran(winner.tell(PodsObserved((), complete=True)))
    assert not ran(winner.tell(PodsObserved((), complete=True)))
    assert not ran(winner.tell(TimerFired(("executor", "stop-again", "default/hello-1-0"))))

    assert winner.node.local.totals().cpu_m == 100
    winner.tell(JobFinished(again.job_id))
    assert winner.node.local.totals().cpu_m == 0


def ran(effects: list[object]) -> list[Run]:
    """The jobs among the effects."""
    return [each for each in effects if isinstance(each, Run)]


def test_a_name_that_another_workloads_pod_has_is_not_called_deployed() -> None:
    """Not while that starts, not while it runs, and not before an agent that starts anew has seen it; it goes on."""
    winner = Winner()
    alike = workload(kind="Job")
    winner.world.apply(alike)
    winner.world.run(0.1)
    record = winner.world.intents[f"workload/{alike.workload_id}"]
    task = make_task(alike, record[1], StartReplica(1, 0), winner.world.now.wall_ms, random.Random(2))
    won = TaskWon(task, lease_key(alike.workload_id, 0), winner.proof, 1, winner.now_s + 3.0)

    assert told(winner.tell(won)) == [("Cancelled", True)]
    job_id, job = winner.job()
    assert told(winner.tell(won)) == [("Cancelled", True)]
    effects = winner.tell(JobFinished(job_id, winner.node._start(job)))
    assert told(effects) == [("Deployed", False)]
    assert told(winner.tell(won)) == [("Cancelled", True)]
    winner.node.disk["placements"] = {each.key: each.value for each in [save_of(winner)]}
    winner.node.crash()
    winner.node.boot(sees=False)
    assert told(winner.tell(won)) == [("Cancelled", True)]
    winner.node.look()
    assert told(winner.tell(won)) == [("Cancelled", True)]
    assert list(winner.node.runtime) == ["default/hello-1-0"]


def save_of(winner: Winner) -> Save:
    """What its agent keeps of the pod."""
    (placement,) = winner.node.executor.pods.placed.values()
    return Save("placements", placement.name.encode(), msgspec.msgpack.encode(placement))


@pytest.mark.parametrize("starts", [True, False])
def test_a_replica_of_another_manifest_is_not_called_deployed(starts: bool) -> None:
    """Two operators made one number at once: what runs of the record that lost has the same name, and is not it."""
    winner = Winner()
    job_id, job = winner.job()
    if not starts:
        winner.tell(JobFinished(job_id, winner.node._start(job)))
    again = msgspec.structs.replace(winner.task, task_id="again")
    other = msgspec.structs.replace(again, manifest_ref=revision(2).manifest)

    assert told(winner.tell(TaskWon(again, winner.key, winner.proof, 2, winner.now_s + 9.0))) == [("Deployed", False)]
    assert told(winner.tell(TaskWon(other, winner.key, winner.proof, 2, winner.now_s + 9.0))) == [("Cancelled", True)]


@pytest.mark.parametrize("tolerant", [True, False])
def test_a_pod_under_the_name_of_an_earlier_version_is_recognised(
    monkeypatch: pytest.MonkeyPatch, tolerant: bool
) -> None:
    """Names that are cut were cut otherwise once: what runs under such a one goes on, counts, and is not doubled."""
    world = World()
    name = "h" * 63
    monkeypatch.setattr("beemesh.scheduling.tasks.pod_name", lambda *_: "h" * 59 + "-1-0")
    world.apply(workload(name, duplicate_tolerant=tolerant))
    world.run_until(lambda: bool(world.pods()), 10)
    world.run(5)
    monkeypatch.undo()
    for node in world.nodes.values():
        node.crash()
    for node in world.nodes.values():
        node.boot()
    world.run(30)

    assert [each.pod for each in world.pods()] == ["h" * 59 + "-1-0"]
    assert sum(len(node.started) for node in world.nodes.values()) == 1
    holder = next(node for node in world.nodes.values() if node.runtime)
    record = world.intents[f"workload/deployment/default/{name}"]
    asked = workload(name, duplicate_tolerant=tolerant)
    task = make_task(asked, record[1], StartReplica(1, 0), world.now.wall_ms, random.Random(1))
    key = lease_key(asked.workload_id, 0)
    won = TaskWon(task, key, world.leases.proof(holder, key), 9, world.now_s + 3.0)
    assert told(holder.executor.handle(won, world.now)) == [("Deployed", False)]


def test_a_failed_start_keeps_its_run_lease_until_nothing_is_left_of_it() -> None:
    """An engine that did not answer in time may have started the containers all the same."""
    winner = Winner(tolerant=False)
    job_id, _ = winner.job()
    effects = winner.tell(JobFinished(job_id, None, "Timeout: podman did not end"))
    (stop,) = [each for each in effects if isinstance(each, Run)]
    assert isinstance(stop.job, StopPod)
    assert told(effects) == [("Failed", False)]
    assert Notify(ReleaseLease(winner.key)) not in effects

    assert Notify(ReleaseLease(winner.key)) not in winner.tell(JobFinished(stop.job_id, None, "Timeout: still hangs"))
    assert Notify(ReleaseLease(winner.key)) in winner.tell(JobFinished(stop.job_id))


def test_a_placement_is_given_up_once() -> None:
    """A newer task of the replica may hold the key here by the time that a failed start of the older one is undone."""
    winner = Winner(tolerant=False)
    job_id, _ = winner.job()
    given_up = Notify(ReleaseLease(lease_key(ID, 0)))
    effects = winner.tell(JobFinished(job_id, None, "Timeout: podman did not end"))
    (stop,) = [each for each in effects if isinstance(each, Run)]

    assert effects.count(given_up) == 1
    assert given_up not in winner.tell(JobFinished(stop.job_id))


def test_what_must_end_at_once_waits_for_no_disk() -> None:
    """Its run lease is lost: the order to the runtime leaves before anything that is saved."""
    winner = Winner(tolerant=False)
    job_id, job = winner.job()
    winner.tell(JobFinished(job_id, report_of(Placement(job.pod, job.task, 1), winner.node)))
    effects = winner.tell(LeaseLost(winner.key, "overtaken"))

    order = [type(each) for each in effects if isinstance(each, (Run, Save))]
    assert order == [Run, Save]


def test_what_restarts_alone_is_not_stopped_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power fails in the middle of a rollout that makes no progress: what ran before it comes back."""
    start = WorldNode._start

    def never_ready(node: WorldNode, job: DeployPod) -> Any:
        report = start(node, job)
        if job.task.revision == 2:
            report = node.runtime[f"default/{job.pod}"] = msgspec.structs.replace(report, ready=False)
        return report

    monkeypatch.setattr(WorldNode, "_start", never_ready)
    world = World()
    asked = workload(replicas=3, strategy=Strategy(max_surge=1, max_unavailable=0), restart="alone")
    world.apply(asked)
    world.run(15)
    world.apply(msgspec.structs.replace(asked, revisions=(revision(2), revision(1))), seq=2)
    world.run(8)
    for node in world.nodes.values():
        node.kill(power=True)
    world.run(5)
    for node in world.nodes.values():
        node.pulls_s = 3.0
        node.boot()
    world.run(20)

    assert {(1, 0), (1, 1), (1, 2)} <= set(world.slots())


class Unremovable:
    """One node on which every pod of `db` fails to start and cannot be removed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, replicas: int) -> None:
        done = WorldNode._done

        def broken(node: WorldNode, job_id: str, job: Any, epoch: int) -> None:
            if "db" not in job.pod:
                done(node, job_id, job, epoch)
                return
            node.stops.pop(f"default/{job.pod}", None)
            node.tell(JobFinished(job_id, None, "EngineError: podman hangs"))

        monkeypatch.setattr(WorldNode, "_done", broken)
        self.world = World(("one",))
        self.world.apply(workload("db", kind="BeemeshStatefulSet", replicas=replicas, duplicate_tolerant=False))
        self.world.run(20)


def test_a_failed_start_is_listed_while_it_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steward sees it, and publishes no task after another for a replica that nobody can start yet."""
    world = Unremovable(monkeypatch, 1).world
    world.run(100)

    assert [each.phase for each in world.nodes["one"].executor.pods.reports()] == ["Terminating"]
    assert len(world.tasks()) == 1


def test_what_cannot_be_removed_keeps_nothing_else_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them: only what is being started counts toward the bound on that."""
    world = Unremovable(monkeypatch, 12).world
    world.apply(workload("web", replicas=2))
    world.run(40)

    assert sorted(world.running()["one"]) == ["web-1-0", "web-1-1"]
