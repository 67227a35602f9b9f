"""10,000 intents on 1,000 nodes: what they cost each node in memory and on disk, how fast one more reaches everybody,
and what nodes send meanwhile.

`python bench/intents.py [--nodes 1000] [--intents 10000] [--loss 0.02]`. Memory is that of one node's whole map, of
records with the sizes of sealed Deployments, read back from their encoded form as after a start. The mesh is simulated:
each node is an agent's own intent map, its exchange of intents and its topics, and every answer is encoded and decoded;
all else of an agent is left out. The maps begin with the same records in memory, which is why 1,000 of them fit one
process. The limit beside our figures is what any way of telling everybody costs: each node gets the record once.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import math
import random
import statistics
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from beemesh.composition import decode_body, encode_body
from beemesh.custody.sealing import SealedContent, place_of, plan_custody, seal
from beemesh.dispatch import Dispatcher
from beemesh.effects import Answered, Asked, Notify, Now, Received, Reply, Request, Save, Schedule, Send, TimerFired
from beemesh.events import IntentChanged, MemberUp, PutIntent
from beemesh.identity.grants import Grant
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId, OperatorId, digest_of
from beemesh.intents.map import IntentMap
from beemesh.intents.record import Intent, IntentKind, node_key, operator_key, sign_intent, workload_key
from beemesh.intents.sync import IntentSync
from beemesh.membership.roster import Roster
from beemesh.topics.broadcaster import Topics
from beemesh.wire.datagram import BODY_BYTES_MAX
from beemesh.wire.registry import decode_message, encode_message
from beemesh.workloads.record import Requirements, Workload
from simulator.crypto import FakeCrypto
from simulator.topic_mesh import SharedView

MESH, WALL_MS, YEAR_MS = "sim", 1_800_000_000_000, 365 * 86_400_000
DATAGRAM_BYTES = 61 + 16 + 82 + 28
"""Header, seal, envelope and UDP/IP of a datagram around its body."""
FRAME_BYTES = 12 + 29 + 40
"""Frame, TLS record and TCP/IP of a message on a stream that is open."""
COMPARING = ("SyncIntents", "IntentDigests")
"""What nodes send to each other from time to time, whether anything changed or not."""
SETTLE_S, WARM_UP, PATIENCE_S = 20.0, 10, 20.0


class Records:
    """What the mesh CA and one operator signed."""

    def __init__(self, nodes: int) -> None:
        self.ca, self.operator = FakeCrypto(b"ca"), FakeCrypto(b"operator")
        self.ids = [NodeId(FakeCrypto(f"node {index}".encode()).signer_id) for index in range(nodes)]
        self._cards = [self._card(index) for index in range(nodes)]
        sealed = seal(
            self.operator,
            digest_of(b"key"),
            SealedContent(b"{}" * 500),
            plan_custody(self._cards[:5], place_of("any")),
            mesh=MESH,
            intent_key="any",
            number=1,
            fingerprint=bytes(32),
        )
        self._revision = sealed.revision

    def _card(self, index: int) -> Membership:
        keys, name = FakeCrypto(f"node {index}".encode()), f"n{index}"
        return Membership(
            mesh=MESH,
            name=name,
            node_id=NodeId(keys.signer_id),
            sign_key=keys.sign_key,
            open_key=keys.open_key,
            addresses=(f"10.0.{index // 250}.{index % 250 + 1}",),
            gossip_port=7946,
            api_port=7947,
            serial=1,
            signed_at_ms=WALL_MS,
            not_after_ms=WALL_MS + YEAR_MS,
            machine=name,
        )

    def of_the_mesh(self) -> list[Signed]:
        """Cards, and the operator's grant."""
        cards = [self._sign(self.ca, "membership", node_key(card.name), card) for card in self._cards]
        grant = Grant(
            MESH, OperatorId(self.operator.signer_id), "ops", self.operator.sign_key, self.operator.open_key,
            "admin", 1, WALL_MS, WALL_MS + YEAR_MS,
        )  # fmt: skip
        return [*cards, self._sign(self.ca, "grant", operator_key("ops"), grant)]

    def workload(self, number: int, seq: int = 1) -> Signed:
        """A Deployment with one sealed revision."""
        draft = Workload(
            kind="Deployment",
            namespace=f"team-{number % 40}",
            name=f"service-{number}",
            replicas=3,
            revisions=(self._revision,),
            requirements=Requirements(cpu_m=100, mem_mb=128),
        )
        return self._sign(self.operator, "workload", workload_key(draft.workload_id), draft, seq)

    def _sign(self, signer: FakeCrypto, kind: IntentKind, key: str, body: msgspec.Struct, seq: int = 1) -> Signed:
        return sign_intent(signer, MESH, kind, key, body, seq, WALL_MS)


def one_node(records: list[Signed], ca_key: bytes) -> tuple[float, int]:
    """(MiB in memory, bytes on disk) of one node's map of these records, as after a restart."""
    rows = [(str(number).encode(), msgspec.msgpack.encode(each)) for number, each in enumerate(records)]
    gc.collect()
    tracemalloc.start()
    intents = IntentMap(FakeCrypto(b"any"), Roster(MESH, ca_key))
    intents.restore(iter(rows))
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(intents) == len(records)
    return used / 2**20, sum(len(value) for _, value in rows)


class OwnView:
    """What all share, as one node's own view of the mesh."""

    def __init__(self, shared: SharedView, self_id: NodeId) -> None:
        self.self_id = self_id
        self.alive, self.status, self.address = shared.alive, shared.status, shared.address

    def is_alive(self, node: NodeId) -> bool:
        """As `View.is_alive`."""
        return self.status(node) == "alive"


class Mesh:
    """The intents of many nodes."""

    def __init__(self, records: Records, begin: IntentMap, roster: Roster, loss: float, delay_s: tuple[float, float]):
        self.random = random.Random(1)
        self.now_s, self.loss, self.delay_s = 0.0, loss, delay_s
        self.sent: Counter[str] = Counter()
        self.sent_bytes: Counter[str] = Counter()
        self.saves = 0
        self.reached: dict[NodeId, float] = {}
        self._awaited = ""
        self._heap: list[tuple[float, int, NodeId, Any]] = []
        self._timers: dict[tuple[NodeId, Hashable], int] = {}
        self._replies: dict[int, tuple[NodeId, int, NodeId]] = {}
        self._count = 0
        self.view = SharedView()
        self.nodes: dict[NodeId, Dispatcher] = {}
        for node_id in records.ids:
            self.view.add(node_id)
            self.nodes[node_id] = self._node(node_id, begin, roster)
        for node_id, node in self.nodes.items():
            self._carry(node_id, node.start(self.now))
            self._carry(node_id, node.dispatch(MemberUp(node_id), self.now))

    def _node(self, node_id: NodeId, begin: IntentMap, roster: Roster) -> Dispatcher:
        intents = IntentMap(FakeCrypto(b"any"), roster)
        intents.begin_with(begin)
        view: Any = OwnView(self.view, node_id)
        topics = Topics(node_id, view, self.random, encode_body, decode_body)
        sync = IntentSync(node_id, intents, roster, view, self.random, self._number)
        return Dispatcher(node_id, (sync, topics), topics)

    def _number(self) -> int:
        self._count += 1
        return self._count

    @property
    def now(self) -> Now:
        """This moment."""
        return Now(self.now_s, WALL_MS + int(self.now_s * 1000))

    def run(self, seconds: float, *, until_all: bool = False) -> None:
        """Advance the clock; with `until_all` until the awaited record is everywhere."""
        end_s = self.now_s + seconds
        while self._heap and self._heap[0][0] <= end_s and not (until_all and len(self.reached) == len(self.nodes)):
            self.now_s, number, node_id, event = heapq.heappop(self._heap)
            if isinstance(event, TimerFired) and self._timers.get((node_id, event.key)) != number:
                continue
            self._carry(node_id, self.nodes[node_id].dispatch(event, self.now))
        if not until_all:
            self.now_s = end_s

    def put(self, node_id: NodeId, record: Signed, key: str) -> dict[NodeId, float]:
        """Enter a record at a node; when each node had it, in seconds from then."""
        began_s, self.reached, self._awaited = self.now_s, {}, key
        self._carry(node_id, self.nodes[node_id].dispatch(PutIntent(record), self.now))
        self.run(PATIENCE_S, until_all=True)
        return {each: at_s - began_s for each, at_s in self.reached.items()}

    def _carry(self, node_id: NodeId, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Send(to=to, message=message):
                    self._send(to, message, Received(node_id, message))
                case Request(request_id=request_id, to=to, message=message):
                    token = self._number()
                    self._replies[token] = (node_id, request_id, to)
                    self._stream(to, message, Asked(node_id, token, _copied(message)))
                case Reply(token=token, message=message):
                    asker, request_id, asked = self._replies.pop(token)
                    self._stream(asker, message, Answered(request_id, asked, _copied(message)))
                case Schedule(key=key, at_boot_s=at_s):
                    self._timers[node_id, key] = self._at(at_s, node_id, TimerFired(key))
                case Save():
                    self.saves += 1
                case Notify(event=IntentChanged(intent=intent)) if intent.key == self._awaited:
                    self.reached.setdefault(node_id, self.now_s)

    def _send(self, to: NodeId, message: msgspec.Struct, event: Received) -> None:
        size = len(encode_message(message)[1])
        if size > BODY_BYTES_MAX:
            self._stream(to, message, event)
            return
        self._note(message, size + DATAGRAM_BYTES)
        if self.random.random() >= self.loss:
            self._at(self.now_s + self.random.uniform(*self.delay_s), to, event)

    def _stream(self, to: NodeId, message: msgspec.Struct, event: Any) -> None:
        self._note(message, len(encode_message(message)[1]) + FRAME_BYTES)
        self._at(self.now_s + self.random.uniform(*self.delay_s), to, event)

    def _note(self, message: msgspec.Struct, size: int) -> None:
        self.sent[type(message).__name__] += 1
        self.sent_bytes[type(message).__name__] += size

    def _at(self, at_s: float, node_id: NodeId, event: Any) -> int:
        number = self._number()
        heapq.heappush(self._heap, (max(at_s, self.now_s), number, node_id, event))
        return number


def _copied(message: msgspec.Struct) -> msgspec.Struct:
    decoded = decode_message(*encode_message(message))
    assert decoded is not None
    return decoded


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--intents", type=int, default=10_000)
    parser.add_argument("--spread", type=int, default=20, help="intents that are entered one after the other")
    parser.add_argument("--quiet", type=float, default=60.0, help="seconds of quiet that are measured")
    parser.add_argument("--loss", type=float, default=0.02, help="share of datagrams that are lost (default 0.02)")
    given = parser.parse_args()
    began_s = time.perf_counter()
    records = Records(given.nodes)
    signed = [*records.of_the_mesh(), *(records.workload(number) for number in range(given.intents))]
    record_bytes = statistics.median(len(msgspec.msgpack.encode(each)) for each in signed[-given.intents :])
    memory_mib, disk_bytes = one_node(signed, records.ca.sign_key)
    print(f"{given.nodes} nodes, {given.intents} workloads of {record_bytes:.0f} bytes, {given.loss:.0%} loss")
    print(f"one node's map      {memory_mib:.1f} MiB in memory, {disk_bytes / 2**20:.1f} MiB on disk")

    roster = Roster(MESH, records.ca.sign_key)
    begin = IntentMap(FakeCrypto(b"any"), roster)
    begin.restore((b"", msgspec.msgpack.encode(each)) for each in signed)
    mesh = Mesh(records, begin, roster, given.loss, (0.001, 0.02))
    mesh.run(SETTLE_S)
    spread = spread_some(mesh, records, given)
    mesh.run(60.0)
    quiet = quiet_time(mesh, given.quiet)
    least = record_bytes + FRAME_BYTES
    print(
        f"one more            at half of all after {spread['p50_s']:.2f} s, at the last after {spread['last_s']:.2f} s "
        f"(slowest of {given.spread}: {spread['worst_s']:.2f} s), missed by {spread['missed']}"
    )
    print(
        f"its traffic         {spread['bytes_per_node']:.0f} bytes per node sent, the record being {least:.0f} of it: "
        f"{spread['kinds']}"
    )
    print(f"quiet               {quiet['bytes_per_node_s']:.0f} bytes per node and second: {quiet['kinds']}")
    figures = {"memory_mib": memory_mib, "disk_bytes": disk_bytes, "record_bytes": record_bytes}
    wall_s = round(time.perf_counter() - began_s, 1)
    print(json.dumps(vars(given) | figures | {"spread_one": spread, "quiet_time": quiet, "wall_s": wall_s}))
    return 0 if not spread["missed"] else 1


def spread_some(mesh: Mesh, records: Records, given: argparse.Namespace) -> dict[str, Any]:
    """New revisions of some workloads, entered one after the other at nodes at random."""
    halves, lasts, missed = [], [], 0
    for number in range(WARM_UP + given.spread):
        if number == WARM_UP:
            before = Counter(mesh.sent_bytes)
        record = records.workload(number, seq=2)
        key = msgspec.msgpack.decode(record.body, type=Intent).key
        times = sorted(mesh.put(mesh.random.choice(records.ids), record, key).values())
        if number >= WARM_UP:
            halves.append(times[len(times) // 2])
            lasts.append(times[-1])
            missed += given.nodes - len(times)
        mesh.run(math.ceil(mesh.now_s) + 1 - mesh.now_s)
    spent = Counter(mesh.sent_bytes)
    spent.subtract(before)
    kinds = {kind: size / given.spread / given.nodes for kind, size in spent.items() if kind not in COMPARING}
    return {
        "p50_s": statistics.median(halves),
        "last_s": statistics.median(lasts),
        "worst_s": max(lasts),
        "missed": missed,
        "bytes_per_node": sum(kinds.values()),
        "kinds": {kind: round(size, 1) for kind, size in kinds.items()},
    }


def quiet_time(mesh: Mesh, seconds: float) -> dict[str, Any]:
    """What nodes send while nothing changes."""
    before = Counter(mesh.sent_bytes)
    mesh.run(seconds)
    spent = Counter(mesh.sent_bytes)
    spent.subtract(before)
    per_node_s = {kind: round(size / seconds / len(mesh.nodes), 1) for kind, size in spent.items() if size}
    return {"bytes_per_node_s": sum(per_node_s.values()), "kinds": per_node_s}


if __name__ == "__main__":
    sys.exit(main())
