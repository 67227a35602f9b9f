"""Only what places tasks, of thousands of nodes, under one virtual clock and one seed.

**Real**, the very objects of an agent: the dispatcher, the caller (sampling, awards, digests), the bidder, the claims
and the replicas of leases with their signed verdicts, the executor with its reservations, the journal and its audience.

**Modelled**: the network (each message takes `link_s`; nothing is lost, sealed or encoded outside of signed
statements), cryptography (`FakeCrypto`), membership (all know who lives; a summary is known to all `SUMMARY_S` after it
changed), custody (manifests open at once), the runtime (a pod starts after `DEPLOY_S`), and the steward: tasks are made
as it makes them and handed to its node's caller, without a reconciler. Every node has every workload's record.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from beemesh.custody.local_copies import LocalCopies
from beemesh.dht.claims import Claims
from beemesh.dht.compare_and_swap import LeaseReplica
from beemesh.dispatch import Dispatcher
from beemesh.effects import (
    Answered,
    Asked,
    Cancel,
    Effects,
    JobFinished,
    Notify,
    Now,
    Received,
    Reply,
    Request,
    Run,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.errors import Untrusted
from beemesh.events import (
    Delivered,
    DeployPod,
    ManifestOpened,
    OpenManifest,
    PodsObserved,
    PublishTask,
    ReservationsChanged,
    TaskWon,
)
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import Digest, NodeId
from beemesh.intents.record import SIGNED_KIND, Intent, node_key, workload_key
from beemesh.membership.roster import Roster
from beemesh.membership.summaries import Summary
from beemesh.scheduling.auction.bidding import Bidder
from beemesh.scheduling.auction.calling import Caller
from beemesh.scheduling.audience import Audience
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.execution.executor import Executor
from beemesh.scheduling.journal import Journal
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.messages import TASK_KIND, Bid, Lease, LeaseProof, Offer, SignedBid, Task
from beemesh.scheduling.score import Score
from beemesh.scheduling.taskbook import TaskBook
from beemesh.scheduling.tasks import make_task
from beemesh.secret import SecretBytes
from beemesh.settings.model import NodeIdentity, NodeSettings
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.reconciler import StartReplica
from beemesh.workloads.record import Requirements, Revision, Sealing, Workload
from simulator.crypto import FakeCrypto
from simulator.placement_host import Host, Machine, MeshView, Placed

START_WALL_MS = 1_800_000_000_000
WARM_UP_S = 40.0
"""Replicas of leases that were just started vote only after this."""
SUMMARY_S = 2.0
"""From a change until all know the new summary: 0.3 s to settle, then rumour in a mesh of 1,000 at its defaults."""
DEPLOY_S = 0.2
MEASURED_S = 5.0
"""A machine's load is read so often."""
ENTRIES_KEPT = 64
"""Tasks that a node remembers for explanations; an agent's 2,000 would fill this machine's memory a thousand times."""

MESH = "placement"


class _Surroundings:
    """Stand-in for custody and topics on one host, and the ear of the simulation; it hears first who won."""

    room = "surroundings"
    handles: tuple[type, ...] = ()
    listens: tuple[type, ...] = (OpenManifest, TaskWon, ReservationsChanged)
    tables: tuple[str, ...] = ()

    def __init__(self, mesh: PlacementMesh, index: int) -> None:
        self._mesh, self._index = mesh, index

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing."""

    def start(self, now: Now) -> Effects:
        """Nothing."""
        return []

    def publish(self, topic: str, message: msgspec.Struct, now: Now) -> Effects:
        """Everybody hears it, at the price of one payload each."""
        self._mesh.broadcast(self._index, topic, message)
        return [Notify(Delivered(topic, message, self._mesh.hosts[self._index].node_id))]

    def handle(self, event: Any, now: Now) -> Effects:
        """Manifests open at once; the rest is written down."""
        match event:
            case OpenManifest(ref=ref):
                return [Notify(ManifestOpened(ref, SecretBytes(b"plaintext")))]
            case TaskWon(task=task):
                self._mesh.won(self._index, task)
            case ReservationsChanged():
                self._mesh.hosts[self._index].reserved = event
                self._mesh.summarize_soon(self._index)
        return []


class PlacementMesh:
    """The whole mesh."""

    def __init__(
        self,
        machines: list[Machine],
        seed: int = 0,
        *,
        link_s: float = 0.005,
        all_knowing: bool = False,
        work_s: float = 0.0,
        liars_lie_in_summaries: bool = False,
    ) -> None:
        """`all_knowing`: compare each winner with the best of all nodes. `work_s`: pods end after so much work at full
        speed; 0 for pods that stay. Machines that lie bid as if they were idle, whatever they run."""
        self.random = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        self.link_s, self.all_knowing, self.work_s = link_s, all_knowing, work_s
        self.liars_lie_in_summaries = liars_lie_in_summaries
        self.now_s = 0.0
        self.view = MeshView()
        self.view.rtt = 2 * link_s
        self.intents: dict[str, tuple[Intent, Signed]] = {}
        self.workloads: dict[str, tuple[Workload, Signed]] = {}
        self.tasks: dict[str, Placed] = {}
        self.sent: Counter[str] = Counter()
        self.handled = 0
        self._heap: list[tuple[float, int, int, Any]] = []
        self._serial = itertools.count(1)
        self._tokens: dict[int, tuple[int, int]] = {}
        self._ca, self._operator = FakeCrypto(b"ca"), FakeCrypto(b"operator")
        self.roster = Roster(MESH, self._ca.sign_key)
        self.hosts = [self._host(index, machine) for index, machine in enumerate(machines)]
        self.by_id = {host.node_id: host.index for host in self.hosts}
        self.view.settle(self.by_id)
        for host in self.hosts:
            self._start(host)
        self.run(WARM_UP_S)

    # --- making ---------------------------------------------------------------------------------------------------

    def _host(self, index: int, machine: Machine) -> Host:
        crypto = FakeCrypto(f"host {index}".encode())
        node_id = NodeId(crypto.signer_id)
        year_ms = 365 * 86_400_000
        card = Membership(
            mesh=MESH,
            name=f"h{index}",
            node_id=node_id,
            sign_key=crypto.sign_key,
            open_key=crypto.open_key,
            addresses=("127.0.0.1",),
            gossip_port=7946,
            api_port=7947,
            serial=1,
            signed_at_ms=START_WALL_MS - year_ms,
            not_after_ms=START_WALL_MS + year_ms,
            zone=f"z{index % 3}",
        )
        body = msgspec.msgpack.encode(card)
        signed_at = START_WALL_MS - year_ms
        self.roster.apply(Intent(MESH, "membership", node_key(card.name), 1, self._ca.signer_id, signed_at, body))
        return Host(index, node_id, crypto, machine)

    def _start(self, host: Host) -> None:
        view: Any = self.view
        chance = random.Random(f"{self.random.random()}")  # noqa: S311
        settings = NodeSettings(mesh=MESH, node=NodeIdentity(name=f"h{host.index}"))
        local = LocalWork(settings.reserve, settings.policies)
        numbers = itertools.count(1)

        def number() -> int:
            return next(numbers)

        me, roster, crypto, intents = host.node_id, self.roster, host.crypto, self.intents.get
        around = _Surroundings(self, host.index)
        judge = Judge(me, roster, view, settings, local, intents, Disruption(_no_budgets))
        bidder = Bidder(me, roster, view, crypto, chance, settings, judge, intents, TaskBook(ENTRIES_KEPT))
        parts: tuple[Any, ...] = (
            around,
            LeaseReplica(me, roster, crypto, intents, view.is_alive),
            Claims(me, roster, crypto, chance, number),
            Executor(me, view, chance, settings, local, judge, intents, LocalCopies(crypto), _nobody_orders, number),
            bidder,
            Caller(me, roster, view, crypto, chance, settings),
            Journal(me, roster, crypto, Audience(me, roster, view, bidder.book.get), number),
        )
        host.judge = judge.judge
        host.dispatcher = Dispatcher(me, parts, around)
        self._carry(host, host.dispatcher.start(self.now))
        self._hand(host, host.machine.observed())
        self._hand(host, PodsObserved(()))
        self._summarize(host)

    def apply(self, name: str, replicas: int, requirements: Requirements, **wishes: Any) -> str:
        """An operator's record that every node knows; its workload id."""
        revision = Revision(1, Digest(b"m" * 32), 1, Sealing("shamir", 1, 1, (), b"c" * 32), (), b"f")
        workload = Workload(
            kind="Deployment",
            namespace="default",
            name=name,
            replicas=replicas,
            revisions=(revision,),
            requirements=requirements,
            restart="with-peers",
            **wishes,
        )
        key = workload_key(workload.workload_id)
        body = msgspec.msgpack.encode(workload)
        intent = Intent(MESH, "workload", key, 1, self._operator.signer_id, START_WALL_MS, body)
        signed = sign_statement(self._operator, SIGNED_KIND, intent)
        self.intents[key] = intent, signed
        self.workloads[workload.workload_id] = workload, signed
        return workload.workload_id

    def publish(self, steward: int, workload_id: str, replica: int, avoid: tuple[NodeId, ...] = ()) -> Placed:
        """A steward wants one replica."""
        workload, signed = self.workloads[workload_id]
        task = make_task(workload, signed, StartReplica(1, replica, 1, avoid), self.now.wall_ms, self.random)
        placed = self.tasks[task.task_id] = Placed(task, steward, self.now_s)
        host = self.hosts[steward]
        self._hand(host, PublishTask(task, sign_statement(host.crypto, TASK_KIND, task)))
        return placed

    def observe(self, index: int) -> None:
        """A machine reads its own figures."""
        self._hand(self.hosts[index], self.hosts[index].machine.observed())

    # --- running --------------------------------------------------------------------------------------------------

    @property
    def now(self) -> Now:
        """This moment."""
        return Now(self.now_s, START_WALL_MS + int(self.now_s * 1000))

    def run(self, seconds: float) -> None:
        """Advance the clock."""
        end_s, heap = self.now_s + seconds, self._heap
        while heap and heap[0][0] <= end_s:
            self.now_s, serial, index, event = heapq.heappop(heap)
            host = self.hosts[index]
            if type(event) is TimerFired:
                if host.timers.get(event.key) != serial:
                    continue
                del host.timers[event.key]
            elif type(event) is tuple:
                self._happen(host, event, serial)
                continue
            self._hand(host, event)
        self.now_s = end_s

    def _happen(self, host: Host, event: tuple[Any, ...], serial: int) -> None:
        """What the modelled part of a host does."""
        match event:
            case ("summary",):
                host.telling = False
                self._summarize(host)
            case ("measure",):
                host.measuring = False
                used = sum(pod[1] for pod in host.running.values())
                self._hand(host, host.machine.observed(used))
                self.summarize_soon(host.index)
            case ("deployed", job_id, job):
                self._deployed(host, job_id, job)
            case ("worked",) if serial == host.work_serial:
                self._work(host)

    def _hand(self, host: Host, event: Any) -> None:
        self.handled += 1
        self._carry(host, host.dispatcher.dispatch(event, self.now))

    def _at(self, at_s: float, index: int, event: Any) -> int:
        serial = next(self._serial)
        heapq.heappush(self._heap, (at_s, serial, index, event))
        return serial

    def _carry(self, host: Host, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case Cancel(key=key):
                    host.timers.pop(key, None)
                case Schedule(key=key, at_boot_s=at_s):
                    host.timers[key] = self._at(at_s, host.index, TimerFired(key))
                case Send(to=to, message=message):
                    self._count(message)
                    received = Received(host.node_id, self._as_said(host, message))
                    self._at(self.now_s + self.link_s, self.by_id[to], received)
                case Request(request_id=request_id, to=to, message=message):
                    self._count(message)
                    token = next(self._serial)
                    self._tokens[token] = host.index, request_id
                    self._at(self.now_s + self.link_s, self.by_id[to], Asked(host.node_id, token, message))
                case Reply(token=token, message=message):
                    self._count(message)
                    asker, request_id = self._tokens.pop(token)
                    self._at(self.now_s + self.link_s, asker, Answered(request_id, host.node_id, message))
                case Run(job_id=job_id, job=DeployPod() as job):
                    self._at(self.now_s + DEPLOY_S, host.index, ("deployed", job_id, job))

    def _count(self, message: msgspec.Struct | None) -> None:
        self.sent[type(message).__name__] += 1
        if type(message) is Offer and message.bid is not None and message.task_id in self.tasks:
            self.tasks[message.task_id].bids += 1

    def broadcast(self, author: int, topic: str, message: msgspec.Struct) -> None:
        """A topic's message: a payload for each of the others, who have it after three links."""
        self.sent[f"topic {type(message).__name__}"] += len(self.hosts) - 1
        if isinstance(message, SignedBid):
            task_id = msgspec.msgpack.decode(message.bid.body, type=Bid).task_id
            self.tasks[task_id].bids += 1
        told = Delivered(topic, message, self.hosts[author].node_id)
        for host in self.hosts:
            if host.index != author:
                self._at(self.now_s + 3 * self.link_s, host.index, told)

    # --- what is modelled -----------------------------------------------------------------------------------------

    def summarize_soon(self, index: int) -> None:
        """Something changed that all will know after a while."""
        host = self.hosts[index]
        if not host.telling:
            host.telling = True
            self._at(self.now_s + SUMMARY_S, index, ("summary",))

    def _summarize(self, host: Host) -> None:
        machine = host.machine
        used = sum(pod[1] for pod in host.running.values())
        seen = machine.observed(used)
        lies = machine.lies and self.liars_lie_in_summaries
        self.view.summaries[host.node_id] = Summary(
            host.node_id,
            self.handled,
            self.now.wall_ms,
            cpu_m_total=seen.cpu_m_total,
            cpu_m_reserved=0 if lies else host.reserved.cpu_m,
            mem_mb_total=seen.mem_mb_total,
            mem_mb_free=seen.mem_mb_total if lies else seen.mem_mb_free,
            mem_mb_reserved=0 if lies else host.reserved.mem_mb,
            storage_mb_total=seen.storage_mb_total,
            storage_mb_free=seen.storage_mb_free,
            cpu_load=0.0 if lies else seen.cpu_load,
        )

    def _as_said(self, host: Host, message: msgspec.Struct) -> msgspec.Struct:
        """A liar's bid says that it is idle."""
        if not host.machine.lies or not isinstance(message, Offer) or message.bid is None:
            return message
        bid = msgspec.structs.replace(message.bid, score=0.999, reasons={"crowd": 0.0})
        return msgspec.structs.replace(message, bid=bid)

    def won(self, index: int, task: Task) -> None:
        """A node holds the lease of a task; nothing of it is reserved yet."""
        placed = self.tasks[task.task_id]
        placed.grants += 1
        if placed.grants > 1:
            return
        placed.granted_s, placed.winner = self.now_s, index
        if self.all_knowing:
            placed.score = self._true_score(self.hosts[index], task)
            placed.best = max(self._true_score(host, task) for host in self.hosts)

    def _true_score(self, host: Host, task: Task) -> float:
        verdict = host.judge(task, (), self.now.wall_ms)
        return verdict.total if isinstance(verdict, Score) else 0.0

    def _deployed(self, host: Host, job_id: str, job: DeployPod) -> None:
        task = job.task
        report = ReplicaReport(
            pod=job.pod,
            workload_id=task.workload_id,
            namespace=task.namespace,
            kind=task.kind,
            revision=task.revision,
            replica=task.replica,
            node_id=host.node_id,
            phase="Running",
            ready=True,
            task_id=task.task_id,
            fence=job.fence,
        )
        self.tasks[task.task_id].deployed_s = self.now_s
        self._hand(host, JobFinished(job_id, report))
        if self.work_s:
            self._advance(host)
            host.running[task.task_id] = [self.work_s, task.reqs.cpu_m, report]
            self._plan_work(host)

    def _advance(self, host: Host) -> None:
        """Everything at work here got on since it was last looked at."""
        done = (self.now_s - host.worked_s) * host.speed()
        for pod in host.running.values():
            pod[0] -= done
        host.worked_s = self.now_s

    def _plan_work(self, host: Host) -> None:
        if not host.measuring:
            host.measuring = True
            self._at(self.now_s + self.random.uniform(0, MEASURED_S), host.index, ("measure",))
        if host.running:
            soonest = min(pod[0] for pod in host.running.values()) / max(1e-6, host.speed())
            host.work_serial = self._at(self.now_s + max(1e-6, soonest), host.index, ("worked",))

    def _work(self, host: Host) -> None:
        self._advance(host)
        for task_id, (left_s, _, report) in list(host.running.items()):
            if left_s <= 1e-6:
                del host.running[task_id]
                self.tasks[task_id].finished_s = self.now_s
                ended = msgspec.structs.replace(report, phase="Succeeded", ready=False)
                self._hand(host, PodsObserved((ended,), complete=False))
        self._plan_work(host)

    # --- what it came to ------------------------------------------------------------------------------------------

    def placed(self) -> Iterator[Placed]:
        """The tasks whose lease was granted."""
        return (each for each in self.tasks.values() if each.winner >= 0)

    def messages(self) -> int:
        """All that were sent, the copies of topics included."""
        return sum(self.sent.values())


def _no_budgets(_prefix: str) -> tuple[tuple[Intent, Signed], ...]:
    return ()


def _nobody_orders(proof: LeaseProof, key: str, wall_ms: int) -> tuple[Lease, bool]:
    raise Untrusted("nothing is stopped by order here")
