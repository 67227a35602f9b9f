"""One simulated machine: its disk, its clocks and its pods outlive its agent."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from beemesh.composition import Composition
from beemesh.crypto import Crypto
from beemesh.effects import Now
from beemesh.events import DeployPod, ResourcesObserved, RunRight
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed
from beemesh.membership.held_clock import HeldClock
from beemesh.workloads.observation import MANIFEST_MARK_BYTES, ReplicaReport
from simulator.ailing_disk import AilingDisk
from simulator.spec import MachineSpec


@dataclass(slots=True)
class Machine:
    """`boot_offset_s` and `skew_ms` make its clocks its own: nothing may compare boot clocks of two machines."""

    index: int
    spec: MachineSpec
    crypto: Crypto
    membership: Membership
    card: Signed
    disk: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    pods: dict[str, ReplicaReport] = field(default_factory=dict)
    run_rights: dict[str, float] = field(default_factory=dict)
    """Until when, by its boot clock, each pod of it may run that must not be doubled, as its agent last said."""
    composition: Composition | None = None
    life: int = 0
    timers: dict[Hashable, int] = field(default_factory=dict)
    boot_offset_s: float = 0.0
    skew_ms: int = 0
    clock: HeldClock = field(default_factory=HeldClock)
    """How its agent reads its wall clock; the usual one holds nothing."""
    is_member: bool = True
    """Whether it belongs to the mesh: it has joined, and nobody has removed it."""
    paused_until_s: float = 0.0
    waiting: list[Callable[[], None]] = field(default_factory=list)
    """What happens once it is awake."""
    wipes: int = 0
    """How often it lost its disk."""
    sent: int = 0
    """Datagrams that its agents sent so far, and their bytes."""
    sent_bytes: int = 0

    ailing: AilingDisk | None = None
    """What is wrong with its disk; `disk` is what it has for good."""
    stuck_until_s: float = 0.0
    """Until then its container engine fails to end pods."""
    is_listed: bool = False
    """Whether its agent has seen yet what its runtime runs."""

    @property
    def is_up(self) -> bool:
        """Whether its agent runs."""
        return self.composition is not None

    @property
    def has_agent(self) -> bool:
        """Whether a supervisor starts its agent again: it has joined, and nobody has unplugged it; a removed one goes
        on, and must stop what it may not run any more."""
        return self.is_member or bool(self.disk)

    def now(self, now_s: float, wall_ms: int) -> Now:
        """This moment by its own clocks."""
        boot_s = now_s + self.boot_offset_s
        return Now(boot_s, self.clock.read(wall_ms + self.skew_ms, boot_s))

    def idle(self) -> ResourcesObserved:
        """What it has, and is free where nothing else runs."""
        spec = self.spec
        free = (spec.mem_mb * 3 // 4, spec.storage_mb * 4 // 5)
        return ResourcesObserved(spec.cpu_m, spec.mem_mb, spec.storage_mb, 0.1, *free)

    def note_right(self, right: RunRight) -> None:
        """Its agent says until when a pod may run."""
        if right.until_boot_s is None:
            self.run_rights.pop(right.pod, None)
        else:
            self.run_rights[right.pod] = right.until_boot_s

    def agree_clock(self, agreed_ms: int, now_s: float, wall_ms: int) -> None:
        """Its agent has heard what time it is."""
        self.clock.move_on(agreed_ms, wall_ms + self.skew_ms, now_s + self.boot_offset_s)

    def lose_disk(self) -> None:
        """All that its agent kept is gone."""
        self.disk.clear()
        self.wipes += 1

    def lose_power(self, now_s: float) -> None:
        """Its pods end, what was being started starts nowhere, and its boot clock starts anew."""
        self.pods = {}
        self.run_rights.clear()
        self.boot_offset_s = -now_s

    def begin(self, job: DeployPod, wall_ms: int, *, ready: bool = True) -> ReplicaReport:
        """A pod of it runs from now on."""
        task = job.task
        report = self.pods[job.pod] = ReplicaReport(
            pod=job.pod,
            workload_id=task.workload_id,
            namespace=task.namespace,
            kind=task.kind,
            revision=task.revision,
            replica=task.replica,
            node_id=self.membership.node_id,
            phase="Running",
            ready=ready,
            task_id=task.task_id,
            fence=job.fence,
            started_ms=wall_ms + self.skew_ms,
            manifest=task.manifest_ref[:MANIFEST_MARK_BYTES],
        )
        return report
