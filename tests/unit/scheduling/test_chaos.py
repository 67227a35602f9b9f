"""Random accidents on a mesh, then peace: everything wanted runs once, whatever happened before."""

from __future__ import annotations

import random

import msgspec
import pytest

from beemesh.workloads.record import Requirements, Strategy
from tests.unit.scheduling.samples import workload
from tests.unit.scheduling.world import World

NAMES = ("a", "b", "c", "d", "e")


NAMESAKE = workload(kind="StatefulSet", replicas=5)
"""A workload whose pods have the names of the deployment's."""


class Chaos:
    """A mesh with one deployment and its namesake, and a source of accidents."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(NAMES, seed)
        self.seq = self.number = 1
        self.replicas = 3
        self.deleted = False
        self.apply()

    def apply(self) -> None:
        """The operator wants something else."""
        self.deleted = False
        strategy = Strategy(max_surge=self.rng.randrange(2), max_unavailable=1)
        wanted = workload(number=self.number, replicas=self.replicas, strategy=strategy)
        self.world.apply(wanted, self.seq)
        alike = msgspec.structs.replace(NAMESAKE, revisions=wanted.revisions, strategy=strategy)
        self.world.apply(alike, self.seq)
        self.seq += 1

    def slots(self, workload_id: str) -> list[tuple[int, int]]:
        """(revision, replica) of all that runs of a workload."""
        mine = [each for each in self.world.pods() if each.workload_id == workload_id]
        return sorted((each.revision, each.replica) for each in mine)

    def accident(self) -> None:
        """One of the things that happen."""
        node = self.world.nodes[self.rng.choice(NAMES)]
        match self.rng.randrange(7):
            case 0 | 1 if not node.dead:
                node.kill(power=self.rng.random() < 0.5)
            case 2 | 3 if node.dead:
                node.boot()
            case 4:
                self.number += 1
                self.apply()
            case 5:
                self.replicas = self.rng.randrange(1, 6)
                self.apply()
            case 6 if self.rng.random() < 0.3:
                self.world.delete(workload(), self.seq)
                self.seq += 1
                self.deleted = True

    def heal(self) -> None:
        """Everybody is on, and time passes."""
        for node in self.world.nodes.values():
            if node.dead:
                node.boot()
        self.world.run(90)


@pytest.mark.parametrize("seed", range(12))
def test_after_any_accidents_it_settles(seed: int) -> None:
    """Machines and agents die and return while the operator changes the deployment: in the end each replica of the
    newest revision runs exactly once, nothing else does, and every node's books agree with what it runs."""
    chaos = Chaos(seed)
    for _ in range(25):
        chaos.world.run(chaos.rng.uniform(0.0, 4.0))
        chaos.accident()
    chaos.heal()
    expected = [] if chaos.deleted else [(chaos.number, replica) for replica in range(chaos.replicas)]

    assert chaos.slots(workload().workload_id) == expected
    assert chaos.slots(NAMESAKE.workload_id) == [(chaos.number, replica) for replica in range(5)]
    for node in chaos.world.nodes.values():
        count = len(node.runtime)
        assert node.local.totals() == Requirements(cpu_m=100 * count, mem_mb=64 * count)
        assert len(node.disk.get("placements", {})) <= count
        assert not node.executor.pods.deploying
        assert not node.executor.pods.stopping
