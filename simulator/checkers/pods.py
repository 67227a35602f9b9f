"""What runs: never two of a replica that must not be doubled, none of them without the lease that says so, and in the
end each wanted one exactly once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from beemesh.events import DeployPod, LeaseGranted, LeaseLost, ReleaseLease
from beemesh.intents.map import IntentMap
from beemesh.intents.record import workload_id_of
from beemesh.scheduling.leases import run_key
from beemesh.workloads.record import Workload
from simulator.checkers import Blame
from simulator.world import World

Slot = tuple[str, int]

WAKING_S = 1.0
"""Pods of a machine that stands still do not run either; once awake it has so long to stop what it lost meanwhile."""


class PodChecker:
    """Looks at the machines themselves, whatever any node believes."""

    name = "pods"
    sees: tuple[type, ...] = (DeployPod, LeaseGranted, LeaseLost, ReleaseLease)

    def __init__(self) -> None:
        self._blamed: set[Slot] = set()
        self._held: dict[tuple[int, int, str], float] = {}
        """(machine, its life, key) → until when it may run what the key names, by the simulation's clock."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """What must not be doubled begins under its run lease alone."""
        machine = world.machines[index]
        match event:
            case LeaseGranted(key=key, proof=proof) if not proof.tentative:
                self._held[index, machine.life, key] = event.expires_boot_s - machine.boot_offset_s
            case LeaseLost(key=key) | ReleaseLease(key=key):
                self._held.pop((index, machine.life, key), None)
            case DeployPod(task=task) if not task.duplicate_tolerant:
                key = run_key(task.workload_id, task.replica)
                if self._held.get((index, machine.life, key), 0.0) <= at_s:
                    blame(f"n{index} starts {task.workload_id}/{task.replica} without the lease that it needs")

    def look(self, world: World, blame: Blame) -> None:
        """Of a replica that is not duplicate tolerant one runs at most, at every moment."""
        for (workload_id, replica), count in _running(world).items():
            if count < 2 or (workload_id, replica) in self._blamed:
                continue
            workload = _standing(world, workload_id)
            if workload is not None and not workload.duplicate_tolerant:
                self._blamed.add((workload_id, replica))
                where = _where(world, workload_id)
                blame(f"{count} of {workload_id}/{replica} run, which must not be doubled: {where}")

    def at_end(self, world: World, blame: Blame) -> None:
        """Each wanted replica runs once, and nothing else does."""
        running = _running(world)
        wanted: Counter[Slot] = Counter()
        for intent, _ in _any_map(world).items("workload/"):
            workload = _standing(world, workload_id_of(intent.key))
            if workload is not None:
                wanted.update((workload.workload_id, ordinal) for ordinal in range(workload.replicas))
        for slot in sorted(wanted.keys() | running.keys()):
            if running[slot] != wanted[slot]:
                workload_id, replica = slot
                where = _where(world, workload_id)
                blame(f"{running[slot]} of {workload_id}/{replica} run in the end, not {wanted[slot]}: {where}")


def _running(world: World) -> Counter[Slot]:
    awake = [each for each in world.machines if each.paused_until_s < world.now_s - WAKING_S]
    pods = (pod for each in awake for pod in each.pods.values())
    return Counter((pod.workload_id, pod.replica) for pod in pods if pod.phase == "Running")


def _where(world: World, workload_id: str) -> str:
    found = [f"n{each.index}:{pod.replica}" for each in world.machines for pod in each.pods.values()
             if pod.workload_id == workload_id]  # fmt: skip
    return " ".join(found) or "nowhere"


def _any_map(world: World) -> IntentMap:
    return next(each.composition.intents for each in world.machines if each.composition is not None)


def _standing(world: World, workload_id: str) -> Workload | None:
    """The newest record of a workload that any node holds."""
    found = [
        record[0]
        for each in world.machines
        if each.composition is not None and (record := each.composition.intents.get(f"workload/{workload_id}"))
    ]
    newest = max(found, key=lambda intent: (intent.epoch, intent.seq), default=None)
    if newest is None or newest.kind != "workload":
        return None
    return msgspec.msgpack.decode(newest.body, type=Workload)
