"""A job runs no more pods at a time than it is to; in the end it is over and runs nothing, or gets on, or says why it
does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from beemesh.intents.record import body_of, workload_key
from beemesh.scheduling.telling import MANIFEST
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.record import JobTerms, Workload
from beemesh.workloads.rollout import mark_of
from simulator.asking import told, why_pending
from simulator.checkers import Blame
from simulator.checkers.doubles import GONE_S, is_troubled
from simulator.checkers.room import has_room, is_over_quota
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime, PodStarted, conduct_of
from simulator.world import World

Stands = Literal["ended", "running", "pending"]


class JobChecker:
    """Looks at each start of a job's pod. What a partition or a lost steward began is over some time after them."""

    name = "jobs"
    sees: tuple[type, ...] = (PodStarted,)

    def __init__(self, runtime: MockRuntime) -> None:
        self._runtime = runtime
        self._troubled_s = 0.0
        self._blamed: set[str] = set()

    def saw(self, world: World, at_s: float, index: int, event: PodStarted, blame: Blame) -> None:
        """One more pod of a job runs."""
        name = event.task.workload_id
        if event.task.kind != "Job" or at_s - self._troubled_s <= GONE_S or name in self._blamed:
            return
        composition = world.machines[index].composition
        found = composition.intents.get(workload_key(name)) if composition is not None else None
        workload = body_of(found[0] if found else None, "workload", Workload)
        if workload is None or workload.job is None:
            return
        slots = {
            task.replica
            for machine, report, task in self._runtime.running()
            if task.workload_id == name and not self._runtime.is_ending(machine, report)
        }
        if len(slots) > workload.job.parallelism:
            self._blamed.add(name)
            blame(f"{len(slots)} of {name} run at a time, {workload.job.parallelism} are asked for")

    def look(self, world: World, blame: Blame) -> None:
        """Remember when something was wrong last."""
        if is_troubled(world):
            self._troubled_s = world.now_s

    def at_end(self, world: World, blame: Blame) -> None:
        """See `check_job`."""


def check_job(
    runtime: MockRuntime, seed: int, asked: Machine, workload: Workload, running: Sequence[ReplicaReport], blame: Blame
) -> Stands:
    """How a job stands, by one agent's diary beside what really runs of it."""
    name, terms = workload.workload_id, workload.job or JobTerms()
    over = how_it_ended(runtime.world, asked, workload)
    if over and running:
        blame(f"{name} is over ({over}), and {len(running)} of it run in the end")
    if len(running) > terms.parallelism:
        blame(f"{len(running)} of {name} run in the end, {terms.parallelism} at a time are asked for")
    slots = [each.replica for each in running]
    if len(slots) != len(set(slots)) or any(slot >= workload.replicas for slot in slots):
        blame(f"{name} runs {sorted(slots)} in the end, of {workload.replicas} that are to run once each")
    if over:
        return "ended"
    if running:
        return "running"
    number = workload.current.number
    reasons = (why_pending(runtime.world, asked, name, number, ordinal) for ordinal in range(workload.replicas))
    reason = "; ".join(dict.fromkeys(filter(None, reasons)))  # one may have ended while the next one waits
    if not reason:
        blame(f"{name} is not over and nothing of it runs in the end; n{asked.index} cannot tell why")
    if "quota" in reason and is_over_quota(asked):
        return "pending"
    open_to = [] if conduct_of(seed, name, number, once=True).fails == 1.0 else runtime.world.machines
    roomy = next((machine for machine in open_to if has_room(runtime, machine, workload)), None)
    if roomy is not None:
        blame(f"{name} is pending though n{roomy.index} has room; n{asked.index} says: {reason}")
    return "pending"


def how_it_ended(world: World, machine: Machine, workload: Workload) -> str:
    """The word of a job's end as an agent knows it; empty while there is none."""
    mark = mark_of(workload.current).hex()
    events = told(world, machine, workload.workload_id)
    mine = (event.status for event in reversed(events) if event.details.get(MANIFEST) == mark)
    return next((status for status in mine if status in ("Completed", "Failed")), "")
