"""How fast a large mesh learns that a node has joined, and that one is dead, and what that costs each node.

`python bench/spread.py [100 1000 10000]`. Every node is an agent's own failure detector (`Swim` with its `Members`,
rumours and view) under a virtual clock, with cheap signatures; all else of an agent is left out. The mesh stands for
long: views and rows begin with what all nodes share, and hold what each learned itself. Beside our figures stands what
they may grow by: the logarithm of the size.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import resource
import sys
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from beemesh.effects import Answered, Asked, Cancel, Now, Received, Reply, Request, Schedule, Send, TimerFired
from beemesh.events import Observed
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import sign_statement
from beemesh.ids import BOOT_ID_BYTES, BootId, NodeId
from beemesh.intents.record import SIGNED_KIND, Intent, node_key
from beemesh.membership.claims import ClaimDesk, size_of
from beemesh.membership.messages import Alive
from beemesh.membership.roster import Roster
from beemesh.membership.rows import Member
from beemesh.membership.settings import SwimSettings
from beemesh.membership.swim import Swim
from beemesh.membership.view import Status, View
from simulator.crypto import FakeCrypto

MESH, WALL_MS, YEAR_MS = "sim", 1_800_000_000_000, 365 * 86_400_000
DATAGRAM_BYTES = 61 + 16 + 82 + 12
"""Header, seal, envelope and nonce of a datagram without claims."""
QUIET_S, PATIENCE_S = 5.0, 180.0


class Mesh:
    """The failure detectors of many nodes."""

    def __init__(self, nodes: int, seed: int, loss: float, delay_s: tuple[float, float]) -> None:
        self.random = random.Random(seed)
        self.loss, self.delay_s, self.now_s = loss, delay_s, 0.0
        self.ca = FakeCrypto(b"ca")
        self.roster = Roster(MESH, self.ca.sign_key)
        self.swims: dict[NodeId, Swim] = {}
        self.datagrams = self.bytes = self.compared_bytes = 0
        self.observed: dict[str, float] = {}
        self._heap: list[tuple[float, int, Any, Any]] = []
        self._timers: dict[tuple[NodeId, Hashable], int] = {}
        self._replies: dict[int, tuple[NodeId, int, NodeId]] = {}
        self._count = 0
        self._keys = [FakeCrypto(f"node {index}".encode()) for index in range(nodes + 1)]
        self._cards = [self._card(index) for index in range(nodes + 1)]
        self._stand(nodes)

    # --- building -------------------------------------------------------------------------------------------------

    def _card(self, index: int) -> Any:
        """The signed card of a node; everybody has all cards, the joiner's too."""
        keys, name = self._keys[index], f"n{index}"
        membership = Membership(
            mesh=MESH,
            name=name,
            node_id=NodeId(keys.signer_id),
            sign_key=keys.sign_key,
            open_key=keys.open_key,
            addresses=("10.0.0.1",),
            gossip_port=7946,
            api_port=7947,
            serial=1,
            signed_at_ms=WALL_MS,
            not_after_ms=WALL_MS + YEAR_MS,
        )
        body = msgspec.msgpack.encode(membership)
        intent = Intent(MESH, "membership", node_key(name), 1, self.ca.signer_id, WALL_MS, body)
        self.roster.apply(intent)
        return sign_statement(self.ca, SIGNED_KIND, intent)

    def _stand(self, nodes: int) -> None:
        """A mesh in which everybody has known everybody for long."""
        boots = [BootId(self.random.randbytes(BOOT_ID_BYTES)) for _ in range(nodes)]
        rows: dict[NodeId, Member] = {}
        for keys, boot_id in zip(self._keys, boots, strict=False):
            node_id = NodeId(keys.signer_id)
            statement = Alive(node_id, WALL_MS, boot_id, "10.0.0.1", 7946, WALL_MS)
            claim = ClaimDesk(keys, self.roster).sign("alive", statement)
            rows[node_id] = Member(node_id, WALL_MS, boot_id, alive=claim, echoed=True)
        statuses: dict[NodeId, Status] = dict.fromkeys(rows, "alive")
        alive, joiners = tuple(sorted(rows)), (NodeId(self._keys[-1].signer_id),)
        for index, boot_id in enumerate(boots):
            swim = self._swim(index, boot_id)
            swim.members.view.begin_with(statuses, alive, joiners)
            swim.members.begin_with(rows)
            node_id = NodeId(self._keys[index].signer_id)
            # started long ago, and settled: each of its timers comes at any time within its pause
            long_ago = Now(-3600.0, WALL_MS)
            swim.start(long_ago)
            swim._exchange.pause_s(long_ago, early=False)
            swim.members.rumours.drop(("alive", node_id, b""))
            push_pull_s = 30.0 * max(1.0, 1.0 + math.log2(nodes / 32))
            for timer, pause_s in (("probe", 1.0), ("push-pull", push_pull_s), ("announce", 5.0)):
                self._carry(node_id, [Schedule(("swim", timer), self.random.uniform(0.0, pause_s))])

    def _swim(self, index: int, boot_id: BootId) -> Swim:
        node_id = NodeId(self._keys[index].signer_id)
        numbers = iter(range(1, 1 << 62))
        swim = Swim(
            node_id,
            boot_id,
            ("10.0.0.1", 7946),
            self._cards[index],
            roster=self.roster,
            view=View(node_id, self.roster),
            crypto=self._keys[index],
            randomness=self.random,
            new_request_id=lambda: next(numbers),
            settings=SwimSettings(),
        )
        self.swims[node_id] = swim
        return swim

    # --- events ---------------------------------------------------------------------------------------------------

    @property
    def now(self) -> Now:
        """This moment."""
        return Now(self.now_s, WALL_MS + int(self.now_s * 1000))

    def join(self) -> NodeId:
        """The last node starts, and knows cards alone."""
        node_id = NodeId(self._keys[-1].signer_id)
        self._carry(node_id, self._swim(-1, BootId(self.random.randbytes(BOOT_ID_BYTES))).start(self.now))
        return node_id

    def kill(self) -> NodeId:
        """A node is gone without a word."""
        node_id = self.random.choice(sorted(self.swims))
        del self.swims[node_id]
        return node_id

    def run(self, until_s: float) -> None:
        """Advance the clock."""
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, number, node_id, event = heapq.heappop(self._heap)
            swim = self.swims.get(node_id)
            if swim is None:
                continue
            if isinstance(event, TimerFired) and self._timers.get((node_id, event.key)) != number:
                continue
            if isinstance(event, TimerFired):
                del self._timers[node_id, event.key]
            self._carry(node_id, swim.handle(event, self.now))
        self.now_s = until_s

    def spread(self, subject: NodeId, status: str) -> tuple[float, float, float]:
        """Seconds until the first, half and all of the others give `subject` that status."""
        began_s, left = self.now_s, [swim for node_id, swim in self.swims.items() if node_id != subject]
        total, first_s, half_s = len(left), 0.0, 0.0
        while left and self.now_s - began_s < PATIENCE_S:
            self.run(self.now_s + 0.05)
            left = [swim for swim in left if swim.members.view.status(subject) != status]
            passed_s = self.now_s - began_s
            first_s = first_s or (passed_s if len(left) < total else 0.0)
            half_s = half_s or (passed_s if len(left) <= total / 2 else 0.0)
        return first_s, half_s, self.now_s - began_s if not left else math.inf

    # --- effects --------------------------------------------------------------------------------------------------

    def _at(self, at_s: float, node_id: NodeId, event: Any) -> int:
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, node_id, event))
        return self._count

    def _later_s(self) -> float:
        return self.now_s + self.random.uniform(*self.delay_s)

    def _carry(self, node_id: NodeId, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Send(to=to, message=message):
                    claims = getattr(message, "claims", ())
                    self.datagrams += 1
                    self.bytes += DATAGRAM_BYTES + sum(size_of(claim) for claim in claims)
                    if self.random.random() >= self.loss:
                        self._at(self._later_s(), to, Received(node_id, message))
                case Schedule(key=key, at_boot_s=at_s):
                    self._timers[node_id, key] = self._at(at_s, node_id, TimerFired(key))
                case Cancel(key=key):
                    self._timers.pop((node_id, key), None)
                case Request(request_id=request_id, to=to, message=message):
                    self._count += 1
                    self.compared_bytes += len(msgspec.msgpack.encode(message))
                    self._replies[self._count] = (node_id, request_id, to)
                    self._at(self._later_s(), to, Asked(node_id, self._count, message))
                case Reply(token=token, message=message):
                    self.compared_bytes += len(msgspec.msgpack.encode(message))
                    asker, request_id, peer = self._replies.pop(token)
                    self._at(self._later_s(), asker, Answered(request_id, peer, message))
                case _ if isinstance(getattr(effect, "event", None), Observed):
                    counted = effect.event
                    self.observed[counted.metric] = self.observed.get(counted.metric, 0) + counted.amount


def measure(nodes: int, seed: int, loss: float, delay_s: tuple[float, float]) -> dict[str, float]:
    """One mesh of that size: a quiet while, a join, a death."""
    started, cpu_s = time.perf_counter(), time.process_time()
    mesh = Mesh(nodes, seed, loss, delay_s)
    result: dict[str, float] = {"nodes": nodes}
    mesh.run(QUIET_S)
    quiet = (mesh.datagrams / nodes / QUIET_S, mesh.bytes / nodes / QUIET_S)
    result |= {"quiet_datagrams_per_s": quiet[0], "quiet_bytes_per_s": quiet[1]}
    result["compared_bytes_per_s"] = mesh.compared_bytes / nodes / QUIET_S
    for name, happen, status in (("join", mesh.join, "alive"), ("death", mesh.kill, "dead")):
        before, began_s = (mesh.datagrams, mesh.bytes), mesh.now_s
        subject = happen()
        others = len(mesh.swims) - (subject in mesh.swims)
        first_s, half_s, all_s = mesh.spread(subject, status)
        mesh.run(mesh.now_s + QUIET_S)  # what is still told afterwards belongs to it
        passed_s = mesh.now_s - began_s
        result |= {
            f"{name}_first_s": first_s,
            f"{name}_half_s": half_s,
            f"{name}_all_s": all_s,
            f"{name}_datagrams": (mesh.datagrams - before[0]) / others - quiet[0] * passed_s,
            f"{name}_bytes": (mesh.bytes - before[1]) / others - quiet[1] * passed_s,
        }
    judged = len(mesh.swims) if result["death_all_s"] < math.inf else 0
    result["false_deaths"] = mesh.observed.get("swim_deaths", 0.0) - judged
    result["wall_s"] = time.perf_counter() - started
    result["cpu_s"] = time.process_time() - cpu_s
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=[100, 1_000], help="nodes (default 100 1000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loss", type=float, default=0.0, help="share of datagrams that are lost (default 0)")
    parser.add_argument(
        "--delay", type=float, default=0.005, help="longest way of a datagram in seconds (default 0.005)"
    )
    given = parser.parse_args()
    rows = []
    print("nodes     what    first    half     all   datagrams  bytes per node      peak memory")
    for nodes in given.sizes:
        row = measure(nodes, given.seed, given.loss, (0.0005, given.delay))
        rows.append(row)
        for name in ("join", "death"):
            print(
                f"{nodes:<8}  {name:<5}  {row[f'{name}_first_s']:>5.2f} s {row[f'{name}_half_s']:>5.2f} s "
                f"{row[f'{name}_all_s']:>5.2f} s   {row[f'{name}_datagrams']:>7.1f}  {row[f'{name}_bytes']:>8.0f}"
                f"           {row['peak_rss_mib']:>8.0f} MiB"
            )
        print(
            f"{nodes:<8}  quiet  {row['quiet_datagrams_per_s']:.2f} datagrams and {row['quiet_bytes_per_s']:.0f} bytes "
            f"per node and second, {row['compared_bytes_per_s']:.0f} more over streams; "
            f"{row['false_deaths']:.0f} false deaths; took {row['wall_s']:.0f} s, {row['cpu_s']:.0f} s of CPU"
        )
    for before, after in itertools.pairwise(rows):
        by_log = math.log(after["nodes"]) / math.log(before["nodes"])
        grown = {
            name: after[f"{name}_{what}"] / before[f"{name}_{what}"]
            for name, what in (("join", "all_s"), ("death", "all_s"))
        }
        grown["join traffic"] = after["join_bytes"] / before["join_bytes"]
        grown["death traffic"] = after["death_bytes"] / before["death_bytes"]
        told = ", ".join(f"{name} x{ratio:.2f}" for name, ratio in grown.items())
        print(f"{before['nodes']:.0f} to {after['nodes']:.0f}: log N grows x{by_log:.2f}; {told}")
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
