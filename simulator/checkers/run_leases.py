"""What must not be doubled runs under its run lease alone: it begins with one, and is gone before that ends."""

from __future__ import annotations

from typing import Any

from beemesh.events import LeaseGranted, ReleaseLease
from beemesh.scheduling.leases import run_key
from simulator.checkers import Blame
from simulator.checkers.ordinals import WAKING_S, is_awake
from simulator.mock_runtime import MockRuntime, PodStarted
from simulator.world import World


class RunLeaseChecker:
    """Knows until when each machine may run what, by grants that its agents were given; a life may end before."""

    name = "run-leases"
    sees: tuple[type, ...] = (PodStarted, LeaseGranted, ReleaseLease)

    def __init__(self, runtime: MockRuntime) -> None:
        self._runtime = runtime
        self._until_s: dict[tuple[int, str], float] = {}
        self._up: dict[int, tuple[int, float]] = {}
        """Machine → (life of its agent, since when it is seen)."""
        self._blamed: set[tuple[int, str]] = set()

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A grant prolongs the right, giving it up ends it; a start needs it."""
        match event:
            case LeaseGranted(key=key, proof=proof) if not proof.tentative:
                self._until_s[index, key] = event.expires_boot_s - world.machines[index].boot_offset_s
            case ReleaseLease(key=key):
                self._until_s.pop((index, key), None)
            case PodStarted(task=task) if not task.duplicate_tolerant and world.machines[index].is_up:
                self._check(index, run_key(task.workload_id, task.replica), at_s, "starts", blame)

    def look(self, world: World, blame: Blame) -> None:
        """Nothing runs on after its lease, whether there is an agent to stop it or not."""
        for machine in world.machines:
            life = machine.life if machine.is_up else -1
            if self._up.get(machine.index, (None, 0.0))[0] != life:
                self._up[machine.index] = (life, world.now_s)
        for machine, _, task in self._runtime.running():
            life, since_s = self._up[machine.index]
            is_attended = life < 0 or since_s < world.now_s - WAKING_S
            if is_attended and is_awake(world, machine) and not task.duplicate_tolerant:
                key = run_key(task.workload_id, task.replica)
                self._check(machine.index, key, world.now_s, "runs on", blame)

    def _check(self, index: int, key: str, at_s: float, what: str, blame: Blame) -> None:
        if self._until_s.get((index, key), 0.0) < at_s and (index, key) not in self._blamed:
            self._blamed.add((index, key))
            blame(f"n{index} {what} without the lease {key}")

    def at_end(self, world: World, blame: Blame) -> None:
        """The last look said it all."""
