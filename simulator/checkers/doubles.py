"""Duplicates of what may be doubled are gone soon after whatever made them is over."""

from __future__ import annotations

from functools import partial
from typing import Any

from beemesh.intents.record import Cordon, body_of, cordon_key
from simulator.checkers import Blame
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime
from simulator.touch import CALM_LOSS
from simulator.world import World

GONE_S = 10.0
"""From the end of the last fault to the moment at which the last duplicate has been asked to end. A network that loses
more than `CALM_LOSS` is not mended."""


class DoubleChecker:
    """Counts what runs of each replica and revision, and does not count what is ending."""

    name = "doubles"
    sees: tuple[type, ...] = ()

    def __init__(self, runtime: MockRuntime) -> None:
        self._runtime = runtime
        self._troubled_s = 0.0
        self._blamed: set[tuple[str, int, int]] = set()
        self.longest_s = 0.0
        """Time from a heal to the end of its last duplicate, at worst."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """Starts and stops show in what runs."""

    def look(self, world: World, blame: Blame) -> None:
        """No duplicate while all has been well for a while."""
        if is_troubled(world):
            self._troubled_s = world.now_s
        for slot, where in self._doubled().items():
            lasts_s = world.now_s - self._troubled_s
            self.longest_s = max(self.longest_s, lasts_s)
            if lasts_s > GONE_S and slot not in self._blamed:
                self._blamed.add(slot)
                text = " ".join(f"n{index}" for index in where)
                blame(f"{slot[0]}/{slot[2]} still runs {len(where)} times {lasts_s:.1f} s after the last fault: {text}")

    def _doubled(self) -> dict[tuple[str, int, int], list[int]]:
        found: dict[tuple[str, int, int], list[int]] = {}
        for machine, report, task in self._runtime.running():
            if not self._runtime.is_ending(machine, report):
                found.setdefault((task.workload_id, task.revision, task.replica), []).append(machine.index)
        twice = {slot: where for slot, where in found.items() if len(where) > 1}
        return {slot: where for slot, where in twice.items() if not any(map(self._is_left, where))}

    def _is_left(self, index: int) -> bool:
        """Whether replicas leave a machine by order: they run there until they run elsewhere."""
        machine = self._runtime.world.machines[index]
        found = machine.composition.intents.get(cordon_key(machine.spec.name)) if machine.composition else None
        cordon = body_of(found[0] if found else None, "cordon", Cordon)
        return cordon is not None and (cordon.drain is not None or bool(cordon.moves))

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
    return machine.paused_until_s > world.now_s or machine.skew_ms != 0
