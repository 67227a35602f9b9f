"""No machine gives more than it may: what runs there fits, what it promised fits, and what runs it has promised."""

from __future__ import annotations

from typing import Any

from beemesh.events import ReservationsChanged
from beemesh.workloads.record import Requirements
from simulator.checkers import Blame
from simulator.checkers.ordinals import is_awake
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime, PodStarted
from simulator.world import World

AMOUNTS = ("cpu_m", "mem_mb", "storage_mb")

TOLD_S = 0.5
"""So long an agent may count what its runtime has just ended, before it is told."""


def may_give(machine: Machine) -> Requirements:
    """What a machine's owner lets the mesh have: all of it, less what is reserved, and no more than the caps say."""
    spec, settings = machine.spec, machine.spec.settings
    caps, reserve, overcommit = spec.card.caps, settings.reserve, settings.policies.overcommit
    cpu_m = int(spec.cpu_m * (100 - reserve.cpu_percent) / 100 * overcommit.cpu)
    mem_mb = int((spec.mem_mb - reserve.mem_mb) * overcommit.mem)
    storage_mb = spec.storage_mb - reserve.disk_mb
    return Requirements(
        cpu_m=min(cpu_m, caps.cpu_m or cpu_m),
        mem_mb=min(mem_mb, caps.mem_mb or mem_mb),
        storage_mb=min(storage_mb, caps.storage_mb or storage_mb),
    )


class ReservationChecker:
    """Adds up by itself, at every start and every promise."""

    name = "reservations"
    sees: tuple[type, ...] = (PodStarted, ReservationsChanged)

    def __init__(self, runtime: MockRuntime) -> None:
        self._runtime = runtime
        self._promised: dict[tuple[int, int], ReservationsChanged] = {}
        """(machine, life of its agent) → what it said last."""
        self._blamed: set[tuple[int, str]] = set()
        self._beyond_s: dict[int, float] = {}
        """Machine → since when it promises more than it may, as far as anybody looked."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """More runs, or more is promised."""
        machine = world.machines[index]
        if isinstance(event, ReservationsChanged):
            self._promised[index, machine.life] = event
        else:
            used = self._runtime.used(machine)
            self._compare(machine, used, "runs", blame)
            ports = [(port.protocol, port.number) for port in used.ports]
            if len(set(ports)) < len(ports):
                self._once(index, "ports", f"n{index} runs two pods on one port: {sorted(ports)}", blame)
            most = machine.spec.settings.policies.admission.max_pods
            most = min(most, machine.spec.card.caps.pods or most)
            running = sum(report.phase == "Running" for report in machine.pods.values())
            if running > most:
                self._once(index, "pods", f"n{index} runs {running} pods, and takes {most} at most", blame)

    def _compare(self, machine: Machine, held: Any, what: str, blame: Blame) -> None:
        for text in _beyond(machine, held):
            self._once(machine.index, what, f"n{machine.index} {what} {text}", blame)

    def _compare_promise(self, world: World, machine: Machine, promised: Requirements, blame: Blame) -> None:
        """As above, once it has been so for longer than news of an end takes."""
        if not _beyond(machine, promised):
            self._beyond_s.pop(machine.index, None)
        elif world.now_s - self._beyond_s.setdefault(machine.index, world.now_s) > TOLD_S:
            self._compare(machine, promised, "promises", blame)

    def look(self, world: World, blame: Blame) -> None:
        """What runs is promised by the agent that should know, and nothing that there is no room for is promised; but
        what makes room for the more important, and is ending, counts once."""
        for machine in world.machines:
            said = self._promised.get((machine.index, machine.life))
            if said is not None and machine.is_up:
                going = self._runtime.ending(machine)
                left = {each: getattr(said, each) - getattr(going, each) for each in AMOUNTS}
                self._compare_promise(world, machine, Requirements(**left), blame)
            used = self._runtime.used(machine) if machine.pods else Requirements()
            attended = machine.is_up and machine.is_listed and is_awake(world, machine)
            if attended and any(getattr(used, each) > (getattr(said, each) if said else 0) for each in AMOUNTS):
                self._once(machine.index, "promised", f"n{machine.index} runs more than it has promised", blame)

    def _once(self, index: int, what: str, text: str, blame: Blame) -> None:
        if (index, what) not in self._blamed:
            self._blamed.add((index, what))
            blame(text)

    def at_end(self, world: World, blame: Blame) -> None:
        """The last look said it all."""


def _beyond(machine: Machine, held: Any) -> list[str]:
    """What of it is too much."""
    limit = may_give(machine)
    return [
        f"{amount} {getattr(held, amount)}, and may give {getattr(limit, amount)}"
        for amount in AMOUNTS
        if getattr(held, amount) > getattr(limit, amount)
    ]
