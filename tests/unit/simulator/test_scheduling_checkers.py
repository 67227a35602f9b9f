"""The checkers of scheduling bite: each is shown what it exists for, and says so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from beemesh.crypto import KEY_BYTES
from beemesh.effects import JobFinished, Run
from beemesh.events import (
    DeployPod,
    EventHeard,
    LeaseGranted,
    MemberDown,
    PutIntent,
    ReleaseLease,
    ReservationsChanged,
    StopPod,
    Submitted,
    TaskHeard,
    TaskWon,
)
from beemesh.identity.signing import Signed
from beemesh.ids import Digest, NodeId
from beemesh.intents.record import quota_key
from beemesh.scheduling.leases import run_key
from beemesh.scheduling.messages import Event, LeaseProof, Task
from beemesh.secret import SecretBytes
from beemesh.workloads.policies import Quota
from beemesh.workloads.record import JobTerms, Qos, Requirements, Workload
from simulator.checkers import jobs
from simulator.checkers.census import Census
from simulator.checkers.doubles import GONE_S, DoubleChecker, is_troubled
from simulator.checkers.fences import FenceChecker
from simulator.checkers.jobs import JobChecker
from simulator.checkers.membership import MembershipChecker
from simulator.checkers.ordinals import OrdinalChecker
from simulator.checkers.outcomes import OutcomeChecker
from simulator.checkers.overlaps import OverlapChecker
from simulator.checkers.preemptions import PreemptionChecker
from simulator.checkers.reservations import ReservationChecker, may_give
from simulator.checkers.room import has_room, is_over_quota
from simulator.checkers.run_leases import RunLeaseChecker
from simulator.checkers.storms import STARTS_MAX, TASKS_MAX, StormChecker
from simulator.mock_runtime import MockRuntime, PodStarted, conduct_of
from simulator.operator import deployment, grant_operator, remove, submission, unplug
from simulator.world import World

WORK = "deployment/default/web"
SIGNED = Signed("lease", b"", bytes(32), bytes(64))
AMPLE_S = 20.0
"""Longer than any start takes."""


def steady(seed: int = 0) -> int:
    """A seed by which the pods of `WORK` start and stay."""
    while True:
        conduct = conduct_of(seed, WORK, 1, once=False)
        if not (conduct.fails or conduct.lives_s or conduct.ready_s or conduct.pull_s or conduct.flaps):
            return seed
        seed += 1


def meshed(nodes: int = 3) -> tuple[World, MockRuntime]:
    """Agents that know each other, and engines."""
    world = World(nodes)
    runtime = MockRuntime(world, steady())
    grant_operator(world)
    world.start_all()
    world.run_for(3)
    return world, runtime


def task(*, tolerant: bool = True, cpu_m: int = 100, number: int = 1, revision: int = 1) -> Task:
    """A task of the first replica."""
    reqs = Requirements(cpu_m=cpu_m, mem_mb=64)
    return Task(
        f"task{number}", WORK, "default", "Deployment", revision, 0, Digest(bytes(32)), Digest(bytes(32)), 0, 0, b"",
        reqs=reqs, duplicate_tolerant=tolerant,
    )  # fmt: skip


def run(world: World, runtime: MockRuntime, index: int, what: Task, fence: int = 1) -> None:
    """An engine is asked to start a pod, by nobody's leave."""
    pod = f"web-{what.revision}-0"
    runtime.carry_out(world.machines[index], Run("job", DeployPod(pod, what, fence, SecretBytes(b""))))
    world.run_for(AMPLE_S)


def test_two_of_one_ordinal_are_blamed() -> None:
    """Where nothing may be doubled; not where it may, and not on a machine that stands still."""
    world, runtime = meshed()
    checker, blamed = OrdinalChecker(runtime), list[str]()
    run(world, runtime, 0, task(tolerant=False))
    checker.look(world, blamed.append)
    assert not blamed
    run(world, runtime, 1, task(tolerant=False, number=2))
    world.pause(0, 30.0)
    checker.look(world, blamed.append)
    assert not blamed
    world.wake(0)
    world.run_for(2)
    checker.saw(world, world.now_s, 1, PodStarted(task(tolerant=False, number=2), 2), blamed.append)
    assert "must not be doubled" in blamed[0]


def test_what_runs_without_its_run_lease_is_blamed() -> None:
    """From the start, and from the moment the lease ends."""
    world, runtime = meshed()
    checker, blamed = RunLeaseChecker(runtime), list[str]()
    machine, key = world.machines[0], run_key(WORK, 0)
    until_s = world.now_s + AMPLE_S + 10
    granted = LeaseGranted(key, LeaseProof(SIGNED, ()), 1, until_s + machine.boot_offset_s)
    checker.saw(world, world.now_s, 0, granted, blamed.append)
    checker.look(world, blamed.append)
    run(world, runtime, 0, task(tolerant=False))
    checker.saw(world, world.now_s, 0, PodStarted(task(tolerant=False), 1), blamed.append)
    checker.look(world, blamed.append)
    assert not blamed
    world.run_for(11)
    checker.look(world, blamed.append)
    assert "runs on without the lease" in blamed[0]
    checker.saw(world, world.now_s, 1, PodStarted(task(tolerant=False), 1), blamed.append)
    assert "starts without the lease" in blamed[1]
    checker.saw(world, world.now_s, 0, ReleaseLease(key), blamed.append)


def test_a_fence_that_goes_back_is_blamed() -> None:
    """Also the same fence in another's hands; a replica that lost its disk excuses both."""
    world, blamed = World(2), list[str]()
    for forgetful in (True, False):
        checker = FenceChecker(forgetful=forgetful)
        for index, fence in ((0, 2), (0, 2), (1, 2), (1, 1)):
            checker.saw(
                world, 0.0, index, DeployPod("web", task(tolerant=False), fence, SecretBytes(b"")), blamed.append
            )
    assert len(blamed) == 2


def test_who_was_removed_is_missed_by_nobody_and_amiss_until_it_is_gone() -> None:
    """All members are to see all members; a machine that goes on after its removal is a fault, one that is gone not."""
    world, _ = meshed(4)
    checker, blamed = MembershipChecker(), list[str]()
    assert not is_troubled(world)
    remove(world, 0, world.machines[3], bytes(KEY_BYTES))
    world.run_for(10)
    checker.saw(world, world.now_s, 3, MemberDown(world.machines[0].membership.node_id), blamed.append)
    assert is_troubled(world)
    unplug(world, world.machines[3])
    assert not is_troubled(world)
    checker.at_end(world, blamed.append)
    assert not blamed
    world.machines[3].is_member = True
    checker.at_end(world, blamed.append)
    assert "n3 does not run" in blamed[-1]


def test_duplicates_that_stay_are_blamed() -> None:
    """Ten seconds after the last fault, unless their end has been ordered."""
    world, runtime = meshed()
    checker, blamed = DoubleChecker(runtime), list[str]()
    cut = world.faults.cut({0}, {1, 2})
    run(world, runtime, 0, task())
    run(world, runtime, 1, task(number=2))
    checker.look(world, blamed.append)
    world.faults.heal(cut)
    world.run_for(GONE_S - 0.5)
    checker.look(world, blamed.append)
    assert not blamed
    world.run_for(1)
    checker.look(world, blamed.append)
    assert "still runs 2 times" in blamed[0]
    runtime.carry_out(world.machines[0], Run("stop", StopPod("web-1-0", 30, "", "default")))
    again = DoubleChecker(runtime)
    again.look(world, blamed.append)
    assert len(blamed) == 1


def test_whoever_waits_for_the_end_of_a_pod_is_told_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an agent that started while an earlier one's order was carried out, and ordered the same."""
    world, runtime = meshed()
    run(world, runtime, 0, task())
    machine, finished = world.machines[0], dict[str, bool]()
    tell = world.event

    def told(index: int, event: Any) -> None:
        if isinstance(event, JobFinished):
            finished[event.job_id] = "web-1-0" in machine.pods
        tell(index, event)

    monkeypatch.setattr(world, "event", told)
    stop = StopPod("web-1-0", 30, "", "default")
    runtime.carry_out(machine, Run("first", stop))
    world.kill(0)
    world.run_for(0.05)
    world.start(0)
    runtime.carry_out(machine, Run("second", stop))
    assert world.run_until(lambda: "web-1-0" not in machine.pods, 35)
    assert finished["second"] is False, "told, and the pod was gone by then"
    assert "first" not in finished, "whoever ordered that is gone"


def test_more_than_a_machine_may_give_is_blamed() -> None:
    """What runs, what is promised, and what runs without a promise."""
    world, runtime = meshed(1)
    checker, blamed = ReservationChecker(runtime), list[str]()
    limit = may_give(world.machines[0])
    assert (limit.cpu_m, limit.mem_mb, limit.storage_mb) == (3600, 7680, 98_976)
    checker.saw(world, 0.0, 0, ReservationsChanged(limit.cpu_m, limit.mem_mb, limit.storage_mb), blamed.append)
    checker.look(world, blamed.append)
    assert not blamed
    for lasts_s in (0.4, 0.4, 0.6):  # a moment is what an agent takes to hear of an end; each promise is a new one
        assert not blamed
        checker.saw(world, 0.0, 0, ReservationsChanged(limit.cpu_m + 1, 0, 0), blamed.append)
        checker.look(world, blamed.append)
        world.run_for(lasts_s)
        checker.look(world, blamed.append)
        checker.saw(world, 0.0, 0, ReservationsChanged(50, 0, 0), blamed.append)
        checker.look(world, blamed.append)
    assert "promises cpu_m 3601" in blamed[0]
    checker.saw(world, 0.0, 0, ReservationsChanged(50, 0, 0), blamed.append)
    run(world, runtime, 0, task(cpu_m=3700))
    checker.look(world, blamed.append)
    assert "more than it has promised" in blamed[1]
    checker.saw(world, 0.0, 0, PodStarted(task(cpu_m=3700), 1), blamed.append)
    assert "runs cpu_m 3700" in blamed[2]


@pytest.mark.parametrize("what", ["starts", "tasks"])
def test_a_storm_is_blamed(what: str) -> None:
    """Too many starts, or too many tasks, of one replica within ten seconds; the same number over a minute is none."""
    world, blamed = World(1), list[str]()
    most = STARTS_MAX if what == "starts" else TASKS_MAX
    for pause_s in (60.0 / most, 0.1):
        assert not blamed
        checker = StormChecker()
        for number in range(most + 1):
            start = DeployPod("web", task(number=number), 1, SecretBytes(b""))
            event = start if what == "starts" else TaskHeard(task(number=number), SIGNED)
            checker.saw(world, number * pause_s, 0, event, blamed.append)
    assert len(blamed) == 1


def test_each_side_of_a_partition_may_publish_a_task_of_its_own() -> None:
    """Thirteen machines cut off one by one each have a steward that publishes; one task more than that is a storm."""
    world, blamed, checker = World(14), list[str](), StormChecker()
    for index in range(13):
        world.faults.cut({index}, set(range(14)) - {index})
    for number in range(TASKS_MAX + 13):
        checker.saw(world, number * 0.1, 0, TaskHeard(task(number=number), SIGNED), blamed.append)
    assert not blamed

    world.faults.heal()
    checker.saw(world, 5.0, 0, TaskHeard(task(number=99), SIGNED), blamed.append)

    assert len(blamed) == 1


def left_out(world: World, apart: int) -> set[NodeId]:
    """The first so many keepers."""
    return {card.node_id for card in world.node(0).roster.keepers()[:apart]}


def test_overlapping_leases_are_blamed_while_rosters_agree() -> None:
    """Give or take one keeper that was removed, and all that are new; further apart they are counted."""
    world, _ = meshed(4)
    ends_s = world.now_s + 10
    for apart, are_new, expected in ((0, False, 1), (1, False, 1), (2, False, 0), (2, True, 1)):
        for machine in world.machines:
            machine.is_member = are_new or machine.membership.node_id not in left_out(world, apart)
        checker, blamed = OverlapChecker(forgetful=False), list[str]()
        roster = world.node(0).roster
        keepers = roster.keepers()
        object.__setattr__(roster, "keepers", lambda kept=keepers[apart:]: kept)
        for index, fence in ((0, 1), (1, 2)):
            granted = LeaseGranted("lease/x", LeaseProof(SIGNED, ()), fence, ends_s)
            checker.saw(world, world.now_s, index, granted, blamed.append)
        object.__delattr__(roster, "keepers")
        assert (len(blamed), checker.beyond) == (expected, 1 - expected)


def test_the_end_of_each_replica_is_judged() -> None:
    """What runs is well, what nobody can explain is lost, what could run is blamed, and so is what nobody wants."""
    world, runtime = meshed()
    checker, blamed = OutcomeChecker(runtime, steady()), list[str]()
    _, command = submission(world, 0, deployment("web", 1), 1)
    world.event(0, command)
    world.run_for(AMPLE_S)
    checker.at_end(world, blamed.append)
    assert (blamed, checker.counts["running"]) == ([], 1)

    holder = next(machine for machine in world.machines if machine.pods)
    report = holder.pods.pop("web-1-0")
    checker.at_end(world, blamed.append)
    assert "does not run in the end" in blamed[0] or "has room" in blamed[0]
    holder.pods["web-1-0"] = report
    holder.pods["web-1-9"] = msgspec.structs.replace(report, pod="web-1-9", replica=9)
    runtime.tasks[holder.index, "default/web-1-9"] = task()
    checker.at_end(world, blamed.append)
    assert "one too many" in blamed[1]


def preempted(world: World, number: int, by: int) -> EventHeard:
    """The word of an eviction, whose tasks have these numbers."""
    node_id, names = world.machines[0].membership.node_id, {"by_task": f"task{by}"}
    return EventHeard(Event(f"event{number}{by}", node_id, "Preempted", 0, f"task{number}", WORK, details=names))


@pytest.mark.parametrize(
    ("victim", "by", "other", "why"),
    [
        (Qos(0, True), Qos(10), True, ""),
        (Qos(0, False), Qos(10), True, "may not be evicted"),
        (Qos(10, True), Qos(10), True, "may not evict it"),
        (Qos(0, True), Qos(10, preempts=False), True, "may not evict it"),
        (Qos(0, True), Qos(10), False, "may not evict it"),
    ],
)
def test_a_wrong_victim_is_blamed(victim: Qos, by: Qos, other: bool, why: str) -> None:
    """One that may not be evicted, that is no less important, or of the same workload, or by one that evicts nobody."""
    world, _ = meshed(1)
    checker, blamed = PreemptionChecker(), list[str]()
    important = msgspec.structs.replace(task(number=2), qos=by, workload_id=f"{WORK}2" if other else WORK)
    checker.saw(world, 0.0, 0, TaskHeard(msgspec.structs.replace(task(), qos=victim), SIGNED), blamed.append)
    won = TaskWon(important, "lease/x", LeaseProof(SIGNED, ()), 1, 0.0)  # of its own a steward hears nothing
    checker.saw(world, 0.0, 0, won, blamed.append)
    for _ in range(2):  # each is told of once, by however many it is heard
        checker.saw(world, 0.0, 0, preempted(world, 1, 2), blamed.append)
    assert [text.endswith(why) for text in blamed] == [True] * bool(why)


def test_an_eviction_for_nobody_is_blamed() -> None:
    """The task that it names was never published."""
    world, _ = meshed(1)
    checker, blamed = PreemptionChecker(), list[str]()
    checker.saw(world, 0.0, 0, TaskHeard(task(), SIGNED), blamed.append)
    checker.saw(world, 0.0, 0, preempted(world, 1, 2), blamed.append)
    assert "nobody has heard of the one that it does that for" in blamed[0]


@pytest.mark.parametrize(
    ("victim", "by", "makes_room"),
    [
        (Qos(0, True), Qos(10), True),
        (Qos(0, False), Qos(10), False),
        (Qos(10, True), Qos(10), False),
        (Qos(0, True), Qos(10, preempts=False), False),
    ],
)
def test_who_may_be_evicted_makes_room_for_the_more_important(victim: Qos, by: Qos, makes_room: bool) -> None:
    """Where nothing else does; nobody makes room for what is larger than the machine."""
    world, runtime = meshed(1)
    run(world, runtime, 0, msgspec.structs.replace(task(cpu_m=3000), qos=victim))
    machine, wants = world.machines[0], deployment("other", 1, cpu_m=1000, qos=by)
    assert not has_room(runtime, machine, wants)
    assert has_room(runtime, machine, wants, evicting=True) is makes_room
    assert not has_room(runtime, machine, deployment("huge", 1, cpu_m=9000, qos=by), evicting=True)


def test_a_full_disk_has_no_room() -> None:
    """Neither beyond what is left, nor for anything when that is the reserve alone."""
    world, runtime = meshed(1)
    reqs = Requirements(storage_mb=93_000)
    run(world, runtime, 0, msgspec.structs.replace(task(), reqs=reqs))
    drafts = [deployment("web", 1)] * 2
    little, much = (
        msgspec.structs.replace(draft, requirements=Requirements(storage_mb=storage_mb))
        for draft, storage_mb in zip(drafts, (900, 1_100), strict=True)
    )
    machine = world.machines[0]
    assert [has_room(runtime, machine, each) for each in (little, much)] == [True, False]
    runtime.tasks[0, "default/web-1-0"] = msgspec.structs.replace(task(), reqs=Requirements(storage_mb=94_000))
    assert not has_room(runtime, machine, drafts[0])


def test_what_comes_up_is_counted() -> None:
    """An event that many hear counts once."""
    world, _ = meshed(1)
    census, blamed = Census(), list[str]()
    quota = Submitted(1, accepted=False, reason="exceeded quota: most")
    stops = [StopPod("web-1-0", 30, why) for why in ("surplus", "outdated", "drained", "deleted", "duplicate")]
    heard = [preempted(world, 1, 2)] * 2
    for event in (quota, Submitted(2, accepted=True), *stops, *heard, PodStarted(task(), 1)):
        census.saw(world, 0.0, 0, event, blamed.append)
    names = ("refused", "over quota", "accepted", "scaled down", "rolled out", "drained", "deleted", "preempted")
    assert {name: census.counts[name] for name in (*names, "started", "jobs")} == {
        **dict.fromkeys(names, 1), "started": 1, "jobs": 0,
    }  # fmt: skip
    assert not blamed


def test_more_pods_of_a_job_than_may_run_at_a_time_are_blamed() -> None:
    """Once all has been well for a while: both sides of a partition may run some."""
    world, runtime = meshed()
    checker, blamed = JobChecker(runtime), list[str]()
    draft = deployment("sums", 5)
    job = msgspec.structs.replace(draft, kind="Job", job=JobTerms(parallelism=1), created_ms=world.wall_ms)
    _, command = submission(world, 0, job, 1)
    world.event(0, command)
    world.run_until(lambda: len(list(runtime.running())) == 1, AMPLE_S)
    machine, _, first = next(runtime.running())
    second = msgspec.structs.replace(first, task_id="second", replica=4)
    machine.begin(DeployPod("sums-1-4", second, 1, SecretBytes(b"")), world.wall_ms, ready=True)
    runtime.tasks[machine.index, "default/sums-1-4"] = second

    cut = world.faults.cut({0}, {1, 2})
    checker.look(world, blamed.append)
    world.faults.heal(cut)
    for well_s in (GONE_S - 1, GONE_S + 1):
        assert not blamed
        checker.saw(world, world.now_s + well_s, machine.index, PodStarted(second, 1), blamed.append)
        checker.saw(world, world.now_s + well_s, machine.index, PodStarted(second, 1), blamed.append)

    assert blamed == ["2 of job/default/sums run at a time, 1 are asked for"]


def test_a_job_waits_for_the_reasons_of_all_its_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has ended, the next is over the quota: that is no fault, though others have room."""
    world, runtime = meshed()
    draft = msgspec.structs.replace(deployment("sums", 2), kind="Job", job=JobTerms(1), created_ms=world.wall_ms)
    intent, command = submission(world, 0, draft, 1)
    body = Quota("default", "most", {"pods": 1})
    world.event(0, command)
    world.run_for(1)
    world.event(0, PutIntent(world.sign(world.operator, "quota", quota_key("default", "most"), body, 1)))
    workload = msgspec.msgpack.decode(intent.body, type=Workload)
    reasons = {0: "Stopped: it ended", 1: "Pending: more than quota most allows"}
    monkeypatch.setattr(jobs, "why_pending", lambda _world, _asked, _name, _number, ordinal: reasons[ordinal])
    blamed: list[str] = []
    number = workload.current.number
    seed = next(seed for seed in range(99) if not conduct_of(seed, workload.workload_id, number, once=True).fails)
    assert jobs.check_job(runtime, seed, world.machines[0], workload, (), blamed.append) == "pending"
    assert not blamed


def test_what_a_quota_leaves_no_room_for_is_no_fault() -> None:
    """Only while all that is wanted really is more than the quota."""
    world, _ = meshed()
    _, command = submission(world, 0, deployment("web", 3), 1)
    world.event(0, command)
    world.run_for(AMPLE_S)
    for pods, is_over in ((3, False), (2, True)):
        body = Quota("default", "most", {"pods": pods})
        key = quota_key("default", "most")
        world.event(0, PutIntent(world.sign(world.operator, "quota", key, body, 4 - pods)))
        assert is_over_quota(world.machines[0]) is is_over


def test_an_engine_goes_on_when_its_agent_dies() -> None:
    """What was being started then runs, and the next agent is told; a power cut ends it."""
    world, runtime = meshed(1)
    machine = world.machines[0]
    told: list[object] = []
    for power, runs in ((False, 1), (True, 0)):
        runtime.carry_out(machine, Run("job", DeployPod("web-1-0", task(), 1, SecretBytes(b""))))
        world.run_for(0.1)
        world.kill(0, power=power)
        world.start(0)
        world.watch = lambda _index, event: told.append(event)
        world.run_for(AMPLE_S)
        assert len(machine.pods) == runs
        machine.pods.clear()
    assert any(isinstance(event, PodStarted) for event in told)
    assert not any(isinstance(event, JobFinished) for event in told)
