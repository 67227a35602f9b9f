"""Several nodes in one process under a virtual clock: the real protocols, joined by stand-ins for all around them.

Leases come from one all-knowing service that keeps every promise of the real one (exclusive, timed, fenced); manifests
open at once; pods start after a set time; messages take `LINK_S`.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from beemesh.custody.local_copies import LocalCopies
from beemesh.dispatch import Dispatcher
from beemesh.effects import (
    Answered,
    Asked,
    Cancel,
    Effects,
    Erase,
    JobFinished,
    Notify,
    Now,
    Received,
    Reply,
    Request,
    Run,
    Save,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.errors import Untrusted
from beemesh.events import (
    NOT_PERMITTED,
    Claim,
    Delivered,
    DeployPod,
    EmitEvent,
    IntentChanged,
    LeaseDenied,
    LeaseGranted,
    LeaseLost,
    ManifestDenied,
    ManifestOpened,
    MemberDown,
    MemberUp,
    OpenManifest,
    PodsObserved,
    ReleaseLease,
    ResourcesObserved,
    StopPod,
)
from beemesh.identity.signing import Signed, decode_body, sign_statement
from beemesh.ids import ULID_RANDOM_BYTES, NodeId, ulid
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.auction.bidding import Bidder
from beemesh.scheduling.auction.calling import Caller
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.execution.executor import Executor
from beemesh.scheduling.journal import EVENTS_MAX, Journal
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.leases import PLACEMENT_PREFIX, steward_key
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.messages import (
    EVENT_KIND,
    LEASE_KIND,
    TOPIC_EVENTS,
    Event,
    EventStatus,
    Lease,
    LeaseProof,
    SignedEvent,
    SignedTask,
    Task,
)
from beemesh.scheduling.stewardship.steward import Steward
from beemesh.scheduling.stewardship.upkeep import Upkeep
from beemesh.secret import SecretBytes
from beemesh.workloads.observation import MANIFEST_MARK_BYTES, ReplicaReport
from beemesh.workloads.record import Workload
from simulator.crypto import FakeCrypto
from tests.unit.scheduling.samples import CA, WALL_MS, card, membership_intent, record, settings, tombstone

LINK_S = 0.002
DEPLOY_S = 0.3
STOP_S = 0.1
DEAF_S = 0.003
"""A node that has just started lets no datagram in from those whom it has not pinged yet; streams it takes at once."""

PLENTY = ResourcesObserved(4000, 4096, 50_000, 0.1, 3500, 40_000)


class FakeLeases:
    """One service for all nodes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.held: dict[str, tuple[NodeId, float, int]] = {}
        """key → (holder, end, fence)"""
        self.fences: dict[str, int] = {}
        self.history: list[tuple[float, str, NodeId]] = []

    def claim(self, node: WorldNode, claim: Claim) -> None:
        """Grant or deny after a round trip."""
        now_s = self.world.now_s
        if node.cut_from_leases:
            self.world.later(2 * LINK_S, lambda: node.tell(LeaseDenied(claim.key, "too few replicas answered")))
            return
        holder, ends_s, fence = self.held.get(claim.key, (None, 0.0, 0))
        if holder is not None and holder != node.node_id and now_s < ends_s:
            denied = LeaseDenied(claim.key, "held", holder, ends_s - now_s)
            self.world.later(2 * LINK_S, lambda: node.tell(denied))
            return
        if self._is_for_another_task(node, claim):
            node.tell(LeaseDenied(claim.key, "this node holds it for another task", node.node_id))
            return
        if holder != node.node_id or now_s >= ends_s:
            fence = self.fences[claim.key] = self.fences.get(claim.key, 0) + 1
            self.history.append((now_s, claim.key, node.node_id))
        self.held[claim.key] = (node.node_id, now_s + claim.ttl_ms / 1000, fence)
        node.leases[claim.key] = claim
        self.world.later(2 * LINK_S, lambda: self._granted(node, claim, fence, renewed=False))

    def _is_for_another_task(self, node: WorldNode, claim: Claim) -> bool:
        holder, ends_s, _ = self.held.get(claim.key, (None, 0.0, 0))
        mine = node.leases.get(claim.key) if holder == node.node_id and self.world.now_s < ends_s else None
        return mine is not None and claim.key.startswith(PLACEMENT_PREFIX) and mine.task_id != claim.task_id

    def _granted(self, node: WorldNode, claim: Claim, fence: int, *, renewed: bool) -> None:
        holder, ends_s, now_fence = self.held.get(claim.key, (None, 0.0, 0))
        if holder != node.node_id or now_fence != fence:
            return
        lease = Lease(claim.key, node.node_id, claim.task_id, fence, claim.ttl_ms, 1, b"n", claim.workload_id)
        proof = LeaseProof(sign_statement(node.crypto, LEASE_KIND, lease), ())
        node.tell(LeaseGranted(claim.key, proof, fence, ends_s, renewed))
        self.world.later(claim.renew_ms / 1000, lambda: self._renew(node, claim, fence))

    def _renew(self, node: WorldNode, claim: Claim, fence: int) -> None:
        holder, ends_s, now_fence = self.held.get(claim.key, (None, 0.0, 0))
        if node.dead or holder != node.node_id or now_fence != fence or node.leases.get(claim.key) is not claim:
            return
        if node.cut_from_leases:
            self.world.later(ends_s - self.world.now_s, lambda: node.tell(LeaseLost(claim.key, "not renewed")))
            return
        self.held[claim.key] = (node.node_id, self.world.now_s + claim.ttl_ms / 1000, fence)
        self._granted(node, claim, fence, renewed=True)

    def proof(self, node: WorldNode, key: str, fence: int = 1) -> LeaseProof:
        """What a holder shows."""
        lease = Lease(key, node.node_id, "", fence, 3_000, 1, b"n")
        return LeaseProof(sign_statement(node.crypto, LEASE_KIND, lease), ())

    def release(self, node: WorldNode, key: str) -> None:
        """Give up."""
        if self.held.get(key, (None,))[0] == node.node_id:
            del self.held[key]
        node.leases.pop(key, None)


class Neighbour:
    """Stand-in for leases and custody on one node, and for its topics."""

    room = "neighbour"
    handles: tuple[type, ...] = ()
    listens: tuple[type, ...] = (Claim, ReleaseLease, OpenManifest)
    tables: tuple[str, ...] = ()

    def __init__(self, world: World, node: WorldNode) -> None:
        self.world, self.node = world, node

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing."""

    def start(self, now: Now) -> Effects:
        """Nothing."""
        return []

    def publish(self, topic: str, message: msgspec.Struct, now: Now) -> Effects:
        """Everybody hears it, once."""
        self.world.published.append((now.boot_s, self.node.node_id, message))
        for other in self.world.nodes.values():
            if other is not self.node and self.world.reaches(self.node, other):
                told = Delivered(topic, message, self.node.node_id)
                self.world.later(LINK_S, lambda other=other, told=told: other.tell(told))
        return [Notify(Delivered(topic, message, self.node.node_id))]

    def handle(self, event: Any, now: Now) -> Effects:
        """Leases and manifests."""
        match event:
            case Claim():
                self.world.leases.claim(self.node, event)
            case ReleaseLease(key=key):
                self.world.leases.release(self.node, key)
            case OpenManifest(ref=ref):
                if self.world.manifests_open:
                    return [Notify(ManifestOpened(ref, SecretBytes(b"plaintext")))]
                return [Notify(ManifestDenied(ref, ("custodian two: no_majority",)))]
        return []


class WorldNode:
    """One machine: its agent's protocols, its disk, and the pods that its runtime runs."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.crypto = FakeCrypto(name.encode())
        self.node_id = NodeId(self.crypto.signer_id)
        self.resources = PLENTY
        self.disk: dict[str, dict[bytes, bytes]] = {}
        self.runtime: dict[str, ReplicaReport] = {}
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.graces: list[int] = []
        """The seconds that each pod was given to end."""
        self.lingers_s = 0.0
        """How long its pods take to end, if they are given so much time."""
        self.pulls_s = 0.0
        """How long its images take to come; a start that is not wanted any more is given up meanwhile."""
        self.stops: dict[str, list[str]] = {}
        """`<namespace>/<pod>` → the jobs that are ending it."""
        self.dead = True
        self.cut_from_leases = False
        self.fails = ""
        """What the runtime answers to a deployment; empty when it goes well."""
        self.cannot_remove = ""
        """What the runtime answers to a stop; empty when it goes well."""
        self.epoch = 0

    def boot(self, *, sees: bool = True) -> None:
        """Start the agent; `sees`: its runtime lists its pods at once."""
        world = self.world
        self.dead = False
        self.booted_s = world.now_s
        self.epoch += 1
        self.timers: dict[Any, int] = {}
        self.leases: dict[str, Claim] = {}
        self.roster = Roster("test", CA.sign_key)
        for member in world.cards.values():
            self.roster.apply(membership_intent(member))
        self.view = View(self.node_id, self.roster)
        self.local = LocalWork(settings().reserve, settings().policies)
        rng = random.Random(f"{world.seed} {self.name} {self.epoch}")
        counter = itertools.count(1)
        mine = settings(self.name)
        disruption = Disruption(world.records)
        judge = Judge(self.node_id, self.roster, self.view, mine, self.local, world.intents.get, disruption)
        self.executor = Executor(
            self.node_id,
            self.view,
            rng,
            mine,
            self.local,
            judge,
            world.intents.get,
            LocalCopies(self.crypto),
            world.check_proof,
            lambda: next(counter),
        )
        self.bidder = Bidder(self.node_id, self.roster, self.view, self.crypto, rng, mine, judge, world.intents.get)
        self.journal = Journal(self.node_id, self.roster, self.crypto, intent_for=world.intents.get)
        self.steward = Steward(
            self.node_id,
            self.roster,
            self.view,
            self.crypto,
            rng,
            mine,
            lambda: list(world.intents.values()),
            Upkeep(self.roster, world.records, disruption),
            lambda: next(counter),
            lambda workload_id: self.journal.events(workload_id=workload_id),
        )
        neighbour = Neighbour(world, self)
        caller = Caller(self.node_id, self.roster, self.view, self.crypto, rng, mine)
        parts = [neighbour, self.journal, self.executor, self.bidder, self.steward, caller]
        self.dispatcher = Dispatcher(self.node_id, parts, neighbour)
        for part in parts:
            for table in part.tables:
                part.restore(table, self.disk.get(table, {}).items(), world.now)
        for other in world.nodes.values():
            if other is not self and not other.dead and world.reaches(self, other):
                self.view.set_status(other.node_id, "alive")
                other.view.set_status(self.node_id, "alive")
                other.tell(MemberUp(self.node_id))
        self.carry(self.dispatcher.start(world.now))
        self.tell(self.resources)
        if sees:
            self.look()

    def look(self) -> None:
        """The runtime lists its pods."""
        self.tell(PodsObserved(tuple(self.runtime.values())))

    def tell(self, event: Any) -> None:
        """Something happens on this node."""
        if not self.dead:
            self.carry(self.dispatcher.dispatch(event, self.world.now))

    def carry(self, effects: Effects) -> None:
        """Do what the node decided."""
        for effect in effects:
            self._leave(effect)

    def _leave(self, effect: Any) -> None:
        world, epoch = self.world, self.epoch
        match effect:
            case Save(table=table, key=key, value=value):
                self.disk.setdefault(table, {})[key] = value
            case Erase(table=table, key=key):
                self.disk.setdefault(table, {}).pop(key, None)
            case Schedule(key=key, at_boot_s=at_s):
                self.timers[key] = serial = next(world.serial)
                world.later(max(0.0, at_s - world.now_s), lambda: self._fire(key, serial, epoch))
            case Cancel(key=key):
                self.timers.pop(key, None)
            case Send(to=to, message=message):
                other = world.nodes_by_id[to]
                if world.reaches(self, other) and world.now_s >= other.booted_s + DEAF_S:
                    world.later(LINK_S, lambda: other.tell(Received(self.node_id, message)))
            case Request():
                world.request(self, effect, epoch)
            case Reply(token=token, message=message):
                world.reply(token, message)
            case Run(job_id=job_id, job=job):
                self._run(job_id, job, epoch)
            case Notify(event=event):
                world.observed(self, event)

    def _fire(self, key: Any, serial: int, epoch: int) -> None:
        if self.epoch == epoch and self.timers.get(key) == serial:
            del self.timers[key]
            self.tell(TimerFired(key))

    def _run(self, job_id: str, job: Any, epoch: int) -> None:
        delay_s = DEPLOY_S if isinstance(job, DeployPod) else STOP_S
        if isinstance(job, StopPod):
            self.graces.append(job.grace_s)
            self.stops.setdefault(f"{job.namespace}/{job.pod}", []).append(job_id)
            delay_s = max(STOP_S, min(self.lingers_s, job.grace_s))
        elif self.pulls_s:
            self._pull(job_id, job, epoch, self.world.now_s + self.pulls_s)
            return
        self.world.later(delay_s, lambda: self._done(job_id, job, epoch))

    def _pull(self, job_id: str, job: DeployPod, epoch: int, until_s: float) -> None:
        if self.epoch == epoch and job.right.is_revoked:
            self.tell(JobFinished(job_id, None, f"{NOT_PERMITTED}: given up"))
        elif self.world.now_s < until_s:
            self.world.later(0.5, lambda: self._pull(job_id, job, epoch, until_s))
        else:
            self._done(job_id, job, epoch)

    def _done(self, job_id: str, job: Any, epoch: int) -> None:
        if self.epoch != epoch:
            return
        result, error = None, ""
        if isinstance(job, DeployPod):
            error = self.fails or self.world.bad.get(job.task.revision, "")
            if not error:
                result = self._start(job)
        elif isinstance(job, StopPod) and self.cannot_remove:
            error = self.cannot_remove
        elif isinstance(job, StopPod):
            name = f"{job.namespace}/{job.pod}"
            jobs = self.stops.get(name, [])
            if job_id not in jobs:
                return  # a later order left it less time
            del self.stops[name]
            if name in self.runtime:  # its processes end well before it is gone
                self.runtime[name] = msgspec.structs.replace(self.runtime[name], phase="Succeeded", ready=False)
                self.look()
            self.runtime.pop(name, None)
            self.stopped.append(job.pod)
            self.look()
            for each in jobs:
                self.tell(JobFinished(each))
            return
        self.tell(JobFinished(job_id, result, error))

    def _start(self, job: DeployPod) -> ReplicaReport:
        task = job.task
        report = ReplicaReport(
            pod=job.pod,
            workload_id=task.workload_id,
            namespace=task.namespace,
            kind=task.kind,
            revision=task.revision,
            replica=task.replica,
            node_id=self.node_id,
            phase="Running",
            ready=True,
            task_id=task.task_id,
            fence=job.fence,
            manifest=task.manifest_ref[:MANIFEST_MARK_BYTES],
        )
        self.runtime[f"{task.namespace}/{job.pod}"] = report
        self.started.append(job.pod)
        return report

    def kill(self, *, power: bool = False) -> None:
        """End the agent; with `power` the whole machine, its pods included. Others notice at once."""
        self.dead = True
        self.epoch += 1
        if power:
            self.runtime.clear()
        for other in self.world.nodes.values():
            if other is not self and not other.dead:
                other.view.set_status(self.node_id, "dead")
                other.tell(MemberDown(self.node_id))

    def crash(self) -> None:
        """End the agent without anybody noticing; its pods go on."""
        self.dead = True
        self.epoch += 1
        self.stops.clear()

    def hear_noise(self) -> None:
        """Its journal gets as many events of other workloads as it ever keeps."""
        for _ in range(EVENTS_MAX):
            count = next(self.world.serial)
            event_id = ulid(self.world.now.wall_ms, count.to_bytes(ULID_RANDOM_BYTES, "big"))
            noise = Event(
                event_id, self.node_id, "Pending", self.world.now.wall_ms, workload_id="deployment/default/huge"
            )
            self.carry(self.journal.handle(EmitEvent(noise), self.world.now))

    def set_resources(self, resources: ResourcesObserved) -> None:
        """The machine's own reading changes."""
        self.resources = resources
        self.tell(resources)


class World:
    """All of it."""

    def __init__(self, names: Iterable[str] = ("one", "two", "three"), seed: int = 0, **cards: dict[str, Any]) -> None:
        self.seed = seed
        self.now_s = 1_000.0
        self.serial = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self.intents: dict[str, tuple[Intent, Signed]] = {}
        self.published: list[tuple[float, NodeId, msgspec.Struct]] = []
        self.leases = FakeLeases(self)
        self.manifests_open = True
        self.bad: dict[int, str] = {}
        """What every runtime answers to a deployment of a revision."""
        self.cut: set[frozenset[str]] = set()
        self.cards = {name: card(name, **cards.get(name, {})) for name in names}
        self.nodes = {name: WorldNode(self, name) for name in self.cards}
        self.nodes_by_id = {node.node_id: node for node in self.nodes.values()}
        self._tokens: dict[int, Callable[[msgspec.Struct], None]] = {}
        self.notes: list[tuple[float, str, Any]] = []
        self.watch: Callable[[], None] = lambda: None
        for node in self.nodes.values():
            node.boot()

    @property
    def now(self) -> Now:
        """This moment."""
        return Now(self.now_s, WALL_MS + int((self.now_s - 1_000.0) * 1000))

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._heap, (self.now_s + delay_s, next(self.serial), call))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until_s = self.now_s + seconds
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, call = heapq.heappop(self._heap)
            call()
            self.watch()
        self.now_s = until_s

    def run_until(self, done: Callable[[], bool], seconds: float = 60.0) -> float:
        """Let time pass until `done`; how long it took."""
        start_s = self.now_s
        while not done():
            assert self._heap, "nothing is left to happen"
            assert self._heap[0][0] <= start_s + seconds, f"not done within {seconds} s"
            self.now_s, _, call = heapq.heappop(self._heap)
            call()
            self.watch()
        return self.now_s - start_s

    def twin(self, report: ReplicaReport, node: WorldNode) -> ReplicaReport:
        """The same replica on another node, under a lease of no majority."""
        return msgspec.structs.replace(report, node_id=node.node_id, fence=report.fence - 1, task_id="twin")

    def records(self, prefix: str) -> list[tuple[Intent, Signed]]:
        """The winning records whose keys begin so."""
        return [found for key, found in self.intents.items() if key.startswith(prefix)]

    def reaches(self, one: WorldNode, other: WorldNode) -> bool:
        """Whether two nodes can talk."""
        return not other.dead and not one.dead and frozenset((one.name, other.name)) not in self.cut

    def request(self, asker: WorldNode, request: Request, epoch: int) -> None:
        """Carry a question; an answer, or the lack of one, always follows."""
        other = self.nodes_by_id[request.to]
        open_ = [True]

        def answer(message: msgspec.Struct | None, error: str = "") -> None:
            if open_[0] and asker.epoch == epoch:
                open_[0] = False
                asker.tell(Answered(request.request_id, request.to, message, error))

        def ask() -> None:
            if self.reaches(asker, other):
                token = next(self.serial) + 1
                self._tokens[token] = lambda message: self.later(LINK_S, lambda: answer(message))
                other.tell(Asked(asker.node_id, token, request.message))

        self.later(LINK_S, ask)
        self.later(request.deadline_s, lambda: answer(None, "no answer in time"))

    def reply(self, token: int, message: msgspec.Struct) -> None:
        """Carry an answer."""
        self._tokens.pop(token)(message)

    def observed(self, node: WorldNode, event: Any) -> None:
        """Note what a node told its observers."""
        self.notes.append((self.now_s, node.name, event))

    @staticmethod
    def check_proof(proof: LeaseProof, key: str, wall_ms: int) -> tuple[Lease, bool]:
        """Stand-in for the check of grants."""
        lease = decode_body(proof.lease, Lease)
        if lease.key != key:
            raise Untrusted("the proof is for another key")
        return lease, not proof.tentative

    # --- what operators do, and what can be seen ----------------------------------------------------------------------

    def put(self, intent: Intent, signed: Signed) -> None:
        """Every node learns a record."""
        before = self.intents.get(intent.key)
        self.intents[intent.key] = (intent, signed)
        for node in self.nodes.values():
            event = IntentChanged(intent, signed, before[0] if before else None)
            self.later(LINK_S, lambda node=node, event=event: node.tell(event))

    def say(self, node: WorldNode, topic: str, message: msgspec.Struct) -> None:
        """A member publishes whatever it likes: all others hear it."""
        for other in self.nodes.values():
            if other is not node:
                other.tell(Delivered(topic, message, node.node_id))

    def lie(self, node: WorldNode, status: EventStatus, about: Workload, replica: int, **details: str) -> None:
        """A member tells of a replica, or of the whole workload, in its own name and without any right."""
        event_id = ulid(self.now.wall_ms, next(self.serial).to_bytes(ULID_RANDOM_BYTES, "big"))
        named = (about.workload_id, about.namespace, about.current.number, replica)
        told = Event(event_id, node.node_id, status, self.now.wall_ms, "", *named, "EngineError", details)
        self.say(node, TOPIC_EVENTS, SignedEvent(sign_statement(node.crypto, EVENT_KIND, told)))

    def steward_of(self, workload_id: str) -> WorldNode:
        """Who hosts a workload."""
        return self.nodes_by_id[self.leases.held[steward_key(workload_id)][0]]

    def power_cut(self) -> None:
        """All machines are off in the same instant."""
        for node in self.nodes.values():
            node.crash()
            node.runtime.clear()

    def apply(self, wanted: Any, seq: int = 1) -> None:
        """An operator applies a workload."""
        self.put(*record(wanted, seq, self.now.wall_ms))

    def delete(self, wanted: Any, seq: int = 2) -> None:
        """An operator deletes it."""
        self.put(*tombstone(wanted, seq, self.now.wall_ms))

    def running(self) -> dict[str, list[str]]:
        """Pods by node name, of machines that are on."""
        return {name: sorted(report.pod for report in node.runtime.values()) for name, node in self.nodes.items()}

    def pods(self) -> list[ReplicaReport]:
        """All that runs."""
        return [report for node in self.nodes.values() for report in node.runtime.values()]

    def slots(self) -> list[tuple[int, int]]:
        """(revision, replica) of all that runs."""
        return sorted((report.revision, report.replica) for report in self.pods())

    def tasks(self) -> list[tuple[float, Task]]:
        """All tasks that were published, with when."""
        return [
            (at_s, decode_body(message.task, Task))
            for at_s, _, message in self.published
            if isinstance(message, SignedTask)
        ]

    def events(self, status: str = "") -> list[Event]:
        """All events that were published."""
        found = [
            decode_body(message.event, Event) for _, _, message in self.published if isinstance(message, SignedEvent)
        ]
        return [event for event in found if not status or event.status == status]
