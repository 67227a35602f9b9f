"""What a scheduling trial asks of its machines beyond sizes: importance, disk, evenness; and what their owners allow.

All of it is drawn by a stream of chance of its own, so that the rest of a trial is drawn as it was without.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from beemesh.settings.model import Overcommit
from beemesh.workloads.node_keys import LABEL_HOSTNAME, LABEL_ZONE
from beemesh.workloads.policies import PriorityClass
from beemesh.workloads.record import Expression, PodTerm, Qos, Strategy, Workload
from simulator.operator import deployment
from simulator.spec import MachineSpec

PART = 0.4
"""Trials with each of these."""

CROWDED_PART = 0.6
CROWDED_AMONG_MAX = 32
"""The larger meshes stay roomy: to fill one takes hundreds of replicas, and as many seconds of a core."""

CLASSES = (PriorityClass("p10", 10), PriorityClass("p100", 100), PriorityClass("patient", 50, preempts=False))
"""What operators call important; whoever names none has priority 0."""

PATIENT_PART = 0.15
"""Workloads of some importance that wait for room, and evict nobody."""

PREEMPTIBLE_PART = 0.3
PREEMPTIBLE_PART_CROWDED = 0.8
"""Workloads whose replicas may be evicted."""

STORAGE_MB = (0, 0, 200, 3_000, 9_000)
"""Two of the largest fill a machine with a small disk."""

SPREAD_PART = 0.3
"""Workloads that want to be spread, in trials where any does."""

CPU_FACTORS = (0.5, 1.0, 1.5, 3.0)
MEM_FACTORS = (0.7, 1.0, 1.0, 1.5)

NARROW_CPU_M = (500, 1000)
"""What owners give of each machine in a crowded trial: little, so that a few dozen replicas fill the mesh."""

FILLERS = 6
"""Workloads that fill a crowded mesh, handed in one after the other in the first seconds; half as many again as there
is room for, since some do not start, or end."""

FILLED_EVERY_S = 0.3

FILLER_PART = 0.48
"""Part of such a machine that one replica of a filler takes: two fill it."""

CROWDED_LOAD = (1.0, 1.5)
"""What is handed in is to fit a narrow machine that is empty, and none that is full."""


@dataclass(slots=True)
class Demand:
    """The wishes of one trial. `narrow_cpu_m` is 0 where nothing is crowded."""

    chance: random.Random
    narrow_cpu_m: int = 0
    stores: bool = False
    spreads: bool = False
    overcommits: bool = False

    @property
    def preemptible_part(self) -> float:
        """Part of the workloads whose replicas may be evicted."""
        return PREEMPTIBLE_PART_CROWDED if self.narrow_cpu_m else PREEMPTIBLE_PART

    def load(self, drawn: float) -> float:
        """What a replica needs, beside what its draft says."""
        least, most = CROWDED_LOAD
        return max(least, min(drawn, most)) if self.narrow_cpu_m else drawn

    def owned(self, fleet: Sequence[MachineSpec]) -> tuple[MachineSpec, ...]:
        """The machines, with what their owners allow."""
        return tuple(self._owned(spec) for spec in fleet)

    def qos(self, priority: int, *, preemptible: bool) -> Qos:
        """How important a workload is: by a class, as the mesh demands."""
        names = {found.value: found for found in CLASSES}
        if priority == 0:
            return Qos(preemptible=preemptible)
        found = names[50] if self.chance.random() < PATIENT_PART else names[priority]
        return Qos(found.value, preemptible, preempts=found.preempts, priority_class=found.name)

    def wished(self, draft: Workload) -> Workload:
        """A new workload with what else it wants."""
        if self.stores:
            storage_mb = self.chance.choice(STORAGE_MB)
            draft = msgspec.structs.replace(
                draft, requirements=msgspec.structs.replace(draft.requirements, storage_mb=storage_mb)
            )
        if not self.spreads or self.chance.random() >= SPREAD_PART:
            return draft
        topology, weight = self.chance.choice((LABEL_ZONE, LABEL_HOSTNAME)), self.chance.choice((0, 0, 100))
        selector = (Expression("app", "In", (draft.name,)),)
        term = PodTerm("spread", topology, selector, weight, max_skew=self.chance.randint(1, 2))
        constraints = msgspec.structs.replace(draft.constraints, pod_terms=(term,))
        return msgspec.structs.replace(draft, constraints=constraints, pod_labels={"app": draft.name})

    def fillers(self, machines: int) -> Iterator[tuple[float, Workload]]:
        """(when, what) fills a crowded mesh: nothing in one that is not."""
        for number in range(FILLERS if self.narrow_cpu_m else 0):
            qos = self.qos(self.chance.choice((0, 0, 10)), preemptible=True)
            tolerant, surge = self.chance.random() < 0.6, self.chance.randint(1, 3)
            cpu_m, replicas = round(FILLER_PART * self.narrow_cpu_m), max(1, machines // 2)
            strategy = Strategy(max_surge=surge)
            draft = deployment(
                f"filler{number}", replicas, cpu_m=cpu_m, mem_mb=64, tolerant=tolerant, qos=qos, strategy=strategy
            )
            yield number * FILLED_EVERY_S, draft

    def _owned(self, spec: MachineSpec) -> MachineSpec:
        if self.overcommits:
            factors = Overcommit(cpu=self.chance.choice(CPU_FACTORS), mem=self.chance.choice(MEM_FACTORS))
            policies = msgspec.structs.replace(spec.settings.policies, overcommit=factors)
            spec = replace(spec, settings=msgspec.structs.replace(spec.settings, policies=policies))
        if self.narrow_cpu_m:
            caps = msgspec.structs.replace(spec.card.caps, cpu_m=self.narrow_cpu_m)
            spec = replace(spec, card=msgspec.structs.replace(spec.card, caps=caps))
        return spec


def draw_demand(seed: int, machines: int) -> Demand:
    """What one trial of so many machines asks for."""
    chance = random.Random(f"demand {seed}")  # noqa: S311 - a simulation wants chance that repeats
    narrow_cpu_m, crowds = chance.choice(NARROW_CPU_M), chance.random() < CROWDED_PART
    return Demand(
        chance,
        narrow_cpu_m=narrow_cpu_m if crowds and machines <= CROWDED_AMONG_MAX else 0,
        stores=chance.random() < PART,
        spreads=chance.random() < PART,
        overcommits=chance.random() < PART,
    )
