"""One host of `simulator.placement_mesh`: its machine, what all know of it, and what it runs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from beemesh.events import ReservationsChanged, ResourcesObserved
from beemesh.ids import NodeId
from beemesh.membership.summaries import Summary
from beemesh.membership.view import LARGE_ABOVE
from beemesh.scheduling.messages import Task
from simulator.crypto import FakeCrypto


class MeshView:
    """Who lives, and what each said last, as all nodes see it."""

    def __init__(self) -> None:
        self._alive: tuple[NodeId, ...] = ()
        self._present: frozenset[NodeId] = frozenset()
        self.summaries: dict[NodeId, Summary] = {}
        self.rtt = 0.0

    def settle(self, alive: Iterable[NodeId]) -> None:
        """These live."""
        self._alive = tuple(sorted(alive))
        self._present = frozenset(self._alive)

    def alive(self) -> tuple[NodeId, ...]:
        """As `View.alive`."""
        return self._alive

    @property
    def is_large(self) -> bool:
        """As `View.is_large`."""
        return len(self._alive) > LARGE_ABOVE

    def is_alive(self, node_id: bytes) -> bool:
        """As `View.is_alive`."""
        return node_id in self._present

    def status(self, node_id: bytes) -> str:
        """As `View.status`."""
        return "alive" if node_id in self._present else "dead"

    def summary(self, node_id: NodeId) -> Summary | None:
        """As `View.summary`."""
        return self.summaries.get(node_id)

    def rtt_s(self, node_id: bytes) -> float | None:
        """As `View.rtt_s`."""
        return self.rtt


@dataclass(slots=True)
class Machine:
    """What a host really has. `busy` is the share of its cores that others than pods use."""

    cpu_m: int = 4_000
    mem_mb: int = 16_384
    busy: float = 0.1
    mem_free_mb: int = 14_000
    lies: bool = False

    def observed(self, cpu_m_used: int = 0) -> ResourcesObserved:
        """The shell's reading."""
        load = min(1.0, self.busy + cpu_m_used / self.cpu_m)
        return ResourcesObserved(self.cpu_m, self.mem_mb, 200_000, round(load, 3), self.mem_free_mb, 150_000)


@dataclass(slots=True)
class Host:
    """One node."""

    index: int
    node_id: NodeId
    crypto: FakeCrypto
    machine: Machine
    dispatcher: Any = None
    judge: Any = None
    timers: dict[Hashable, int] = field(default_factory=dict)
    reserved: ReservationsChanged = field(default_factory=lambda: ReservationsChanged(0, 0, 0))
    telling: bool = False
    measuring: bool = False
    running: dict[str, Any] = field(default_factory=dict)
    """Pods at work, by task: [work left in seconds at full speed, thousandths of a core, its report]."""
    worked_s: float = 0.0
    work_serial: int = 0

    def speed(self) -> float:
        """Share of full speed that each pod gets: what its neighbours and the owner's own use leave of the cores."""
        asked = sum(pod[1] for pod in self.running.values())
        left = self.machine.cpu_m * (1.0 - self.machine.busy)
        return min(1.0, left / asked) if asked else 1.0


@dataclass(slots=True)
class Placed:
    """What became of one task."""

    task: Task
    steward: int
    published_s: float
    granted_s: float = -1.0
    winner: int = -1
    grants: int = 0
    score: float = 0.0
    best: float = 0.0
    """The best score that an all-knowing scheduler finds at the same moment; 0 when it was not asked."""
    deployed_s: float = -1.0
    finished_s: float = -1.0
    bids: int = 0
