"""Beside a peer: a mesh of our agents and one of stock serf agents (Debian package `serf`), in turn, on loopback.

`python -m bench.membership [--nodes 30] [--rounds 3]`. All agents start unjoined; when the last one listens, all are
told to join through the first one, and the clock starts. Measured: time until all see all, until all have seen a
`kill -9`, the spread of one event to all, and bytes and CPU per node. Both tools run as processes with their defaults
(serf: its LAN profile) and share this machine with the bench; an agent of ours is whole, with API and a mock engine.
Nothing is installed: what is missing is named. As root (or with user namespaces) the mesh gets a network namespace of
its own, so that its bytes can be told from those of others.

Ours says what it sees through a pipe; serf is asked for its counts every 50 ms (its own event stream holds member
events back for up to 3 s). What asking costs serf in bytes and CPU is measured and taken off.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import random
import selectors
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
import psutil

from bench.bare_mesh import ROOT, BareMesh, eventually, free_ports
from bench.serf_rpc import SerfRpc

EVENTS, KILLS = 10, 5
POLL_S = 0.05
START_PATIENCE_S, JOIN_PATIENCE_S, DEATH_PATIENCE_S = 180.0, 120.0, 120.0
SETTLE_S, QUIET_S = 15.0, 20.0
IN_NAMESPACE = "BEEMESH_BENCH_NAMESPACE"


class Tool(ABC):
    """A mesh of one tool: what both have in common."""

    name = ""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder, self.nodes = folder, nodes
        self.pids: dict[int, int] = {}
        self.asked = 0
        """How often agents were asked for a count, which costs them bytes and CPU."""

    @abstractmethod
    def start(self) -> None:
        """Start all agents, unjoined; return when the last one listens."""

    @abstractmethod
    def join(self) -> None:
        """Tell all to join through the first one."""

    @abstractmethod
    def seeing(self, wanted: int, among: Iterable[int], patience_s: float) -> list[float]:
        """Seconds from now until each of `among` holds `wanted` nodes, itself included, for alive."""

    @abstractmethod
    def say(self, index: int, text: str) -> list[float]:
        """Publish an event on one agent; seconds until each of the others has it."""

    def kill(self, index: int) -> None:
        """kill -9."""
        os.kill(self.pids.pop(index), 9)

    @abstractmethod
    def stop(self) -> None:
        """End all."""

    def cpu_s(self) -> float:
        """CPU seconds of all agents that live."""
        spent = [psutil.Process(pid).cpu_times() for pid in self.pids.values()]
        return sum(times.user + times.system for times in spent)

    def memory_mib(self) -> float:
        """Median resident memory of an agent."""
        return statistics.median(psutil.Process(pid).memory_info().rss for pid in self.pids.values()) / 1024**2


class Ours(Tool):
    """Agents of this project."""

    name = "beemesh"

    def __init__(self, folder: Path, nodes: int) -> None:
        super().__init__(folder, nodes)
        self.mesh = BareMesh(folder, nodes, joined=False)
        self._selector = selectors.DefaultSelector()
        self._rest: dict[int, bytes] = {}
        self._alive: dict[int, set[str]] = {index: {name} for index, name in enumerate(self.mesh.names)}
        self._heard: dict[int, str] = {}

    def start(self) -> None:
        """See `Tool.start`."""
        for index, name in enumerate(self.mesh.names):
            self.mesh.start(name, watched=True)
            process = self.mesh.processes[name]
            self.pids[index] = process.pid
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            self._selector.register(process.stdout, selectors.EVENT_READ, index)
        for name in self.mesh.names:
            if not eventually(lambda name=name: self.mesh.is_up(name), START_PATIENCE_S):
                raise SystemExit(f"agent {name} does not start: see {self.folder / name / 'log'}")

    def _command(self, index: int, line: bytes) -> None:
        stdin = self.mesh.processes[self.mesh.names[index]].stdin
        assert stdin is not None
        stdin.write(line + b"\n")
        stdin.flush()

    def join(self) -> None:
        """See `Tool.join`."""
        card = base64.b64encode(msgspec.msgpack.encode(self.mesh.cards[self.mesh.names[0]]))
        for index in range(self.nodes):
            self._command(index, b"join " + card)

    def _pump(self, patience_s: float) -> None:
        for key, _ in self._selector.select(patience_s):
            index = int(key.data)
            stream: Any = key.fileobj
            part = os.read(stream.fileno(), 65_536)
            if not part:
                self._selector.unregister(stream)
            *lines, self._rest[index] = (self._rest.get(index, b"") + part).split(b"\n")
            for line in lines:
                word, _, what = line.decode().partition(" ")
                if word == "heard":
                    self._heard[index] = what
                elif word == "up":
                    self._alive[index].add(what)
                else:
                    self._alive[index].discard(what)

    def _times(self, reached: Callable[[int], bool], among: Iterable[int], patience_s: float) -> list[float]:
        started, times = time.monotonic(), dict[int, float]()
        waiting = set(among)
        while waiting and time.monotonic() - started < patience_s:
            self._pump(0.2)
            for index in [each for each in waiting if reached(each)]:
                times[index] = time.monotonic() - started
                waiting.discard(index)
        return [*times.values(), *(float("inf") for _ in waiting)]

    def seeing(self, wanted: int, among: Iterable[int], patience_s: float) -> list[float]:
        """See `Tool.seeing`."""
        return self._times(lambda index: len(self._alive[index]) == wanted, among, patience_s)

    def say(self, index: int, text: str) -> list[float]:
        """See `Tool.say`."""
        self._command(index, f"say {text}".encode())
        others = [each for each in self.pids if each != index]
        return self._times(lambda each: self._heard.get(each) == text, others, 30)

    def kill(self, index: int) -> None:
        """See `Tool.kill`."""
        super().kill(index)
        self.mesh.processes.pop(self.mesh.names[index]).wait(10)

    def stop(self) -> None:
        """See `Tool.stop`."""
        self.mesh.stop()
        self._selector.close()


class Serf(Tool):
    """Stock serf agents."""

    name = "serf"

    def __init__(self, folder: Path, nodes: int) -> None:
        super().__init__(folder, nodes)
        ports = free_ports(2 * nodes)
        self._gossip, self._rpc_ports = ports[:nodes], ports[nodes:]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._rpc: dict[int, SerfRpc] = {}
        self._streams: dict[int, SerfRpc] = {}

    def start(self) -> None:
        """See `Tool.start`."""
        for index in range(self.nodes):
            log: IO[bytes] = (self.folder / f"serf{index}.log").open("wb")
            bind, rpc = f"127.0.0.1:{self._gossip[index]}", f"127.0.0.1:{self._rpc_ports[index]}"
            command = ["serf", "agent", f"-node=s{index}", f"-bind={bind}", f"-rpc-addr={rpc}", "-log-level=warn"]
            self._processes[index] = subprocess.Popen(command, stdout=log, stderr=log)
            self.pids[index] = self._processes[index].pid
            log.close()
        for index, port in enumerate(self._rpc_ports):
            if not eventually(lambda port=port: _listens(port), START_PATIENCE_S):
                raise SystemExit(f"serf agent {index} does not start: see {self.folder}/serf{index}.log")
            self._rpc[index], self._streams[index] = SerfRpc(port), SerfRpc(port)
            self._streams[index].send("stream", Type="user")
            self._streams[index].receive()

    def join(self) -> None:
        """See `Tool.join`. Each answers when its join is done; on a connection of its own, nobody waits for it."""
        self._joining = [SerfRpc(self._rpc_ports[index]) for index in range(1, self.nodes)]
        for rpc in self._joining:
            rpc.send("join", Existing=[f"127.0.0.1:{self._gossip[0]}"], Replay=False)

    def seeing(self, wanted: int, among: Iterable[int], patience_s: float) -> list[float]:
        """See `Tool.seeing`."""
        started, times = time.monotonic(), dict[int, float]()
        waiting = list(among)
        while waiting and time.monotonic() - started < patience_s:
            begun = time.monotonic()
            for index in list(waiting):
                self.asked += 1
                if self._rpc[index].present() == wanted:
                    times[index] = time.monotonic() - started
                    waiting.remove(index)
            time.sleep(max(0.0, POLL_S - (time.monotonic() - begun)))
        return [*times.values(), *(float("inf") for _ in waiting)]

    def say(self, index: int, text: str) -> list[float]:
        """See `Tool.say`."""
        started = time.monotonic()
        self._rpc[index].send("event", Name="bench", Payload=text, Coalesce=False)
        waiting = {self._streams[each].socket: each for each in self.pids if each != index}
        times = []
        with selectors.DefaultSelector() as selector:
            for stream in waiting:
                selector.register(stream, selectors.EVENT_READ)
            while waiting and time.monotonic() - started < 30:
                for key, _ in selector.select(0.2):
                    stream: Any = key.fileobj
                    if text.encode() in stream.recv(65_536):
                        times.append(time.monotonic() - started)
                        selector.unregister(stream)
                        del waiting[stream]
        self._rpc[index].receive()
        self._streams[index].socket.recv(65_536)
        return [*times, *(float("inf") for _ in waiting)]

    def price_of_asking(self) -> tuple[float, float]:
        """(loopback bytes, CPU seconds of all agents) for one more question, beside what a quiet mesh costs."""
        quiet_bytes, quiet_cpu_s = _spent_in(self, 5.0)
        begun_bytes, begun_s, started = loopback_bytes(), self.cpu_s(), time.monotonic()
        count = 0
        while time.monotonic() - started < 5.0:
            for index in self.pids:
                self._rpc[index].present()
                count += 1
            time.sleep(POLL_S)
        took_s = time.monotonic() - started
        more_bytes = loopback_bytes() - begun_bytes - quiet_bytes / 5.0 * took_s
        return max(0.0, more_bytes / count), max(0.0, (self.cpu_s() - begun_s - quiet_cpu_s / 5.0 * took_s) / count)

    def kill(self, index: int) -> None:
        """See `Tool.kill`."""
        super().kill(index)
        self._processes.pop(index).wait(10)

    def stop(self) -> None:
        """See `Tool.stop`."""
        for process in self._processes.values():
            process.kill()
            process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def loopback_bytes() -> int:
    """Bytes that went over this network namespace's loopback, with their headers."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def _spent_in(tool: Tool, seconds: float) -> tuple[float, float]:
    """(loopback bytes, CPU seconds of all agents) while nobody asks anything."""
    begun_bytes, begun_s = loopback_bytes(), tool.cpu_s()
    time.sleep(seconds)
    return loopback_bytes() - begun_bytes, tool.cpu_s() - begun_s


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(tool: Tool, seed: int) -> dict[str, Any]:
    """One mesh from its start to its fifth death."""
    chance = random.Random(seed)
    tool.start()
    everybody = list(tool.pids)
    time.sleep(2)
    load = os.getloadavg()[0]
    bytes_before, cpu_before_s, started = loopback_bytes(), tool.cpu_s(), time.monotonic()
    tool.join()
    told_s = time.monotonic() - started
    joined_s = [told_s + each for each in tool.seeing(tool.nodes, everybody, JOIN_PATIENCE_S)]
    time.sleep(max(0.0, SETTLE_S - (time.monotonic() - started)))
    form_bytes, form_cpu_s = loopback_bytes() - bytes_before, tool.cpu_s() - cpu_before_s
    asked = tool.asked
    quiet_bytes, quiet_cpu_s = _spent_in(tool, QUIET_S)
    memory_mib = tool.memory_mib()
    if isinstance(tool, Serf):
        price_bytes, price_s = tool.price_of_asking()
        form_bytes, form_cpu_s = form_bytes - int(asked * price_bytes), form_cpu_s - asked * price_s
    said = []
    for number in range(EVENTS):
        said.append(max(tool.say(chance.choice(everybody), f"event-{seed}-{number}")))
        time.sleep(chance.uniform(0.3, 0.9))
    deaths = []
    for _ in range(KILLS):
        time.sleep(chance.uniform(1.0, 2.0))
        tool.kill(chance.choice([index for index in tool.pids if index]))
        deaths.append(max(tool.seeing(len(tool.pids), list(tool.pids), DEATH_PATIENCE_S)))
    return {
        "all_see_all_s": max(joined_s),
        "event_to_all_ms": [1000 * each for each in said],
        "death_seen_by_all_s": deaths,
        "forming_kib_per_node": form_bytes / 1024 / tool.nodes,
        "forming_cpu_s_per_node": form_cpu_s / tool.nodes,
        "quiet_bytes_per_s_per_node": quiet_bytes / QUIET_S / tool.nodes,
        "quiet_cpu_percent_per_node": 100 * quiet_cpu_s / QUIET_S / tool.nodes,
        "memory_mib": memory_mib,
        "load": load,
    }


ROWS = [
    ("all see all, s", "all_see_all_s", True),
    ("one event to all, ms", "event_to_all_ms", True),
    ("a kill -9 seen by all, s", "death_seen_by_all_s", True),
    ("first 15 s, KiB per node", "forming_kib_per_node", False),
    ("first 15 s, CPU s per node", "forming_cpu_s_per_node", False),
    ("quiet, bytes/s per node", "quiet_bytes_per_s_per_node", False),
    ("quiet, CPU % per node", "quiet_cpu_percent_per_node", False),
    ("memory, MiB per node", "memory_mib", False),
]


def gathered(runs: list[dict[str, Any]], key: str) -> tuple[float, float, float]:
    """(median, lowest, highest) of a figure over all runs of a tool."""
    values: list[float] = []
    for run in runs:
        found = run[key]
        values += found if isinstance(found, list) else [found]
    return statistics.median(values), min(values), max(values)


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3, help="meshes of each tool, in turn (default 3)")
    parser.add_argument("--only", choices=["beemesh", "serf"], help="one tool alone")
    options = parser.parse_args()
    if shutil.which("serf") is None and options.only != "beemesh":
        print("needs serf beside us: apt-get install serf (this bench installs nothing)", file=sys.stderr)
        return 1
    apart = enter_namespace()
    tools: list[type[Tool]] = [kind for kind in (Ours, Serf) if options.only in (None, kind.name)]
    runs: dict[str, list[dict[str, Any]]] = {kind.name: [] for kind in tools}
    for number in range(options.rounds):
        for kind in tools if number % 2 == 0 else tools[::-1]:
            with tempfile.TemporaryDirectory(prefix="beemesh-beside-serf-") as folder:
                tool = kind(Path(folder), options.nodes)
                try:
                    runs[kind.name].append(measure(tool, number + 1))
                finally:
                    tool.stop()
            print(f"round {number + 1}, {kind.name}: {json.dumps(runs[kind.name][-1])}", file=sys.stderr)
    shared = f"{os.cpu_count()} cores shared by all agents, the bench and whatever else runs here"
    print(f"{options.nodes} agents of each tool in turn, {options.rounds} rounds, {shared}")
    if not apart:
        print("no network namespace is to be had: bytes are of everything on this machine's loopback")
    report: dict[str, Any] = {"nodes": options.nodes, "rounds": runs, "ratios": {}}
    print(f"{'median (lowest - highest)':<28}" + "".join(f"{kind.name:>28}" for kind in tools) + "   ours / serf")
    for title, key, binds in ROWS:
        figures = [gathered(runs[kind.name], key) for kind in tools]
        cells = "".join(f"{f'{mid:.2f} ({low:.2f} - {high:.2f})':>28}" for mid, low, high in figures)
        ratio = figures[0][0] / figures[1][0] if len(figures) == 2 and figures[1][0] else None
        report["ratios"][key] = ratio
        aim = " (aim: at most 1)" if binds else ""
        print(f"{title:<28}{cells}" + (f"   {ratio:.2f}{aim}" if ratio is not None else ""))
    print(json.dumps(report))
    return 0


def enter_namespace() -> bool:
    """Run again in a network namespace with its own loopback; False where that is not allowed."""
    if os.environ.get(IN_NAMESPACE) == "1":
        raise_loopback()
        return True
    flags = ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, *flags, "true"], capture_output=True, check=False).returncode:
        return False
    command = [unshare, *flags, sys.executable, "-m", "bench.membership", *sys.argv[1:]]
    os.chdir(ROOT)
    os.execve(unshare, command, {**os.environ, IN_NAMESPACE: "1"})
    return True


def raise_loopback() -> None:
    """Bring `lo` up in a fresh network namespace."""
    set_flags, up_and_running = 0x8914, 0x1 | 0x40
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, set_flags, struct.pack("16sh14x", b"lo", up_and_running))


if __name__ == "__main__":
    sys.exit(main())
