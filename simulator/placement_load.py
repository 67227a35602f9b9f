"""Machines and a stream of Deployments for `simulator.placement_mesh`: what its benches and its tests place."""

from __future__ import annotations

import random
from collections.abc import Iterator

from beemesh.workloads.record import Requirements
from simulator.placement_host import Machine
from simulator.placement_mesh import PlacementMesh

CORES = (2, 4, 8, 16)
REPLICAS = (1, 3, 5, 10, 20)
MEM_PER_CORE_MB = 4_096


def machines(number: int, seed: int = 1, *, liars: float = 0.0) -> list[Machine]:
    """Machines of four sizes, idle to well used by others (0 to 60 % of their cores); a share of `liars` among them."""
    chance = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
    made = []
    for _ in range(number):
        cores = chance.choice(CORES)
        mem_mb = cores * MEM_PER_CORE_MB
        busy = round(chance.uniform(0.0, 0.6), 3)
        free_mb = int(mem_mb * chance.uniform(0.4, 0.95))
        made.append(Machine(1000 * cores, mem_mb, busy, free_mb, lies=chance.random() < liars))
    return made


def stream(
    mesh: PlacementMesh,
    tasks: int,
    per_second: float,
    *,
    stewards: int = 10,
    cpu_m: tuple[int, ...] = (50, 100, 200),
    mem_mb: tuple[int, ...] = (64, 128, 256),
) -> Iterator[int]:
    """Deployments of 1 to 20 replicas, each from one of so many stewards, as a Poisson stream; yields the number of
    tasks published so far, after each Deployment."""
    chance = random.Random(f"{len(mesh.hosts)} {tasks}")  # noqa: S311
    seats = chance.sample(range(len(mesh.hosts)), stewards)
    published = 0
    while published < tasks:
        replicas = min(chance.choice(REPLICAS), tasks - published)
        needs = Requirements(cpu_m=chance.choice(cpu_m), mem_mb=chance.choice(mem_mb))
        workload = mesh.apply(f"w{published}", replicas, needs)
        steward = chance.choice(seats)
        for replica in range(replicas):
            mesh.publish(steward, workload, replica)
        published += replicas
        mesh.run(chance.expovariate(per_second / replicas))
        yield published
