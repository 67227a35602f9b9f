"""Put and get of our DHT beside the PyPI package `kademlia`, 100 nodes each, in one run.

`python bench/dht.py [--nodes 100] [--operations 200] [--rounds 3]`. Ours are whole agents, each with its datagram
socket, its TLS streams, its store and its API, in one process and event loop, as the peer's nodes are. Every record is
signed by its writer and verified by each keeper and each reader. A put is done when all whom a reader asks have said
that they keep it; a get is done when the lookup ends and every record found was verified. The peer signs nothing; its
put and get are done when its `set` and `get` return. Both are measured in turns, so that whatever else the machine does
meets both. `cold` is the first put and get of agents that have no stream to most of the others yet. Agents
do not look at their machine's free resources meanwhile: a hundred of them would read the table of the same machine's
sockets, which no machine with one agent does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent import daemon
from agent import files as node_files
from agent.daemon import Agent
from beemesh.events import FindProviders, ProvidersFound, PublishRecord, RecordPublished
from beemesh.ids import NodeId
from bench.bare_mesh import BareMesh, free_ports

RATIO_AIM = 5.0
CLIENTS = 5
"""Nodes that put, and as many that get: a node that works with a mesh has its streams open."""

PAUSE_S = 0.05
"""Between operations: each is measured alone, and what ours does after its `done` is over."""

JOIN_S, LOOK_EVERY_S = 900.0, 0.1
OPERATION_S = 10.0

Operation = Callable[[int], Awaitable[None]]


class OurMesh:
    """Agents in this process, all alive to each other before anything is measured."""

    def __init__(self, folder: Path, size: int) -> None:
        self._bare = BareMesh(folder, size)
        loaded = [node_files.load(folder / name / "config") for name in self._bare.names]
        self.ids = [each.membership.node_id for each in loaded]
        self.agents = [Agent(each) for each in loaded]
        self._runs: list[asyncio.Task[None]] = []
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        for agent in self.agents:
            agent.observers.append(self._observe)

    def _observe(self, event: Any) -> None:
        ref = (
            event.ref
            if isinstance(event, ProvidersFound)
            else event.subject
            if isinstance(event, RecordPublished)
            else ""
        )
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
            await asyncio.sleep(LOOK_EVERY_S)
        raise TimeoutError(f"after {JOIN_S:g} s some agent does not see all {len(self.agents)}")

    async def put(self, writer: int, subject: str) -> None:
        """Publish a record of a node, and wait until those whom a reader asks keep it."""
        done = self._expect(subject)
        self.agents[writer].shell.event(PublishRecord("runs", subject))
        async with asyncio.timeout(OPERATION_S):
            published: RecordPublished = await done
        assert published.kept == published.asked, published

    async def get(self, reader: int, subject: str, writer: NodeId) -> None:
        """Find who has it."""
        ref = f"{reader} {subject}"
        done = self._expect(ref)
        self.agents[reader].shell.event(FindProviders(ref, "runs", subject))
        async with asyncio.timeout(OPERATION_S):
            found: ProvidersFound = await done
        assert found.nodes == (writer,), f"{subject} was not found"

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

    async def get(self, reader: int, subject: str) -> None:
        """Get it."""
        assert await self.servers[reader].get(subject) is not None, f"{subject} was not found"

    def stop(self) -> None:
        """End all."""
        for server in self.servers:
            server.stop()


async def timed(work: Awaitable[None]) -> float:
    """Milliseconds that something takes."""
    began_s = time.perf_counter()
    await work
    return (time.perf_counter() - began_s) * 1000


class Race:
    """Turns of both, and what they took."""

    def __init__(self, ours: OurMesh, peer: PeerMesh | None, size: int) -> None:
        self._ours = ours
        self._peer = peer
        chosen = random.Random(1).sample(range(size), 2 * CLIENTS)
        self._writers, self._readers = chosen[:CLIENTS], chosen[CLIENTS:]
        self.times: dict[str, list[float]] = {}

    async def run(self, operations: int, rounds: int) -> None:
        """Warm up, then `rounds` turns."""
        await self._our_turn("cold", 2 * CLIENTS)
        await self._our_turn("", 40 * CLIENTS)
        if self._peer is not None:
            await self._peer_turn("", 2 * CLIENTS)
        for number in range(rounds):
            await self._our_turn("ours", operations // rounds, number)
            if self._peer is not None:
                await self._peer_turn("kademlia", operations // rounds, number)

    async def _our_turn(self, name: str, count: int, turn: int = 0) -> None:
        for number in range(count):
            writer, reader = self._writers[number % CLIENTS], self._readers[number % CLIENTS]
            subject = f"deployment/default/{name or 'warm'}-{turn}/{number}"
            self._note(name, "put", await timed(self._ours.put(writer, subject)))
            await asyncio.sleep(PAUSE_S)
            self._note(name, "get", await timed(self._ours.get(reader, subject, self._ours.ids[writer])))
            await asyncio.sleep(PAUSE_S)

    async def _peer_turn(self, name: str, count: int, turn: int = 0) -> None:
        assert self._peer is not None
        for number in range(count):
            writer, reader = self._writers[number % CLIENTS], self._readers[number % CLIENTS]
            subject = f"deployment/default/{name or 'warm'}-{turn}/{number}"
            self._note(name, "put", await timed(self._peer.put(writer, subject)))
            await asyncio.sleep(PAUSE_S)
            self._note(name, "get", await timed(self._peer.get(reader, subject)))
            await asyncio.sleep(PAUSE_S)

    def _note(self, name: str, what: str, took_ms: float) -> None:
        if name:
            self.times.setdefault(f"{name} {what}", []).append(took_ms)


async def race(given: argparse.Namespace) -> dict[str, Any]:
    """Both meshes, started, raced and stopped."""
    with tempfile.TemporaryDirectory() as folder:
        ours = OurMesh(Path(folder), given.nodes)
        peer = None
        with contextlib.suppress(ImportError):
            peer = PeerMesh(given.nodes)
        joined = {"ours": await ours.start()}
        if peer is not None:
            joined["kademlia"] = await peer.start()
        await asyncio.sleep(given.settle)
        runner = Race(ours, peer, given.nodes)
        try:
            await runner.run(given.operations, given.rounds)
        finally:
            if peer is not None:
                peer.stop()
            await ours.stop()
    return {"joined_s": joined, "times_ms": runner.times}


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--operations", type=int, default=200, help="puts, and as many gets")
    parser.add_argument("--rounds", type=int, default=4, help="turns in which they are made")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds between joining and measuring")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    daemon.RESOURCES_EVERY_S = 3_600.0
    result = asyncio.run(race(given))
    times = result.pop("times_ms")
    summary = {}
    load = os.getloadavg()[0]
    print(f"{given.nodes} nodes each, all in one process; milliseconds; load of the machine {load:.1f}")
    for name, taken in times.items():
        deciles = statistics.quantiles(taken, n=10)
        summary[name] = {"p50": statistics.median(taken), "p10": deciles[0], "p90": deciles[8], "count": len(taken)}
        print(
            f"{name:14} p50 {summary[name]['p50']:7.2f}   p10 {deciles[0]:7.2f}   p90 {deciles[8]:7.2f}"
            f"   n {len(taken)}"
        )
    ratios = {}
    if "kademlia put" in summary:
        ratios = {what: summary[f"kademlia {what}"]["p50"] / summary[f"ours {what}"]["p50"] for what in ("put", "get")}
        print(f"ours is {ratios['put']:.2f} times as fast in put (aim {RATIO_AIM:g}), {ratios['get']:.2f} times in get")
    else:
        print("the package kademlia is not installed: pip install --group bench")
    print(json.dumps(result | {"nodes": given.nodes, "load": load, "summary_ms": summary, "ratios": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
