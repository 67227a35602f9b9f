"""Duplicates of what may be doubled are gone soon after whatever made them is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from beemesh.composition import Composition
from beemesh.intents.record import Cordon, body_of, cordon_key, workload_key
from beemesh.scheduling.disruption import Disruption
from beemesh.workloads.moves import STAYING_KINDS
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.record import Workload
from simulator.checkers import Blame
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime
from simulator.touch import CALM_LOSS
from simulator.world import World

GONE_S = 10.0
"""From the end of the last fault to the moment at which the last duplicate has been asked to end. A network that loses
more than `CALM_LOSS` is not mended."""

Slot = tuple[str, int, int]
"""(workload id, revision, replica)"""

Twins = Sequence[tuple[Machine, ReplicaReport]]
"""What runs of one slot."""


class DoubleChecker:
    """Counts what runs of each replica and revision, and does not count what is ending."""

    name = "doubles"
    sees: tuple[type, ...] = ()

    def __init__(self, runtime: MockRuntime) -> None:
        self._runtime = runtime
        self._troubled_s = 0.0
        self._since_s: dict[Slot, float] = {}
        """Since when a slot is doubled without a break: a claim may cross the release of the lease after a start, so
        that two start although nothing is wrong."""
        self._moved_s: dict[Slot, float] = {}
        """When last an order to move allowed a slot to be doubled."""
        self._blamed: set[Slot] = set()
        self.longest_s = 0.0
        """Time from a heal, or the successor of what moves being ready, to the end of its last duplicate, at worst."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """Starts and stops show in what runs."""

    def look(self, world: World, blame: Blame) -> None:
        """No duplicate while all has been well for a while."""
        if is_troubled(world):
            self._troubled_s = world.now_s
        doubled = self._doubled()
        self._since_s = {slot: self._since_s.get(slot, world.now_s) for slot in doubled}
        self._moved_s = {slot: at_s for slot, at_s in self._moved_s.items() if slot in doubled}
        for slot, twins in doubled.items():
            if self._is_moving(twins):
                self._moved_s[slot] = world.now_s
            lasts_s = world.now_s - max(self._troubled_s, self._since_s[slot], self._moved_s.get(slot, 0.0))
            self.longest_s = max(self.longest_s, lasts_s)
            if lasts_s > GONE_S and slot not in self._blamed:
                self._blamed.add(slot)
                text = " ".join(f"n{machine.index}" for machine, _ in twins)
                blame(f"{slot[0]}/{slot[2]} still runs {len(twins)} times {lasts_s:.1f} s after the last fault: {text}")

    def _doubled(self) -> dict[Slot, Twins]:
        found: dict[Slot, list[tuple[Machine, ReplicaReport]]] = {}
        for machine, report, task in self._runtime.running():
            if not self._runtime.is_ending(machine, report):
                found.setdefault((task.workload_id, task.revision, task.replica), []).append((machine, report))
        return {slot: twins for slot, twins in found.items() if len(twins) > 1}

    def _is_moving(self, twins: Twins) -> bool:
        """Whether one leaves its machine by order, and has to wait: no other is ready, or a budget keeps it."""
        leaving = [twin for twin in twins if self._leaves(*twin)]
        staying = [report for _, report in twins if not any(report is other for _, other in leaving)]
        if not leaving or not staying:
            return False
        return not any(report.ready for report in staying) or not any(self._may_go(report) for _, report in leaving)

    def _leaves(self, machine: Machine, report: ReplicaReport) -> bool:
        """Whether an order that some agent holds for standing says that a replica is to leave its machine."""
        if report.kind in STAYING_KINDS:
            return False
        wall_ms = self._runtime.world.wall_ms
        for composition in self._agents():
            found = composition.intents.get(cordon_key(machine.spec.name))
            cordon = body_of(found[0] if found else None, "cordon", Cordon)
            if cordon is not None and (
                cordon.drain is not None or cordon.move_of(report.workload_id, report.replica, wall_ms) is not None
            ):
                return True
        return False

    def _may_go(self, report: ReplicaReport) -> bool:
        """Whether the budgets that any agent knows of let a replica go now, by what is ready everywhere."""
        healthy = sum(
            each.ready and each.workload_id == report.workload_id and not self._runtime.is_ending(where, each)
            for where, each, _ in self._runtime.running()
        )
        for composition in self._agents():
            found = composition.intents.get(workload_key(report.workload_id))
            workload = body_of(found[0] if found else None, "workload", Workload)
            if workload is None:
                continue
            disruption = Disruption(composition.intents.items)
            disruption.load()
            if not disruption.allowance(workload).allows(healthy, ready=report.ready):
                return False
        return True

    def _agents(self) -> Iterator[Composition]:
        """Any of them may be the steward, and a record comes to one some time after it came to another."""
        return (each.composition for each in self._runtime.world.machines if each.composition is not None)

    def at_end(self, world: World, blame: Blame) -> None:
        """The last look said it all."""


def is_troubled(world: World) -> bool:
    """Whether anything is wrong with the network or a machine at this moment."""
    faults = world.faults
    disturbed = bool(faults.cuts or faults.slow) or faults.loss > CALM_LOSS
    return disturbed or any(map(partial(_is_amiss, world), world.machines))


def _is_amiss(world: World, machine: Machine) -> bool:
    if not machine.is_member:  # it should be gone, and what it runs
        return machine.is_up or bool(machine.pods)
    if not machine.is_up or machine.ailing is not None or not machine.is_listed:
        return True
    return max(machine.paused_until_s, machine.stuck_until_s) > world.now_s or machine.skew_ms != 0
