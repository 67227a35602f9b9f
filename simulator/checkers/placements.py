"""A pod starts where its record lets it, by what its machine knew when it won the task.

The card of a machine never changes here. A cordon that comes later finds the task won: what was begun goes on. How far
a spread is uneven the steward told with the task, so it is judged by what ran in the seconds before, while all is well.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beemesh.events import TaskWon
from beemesh.intents.record import Cordon, body_of, cordon_key, workload_key
from beemesh.scheduling.eligibility import node_labels
from beemesh.scheduling.messages import Task
from beemesh.workloads.record import Constraints, PodTerm, Workload
from simulator.checkers import Blame
from simulator.checkers.daemons import is_chosen
from simulator.checkers.doubles import is_troubled
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime, PodStarted
from simulator.world import World

CALM_S = 10.0
"""Spreads are judged where nothing was wrong for so long: a steward may have heard nothing of some machines before."""

KNOWN_S = 6.0
"""What ran at any moment within so long before a task was won is what its steward may have gone by: it asks those that
run a workload every half second, and a task may be won by a loser of its auction."""

Places = Mapping[int, int]
"""Ordinal → machine."""


@dataclass(slots=True)
class _Spread:
    """A workload whose replicas are to be spread: where they were in the last seconds, and who has just won one."""

    seen: deque[tuple[float, Places]] = field(default_factory=deque)
    won: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Ordinal → (when, machine)."""


class PlacementChecker:
    """Compares each start with the card of its machine, the orders about it, and its neighbours."""

    name = "placements"
    sees: tuple[type, ...] = (TaskWon, PodStarted)

    def __init__(self, runtime: MockRuntime) -> None:
        self._runtime = runtime
        self._refused: dict[tuple[int, str], str] = {}
        """(machine, task id) → what forbade to take the task when it was won."""
        self._spreads: dict[str, _Spread] = {}
        self._troubled_s = 0.0
        self.counts: Counter[str] = Counter()
        """Starts that were judged, by what their records ask for."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A task was won, or led to a pod."""
        machine, task = world.machines[index], event.task
        if isinstance(event, PodStarted):
            for reason in self._reasons(machine, task):
                blame(f"{task.workload_id}/{task.replica} starts on n{index}: {reason}")
        elif machine.ailing is None:  # else it decided earlier than it is heard
            reason = _ordered_away(machine, task, machine.now(at_s, world.wall_ms).wall_ms)
            reason = reason or self._too_uneven(machine, task, at_s)
            if reason:
                self._refused[index, task.task_id] = reason

    def _reasons(self, machine: Machine, task: Task) -> list[str]:
        asks, reasons = task.constraints, []
        workload = _record(machine, task)
        if workload is not None:
            asks = workload.constraints
        self.counts.update(_kinds(asks))
        if not is_chosen(asks, machine):
            reasons.append("its record does not let it run there")
        if asks.node_name and asks.node_name != machine.spec.name:
            reasons.append(f"its record wants {asks.node_name}")
        if asks.anti_affinity_hosts:
            others = {
                report.replica
                for report in machine.pods.values()
                if report.workload_id == task.workload_id and report.phase == "Running"
            } - {task.replica}
            if others:
                reasons.append(f"{sorted(others)} of it run there, and no two of it may share a machine")
        refused = self._refused.get((machine.index, task.task_id))
        return [*reasons, *([refused] if refused else [])]

    # --- spreads ----------------------------------------------------------------------------------------------------

    def look(self, world: World, blame: Blame) -> None:
        """Remember where replicas are that are to be spread."""
        if is_troubled(world):
            self._troubled_s = world.now_s
        if not self._spreads:
            return
        found: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in self._spreads}
        for machine, report, task in self._runtime.running():
            if task.workload_id in found and not self._runtime.is_ending(machine, report):
                places = found[task.workload_id]
                places[task.replica] = max(places.get(task.replica, (0, 0)), (task.revision, machine.index))
        for name, places in found.items():
            seen = self._spreads[name].seen
            seen.append((world.now_s, {ordinal: index for ordinal, (_, index) in places.items()}))
            while seen[0][0] < world.now_s - KNOWN_S:
                seen.popleft()

    def _too_uneven(self, machine: Machine, task: Task, at_s: float) -> str:
        """By how much a spread that must hold did not, whatever its steward had seen; empty where it may have held."""
        asks = task.constraints
        terms = [term for term in asks.pod_terms if term.kind == "spread" and not term.weight]
        if not terms:
            return ""
        spread = self._spreads.setdefault(task.workload_id, _Spread())
        spread.won = {each: (when_s, where) for each, (when_s, where) in spread.won.items() if at_s - when_s < CALM_S}
        coming = {ordinal: where for ordinal, (_, where) in spread.won.items()}
        spread.won[task.replica] = (at_s, machine.index)
        self.counts["spread while calm"] += at_s - self._troubled_s >= CALM_S
        if not spread.seen or at_s - spread.seen[0][0] < KNOWN_S - 1 or at_s - self._troubled_s < CALM_S:
            return ""
        ways = [places for _, each in spread.seen for places in (each, {**each, **coming})]
        for term in terms:
            least = min(self._skew(machine, task, term, places) for places in ways)
            if least > term.max_skew:
                return f"it makes a skew of {least} over {term.topology}, {term.max_skew} is allowed"
        return ""

    def _skew(self, machine: Machine, task: Task, term: PodTerm, places: Places) -> int:
        machines = self._runtime.world.machines
        labels = {each.index: node_labels(each.membership) for each in machines if each.is_up and each.is_member}
        here = node_labels(machine.membership).get(term.topology, "")
        others = {ordinal: index for ordinal, index in places.items() if ordinal != task.replica}
        counts = Counter(labels[index].get(term.topology) for index in others.values() if index in labels)
        wants = task.constraints.node_selector.items()
        values = {
            each.get(term.topology)
            for each in labels.values()
            if all(each.get(key) == value for key, value in wants) and term.topology in each
        }
        return counts[here] + 1 - min((counts[value] for value in (*values, here)), default=0)

    def at_end(self, world: World, blame: Blame) -> None:
        """Each start was judged when it came."""


def _record(machine: Machine, task: Task) -> Workload | None:
    """The workload as of the task's revision, as the machine's own agent knows it."""
    found = machine.composition.intents.get(workload_key(task.workload_id)) if machine.composition else None
    workload = body_of(found[0] if found else None, "workload", Workload)
    revision = workload.revision(task.revision) if workload is not None else None
    if workload is None or revision is None or revision.manifest != task.manifest_ref:
        return None
    return workload.as_of(task.revision)


def _ordered_away(machine: Machine, task: Task, wall_ms: int) -> str:
    """What the machine's own agent knew of orders that keep a task away."""
    found = machine.composition.intents.get(cordon_key(machine.spec.name)) if machine.composition else None
    cordon = body_of(found[0] if found else None, "cordon", Cordon)
    if cordon is None:
        return ""
    if cordon.cordoned and task.kind != "DaemonSet":
        return "it was cordoned when it won the task"
    moved = cordon.move_of(task.workload_id, task.replica, wall_ms)
    return "it was moved away from there" if moved is not None else ""


def _kinds(asks: Constraints) -> list[str]:
    kinds = {
        "node selector": bool(asks.node_selector),
        "node name": bool(asks.node_name),
        "tolerations": bool(asks.tolerations),
        "apart": asks.anti_affinity_hosts,
        "spread": any(term.kind == "spread" and not term.weight for term in asks.pod_terms),
    }
    return [kind for kind, asked in kinds.items() if asked]
