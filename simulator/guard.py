"""What ends pods in time on a machine whose agent is away (`agent.guard`), simulated.

It acts for an absent agent alone. Where there is one, to end them is that one's own task, and judged as such.
"""

from __future__ import annotations

from functools import partial

from beemesh.scheduling.execution.pods import name_of
from simulator.machine import Machine
from simulator.world import World

LATE_S = 1.0
"""The guard gives an agent this time to end a pod itself, out of the margin that both have before the lease ends."""
AGAIN_S = 2.0
PATIENCE_S = 60.0
"""How often, and for how long it looks whether the pod is there: an engine may have been starting it."""


def attend(world: World, machine: Machine) -> None:
    """The agent of a machine died just now: whatever its pods may do from here on, the guard knows."""
    for name, until_s in machine.run_rights.items():
        ends_s = max(world.now_s, until_s - machine.boot_offset_s + LATE_S)
        _look(world, machine, (machine.life, name), ends_s, ends_s + PATIENCE_S)


def _look(world: World, machine: Machine, who: tuple[int, str], at_s: float, until_s: float) -> None:
    if at_s <= until_s:
        world.at(at_s, partial(_end, world, machine, who, until_s), machine)


def _end(world: World, machine: Machine, who: tuple[int, str], until_s: float) -> None:
    life, name = who
    if machine.life != life:
        return
    for pod in [pod for pod, report in machine.pods.items() if name_of(report) == name]:
        del machine.pods[pod]
    _look(world, machine, who, world.now_s + AGAIN_S, until_s)
