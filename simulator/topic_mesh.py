"""Only the topics of many nodes, under one virtual clock and one seed: light enough for thousands of them.

Each node is the very `Topics` object of an agent. The network loses and delays messages; who lives is told to all after
a while, as membership would. Nothing is encoded: what encoding costs is measured elsewhere.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from beemesh.effects import Effects, Notify, Now, Received, Schedule, Send, TimerFired
from beemesh.events import Delivered, MemberDown, MemberLeft, MemberUp, Observed
from beemesh.ids import NodeId
from beemesh.scheduling.messages import TOPIC_EVENTS
from beemesh.topics.broadcaster import Topics
from beemesh.topics.messages import Chunk, ChunkWant, IHave, IWant, TopicMessage
from beemesh.undecodable import UNDECODABLE

START_WALL_MS = 1_800_000_000_000
DEATH_KNOWN_S = 14.0
"""From a crash until membership says so: the median of SWIM at its defaults in a mesh of 1,000 is of this order."""
JOIN_KNOWN_S = 1.5


class Word(msgspec.Struct, frozen=True):
    """What is published here."""

    text: str


def encode(message: msgspec.Struct) -> bytes:
    """The body of a word."""
    return msgspec.msgpack.encode(message)


def decode(body: bytes) -> Word | None:
    """The inverse of `encode`; None for anything else."""
    try:
        return msgspec.msgpack.decode(body, type=Word)
    except UNDECODABLE:
        return None


def node_id(index: int) -> NodeId:
    """The ID of the node with that number."""
    return NodeId(index.to_bytes(32, "big"))


class SharedView:
    """A view that all nodes share: the simulation says who lives."""

    def __init__(self) -> None:
        self._present: dict[NodeId, None] = {}
        self._alive: tuple[NodeId, ...] | None = ()

    def alive(self) -> tuple[NodeId, ...]:
        """As `View.alive`."""
        if self._alive is None:
            self._alive = tuple(sorted(self._present))
        return self._alive

    def status(self, node: bytes) -> str:
        """As `View.status`."""
        return "alive" if node in self._present else "dead"

    def address(self, node: bytes) -> tuple[str, int] | None:
        """As `View.address`: everybody can be reached."""
        return ("", 0)

    def add(self, node: NodeId) -> None:
        """A node lives."""
        self._present[node] = None
        self._alive = None

    def remove(self, node: NodeId) -> None:
        """A node is dead."""
        self._present.pop(node, None)
        self._alive = None


@dataclass(slots=True)
class Published:
    """One message and who got it when."""

    text: str
    at_s: float
    live: frozenset[NodeId]
    """Nodes that lived then."""
    got: dict[NodeId, float] = field(default_factory=dict)
    doubled: int = 0
    sends: int = 0
    """Times that its payload was sent, in whatever way, lost ones included."""


class TopicMesh:
    """The whole mesh."""

    def __init__(
        self,
        nodes: int,
        seed: int = 0,
        *,
        loss: float = 0.0,
        delay_s: tuple[float, float] = (0.001, 0.02),
    ) -> None:
        """`loss` is the share of messages that never arrive; each of the others takes a time within `delay_s`."""
        self.random = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        self.loss, self.delay_s, self.now_s = loss, delay_s, 0.0
        self.view = SharedView()
        self.nodes: dict[NodeId, Topics] = {}
        self.messages: dict[str, Published] = {}
        self.sent: Counter[str] = Counter()
        self.sent_bytes = 0
        self.observed: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Any, Any, Any]] = []
        self._timers: dict[tuple[NodeId, Hashable], int] = {}
        self._by_id: dict[bytes, Published] = {}
        self._count = 0
        self._next_index = 0
        for _ in range(nodes):
            self.view.add(node_id(self._next_index))
            self._make()

    # --- nodes ----------------------------------------------------------------------------------------------------

    def _make(self) -> NodeId:
        node = node_id(self._next_index)
        self._next_index += 1
        self._put(node)
        return node

    def _put(self, node: NodeId) -> None:
        view: Any = self.view
        self.nodes[node] = Topics(node, view, self.random, encode, decode, frozenset({TOPIC_EVENTS}))

    def start(self) -> None:
        """Tell every node that the mesh is there."""
        for node in list(self.nodes):
            self._handle(node, MemberUp(node))

    def crash(self, node: NodeId) -> None:
        """A node is gone; the others learn it later."""
        del self.nodes[node]
        self._at(self.now_s + DEATH_KNOWN_S, "down", node)

    def come_back(self, node: NodeId) -> None:
        """A crashed node starts anew, without a memory; the others learn it soon."""
        self._put(node)
        self._at(self.now_s + JOIN_KNOWN_S, "up", node)
        self._handle(node, MemberUp(node))

    def leave(self, node: NodeId) -> None:
        """A node says goodbye: the others know at once."""
        del self.nodes[node]
        self.view.remove(node)
        self._tell_all(MemberLeft(node))

    def join(self) -> NodeId:
        """A new node; the others learn it soon, and it knows everybody at once."""
        node = self._make()
        self._at(self.now_s + JOIN_KNOWN_S, "up", node)
        self._handle(node, MemberUp(node))
        return node

    # --- running --------------------------------------------------------------------------------------------------

    @property
    def now(self) -> Now:
        """This moment."""
        return Now(self.now_s, START_WALL_MS + int(self.now_s * 1000))

    def publish(self, node: NodeId, text: str, topic: str = TOPIC_EVENTS) -> Published:
        """Publish a word from a node."""
        published = self.messages[text] = Published(text, self.now_s, frozenset(self.nodes))
        effects = self.nodes[node].publish(topic, Word(text), self.now)
        for key in self.nodes[node].store.since(self.now_s):
            self._by_id.setdefault(key, published)
            break
        self._carry(node, effects)
        return published

    def run(self, seconds: float) -> None:
        """Advance the clock."""
        end_s = self.now_s + seconds
        while self._heap and self._heap[0][0] <= end_s:
            self.now_s, number, kind, node, event = heapq.heappop(self._heap)
            if kind == "event":
                self._handle(node, event)
            elif kind == "timer":
                if self._timers.get((node, event)) == number:
                    del self._timers[node, event]
                    self._handle(node, TimerFired(event))
            elif kind == "down":
                self.view.remove(node)
                self._tell_all(MemberDown(node))
            else:
                self.view.add(node)
                self._tell_all(MemberUp(node))
        self.now_s = end_s

    def _tell_all(self, event: Any) -> None:
        for node in list(self.nodes):
            self._handle(node, event)

    def _handle(self, node: NodeId, event: Any) -> None:
        topics = self.nodes.get(node)
        if topics is not None:
            self._carry(node, topics.handle(event, self.now))

    def _at(self, at_s: float, kind: str, node: NodeId, event: Any = None) -> int:
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, kind, node, event))
        return self._count

    def _carry(self, node: NodeId, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(node, effect)
            elif isinstance(effect, Schedule):
                self._timers[node, effect.key] = self._at(effect.at_boot_s, "timer", node, effect.key)
            elif isinstance(effect, Notify):
                self._noted(node, effect.event)

    def _send(self, node: NodeId, effect: Send) -> None:
        message = effect.message
        self.sent[type(message).__name__] += 1
        if isinstance(message, TopicMessage | Chunk):
            published = self._by_id.get(message.id)
            if published is not None and (isinstance(message, TopicMessage) or message.index == 0):
                published.sends += 1
            self.sent_bytes += 150 + len(message.body if isinstance(message, TopicMessage) else message.data)
        elif isinstance(message, IHave | IWant):
            self.sent_bytes += 150 + 18 * len(message.ids)
        elif isinstance(message, ChunkWant):
            self.sent_bytes += 170 + len(message.indices)
        else:
            self.sent_bytes += 150
        if self.random.random() >= self.loss:
            self._at(self.now_s + self.random.uniform(*self.delay_s), "event", effect.to, Received(node, message))

    def _noted(self, node: NodeId, event: Any) -> None:
        if isinstance(event, Delivered):
            text = event.message.text  # type: ignore[attr-defined]
            published = self.messages[text]
            if node in published.got:
                published.doubled += 1
            published.got.setdefault(node, self.now_s - published.at_s)
        elif isinstance(event, Observed):
            kind = "/".join((event.metric, *event.labels.values()))
            self.observed[kind] += int(event.amount)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of messages under churn showed."""

    nodes: int
    messages: int
    missed: int
    """Deliveries that did not happen at nodes that lived throughout the run."""
    doubled: int
    sends_per_node: float
    """Payloads sent per message and node that lived then or got it later, lost ones included."""
    last_s: float
    """The slowest delivery of all messages, at nodes that lived when it was published and until it came."""
    last_median_s: float
    median_s: float
    control_per_node: float
    """Other datagrams per node and message."""
    crashed: int
    joined: int


def churned(
    mesh: TopicMesh,
    *,
    messages: int,
    every_s: float,
    churn_per_minute: float,
    settle_s: float = 15.0,
    warm_up: int = 10,
) -> Outcome:
    """Publish `messages` from nodes at random while nodes crash and join; the first `warm_up` ones make the tree, and
    are not counted in what is sent."""
    mesh.start()
    mesh.run(settle_s)
    steady = set(mesh.nodes)
    per_second = churn_per_minute / 60 * len(mesh.nodes)
    crashed = joined = 0
    due = 0.0
    counted: list[Published] = []
    control_before = 0
    for number in range(warm_up + messages):
        author = mesh.random.choice(sorted(mesh.nodes))
        published = mesh.publish(author, f"m{number}")
        if number == warm_up:
            control_before = _control(mesh)
        if number >= warm_up:
            counted.append(published)
        due += per_second * every_s
        while due >= 1:
            due -= 1
            victim = mesh.random.choice(sorted(mesh.nodes))
            mesh.crash(victim)
            steady.discard(victim)
            crashed += 1
            mesh.run(every_s / (per_second * every_s + 1) / 2)
            mesh.join()
            joined += 1
        mesh.run(max(0.0, published.at_s + every_s - mesh.now_s))
    mesh.run(10.0)
    control = _control(mesh) - control_before
    everything = list(mesh.messages.values())
    lasts = sorted(max(published.got[node] for node in steady if node in published.got) for published in counted)
    times = sorted(at_s for published in counted for node, at_s in published.got.items() if node in published.live)
    return Outcome(
        nodes=len(mesh.nodes),
        messages=messages,
        missed=sum(1 for published in everything for node in steady if node not in published.got),
        doubled=sum(published.doubled for published in everything),
        sends_per_node=sum(each.sends / len(each.live | each.got.keys()) for each in counted) / len(counted),
        last_s=lasts[-1],
        last_median_s=lasts[len(lasts) // 2],
        median_s=times[len(times) // 2],
        control_per_node=control / len(mesh.nodes) / messages,
        crashed=crashed,
        joined=joined,
    )


def _control(mesh: TopicMesh) -> int:
    return sum(count for kind, count in mesh.sent.items() if kind not in ("TopicMessage", "Chunk"))
