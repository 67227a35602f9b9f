"""The machines of one scheduling trial, drawn from its seed: none like the other, as in a homelab."""

from __future__ import annotations

import random
from dataclasses import replace

from beemesh.identity.membership_card import ROLE_KEEPER, Caps, Taint
from beemesh.membership.view import LARGE_ABOVE
from beemesh.settings.model import Scheduler
from simulator.spec import MachineSpec, machine

NODES = (20, 60)
"""Fewest and most machines."""

KEEPERS_MIN = 5
"""From so many on a key is shared among five: with fewer keepers than that other rules would be tried."""

LAPTOPS = 0.1
"""Part of the machines that keep nothing for others."""

CPU_M = (1000, 2000, 4000, 8000)
MEM_MB = (2048, 4096, 8192, 16384)
ZONES = ("a", "b", "c")
DEDICATED = Taint("dedicated", "batch", "NoSchedule")


def draw_fleet(chance: random.Random, nodes: int = 0) -> tuple[MachineSpec, ...]:
    """`nodes` machines; 0 draws their number, small meshes oftener than large ones."""
    count = nodes or round(chance.triangular(NODES[0], NODES[1], NODES[0]))
    # Half of the meshes ask samples of candidates, as large ones do: some at all times, some while enough are alive.
    announce_up_to = chance.choice((LARGE_ABOVE, LARGE_ABOVE, 1, max(1, count * 3 // 4)))
    return tuple(_draw(chance, index, Scheduler(announce_up_to=announce_up_to)) for index in range(count))


def _draw(chance: random.Random, index: int, scheduler: Scheduler) -> MachineSpec:
    size = chance.randrange(len(CPU_M))
    zone = chance.choice(ZONES)
    roles = () if index >= KEEPERS_MIN and chance.random() < LAPTOPS else (ROLE_KEEPER,)
    taints = (DEDICATED,) if chance.random() < 0.1 else ()
    caps = Caps(cpu_m=CPU_M[size] // 2, pods=chance.randint(2, 6)) if chance.random() < 0.1 else Caps()
    labels = {"disk": chance.choice(("ssd", "hdd")), "size": str(size)}
    site = f"site{chance.randrange(3)}"
    settings = {"scheduler": scheduler}
    spec = machine(f"n{index}", settings, roles=roles, taints=taints, caps=caps, site=site, zone=zone, labels=labels)
    return replace(spec, cpu_m=CPU_M[size], mem_mb=chance.choice(MEM_MB), storage_mb=chance.choice((20_000, 100_000)))
