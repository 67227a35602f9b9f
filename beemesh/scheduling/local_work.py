"""What this node runs or has promised to run, and what is left: a read model.

The executor alone writes it; bidding reads it. A promise counts from the moment the lease is won, before anything of
it shows in the machine's own figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from beemesh.events import ResourcesObserved
from beemesh.identity.membership_card import Caps
from beemesh.scheduling.eligibility import Resources
from beemesh.scheduling.messages import Task
from beemesh.scheduling.neighbours import Neighbour
from beemesh.scheduling.preemption import Candidate, Shortage
from beemesh.settings.model import Policies, Reserve
from beemesh.workloads.record import PodTerm, Qos, Requirements


@dataclass(frozen=True, slots=True)
class Promise:
    """One replica that is here or on its way. `started` once its needs show in what the machine measures."""

    workload_id: str
    revision: int
    replica: int
    reqs: Requirements
    started: bool = False
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the pod, for what others want beside them."""
    repels: tuple[PodTerm, ...] = ()
    """What it wants not beside it on this host."""
    qos: Qos = field(default_factory=Qos)
    since_ms: int = 0
    """When its task was published or it was started (wall time): which of two is the younger."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """What some promises hold together; `coming` is the part that does not show in the machine's figures yet."""

    held: Requirements
    coming: Requirements
    ports: frozenset[tuple[str, int]]

    @classmethod
    def of(cls, promises: Collection[Promise]) -> _Sums:
        ports = {(port.protocol, port.number) for each in promises for port in each.reqs.ports if port.number}
        coming = total(each.reqs for each in promises if not each.started)
        return cls(total(each.reqs for each in promises), coming, frozenset(ports))


class LocalWork:
    """Promises by pod (`<namespace>/<pod name>`), over the machine's last reading."""

    def __init__(self, reserve: Reserve, policies: Policies) -> None:
        self.observed: ResourcesObserved | None = None
        """None until the shell has looked, and the engine has listed its pods: a node that does not know itself takes
        nothing."""
        self._reserve = reserve
        self._policies = policies
        self._promises: dict[str, Promise] = {}
        self._leaving: set[str] = set()
        """Pods that were evicted and are not gone yet."""
        self._all: _Sums | None = None
        """Of all promises; None after a change. Many tasks are judged for one that is promised."""

    def promise(self, pod: str, promise: Promise) -> None:
        """Reserve for a pod, or note that it started."""
        self._promises[pod] = promise
        self._all = None

    def withdraw(self, pod: str) -> bool:
        """Give back what a pod held; whether it held anything."""
        self._leaving.discard(pod)
        self._all = None
        return self._promises.pop(pod, None) is not None

    def get(self, pod: str) -> Promise | None:
        """The promise for a pod."""
        return self._promises.get(pod)

    def siblings(self, workload_id: str, replica: int) -> int:
        """Other replicas of the workload that are promised here."""
        ordinals = {each.replica for each in self._promises.values() if each.workload_id == workload_id}
        return len(ordinals - {replica})

    def neighbours(self) -> Iterator[Neighbour]:
        """Everything that is promised here, as other pods see it."""
        for each in self._promises.values():
            yield Neighbour(each.namespace, each.workload_id, each.replica, each.labels, each.repels)

    def repels(self) -> bool:
        """Whether anything here wants not to be beside some others."""
        return any(each.repels for each in self._promises.values())

    def totals(self) -> Requirements:
        """The sum of all promises (without ports)."""
        return self._sums(()).held

    def resources(self, caps: Caps, also: Iterable[Requirements] = (), gone: Collection[str] = ()) -> Resources | None:
        """What there is and what is free, were `also` promised too and the pods `gone` not there; None before the
        first reading."""
        seen = self.observed
        if seen is None:
            return None
        extra = tuple(also)
        cpu_m, mem_mb, storage_mb = self._usable(seen, caps)
        free = self._free(seen, caps, extra, gone)
        most = self._policies.admission.max_pods
        return Resources(
            cpu_m_total=cpu_m,
            mem_mb_total=mem_mb,
            storage_mb_total=storage_mb,
            cpu_m_free=max(0, free.cpu_m),
            mem_mb_free=max(0, free.mem_mb),
            storage_mb_free=max(0, free.storage_mb),
            cpu_load=seen.cpu_load,
            pods=len(self._promises) + len(extra) - len(gone),
            pods_max=min(most, caps.pods) if caps.pods else most,
            ports_in_use=self._ports(seen, extra, gone),
        )

    def leave(self, pod: str) -> None:
        """A pod was evicted: its room is spoken for."""
        self._leaving.add(pod)

    @property
    def leaving(self) -> frozenset[str]:
        """Pods that were evicted and are not gone yet."""
        return frozenset(self._leaving)

    def candidates(self, task: Task, spares: Callable[[str], int]) -> list[Candidate]:
        """Those that would go for `task`: preemptible, running, less important, not of its workload, not going yet.
        `spares` tells of a workload how many of its replicas may be missing."""
        spared = Counter(promise.workload_id for name, promise in self._promises.items() if name in self._leaving)
        found = []
        for name, each in sorted(self._promises.items(), key=_youngest_first):
            may_go = each.started and each.qos.preemptible and each.qos.priority < task.qos.priority
            if may_go and each.workload_id != task.workload_id and name not in self._leaving:
                spared[each.workload_id] += 1
                guarded = spared[each.workload_id] > spares(each.workload_id)
                found.append(Candidate(name, each.reqs, each.qos.priority, each.since_ms, guarded))
        return found

    def shortage(self, reqs: Requirements, caps: Caps, also: Iterable[Requirements] = ()) -> Shortage | None:
        """What is missing for `reqs`, once those that were evicted are gone; None where no eviction would help."""
        seen, extra = self.observed, tuple(also)
        if seen is None or reqs.gpus:
            return None
        wanted = {(port.protocol, port.number) for port in reqs.ports if port.number}
        taken = wanted & self._ports(seen, extra, self._leaving)
        here = {(port.protocol, port.number) for each in self._staying(()) for port in each.reqs.ports}
        if taken - here:
            return None
        free = self._free(seen, caps, extra, self._leaving)
        most = self._policies.admission.max_pods
        most = min(most, caps.pods) if caps.pods else most
        return Shortage(
            cpu_m=max(0, reqs.cpu_m - free.cpu_m),
            mem_mb=max(0, reqs.mem_mb - free.mem_mb),
            storage_mb=max(0, max(1, reqs.storage_mb) - free.storage_mb),
            pods=max(0, len(self._staying(self._leaving)) + len(extra) + 1 - most),
            ports=frozenset(taken),
        )

    def _staying(self, gone: Collection[str]) -> list[Promise]:
        return [promise for name, promise in self._promises.items() if name not in gone]

    def _sums(self, gone: Collection[str]) -> _Sums:
        if gone:
            return _Sums.of(self._staying(gone))
        if self._all is None:
            self._all = _Sums.of(self._promises.values())
        return self._all

    def _free(
        self, seen: ResourcesObserved, caps: Caps, extra: tuple[Requirements, ...], gone: Collection[str]
    ) -> Requirements:
        """What is left of each amount, were `gone` not there; negative where more is promised than there is."""
        staying = self._sums(gone)
        held = total((staying.held, *extra))
        # The machine's own figures already contain what runs; what is on its way must be taken off them, and what goes
        # is given back.
        coming = total((staying.coming, *extra))
        going = total(self._promises[name].reqs for name in gone if name in self._promises)
        cpu_m, mem_mb, storage_mb = self._usable(seen, caps)
        mem_left = mem_mb - held.mem_mb
        if self._policies.overcommit.mem <= 1.0:
            mem_left = min(mem_left, seen.mem_mb_free - coming.mem_mb + going.mem_mb)
        storage_free = seen.storage_mb_free - self._reserve.disk_mb - coming.storage_mb + going.storage_mb
        storage_left = min(storage_mb - held.storage_mb, storage_free)
        return Requirements(cpu_m=cpu_m - held.cpu_m, mem_mb=mem_left, storage_mb=storage_left)

    def _usable(self, seen: ResourcesObserved, caps: Caps) -> tuple[int, int, int]:
        cpu_m = int(seen.cpu_m_total * (1 - self._reserve.cpu_percent / 100) * self._policies.overcommit.cpu)
        mem_mb = int(max(0, seen.mem_mb_total - self._reserve.mem_mb) * self._policies.overcommit.mem)
        storage_mb = max(0, seen.storage_mb_total - self._reserve.disk_mb)
        return (
            min(cpu_m, caps.cpu_m) if caps.cpu_m else cpu_m,
            min(mem_mb, caps.mem_mb) if caps.mem_mb else mem_mb,
            min(storage_mb, caps.storage_mb) if caps.storage_mb else storage_mb,
        )

    def _ports(
        self, seen: ResourcesObserved, extra: tuple[Requirements, ...], gone: Collection[str] = ()
    ) -> frozenset[tuple[str, int]]:
        freed = {
            (port.protocol, port.number)
            for name in gone
            if name in self._promises
            for port in self._promises[name].reqs.ports
        }
        listening = {("TCP", number) for number in seen.ports_in_use} - freed
        also = {(port.protocol, port.number) for reqs in extra for port in reqs.ports if port.number}
        return self._sums(gone).ports | listening | also


def _youngest_first(entry: tuple[str, Promise]) -> tuple[int, int, str]:
    """The order in which equals are evicted (`beemesh.scheduling.preemption`): the last of them are guarded."""
    name, promise = entry
    return promise.qos.priority, -promise.since_ms, name


def total(amounts: Iterable[Requirements]) -> Requirements:
    """The sum of amounts (without ports)."""
    cpu_m = mem_mb = storage_mb = gpus = 0
    for each in amounts:
        cpu_m += each.cpu_m
        mem_mb += each.mem_mb
        storage_mb += each.storage_mb
        gpus += each.gpus
    return Requirements(cpu_m=cpu_m, mem_mb=mem_mb, storage_mb=storage_mb, gpus=gpus)
