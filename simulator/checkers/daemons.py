"""In the end each machine that a DaemonSet is for runs one of it, or has a reason and no room; no other runs any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from beemesh.scheduling.eligibility import node_labels
from beemesh.workloads.daemons import ordinal_of
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.record import Constraints, Workload
from simulator.asking import is_given_up, told, why_pending
from simulator.checkers import Blame
from simulator.checkers.room import has_room
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime, conduct_of


def check_daemons(
    runtime: MockRuntime,
    seed: int,
    asked: Machine,
    workload: Workload,
    found: Sequence[tuple[Machine, ReplicaReport]],
    blame: Blame,
) -> Counter[str]:
    """What became of each machine's one: running, pending, behind."""
    name, world, number = workload.workload_id, runtime.world, workload.current.number
    events, fails = told(world, asked, name), conduct_of(seed, name, number, once=False).fails == 1.0
    here: dict[int, list[ReplicaReport]] = {}
    for machine, report in found:
        here.setdefault(machine.index, []).append(report)
        if report.replica != ordinal_of(machine.membership.node_id):
            blame(f"{name}/{report.replica} runs on n{machine.index}, whose ordinal is another one")
    counts: Counter[str] = Counter()
    lagging: list[str] = []
    for machine in (each for each in world.machines if each.is_up):
        reports = here.get(machine.index, [])
        if len(reports) > 1:
            blame(f"{name} runs {len(reports)} times on n{machine.index} in the end")
        if not is_for(workload, machine):
            if reports:
                blame(f"{name} runs on n{machine.index} in the end, which it is not for")
            continue
        if any(report.is_of(workload.current) for report in reports):
            counts["running"] += 1
            continue
        ordinal = ordinal_of(machine.membership.node_id)
        reason = why_pending(world, asked, name, number, ordinal)
        if reason or workload.strategy.paused:
            counts["pending"] += 1
        else:
            counts["behind"] += 1
            lagging.append(f"n{machine.index}")
        steady = not (fails or workload.strategy.paused or is_given_up(asked, events, number, ordinal))
        if steady and not reports and has_room(runtime, machine, workload, also_cordoned=True):
            blame(f"{name} is not on n{machine.index} in the end, which has room; n{asked.index} says: {reason}")
    # A revision that cannot be had on one machine is not tried on the others.
    if lagging and not counts["pending"]:
        blame(f"{name} is not up to date on {' '.join(lagging)} in the end; n{asked.index} cannot tell why")
    return counts


def is_for(workload: Workload, machine: Machine) -> bool:
    """Whether a machine's card is what the record asks for; of constraints, those that trials draw."""
    return is_chosen(workload.constraints, machine)


def is_chosen(asks: Constraints, machine: Machine) -> bool:
    """Whether a machine has the labels that are asked for, and no taint that is not tolerated."""
    labels = node_labels(machine.membership)
    chosen = all(labels.get(key) == value for key, value in asks.node_selector.items())
    return chosen and all(any(each.tolerates(taint) for each in asks.tolerations) for taint in machine.spec.card.taints)
