"""A container engine for every simulated machine that does what engines do: it pulls slowly, fails, and loses pods.

How the pods of a revision behave is drawn once from the seed and the revision's name, so it is the same on every
machine and in every run. A start that an engine has begun goes on when its agent dies: it ends in a pod that nobody
waits for.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import msgspec

from beemesh.effects import JobFinished, Run
from beemesh.events import NOT_PERMITTED, DeployPod, ResourcesObserved, StopPod
from beemesh.intents.record import workload_key
from beemesh.scheduling.execution.pods import name_of
from beemesh.scheduling.messages import Task
from beemesh.workloads.observation import Phase, ReplicaReport
from beemesh.workloads.record import Requirements, Workload
from simulator.machine import Machine
from simulator.world import World

LOOK_S = 1.0
"""A machine's own figures follow what runs on it after this time: the agent's sampling."""

OWN_SHARE = 0.05
"""Part of a machine's memory that its own programs take."""

GONE_S = 0.1
"""To end a pod takes so long at least, also where there is none."""

STUCK_S = 2.0
"""An engine that fails to end a pod says so after this time."""

FLAPPING_PART = 0.15
FLAPS_EVERY_S = 8.0
FLAP_S = (0.3, 6.0)
"""Revisions whose pods stop being ready from time to time, the mean time until they do, and how long they are not."""

Place = tuple[int, str]
"""(machine, `<namespace>/<pod>`)"""


@dataclass(frozen=True, slots=True)
class PodStarted:
    """A pod's containers run on a machine from this moment on."""

    task: Task
    fence: int


@dataclass(frozen=True, slots=True)
class Conduct:
    """How the pods of one revision behave. Times in seconds."""

    pull_s: float
    """The first start on a machine takes so much longer."""
    start_s: float
    fails: float
    """Share of starts that fail."""
    ready_s: float
    stop_s: float
    """From being asked to end to the end, if the grace is as long."""
    lives_s: float
    """Mean time until a pod ends by itself; 0 for those that never do."""
    ends: Phase
    """How it ends then; `Unknown`: it vanishes from its runtime."""
    flaps: bool = False
    """Whether it stops being ready from time to time, and is again a little later."""


def conduct_of(seed: int, workload_id: str, revision: int, *, once: bool) -> Conduct:
    """Drawn from the names; `once` for a pod that is to run to its end."""
    chance = random.Random(f"{seed} {workload_id} {revision}")  # noqa: S311 - a simulation wants chance that repeats
    pull_s = chance.choice((0.0, 0.0, chance.uniform(0.2, 3.0), chance.uniform(3.0, 12.0)))
    fails = 1.0 if chance.random() < 0.08 else chance.choice((0.0, 0.0, 0.0, 0.3))
    ends: Phase = "Succeeded" if once else chance.choice(("Failed", "Unknown"))
    return Conduct(
        pull_s=pull_s,
        start_s=chance.uniform(0.2, 0.8),
        fails=fails,
        ready_s=chance.choice((0.0, chance.uniform(0.1, 2.0))),
        stop_s=chance.choice((0.1, 0.3, chance.uniform(0.5, 3.0), 12.0)),
        lives_s=chance.uniform(2.0, 10.0) if once else chance.choice((0.0, 0.0, 0.0, 0.0, 25.0)),
        ends=ends,
        flaps=random.Random(f"flaps {seed} {workload_id} {revision}").random() < FLAPPING_PART,  # noqa: S311
    )


@dataclass(slots=True)
class Mishap:
    """What went wrong of the engines' own accord, for the transcript."""

    failed: int = 0
    ended: int = 0
    flapped: int = 0
    stuck: int = 0


class MockRuntime:
    """The engines of all machines. Sets itself as the world's runtime."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self._seed = seed
        self._chance = random.Random(f"runtime {seed}")  # noqa: S311
        self._flaps = random.Random(f"flaps {seed}")  # noqa: S311
        self.tasks: dict[Place, Task] = {}
        """What each pod was started for; pods that are gone may still stand here."""
        self.stopping: set[tuple[int, str, str]] = set()
        """(machine, pod, task id) of pods that were asked to end."""
        self._stops: dict[tuple[int, int, str], list[tuple[int, str]]] = {}
        """(machine, which of its lists of pods, pod) → (life of the agent, job) of all that are ending it, and are done
        when the first is: an agent that started meanwhile waits no longer than the pod is there."""
        self._finish: dict[tuple[int, int, str], Callable[[], None]] = {}
        """What completes these."""
        self._untold: Counter[Place] = Counter()
        """Pods whose end failed, by how many answers that say so are still under way."""
        self._pulled: set[tuple[int, str, int]] = set()
        self._looking: set[int] = set()
        self.is_calm = False
        """No pod ends by itself any more, nor stops being ready."""
        self.mishaps = Mishap()
        world.runtime = self.carry_out
        world.resources = self.resources

    def carry_out(self, machine: Machine, run: Run) -> None:
        """A job of a machine's agent."""
        if self.world.watch is not None:
            self.world.watch(machine.index, run.job)
        if isinstance(run.job, DeployPod):
            self._deploy(machine, run, run.job)
        elif isinstance(run.job, StopPod):
            self._stop(machine, run, run.job)

    def running(self) -> Iterator[tuple[Machine, ReplicaReport, Task]]:
        """Every pod that runs on any machine, whoever knows of it."""
        for machine in self.world.machines:
            for report in machine.pods.values():
                if report.phase == "Running":
                    yield machine, report, self.tasks[machine.index, name_of(report)]

    def is_ending(self, machine: Machine, report: ReplicaReport) -> bool:
        """Whether a pod was asked to end."""
        return (machine.index, report.pod, report.task_id) in self.stopping

    def used(self, machine: Machine) -> Requirements:
        """What the pods that run on a machine take of it."""
        return _sum(self._tasks_of(machine))

    def ending(self, machine: Machine) -> Requirements:
        """How much of that belongs to pods that were asked to end, or will be once their agent's disk has it; also to
        such as have ended by themselves meanwhile, while the engine still tries."""
        going = {(pod, task_id) for index, pod, task_id in self.stopping if index == machine.index}
        meant = machine.composition.executor.pods.stopping if machine.composition is not None else {}
        running = {name_of(report): report for report in machine.pods.values() if report.phase == "Running"}
        asked = {name for name, report in running.items() if (report.pod, report.task_id) in going or name in meant}
        tried = {name for index, name in self._untold if index == machine.index and name not in running}
        return _sum(self.tasks[machine.index, name] for name in sorted(asked | tried))

    def yielding(self, machine: Machine, workload: Workload) -> Requirements:
        """How much of it belongs to pods of others that are less important, and may be evicted."""
        tasks = (task for task in self._tasks_of(machine) if task.workload_id != workload.workload_id)
        return _sum(task for task in tasks if task.qos.preemptible and task.qos.priority < workload.qos.priority)

    def _tasks_of(self, machine: Machine) -> Iterator[Task]:
        for report in machine.pods.values():
            if report.phase == "Running":
                yield self.tasks[machine.index, name_of(report)]

    def resources(self, machine: Machine) -> ResourcesObserved:
        """What the machine's agent measures."""
        spec, used = machine.spec, self.used(machine)
        return ResourcesObserved(
            cpu_m_total=spec.cpu_m,
            mem_mb_total=spec.mem_mb,
            storage_mb_total=spec.storage_mb,
            cpu_load=min(1.0, 0.05 + used.cpu_m / spec.cpu_m / 2),
            mem_mb_free=max(0, int(spec.mem_mb * (1 - OWN_SHARE)) - used.mem_mb),
            storage_mb_free=max(0, int(spec.storage_mb * (1 - OWN_SHARE)) - used.storage_mb),
            ports_in_use=frozenset(port.number for port in used.ports),
        )

    # --- starting ---------------------------------------------------------------------------------------------------

    def _deploy(self, machine: Machine, run: Run, job: DeployPod) -> None:
        task, life, pods = job.task, machine.life, machine.pods
        conduct = self._conduct(machine, task)
        image = (machine.index, task.workload_id, task.revision)
        pull_s = 0.0 if image in self._pulled else conduct.pull_s
        fails = self._chance.random() < conduct.fails

        def pulled() -> None:
            if machine.life == life:  # an agent that died took what it was pulling with it
                self._pulled.add(image)
                self.world.at(self.world.now_s + conduct.start_s, finish, machine)

        def finish() -> None:
            if machine.pods is not pods:
                return  # the machine lost its power meanwhile
            late = job.right.has_ended(self.world.now_s + machine.boot_offset_s)
            result = None if fails or late else self._begun(machine, job, conduct)
            if machine.life == life and machine.composition is not None:
                error = "StartFailed: the container ended with code 1" if fails else ""
                error = f"{NOT_PERMITTED}: its right to start has ended" if late else error
                self.world.event(machine.index, JobFinished(run.job_id, result, error))
            self.mishaps.failed += fails
            self._changed(machine)

        self.world.at(self.world.now_s + pull_s, pulled, machine)

    def _begun(self, machine: Machine, job: DeployPod, conduct: Conduct) -> ReplicaReport:
        task = job.task
        report = machine.begin(job, self.world.wall_ms, ready=conduct.ready_s == 0.0)
        self.tasks[machine.index, name_of(report)] = task
        if conduct.ready_s:
            self._later(machine, report, conduct.ready_s, partial(self._ready, machine, job.pod))
        if conduct.lives_s:
            lives_s = self._chance.expovariate(1 / conduct.lives_s)
            self._later(machine, report, lives_s, partial(self._end, machine, job.pod, conduct.ends))
        if conduct.flaps:
            self._flap_later(machine, report, conduct.ready_s)
        if self.world.watch is not None:
            self.world.watch(machine.index, PodStarted(task, job.fence))
        return report

    def _flap_later(self, machine: Machine, report: ReplicaReport, ready_s: float = 0.0) -> None:
        """After a while it is not ready, and some time later it is again."""
        from_s, lasts_s = self._flaps.expovariate(1 / FLAPS_EVERY_S) + ready_s, self._flaps.uniform(*FLAP_S)

        def fail() -> None:
            if self.is_calm:
                return
            self.mishaps.flapped += 1
            machine.pods[report.pod] = msgspec.structs.replace(machine.pods[report.pod], ready=False)
            self._later(machine, report, lasts_s, recover)

        def recover() -> None:
            self._ready(machine, report.pod)
            self._flap_later(machine, report)

        self._later(machine, report, from_s, fail)

    def _ready(self, machine: Machine, pod: str) -> None:
        machine.pods[pod] = msgspec.structs.replace(machine.pods[pod], ready=True)

    def _end(self, machine: Machine, pod: str, phase: Phase) -> None:
        if self.is_calm and phase != "Succeeded":
            return
        self.mishaps.ended += phase != "Succeeded"
        finish = self._finish.get((machine.index, id(machine.pods), name_of(machine.pods[pod])))
        if finish is not None:  # it was being ended, and nobody has to wait for it any more
            self.world.at(self.world.now_s + GONE_S, finish, machine)
        if phase == "Unknown":
            del machine.pods[pod]
        else:
            machine.pods[pod] = msgspec.structs.replace(machine.pods[pod], phase=phase, ready=False, reason="it ended")

    def _later(self, machine: Machine, report: ReplicaReport, in_s: float, act: Callable[[], None]) -> None:
        """Do something to a pod after a while, if it still is that very pod."""

        def then() -> None:
            found = machine.pods.get(report.pod)
            if found is not None and (found.task_id, found.phase) == (report.task_id, "Running"):
                act()
                self._changed(machine)

        self.world.at(self.world.now_s + in_s, then, machine)

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _stop(self, machine: Machine, run: Run, job: StopPod) -> None:
        pods = machine.pods
        task = self.tasks.get((machine.index, f"{job.namespace}/{job.pod}"))
        if job.pod in pods and task is not None and self._is_stuck(machine, task, job):
            self._fail_to_stop(machine, run, task, job)
            return
        takes_s = GONE_S
        key = (machine.index, id(pods), f"{job.namespace}/{job.pod}")
        jobs = self._stops.setdefault(key, [])
        jobs.append((machine.life, run.job_id))
        if job.pod in pods and task is not None:
            takes_s = max(takes_s, min(float(job.grace_s), self._conduct(machine, task).stop_s))
            self.stopping.add((machine.index, job.pod, task.task_id))

        def finish() -> None:
            if self._stops.get(key) is not jobs:
                return  # a later order left it less time
            del self._stops[key], self._finish[key]
            pods.pop(job.pod, None)
            for life, job_id in jobs:
                if machine.life == life and machine.composition is not None:
                    self.world.event(machine.index, JobFinished(job_id, None))
            self._changed(machine)

        self._finish[key] = finish
        self.world.at(self.world.now_s + takes_s, finish, machine)

    def _is_stuck(self, machine: Machine, task: Task, job: StopPod) -> bool:
        """Whether the engine fails to end a pod now. What must not be doubled it kills all the same: where nobody can
        do that, nothing on the machine keeps two from running."""
        return machine.stuck_until_s > self.world.now_s and (task.duplicate_tolerant or job.grace_s > 0)

    def _fail_to_stop(self, machine: Machine, run: Run, task: Task, job: StopPod) -> None:
        """The pod runs on, and the agent that ordered its end is told, unless a later order has ended it by then."""
        life, self.mishaps.stuck = machine.life, self.mishaps.stuck + 1
        self.stopping.add((machine.index, job.pod, task.task_id))
        place = (machine.index, f"{job.namespace}/{job.pod}")
        self._untold[place] += 1

        def tell() -> None:
            self._untold[place] -= 1
            self._untold += Counter()  # those that are zero go
            if machine.life == life and machine.composition is not None:
                found = machine.pods.get(job.pod)
                is_there = found is not None and found.task_id == task.task_id
                error = "StopFailed: the engine did not end it" if is_there else ""
                self.world.event(machine.index, JobFinished(run.job_id, None, error))

        self.world.at(self.world.now_s + STUCK_S, tell, machine)

    # --- telling ----------------------------------------------------------------------------------------------------

    def _changed(self, machine: Machine) -> None:
        """The agent, if there is one, is told what runs; what is free it sees a little later."""
        self.world.tell_pods(machine)
        if machine.index in self._looking:
            return
        self._looking.add(machine.index)

        def look() -> None:
            self._looking.discard(machine.index)
            self.world.event(machine.index, self.resources(machine))

        self.world.at(self.world.now_s + LOOK_S, look, machine)

    def _conduct(self, machine: Machine, task: Task) -> Conduct:
        return conduct_of(self._seed, task.workload_id, task.revision, once=self._once(machine, task))

    def _once(self, machine: Machine, task: Task) -> bool:
        composition = machine.composition
        found = composition.intents.get(workload_key(task.workload_id)) if composition is not None else None
        if found is None or found[0].kind != "workload":
            return False
        return msgspec.msgpack.decode(found[0].body, type=Workload).restart_policy != "Always"


def _sum(tasks: Iterable[Task]) -> Requirements:
    wants = [task.reqs for task in tasks]
    return Requirements(
        cpu_m=sum(each.cpu_m for each in wants),
        mem_mb=sum(each.mem_mb for each in wants),
        storage_mb=sum(each.storage_mb for each in wants),
        ports=tuple(port for each in wants for port in each.ports if port.number),
    )
