"""In the end a job is over and runs nothing, or gets on, or says why it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from beemesh.scheduling.telling import MANIFEST
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.record import JobTerms, Workload
from beemesh.workloads.rollout import mark_of
from simulator.asking import told, why_pending
from simulator.checkers import Blame
from simulator.checkers.room import has_room
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime, conduct_of
from simulator.world import World

Stands = Literal["ended", "running", "pending"]


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
    reason = next((each for each in reasons if each), "")
    if not reason:
        blame(f"{name} is not over and nothing of it runs in the end; n{asked.index} cannot tell why")
    open_to = [] if conduct_of(seed, name, number, once=True).fails else runtime.world.machines
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
