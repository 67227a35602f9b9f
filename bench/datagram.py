"""Signed datagrams per second through the whole way into one agent, beside what the library can verify; then floods.

`python bench/datagram.py`. The first part drains a real UDP socket with the agent's own receiver, shell, node and
cryptography, in turns with bare Ed25519 verifications of the very same statements: what counts is the ratio of CPU
time.

The second part throws 50,000 bad datagrams of each kind at a real agent process, as fast as one sender can, while a
good peer pings it: how far the agent's memory grows, and which pings were answered in time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nacl.bindings
import psutil

from agent import files as node_files
from agent import heap
from agent.clock import Clock
from agent.metrics import Metrics
from agent.shell import Shell
from agent.store import Store
from agent.transport.udp import UdpSocket
from beemesh.composition import compose
from beemesh.crypto_native import NativeCrypto
from beemesh.events import Observed, PutIntent
from beemesh.ids import BOOT_ID_BYTES, BootId, NodeId
from beemesh.membership.messages import Claims, Ping
from beemesh.outward import Ask
from beemesh.wire.datagram import (
    DATAGRAM_BYTES_MAX,
    HEADER_BYTES,
    DatagramSealer,
    cipher_of,
    open_envelope,
    read_header,
    signed_payload,
    write_header,
)
from beemesh.wire.envelope import Header
from beemesh.wire.registry import encode_message
from bench.bare_mesh import BareMesh, eventually
from bench.hand_made_peer import LOOPBACK, HandMadePeer, sealer_of, wall_ms

RATIO_AIM = 0.70
GROWTH_AIM_MIB = 10.0
PING_TIMEOUT_S = 0.5
"""What a member waits for the answer to a ping (`beemesh.membership.settings`)."""
MIB = 1024 * 1024
SENDERS = 40
"""Enough that no sender meets its rate."""
BATCH = 400
"""Datagrams that lie in the kernel at once: what fits its buffer for certain."""
TURNS_MAX = 200
"""Turns of the event loop in which they must have come in: it takes 128 in each, but few of those who are not known
well yet, and by the clock."""


# --- the way in ------------------------------------------------------------------------------------------------------


class Outlet:
    """The network of an agent that has datagrams only."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self.udp: UdpSocket | None = None

    def transmit(self, address: tuple[str, int], data: bytes) -> None:
        """See `agent.shell.Network`."""
        if self.udp is not None:
            self.udp.send(address, data)

    def tell(self, effect: Any) -> None:
        """Streams lead nowhere here."""

    def ask(self, effect: Ask) -> None:
        """Streams lead nowhere here."""
        node = self._shell.node
        self._shell.carry(node.answer(effect.request_id, effect.peer, None, "no streams here", self._shell.now))

    def reply(self, effect: Any) -> None:
        """Nobody asked."""


class Receiver:
    """Socket, shell and node of one agent, put together as its daemon does, without streams, API and runtime."""

    def __init__(self, loaded: node_files.NodeFiles, folder: Path) -> None:
        self.composition = compose(
            loaded.settings,
            loaded.membership,
            loaded.membership_record,
            loaded.ca_key,
            loaded.ring,
            loaded.crypto,
            random.SystemRandom(),
            BootId(os.urandom(BOOT_ID_BYTES)),
        )
        self._loaded = loaded
        metrics = Metrics()

        def observe(event: Any) -> None:
            if isinstance(event, Observed):
                metrics.count(event)

        self._store = Store(folder / "state.db")
        self.shell = Shell(self.composition.node, self._store, Clock(), lambda _job: None, observe)
        self._outlet = Outlet(self.shell)
        self.shell.connect(self._outlet)
        self.port = loaded.membership.gossip_port

    def start(self) -> None:
        """Listen, and take the cards of the others."""
        self.udp = UdpSocket(LOOPBACK, self.port, self.shell.datagram, self.composition.node.is_likely)
        self._outlet.udp = self.udp
        self.udp.start()
        self.shell.start()
        for record in (self._loaded.membership_record, *self._loaded.seeds):
            self.shell.event(PutIntent(record))

    async def stop(self) -> None:
        """Stop."""
        self.shell.close()
        self.udp.close()
        await self._store.close()


def statement_of(data: bytes, files: node_files.NodeFiles) -> tuple[bytes, bytes, bytes]:
    """(signature with the payload that it covers, public key, gossip key) of a datagram."""
    header = read_header(data)
    assert header is not None
    key = next(known.key for known in files.ring.keys if known.epoch == header.epoch)
    envelope = open_envelope(cipher_of(files.crypto, key, header), header, data)
    assert envelope is not None
    payload = signed_payload(data[:HEADER_BYTES], envelope.type_code, envelope.wall_ms, envelope.body)
    return envelope.signature + payload, files.crypto.sign_key, key


async def measure_way_in(mesh: BareMesh, seconds: float) -> dict[str, Any]:
    """CPU time of the receiver per datagram, in turns with that of bare verifications."""
    loaded = [node_files.load(mesh.folder / name / "config") for name in mesh.names]
    receiver = Receiver(loaded[0], mesh.folder)
    receiver.start()
    peers = [HandMadePeer(files) for files in loaded[1 : SENDERS + 1]]
    node = receiver.composition.node
    try:
        await _make_known(receiver, peers)
        outgoing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rows: list[tuple[float, float]] = []
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            batch = [(peer, peer.say(Claims(()))) for peer in itertools.islice(itertools.cycle(peers), BATCH)]
            statements = [statement_of(data, peer.files)[:2] for peer, data in batch]
            for _, data in batch:
                outgoing.sendto(data, (LOOPBACK, receiver.port))
            before = node.admitted
            started_s = time.thread_time()
            for _ in range(TURNS_MAX):
                await asyncio.sleep(0)
                if node.admitted - before >= BATCH:
                    break
            way_in_s = (time.thread_time() - started_s) / BATCH
            assert node.admitted - before >= BATCH, f"{BATCH - (node.admitted - before)} datagrams did not come in"
            started_s = time.thread_time()
            for statement, sign_key in statements:
                nacl.bindings.crypto_sign_open(statement, sign_key)
            rows.append((way_in_s, (time.thread_time() - started_s) / BATCH))
        outgoing.close()
    finally:
        for peer in peers:
            peer.close()
        await receiver.stop()
    way_in_us, bare_us = (statistics.median(column) * 1e6 for column in zip(*rows, strict=True))
    return {
        "datagrams": BATCH * len(rows),
        "per_s": round(1e6 / way_in_us),
        "way_in_us": round(way_in_us, 1),
        "bare_verifications_per_s": round(1e6 / bare_us),
        "bare_us": round(bare_us, 1),
        "ratio": round(statistics.median(bare / way_in for way_in, bare in rows), 3),
        "aim": RATIO_AIM,
    }


async def _make_known(receiver: Receiver, peers: list[HandMadePeer]) -> None:
    """Every peer pings, and echoes the ping that it gets back: from then on its boot is believed."""
    deadline_s = time.monotonic() + 30
    while not all(peer.echoed for peer in peers):
        assert time.monotonic() < deadline_s, "some peers were never pinged back"
        for peer in peers:
            if not peer.echoed:
                peer.send(Ping(os.urandom(8)), receiver.port)
        await asyncio.sleep(0.05)
        for peer in peers:
            while peer.serve(0.001):
                pass
    await asyncio.sleep(0.2)
    heap.settle()


# --- floods ----------------------------------------------------------------------------------------------------------


class Forger:
    """Keys that sign nothing: zeros in the place of every signature."""

    def __init__(self, crypto: NativeCrypto) -> None:
        self._crypto = crypto

    def sign(self, _payload: bytes) -> bytes:
        """Zeros."""
        return bytes(64)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._crypto, name)


Flood = Callable[[node_files.NodeFiles, node_files.NodeFiles, int], list[bytes]]
"""(the hostile member, the good peer, how many) → datagrams."""


def _pings(sealer: DatagramSealer, count: int, off_ms: int = 0) -> list[bytes]:
    code, body = encode_message(Ping(os.urandom(8)))
    return [sealer.seal(code, body, wall_ms() + off_ms) for _ in range(count)]


def _headed(epoch: int, sender: bytes, count: int) -> list[bytes]:
    boot = BootId(os.urandom(BOOT_ID_BYTES))
    heads = (write_header(Header(epoch, NodeId(sender or os.urandom(32)), boot, number)) for number in range(count))
    return [head + os.urandom(140) for head in heads]


def _stranger(files: node_files.NodeFiles) -> DatagramSealer:
    stranger = NativeCrypto.generate()
    return DatagramSealer(stranger, NodeId(stranger.signer_id), BootId(os.urandom(BOOT_ID_BYTES)), files.ring)


FLOODS: dict[str, Flood] = {
    "garbage": lambda bad, good, count: [os.urandom(random.randint(1, 1_200)) for _ in range(count)],
    "garbage under made-up names": lambda bad, good, count: _headed(bad.ring.active, b"", count),
    "garbage under a member's name": lambda bad, good, count: _headed(bad.ring.active, good.membership.node_id, count),
    "wrong key epoch, unknown": lambda bad, good, count: _headed(99, b"", count),
    "wrong key epoch, a member's name": lambda bad, good, count: _headed(99, good.membership.node_id, count),
    "stale, of a member": lambda bad, good, count: _pings(sealer_of(bad), count, off_ms=-31_000),
    "stale, of a stranger": lambda bad, good, count: _pings(_stranger(bad), count, off_ms=-31_000),
    "replayed, of a member": lambda bad, good, count: _pings(sealer_of(bad), 1) * count,
    "unknown sender": lambda bad, good, count: _pings(_stranger(bad), count),
    "forged, of the forger": lambda bad, good, count: _pings(sealer_of(bad, Forger(bad.crypto)), count),
    "forged, of the good peer": lambda bad, good, count: _pings(
        DatagramSealer(
            Forger(bad.crypto),
            good.membership.node_id,
            BootId(os.urandom(16)),
            bad.ring,  # type: ignore[arg-type]
        ),
        count,
    ),
    "oversized": lambda bad, good, count: (
        [data.ljust(DATAGRAM_BYTES_MAX + 1, b"\0") for data in _pings(sealer_of(bad), min(count, 500))]
        * max(1, count // 500)
    ),
    "valid, far beyond a member's rate": lambda bad, good, count: _pings(sealer_of(bad), count),
}


def _throw(kind: str, bad: Path, good: Path, port: int, count: int, gate: Any) -> None:
    """A process: makes its datagrams, waits for the gate, and sends as fast as it can."""
    datagrams = FLOODS[kind](node_files.load(bad), node_files.load(good), count)
    gate.wait()  # ready
    gate.wait()  # go
    started_s = time.perf_counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outgoing:
        for data in datagrams:
            outgoing.sendto(data, (LOOPBACK, port))
    gate.seconds.value = time.perf_counter() - started_s
    gate.wait()  # done


class Gate:
    """Where the thrower and the watcher meet."""

    def __init__(self) -> None:
        self._barrier = multiprocessing.Barrier(2)
        self.seconds: Any = multiprocessing.Value("d", 0.0)

    def wait(self) -> None:
        """Until the other one is here, too."""
        self._barrier.wait(120)


def refusals(mesh: BareMesh, name: str) -> dict[str, int]:
    """Refused datagrams by reason, from the agent's own metrics."""
    page = mesh.local(name, "/metrics").decode()
    found = re.findall(r'^beemesh_datagrams_refused_total\{reason="(\w+)"\} ([\d.e+]+)$', page, re.MULTILINE)
    found += re.findall(r"^beemesh_datagrams_(overrun)_total ([\d.e+]+)$", page, re.MULTILINE)
    return {reason: int(float(count)) for reason, count in found}


def flood(mesh: BareMesh, good: HandMadePeer, kind: str, count: int) -> dict[str, Any]:
    """One kind of flood at the first agent, with the good peer pinging all along."""
    victim, bad = mesh.names[0], mesh.names[2]
    port = mesh.ports[victim][0]
    process = psutil.Process(mesh.processes[victim].pid)
    gate = Gate()
    folders = (mesh.folder / bad / "config", mesh.folder / mesh.names[1] / "config")
    thrower = multiprocessing.Process(target=_throw, args=(kind, *folders, port, count, gate))
    thrower.start()
    gate.wait()
    before, rss, cpu = refusals(mesh, victim), process.memory_info().rss, sum(process.cpu_times()[:2])
    peak, answers = rss, []
    gate.wait()
    while thrower.is_alive() or len(answers) < 10:
        answers.append(good.ping(port, PING_TIMEOUT_S))
        peak = max(peak, process.memory_info().rss)
        if gate.seconds.value and thrower.is_alive():
            gate.wait()
            thrower.join()
        time.sleep(0.01)
    time.sleep(0.3)
    after, cpu_s = refusals(mesh, victim), sum(process.cpu_times()[:2]) - cpu
    peak = max(peak, process.memory_info().rss)
    counted = {reason: after[reason] - before.get(reason, 0) for reason in after}
    return {
        "kind": kind,
        "thrown": count,
        "thrown_per_s": round(count / gate.seconds.value),
        "refused": {reason: number for reason, number in counted.items() if number},
        "growth_mib": round((peak - rss) / MIB, 2),
        "pings": len(answers),
        "unanswered": answers.count(None),
        "slowest_ping_ms": round(1000 * max((each for each in answers if each is not None), default=-0.001)),
        "agent_us_per_datagram": round(1e6 * cpu_s / max(1, sum(counted.values())), 1),
    }


def measure_floods(mesh: BareMesh, count: int, kinds: list[str]) -> list[dict[str, Any]]:
    """All kinds, one after another, at one agent that is not restarted between them."""
    victim = mesh.names[0]
    good = HandMadePeer(node_files.load(mesh.folder / mesh.names[1] / "config"))
    rows = []
    try:
        good.run()
        mesh.start(victim)
        assert eventually(lambda: mesh.is_up(victim), 30), "the agent did not start"
        port = mesh.ports[victim][0]
        assert eventually(lambda: good.ping(port, 1.0) is not None and bool(good.echoed), 30), "the agent knows nobody"
        for _ in range(100):
            good.ping(port, 1.0)
        refusals(mesh, victim)
        for kind in kinds:
            rows.append(flood(mesh, good, kind, count))
            print(_line(rows[-1]), flush=True)
    finally:
        mesh.stop()
        good.close()
    return rows


def _line(row: dict[str, Any]) -> str:
    refused = ", ".join(f"{reason} {count:,}" for reason, count in sorted(row["refused"].items()))
    return (
        f"{row['kind']:<34} {row['thrown_per_s']:>8,}/s  +{row['growth_mib']:.1f} MiB  "
        f"pings {row['pings'] - row['unanswered']}/{row['pings']}, slowest {row['slowest_ping_ms']} ms  "
        f"{row['agent_us_per_datagram']:>5.1f} us each  ({refused})"
    )


def main() -> int:
    """Measure, print, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the way in is measured (default 10)")
    parser.add_argument("--count", type=int, default=50_000, help="bad datagrams of each kind (default 50,000)")
    parser.add_argument("--kinds", nargs="*", default=list(FLOODS), help="only these floods; none: no flood")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="beemesh-bench-") as folder:
        mesh = BareMesh(Path(folder), SENDERS + 1)
        way_in = asyncio.run(measure_way_in(mesh, options.seconds))
        print(
            f"way in {way_in['per_s']:,}/s ({way_in['way_in_us']} us each), "
            f"bare verification {way_in['bare_verifications_per_s']:,}/s ({way_in['bare_us']} us): "
            f"{way_in['ratio']:.0%} of the limit (aim {RATIO_AIM:.0%})",
            flush=True,
        )
    with tempfile.TemporaryDirectory(prefix="beemesh-bench-") as folder:
        floods = measure_floods(BareMesh(Path(folder), 3), options.count, options.kinds) if options.kinds else []
    growth_mib = max((row["growth_mib"] for row in floods), default=0.0)
    unanswered = sum(row["unanswered"] for row in floods)
    print(f"floods: at most +{growth_mib} MiB (aim {GROWTH_AIM_MIB:g}), {unanswered} pings unanswered (aim 0)")
    print(json.dumps({"way_in": way_in, "floods": floods}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
