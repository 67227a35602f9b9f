"""Many nodes in one process under one virtual clock and one seed: the very objects that agents run.

Every message is really encoded and decoded. The network loses, delays and repeats datagrams as its faults say; streams
are reliable while both ends are up and not cut off from each other. The same seed gives the same trace.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import msgspec

from beemesh.composition import Composition, compose
from beemesh.crypto import Crypto
from beemesh.effects import Cancel, Erase, Flush, JobFinished, Notify, Now, Reply, Run, Save, Schedule
from beemesh.events import (
    ClockAgreed,
    DeployPod,
    Observed,
    PodsObserved,
    ResourcesObserved,
    RunRight,
    SeedIntents,
    StopPod,
)
from beemesh.identity.membership_card import GossipKey, GossipRing
from beemesh.identity.signing import Signed
from beemesh.ids import BOOT_ID_BYTES, BootId, NodeId
from beemesh.intents.record import IntentKind, node_key, sign_intent
from beemesh.outward import Ask, Tell, Transmit, Warm
from beemesh.wire.datagram import DATAGRAM_BYTES_MAX
from simulator.agenda import Agenda
from simulator.ailing_disk import AilingDisk
from simulator.crypto import FakeCrypto, Keys
from simulator.liar import Liar
from simulator.machine import Machine
from simulator.network import Faults, copied
from simulator.spec import MachineSpec, numbered

MESH = "sim"
GOSSIP_PORT = 7946
START_WALL_MS = 1_800_000_000_000
YEAR_MS = 365 * 86_400_000
DEPLOY_S = 0.3

REFUSAL = "its disk refuses writes"
"""What peers hear of that, as from an agent."""

Answer = Callable[[msgspec.Struct | None, bytes, str], None]
"""What comes back of a question: a message and its bytes, or why there is none."""


class World(Agenda):
    """The whole mesh. What its agenda does advances the clock; everything else acts at this moment."""

    def __init__(
        self,
        nodes: int | Sequence[MachineSpec],
        seed: int = 0,
        *,
        keys: Keys = FakeCrypto,
        age_s: float = 0.0,
        **settings: Any,
    ) -> None:
        """`nodes`: how many, or which; `keys` makes each one's; `age_s`: how long ago the mesh was bootstrapped.
        `settings` are sections of `NodeSettings`, for nodes that are only counted."""
        super().__init__()
        self.random = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        self.faults = Faults()
        self._keys = keys
        self.ca = keys(b"ca")
        self.operator = keys(b"operator")
        self.ring = GossipRing(1, (GossipKey(1, bytes(32)),))
        self.records: list[Signed] = []
        self.events: list[tuple[float, int, Any]] = []
        """What nodes noticed, for whoever looks later; empty while `watch` is set."""
        self.watch: Callable[[int, Any], None] | None = None
        """Told at once of every notification of every node, every job for its runtime, and every `Save` to a table of
        `watched_tables`."""
        self.watched_tables: frozenset[str] = frozenset()
        self.admitted: Callable[[int, bytes], None] | None = None
        """Told of every datagram that a node let in, with the machine of that node."""
        self.taps: list[Callable[[int, bytes], None]] = []
        """Told of every datagram that leaves a machine, and of that machine: whoever sits on the path hears it."""
        self.liars: dict[int, Liar] = {}
        """Machines whose answers are somebody else's."""
        self.runtime: Callable[[Machine, Run], None] = self._run
        """Carries out a job for a machine's runtime; unless set, every pod starts after a moment."""
        self.resources: Callable[[Machine], ResourcesObserved] = Machine.idle
        """What a machine has and what of it is free; unless set, it is idle but for its pods' reservations."""
        self.lists_after_s = 0.0
        """At most so long after an agent's start its runtime tells it what runs."""
        self._trace = hashlib.blake2b(digest_size=16)
        self._carriers: dict[type, Callable[[Machine, Any], None]] = {
            Save: self._save,
            Erase: self._erase,
            Flush: lambda _machine, _effect: None,
            Schedule: self._schedule,
            Cancel: self._cancel,
            Transmit: self._transmit,
            Tell: self._tell,
            Ask: self._ask,
            Warm: lambda _machine, _effect: None,
            Reply: self._reply,
            Run: self._carry_out,
            Notify: self._notify,
        }
        self._replies: dict[int, Callable[[msgspec.Struct | None], None]] = {}
        self._signed_at_ms = START_WALL_MS - int(age_s * 1000)
        specs = numbered(nodes, **settings) if isinstance(nodes, int) else nodes
        self.machines += [self._make(index, spec) for index, spec in enumerate(specs)]
        self._by_id = {machine.membership.node_id: machine for machine in self.machines}
        self._by_address = {machine.membership.addresses[0]: machine for machine in self.machines}

    # --- building -------------------------------------------------------------------------------------------------

    def _make(self, index: int, spec: MachineSpec) -> Machine:
        crypto = self._keys(f"node {index}".encode())
        membership = msgspec.structs.replace(
            spec.card,
            mesh=MESH,
            node_id=NodeId(crypto.signer_id),
            sign_key=crypto.sign_key,
            open_key=crypto.open_key,
            addresses=(f"10.0.{index // 250}.{index % 250 + 1}",),
            gossip_port=GOSSIP_PORT,
            serial=1,
            signed_at_ms=self._signed_at_ms,
            not_after_ms=START_WALL_MS + YEAR_MS,
        )
        card = self.sign_ca("membership", node_key(spec.name), membership)
        self.records.append(card)
        return Machine(index, spec, crypto, membership, card)

    def certify(self, machine: Machine) -> None:
        """Bootstrap signs the first card of a machine now: it comes later than those that it was made with."""
        machine.membership = msgspec.structs.replace(machine.membership, signed_at_ms=self.wall_ms)
        machine.card = self.sign_ca("membership", node_key(machine.spec.name), machine.membership)

    def sign_ca(self, kind: IntentKind, key: str, body: msgspec.Struct, seq: int = 1) -> Signed:
        """A record that the mesh CA signed."""
        return self.sign(self.ca, kind, key, body, seq)

    def sign(self, signer: Crypto, kind: IntentKind, key: str, body: msgspec.Struct | None, seq: int = 1) -> Signed:
        """A record of anybody."""
        return sign_intent(signer, MESH, kind, key, body, seq, self.wall_ms)

    # --- machines -------------------------------------------------------------------------------------------------

    @property
    def wall_ms(self) -> int:
        """Wall time of every machine."""
        return START_WALL_MS + int(self.now_s * 1000)

    def now_of(self, machine: Machine) -> Now:
        """This moment by a machine's own clocks."""
        now_s = self.now_s
        return machine.now(now_s, START_WALL_MS + int(now_s * 1000))

    def start(self, index: int, *, knows: list[Signed] | None = None) -> None:
        """Start the agent of a machine; `knows` are the records of its seed file (all, unless told)."""
        machine = self.machines[index]
        machine.life += 1
        machine.timers.clear()
        composition = compose(
            msgspec.structs.replace(machine.spec.settings, mesh=MESH),
            machine.membership,
            machine.card,
            self.ca.sign_key,
            self.ring,
            machine.crypto,
            self.random,
            BootId(self.random.randbytes(BOOT_ID_BYTES)),
        )
        machine.composition = composition
        composition.intents.merge(machine.card, self.now_of(machine))
        for table in composition.node.tables():
            rows = [(key, value) for (space, key), value in sorted(machine.disk.items()) if space == table]
            composition.node.restore(table, rows, self.now_of(machine))
        self.carry(machine, composition.node.start(self.now_of(machine)))
        self.event(index, SeedIntents(tuple(self.records if knows is None else knows)))
        self.event(index, self.resources(machine))
        machine.is_listed = False
        listing = partial(self.list_pods, machine, machine.life)
        if self.lists_after_s:
            self.at(self.now_s + self.random.uniform(0.0, self.lists_after_s), listing)
        else:
            listing()

    def list_pods(self, machine: Machine, life: int) -> None:
        """The runtime tells the agent of this life, for the first time, what runs."""
        if machine.life == life and not machine.is_listed:
            machine.is_listed = True
            self.tell_pods(machine)

    def tell_pods(self, machine: Machine) -> None:
        """An agent hears from its runtime what runs, unless that has not told it yet for the first time."""
        if machine.is_listed:
            self.event(machine.index, PodsObserved(tuple(machine.pods.values())))

    def start_all(self) -> None:
        """Start every machine that belongs to the mesh."""
        for machine in self.machines:
            if machine.is_member:
                self.start(machine.index)

    def reissue(self, index: int, *, keys: bytes = b"", address: str = "") -> None:
        """Bootstrap signs a new card for a machine that is down: new keys made from `keys`, or another address. The
        mesh learns of it from the machine."""
        machine = self.machines[index]
        assert not machine.is_up, f"n{index} would have to be stopped first"
        crypto = self._keys(keys) if keys else machine.crypto
        old = machine.membership
        machine.crypto = crypto
        machine.membership = msgspec.structs.replace(
            old,
            node_id=NodeId(crypto.signer_id),
            sign_key=crypto.sign_key,
            open_key=crypto.open_key,
            addresses=(address,) if address else old.addresses,
            serial=old.serial + 1,
        )
        self.records.remove(machine.card)
        machine.card = self.sign_ca("membership", node_key(old.name), machine.membership, seq=old.serial + 1)
        self.records.append(machine.card)
        del self._by_id[old.node_id], self._by_address[old.addresses[0]]
        self._by_id[machine.membership.node_id] = machine
        self._by_address[machine.membership.addresses[0]] = machine

    def kill(self, index: int, *, power: bool = False, disk: bool = True) -> None:
        """Kill an agent; with `power` its pods go as well, as in a power cut; without `disk` all that it kept does."""
        machine = self.machines[index]
        machine.composition = None
        machine.life += 1
        if machine.ailing is not None:
            machine.ailing.crash()
        self.wake(index)
        if power:
            machine.lose_power(self.now_s)
        if not disk:
            machine.lose_disk()

    def node(self, index: int) -> Composition:
        """What runs on a machine; an error when it is down."""
        composition = self.machines[index].composition
        assert composition is not None, f"n{index} is down"
        return composition

    def index_of(self, node_id: NodeId) -> int:
        """The machine of a node."""
        return self._by_id[node_id].index

    def event(self, index: int, event: Any) -> None:
        """Hand an event to a node."""
        machine = self.machines[index]
        if machine.composition is not None:
            self.carry(machine, machine.composition.node.event(event, self.now_of(machine)))

    # --- effects --------------------------------------------------------------------------------------------------

    def carry(self, machine: Machine, effects: list[Any]) -> None:
        """Carry out what a node decided."""
        if machine.ailing is not None:
            machine.ailing.carry(effects)
            if machine.ailing.is_well:
                machine.ailing = None
            return
        for effect in effects:
            self._carriers[type(effect)](machine, effect)

    def ail(self, index: int) -> AilingDisk:
        """The disk of a machine from now on, until it is well again."""
        machine = self.machines[index]
        if machine.ailing is None:
            machine.ailing = AilingDisk(
                partial(self._leave, machine),
                partial(self._withdraw, machine),
                lambda in_s, act: self.at(self.now_s + in_s, act, machine),
                self.random,
            )
        return machine.ailing

    def _leave(self, machine: Machine, effect: Any) -> None:
        self._carriers[type(effect)](machine, effect)

    def _withdraw(self, machine: Machine, effect: Ask | Run | Reply) -> None:
        """As the agent's shell does with what its disk would have had to hold."""
        if isinstance(effect, Run):
            self.event(machine.index, JobFinished(effect.job_id, error=f"DiskFull: {REFUSAL}"))
        elif isinstance(effect, Reply):
            if answer := self._replies.pop(effect.token, None):
                answer(None)
        elif machine.composition is not None:
            node = machine.composition.node
            self.carry(machine, node.answer(effect.request_id, effect.peer, None, REFUSAL, self.now_of(machine)))

    def _save(self, machine: Machine, effect: Save) -> None:
        machine.disk[effect.table, effect.key] = effect.value
        if effect.table in self.watched_tables and self.watch is not None:
            self.watch(machine.index, effect)

    def _erase(self, machine: Machine, effect: Erase) -> None:
        machine.disk.pop((effect.table, effect.key), None)

    def _cancel(self, machine: Machine, effect: Cancel) -> None:
        machine.timers.pop(effect.key, None)

    def _tell(self, machine: Machine, effect: Tell) -> None:
        self._stream(machine, effect.peer, partial(self._told, machine, effect.peer, effect.message))

    def _notify(self, machine: Machine, effect: Notify) -> None:
        if type(effect.event) is RunRight:
            machine.note_right(effect.event)
        elif type(effect.event) is ClockAgreed:
            machine.agree_clock(effect.event.wall_ms, self.now_s, self.wall_ms)
        elif self.watch is not None:
            self.watch(machine.index, effect.event)
        else:
            self.events.append((self.now_s, machine.index, effect.event))

    def _reply(self, machine: Machine, effect: Reply) -> None:
        answer = self._replies.pop(effect.token, None)
        if answer is not None and effect.message is not None:
            answer(effect.message)

    def _schedule(self, machine: Machine, effect: Schedule) -> None:
        self._count += 1
        machine.timers[effect.key] = self._count
        at_s = effect.at_boot_s
        when_s = at_s - machine.boot_offset_s
        while when_s + machine.boot_offset_s < at_s:  # no timer is early, not even by a rounding
            when_s = math.nextafter(when_s, math.inf)
        self.at(when_s, partial(self._fire, machine, effect.key, self._count, machine.life), machine)

    def _fire(self, machine: Machine, key: Hashable, count: int, life: int) -> None:
        if machine.life == life and machine.timers.get(key) == count and machine.composition is not None:
            del machine.timers[key]
            self.carry(machine, machine.composition.node.timer(key, self.now_of(machine)))

    def _transmit(self, machine: Machine, effect: Transmit) -> None:
        data = effect.data
        assert len(data) <= DATAGRAM_BYTES_MAX, f"n{machine.index} sends a datagram of {len(data)} bytes"
        machine.sent += 1
        machine.sent_bytes += len(data)
        for tap in self.taps:
            tap(machine.index, data)
        liar = self.liars.get(machine.index)
        if liar is not None and not liar.lets_pass(data):
            return
        target = self._by_address.get(effect.address[0])
        if target is None or not self._reaches(machine, target) or self.random.random() < self.faults.loss:
            return
        copies = 2 if self.random.random() < self.faults.repeat else 1
        for _ in range(copies):
            arrive = partial(self._arrive, machine, target, data)
            self.at(self.now_s + self._delay_s(machine, target), arrive, target)

    def throw(self, source: int, target: int, data: bytes) -> None:
        """Somebody at machine `source` sends bytes of their own making; nothing that a node decided."""
        there = self.machines[target]
        if self._reaches(self.machines[source], there):
            arrive = partial(self._arrive, self.machines[source], there, data)
            self.at(self.now_s + self._delay_s(self.machines[source], there), arrive, there)

    def say(self, source: int, target: int, message: msgspec.Struct) -> None:
        """Somebody with the keys of machine `source` tells another one something over a stream."""
        peer = self.machines[target].membership.node_id
        self._stream(self.machines[source], peer, partial(self._told, self.machines[source], peer, message))

    def _arrive(self, source: Machine, target: Machine, data: bytes) -> None:
        if target.composition is not None:
            self._note(target, data)
            address = (source.membership.addresses[0], source.membership.gossip_port)
            effects = target.composition.node.datagram(data, address, self.now_of(target))
            if self.admitted is not None and not _is_refused(effects):
                self.admitted(target.index, data)
            self.carry(target, effects)

    def _stream(self, machine: Machine, peer: NodeId, deliver: Callable[[], None]) -> bool:
        target = self._by_id.get(peer)
        if target is None or target.composition is None or not self._reaches(machine, target):
            return False
        if not self._shake_hands(machine, target):
            return False
        self.at(self.now_s + self._delay_s(machine, target), deliver, target)
        return True

    def _shake_hands(self, opener: Machine, other: Machine) -> bool:
        """As the agent's streams do: neither end takes the other past the end of its grace. Only the opener shows its
        own card; of the other the one counts that the opener knows."""
        known = opener.composition.roster.member(other.membership.node_id) if opener.composition is not None else None
        if known is not None and self.now_of(opener).wall_ms > known.ends_ms:
            return False
        return self.now_of(other).wall_ms <= opener.membership.ends_ms

    def _told(self, source: Machine, peer: NodeId, message: msgspec.Struct) -> None:
        target = self._by_id[peer]
        if target.composition is not None:
            heard, body = copied(message)
            self._note(target, body)
            self.carry(target, target.composition.node.told(source.membership.node_id, heard, self.now_of(target)))

    def _ask(self, machine: Machine, ask: Ask) -> None:
        life, answered = machine.life, [False]

        def answer(message: msgspec.Struct | None, body: bytes = b"", why: str = "") -> None:
            if not answered[0] and machine.life == life and machine.composition is not None:
                answered[0] = True
                self._note(machine, body if message is not None else why.encode())
                node = machine.composition.node
                self.carry(machine, node.answer(ask.request_id, ask.peer, message, why, self.now_of(machine)))

        def deliver() -> None:
            target = self._by_id[ask.peer]
            if target.composition is None:
                return
            self._count += 1
            token = self._count
            self._replies[token] = lambda message: self._answer_back(target, machine, ask.message, message, answer)
            node = target.composition.node
            heard, body = copied(ask.message)
            self._note(target, body)
            self.carry(target, node.asked(machine.membership.node_id, token, heard, self.now_of(target)))

        reached = self._stream(machine, ask.peer, deliver)
        patience_s = ask.deadline_s if reached else min(ask.deadline_s, self._delay_s(machine, machine))
        self.at(self.now_s + patience_s, lambda: answer(None, why="no answer in time"), machine)

    def _answer_back(
        self,
        target: Machine,
        asker: Machine,
        question: msgspec.Struct,
        message: msgspec.Struct | None,
        answer: Answer,
    ) -> None:
        """`message` is None where the far side's disk would have had to hold what it says."""
        liar = self.liars.get(target.index)
        if message is None:
            back = partial(answer, None, b"", REFUSAL)
        else:
            told = liar.answer(question, message) if liar is not None else message
            if told is None:
                return
            back = partial(answer, *copied(told), "")
        if self._reaches(target, asker):
            self.at(self.now_s + self._delay_s(target, asker), back, asker)

    def _carry_out(self, machine: Machine, run: Run) -> None:
        self.runtime(machine, run)

    def _run(self, machine: Machine, run: Run) -> None:
        """A runtime that starts every pod after a moment."""
        life, pods = machine.life, machine.pods
        if self.watch is not None:
            self.watch(machine.index, run.job)

        def finish() -> None:
            job, result = run.job, None
            if machine.pods is not pods:
                pass  # it lost its power meanwhile, and what was under way with it
            elif isinstance(job, DeployPod):
                result = machine.begin(job, self.wall_ms)
            elif isinstance(job, StopPod):
                pods.pop(job.pod, None)
            if machine.composition is not None:
                if machine.life == life:
                    self.event(machine.index, JobFinished(run.job_id, result))
                # Also an agent that started meanwhile sees what an earlier one had begun: engines tell all who watch.
                self.tell_pods(machine)

        self.at(self.now_s + DEPLOY_S, finish, machine)

    # --- the way between machines -----------------------------------------------------------------------------------

    def _reaches(self, source: Machine, target: Machine) -> bool:
        return self.faults.reaches(source.index, target.index)

    def _delay_s(self, source: Machine, target: Machine) -> float:
        return self.faults.one_delay_s(self.random, source.index, target.index)

    def _note(self, target: Machine, data: bytes) -> None:
        self._trace.update(f"{self.now_s!r} {target.index} ".encode() + data)

    @property
    def trace(self) -> str:
        """A hash of every message that arrived, answers and their failing to come included: when, where and what."""
        return self._trace.hexdigest()


def _is_refused(effects: list[Any]) -> bool:
    """Whether a node told nothing of a datagram but that it refused it."""
    first = effects[0].event if effects and type(effects[0]) is Notify else None
    return type(first) is Observed and first.metric == "datagrams_refused"
