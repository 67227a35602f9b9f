"""Put and get of our DHT beside the PyPI package `kademlia`, 100 nodes each, in one run.

`python bench/dht.py [--nodes 100] [--operations 200] [--rounds 4]`. Each side is one process with one event loop, and
they take turns, so that whatever else the machine does meets both. Ours are whole agents, each with its datagram
socket, its TLS streams, its store and its API. Every record is signed by its writer and verified by each keeper and
each reader. A put is done when all whom a reader asks have said that they keep it; a get is done when the lookup ends
and every record found was verified. The peer signs nothing; its put and get are done when its `set` and `get` return.
`cold` are the first operations of agents that have no stream to most of the others yet. Gets are told apart by whether
the reader itself keeps the record: the peer then answers from its own memory, and stops at the first value otherwise,
while ours asks all that it takes to believe nobody hides a newer one, and verifies.

So that a hundred agents fit one event loop they probe and gossip less often than an agent alone on its machine does,
and do not look at the machine's free resources, for which each of them would read the table of all their sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from agent import daemon
from agent import files as node_files
from agent.daemon import Agent
from beemesh.dht.records import point_of
from beemesh.events import FindProviders, ProvidersFound, PublishRecord, RecordPublished
from bench.bare_mesh import ROOT, BareMesh, free_ports

OURS, PEER = "ours", "kademlia"
KINDS = ("put", "get", "get, kept", "get, asked")
RATIO_AIM = 5.0
CLIENTS = 5
"""Nodes that put, and as many that get: a node that works with a mesh has its streams open."""

PAUSE_S = 0.05
"""Between operations: each is measured alone, and what ours does after its `done` is over."""

JOIN_S, LOOK_EVERY_S = 900.0, 0.1
OPERATION_S = 10.0

MEMBERSHIP = {"probe_interval_ms": 10_000, "probe_timeout_ms": 5_000, "gossip_interval_ms": 1_000}
"""A tenth of the usual rate."""


class CalmMesh(BareMesh):
    """Agents that probe and gossip less often."""

    def _config(self, name: str) -> Callable[[Any], bytes]:
        usual = super()._config(name)
        return lambda seeds: usual(seeds) + yaml.safe_dump({"membership": MEMBERSHIP}).encode()


class OurMesh:
    """Agents in this process, all alive to each other before anything is measured."""

    def __init__(self, folder: Path, size: int) -> None:
        bare = CalmMesh(folder, size)
        loaded = [node_files.load(folder / name / "config") for name in bare.names]
        self.ids = [each.membership.node_id for each in loaded]
        self.agents = [Agent(each) for each in loaded]
        self._directories = [agent.composition.directory for agent in self.agents]
        self._runs: list[asyncio.Task[None]] = []
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        for agent in self.agents:
            agent.observers.append(self._observe)

    def _observe(self, event: Any) -> None:
        ref = event.ref if isinstance(event, ProvidersFound) else getattr(event, "subject", "")
        future = self._waiting.pop(ref, None)
        if future is not None and not future.done():
            future.set_result(event)

    async def start(self) -> float:
        """Start them; how long until each one holds all others for alive."""
        began_s = time.perf_counter()
        for agent in self.agents:
            self._runs.append(asyncio.create_task(agent.run()))
            await asyncio.sleep(LOOK_EVERY_S)
        for agent in self.agents:
            await self._full(agent)
        return time.perf_counter() - began_s

    async def _full(self, agent: Agent) -> None:
        """Wait until an agent holds all for alive."""
        for _ in range(int(JOIN_S / LOOK_EVERY_S)):
            if len(agent.shell.node.view.alive()) == len(self.agents):
                return
            for run in self._runs:
                if run.done():
                    run.result()  # it could not start: say why
            await asyncio.sleep(LOOK_EVERY_S)
        raise TimeoutError(f"after {JOIN_S:g} s some agent does not see all {len(self.agents)}")

    async def put(self, writer: int, subject: str) -> None:
        """Publish a record of a node, and wait until those whom a reader asks keep it."""
        done = self._expect(subject)
        self.agents[writer].shell.event(PublishRecord("runs", subject))
        async with asyncio.timeout(OPERATION_S):
            published: RecordPublished = await done
        assert published.kept == published.asked, published

    async def get(self, reader: int, subject: str, writer: int) -> None:
        """Find who has it."""
        ref = f"{reader} {subject}"
        done = self._expect(ref)
        self.agents[reader].shell.event(FindProviders(ref, "runs", subject))
        async with asyncio.timeout(OPERATION_S):
            found: ProvidersFound = await done
        assert found.nodes == (self.ids[writer],), f"{subject} was not found"

    def keeps(self, reader: int, subject: str) -> bool:
        """Whether a node has the record itself."""
        shell = self.agents[reader].shell
        return bool(self._directories[reader].store.at(point_of("bare", "runs", subject), shell.now))

    def _expect(self, ref: str) -> asyncio.Future[Any]:
        future = self._waiting[ref] = asyncio.get_running_loop().create_future()
        return future

    async def stop(self) -> None:
        """End all."""
        for agent in self.agents:
            agent.stop()
        await asyncio.gather(*self._runs, return_exceptions=True)


class PeerMesh:
    """Nodes of `kademlia`, with its defaults (k = 20, alpha = 3)."""

    def __init__(self, size: int) -> None:
        from kademlia.network import Server  # type: ignore[import-untyped]

        self.servers = [Server() for _ in range(size)]

    async def start(self) -> float:
        """Start them, each by way of the first."""
        began_s = time.perf_counter()
        ports = free_ports(len(self.servers))
        for server, port in zip(self.servers, ports, strict=True):
            await server.listen(port, interface="127.0.0.1")
        for server in self.servers[1:]:
            await server.bootstrap([("127.0.0.1", ports[0])])
        return time.perf_counter() - began_s

    async def put(self, writer: int, subject: str) -> None:
        """Set a value of the size of our record's body."""
        assert await self.servers[writer].set(subject, "x" * 150)

    async def get(self, reader: int, subject: str, writer: int) -> None:
        """Get it."""
        assert await self.servers[reader].get(subject) is not None, f"{subject} was not found"

    def keeps(self, reader: int, subject: str) -> bool:
        """Whether a node has the value itself."""
        from kademlia.utils import digest  # type: ignore[import-untyped]

        return self.servers[reader].storage.get(digest(subject)) is not None

    async def stop(self) -> None:
        """End all."""
        for server in self.servers:
            server.stop()


async def timed(work: Awaitable[None]) -> float | None:
    """Milliseconds that something takes; None when it fails."""
    began_s = time.perf_counter()
    try:
        await work
    except (AssertionError, TimeoutError):
        return None
    return (time.perf_counter() - began_s) * 1000


async def side(name: str, nodes: int, settle_s: float) -> None:
    """One mesh in a process of its own: says when it is there, then makes the turns that standard input asks for."""
    mesh: OurMesh | PeerMesh
    with tempfile.TemporaryDirectory() as folder:
        mesh = OurMesh(Path(folder), nodes) if name == OURS else PeerMesh(nodes)
        joined_s = await mesh.start()
        await asyncio.sleep(settle_s)
        print(joined_s, flush=True)
        chosen = random.Random(1).sample(range(nodes), 2 * CLIENTS)
        try:
            while line := await asyncio.to_thread(sys.stdin.readline):
                turn, count = line.split()
                print(json.dumps(await operations(mesh, chosen, turn, int(count))), flush=True)
        finally:
            await mesh.stop()


async def operations(mesh: OurMesh | PeerMesh, chosen: list[int], turn: str, count: int) -> dict[str, Any]:
    """So many puts, each followed by a get on another node."""
    times: dict[str, list[float | None]] = {kind: [] for kind in KINDS}
    for number in range(count):
        writer, reader = chosen[number % CLIENTS], chosen[CLIENTS + number % CLIENTS]
        subject = f"deployment/default/{turn}/{number}"
        times["put"].append(await timed(mesh.put(writer, subject)))
        await asyncio.sleep(PAUSE_S)
        kept = mesh.keeps(reader, subject)
        taken = await timed(mesh.get(reader, subject, writer))
        times["get"].append(taken)
        times["get, kept" if kept else "get, asked"].append(taken)
        await asyncio.sleep(PAUSE_S)
    return times


class Side:
    """A mesh in a process of its own, as the race sees it."""

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        self.name = name
        command = [sys.executable, __file__, "--side", name, "--nodes", str(given.nodes), "--settle", str(given.settle)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        self.joined_s = float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the side {self.name} ended: what it wrote stands above")
        return line

    def turn(self, label: str, count: int) -> dict[str, list[float | None]]:
        """Make so many puts and gets."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{label} {count}\n")
        self._process.stdin.flush()
        times: dict[str, list[float | None]] = json.loads(self._read())
        return times

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def race(given: argparse.Namespace) -> tuple[dict[str, float], dict[str, list[float | None]]]:
    """(seconds until each mesh stood, milliseconds of each operation; None for those that failed)."""
    sides: list[Side] = []
    times: dict[str, list[float | None]] = {}
    try:
        for name in (OURS, PEER) if find_spec(PEER) else (OURS,):
            sides.append(Side(name, given))
        for what, taken in sides[0].turn("cold", 2 * CLIENTS).items():
            times[f"cold {what}"] = taken
        for each in sides:
            each.turn("warm", 40 * CLIENTS if each.name == OURS else 2 * CLIENTS)
        for number in range(given.rounds):
            for each in sides:
                for what, taken in each.turn(f"turn-{number}", given.operations // given.rounds).items():
                    times.setdefault(f"{each.name} {what}", []).extend(taken)
    finally:
        for each in sides:
            each.close()
    return {each.name: each.joined_s for each in sides}, times


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--operations", type=int, default=200, help="puts, and as many gets")
    parser.add_argument("--rounds", type=int, default=4, help="turns in which they are made")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds between joining and measuring")
    parser.add_argument("--side", choices=(OURS, PEER), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        logging.disable(logging.WARNING)
        daemon.RESOURCES_EVERY_S = 3_600.0
        asyncio.run(side(given.side, given.nodes, given.settle))
        return 0
    joined_s, times = race(given)
    load = os.getloadavg()[0]
    print(f"{given.nodes} nodes each; milliseconds; load of the machine {load:.1f}")
    summary = {name: summed_up(name, taken) for name, taken in times.items() if sum(map(bool, taken)) > 1}
    ratios = {}
    if f"{PEER} put" in summary:
        shared = [what for what in KINDS if {f"{OURS} {what}", f"{PEER} {what}"} <= summary.keys()]
        ratios = {what: summary[f"{PEER} {what}"]["p50"] / summary[f"{OURS} {what}"]["p50"] for what in shared}
        told = "; ".join(f"{ratio:.2f} times in {what}" for what, ratio in ratios.items())
        print(f"ours is so much faster (aim {RATIO_AIM:g} in put): {told}")
    else:
        print("the package kademlia is not installed: pip install --group bench")
    result = {"nodes": given.nodes, "load": load, "joined_s": joined_s, "summary_ms": summary, "ratios": ratios}
    print(json.dumps(result))
    return 0


def summed_up(name: str, taken: list[float | None]) -> dict[str, float]:
    """Percentiles of those that succeeded, printed."""
    good = [each for each in taken if each is not None]
    deciles = statistics.quantiles(good, n=10, method="inclusive")
    p10, p50, p90, failed = deciles[0], statistics.median(good), deciles[8], len(taken) - len(good)
    print(f"{name:20} p50 {p50:7.2f}   p10 {p10:7.2f}   p90 {p90:7.2f}   n {len(taken)}, {failed} failed")
    return {"p50": p50, "p10": p10, "p90": p90, "count": len(taken), "failed": failed}


if __name__ == "__main__":
    sys.exit(main())
