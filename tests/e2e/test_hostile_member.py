"""A member with valid keys that lies: what it sends is counted by reason, and what it asks for it does not get."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time
from collections.abc import Iterator

import msgspec
import pytest

from agent import files as node_files
from agent.transport.streams import Streams
from agent.transport.tls import TlsIdentity
from beemesh.crypto_native import NativeCrypto
from beemesh.custody.messages import ReleaseAnswer, ReleaseRequest
from beemesh.identity.signing import Signed, decode_body
from beemesh.ids import BOOT_ID_BYTES, BootId, NodeId
from beemesh.intents.record import Intent
from beemesh.membership.messages import Ping
from beemesh.membership.roster import Roster
from beemesh.wire.datagram import DATAGRAM_BYTES_MAX, DatagramSealer
from beemesh.wire.registry import encode_message
from beemesh.workloads.record import Workload
from beemeshctl.client import Client
from tests.e2e.local_mesh import NAMES, LocalMesh, eventually

pytestmark = [pytest.mark.timeout(180), pytest.mark.skipif(os.geteuid() != 0, reason="agents here run as root")]

MANIFEST = """\
apiVersion: v1
kind: Pod
metadata: {name: prey}
spec:
  containers: [{name: web, image: "localhost/hello:1"}]
"""
COPIES = 200
"""Bad datagrams of each kind."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Three agents that only pretend to run pods, with one pod placed."""
    mesh = LocalMesh(tmp_path_factory.mktemp("mesh"))
    mesh.write_inventory(beemesh_runtime="mock", beemesh_images=[])
    try:
        made = mesh.bootstrap()
        assert made.returncode == 0, made.stdout + made.stderr
        applied = mesh.run("apply", "-", "--wait", "--timeout", "30s", stdin=MANIFEST)
        assert applied.returncode == 0, applied.stderr
        yield mesh
    finally:
        mesh.down()


@pytest.fixture(scope="module")
def traitor(mesh: LocalMesh) -> node_files.NodeFiles:
    """Everything that the node has which does not run the pod."""
    (pod,) = mesh.pods().values()
    name = next(name for name in NAMES if name != pod["spec"]["nodeName"])
    return node_files.load(mesh.data / name / "config")


@pytest.fixture(scope="module")
def victim(mesh: LocalMesh, traitor: node_files.NodeFiles) -> str:
    """Another node."""
    return next(name for name in NAMES if name != traitor.membership.name)


def refusals(mesh: LocalMesh, name: str) -> dict[str, int]:
    """Refused datagrams by reason, from the agent's metrics."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(mesh.data / name / "agent.sock"))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    found = re.findall(r'^beemesh_datagrams_refused_total\{reason="(\w+)"\} ([\d.e+]+)$', text, re.MULTILINE)
    return {reason: int(float(count)) for reason, count in found}


class Forger:
    """A crypto that signs nothing."""

    def __init__(self, crypto: NativeCrypto) -> None:
        self._crypto = crypto

    def sign(self, _payload: bytes) -> bytes:
        """Zeros in the place of a signature."""
        return bytes(64)

    def __getattr__(self, name: str) -> object:
        return getattr(self._crypto, name)


def datagrams(kind: str, files: node_files.NodeFiles) -> list[bytes]:
    """Bad datagrams of one kind, each from the ring's keys, as a member can make them."""
    stranger = NativeCrypto.generate()
    crypto = {"signature": Forger(files.crypto), "unknown_sender": stranger}.get(kind, files.crypto)
    sender = NodeId(stranger.signer_id) if kind == "unknown_sender" else files.membership.node_id
    sealer = DatagramSealer(crypto, sender, BootId(os.urandom(BOOT_ID_BYTES)), files.ring)  # type: ignore[arg-type]
    wall_ms = time.time_ns() // 1_000_000 - (31_000 if kind == "clock_skew" else 0)
    code, body = encode_message(Ping(os.urandom(8), ()))
    made = [sealer.seal(code, body, wall_ms) for _ in range(COPIES)]
    match kind:
        case "oversized":
            return [data.ljust(DATAGRAM_BYTES_MAX + 1, b"\0") for data in made]
        case "replayed":
            return [made[0]] * (COPIES + 1)
        case "undeciphered":
            return [data[:-1] + bytes([data[-1] ^ 1]) for data in made]
    return made


@pytest.mark.parametrize("kind", ["signature", "replayed", "clock_skew", "oversized", "unknown_sender", "undeciphered"])
def test_bad_datagrams_are_counted_and_change_nothing(
    mesh: LocalMesh, traitor: node_files.NodeFiles, victim: str, kind: str
) -> None:
    """Unsigned, replayed, 31 s old, oversized, of a stranger, or altered: each raises its own counter, and no other
    thing in the mesh moves."""
    nodes, pods, before = mesh.run("get", "nodes", "-o", "name").stdout, mesh.pods(), refusals(mesh, victim)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outgoing:
        for number, data in enumerate(datagrams(kind, traitor)):
            outgoing.sendto(data, ("127.0.0.1", mesh.ports[victim][0]))
            if number % 50 == 49:
                time.sleep(0.01)  # the receiver's kernel buffer is small; losses would prove nothing

    def counted() -> bool:
        return refusals(mesh, victim).get(kind, 0) - before.get(kind, 0) == COPIES

    assert eventually(counted, 10), (before, refusals(mesh, victim))
    assert mesh.run("get", "nodes", "-o", "name").stdout == nodes
    assert mesh.run("get", "nodes").stdout.count(" Ready ") == len(NAMES)
    assert {name: pod["status"]["startTime"] for name, pod in mesh.pods().items()} == {
        name: pod["status"]["startTime"] for name, pod in pods.items()
    }


def roster_of(mesh: LocalMesh, files: node_files.NodeFiles) -> Roster:
    """What every member knows of the others."""
    roster = Roster(files.settings.mesh, files.ca_key)
    for card in (mesh.folder / "home" / "nodes").glob("*/membership.card"):
        roster.apply(decode_body(msgspec.msgpack.decode(card.read_bytes(), type=Signed), Intent))
    return roster


async def asked_for_shares(
    mesh: LocalMesh, files: node_files.NodeFiles, request: ReleaseRequest
) -> list[ReleaseAnswer]:
    """What the other nodes answer to a member that speaks the real protocol with its real keys."""
    roster = roster_of(mesh, files)
    tls = TlsIdentity(
        mesh=files.settings.mesh,
        name=files.membership.name,
        crypto=files.crypto,
        ca_pem=files.ca_pem,
        issuing_pem=files.issuing_pem,
        roster=roster,
        wall_ms=lambda: time.time_ns() // 1_000_000,
    )
    streams = Streams(tls, roster, lambda *_: None, lambda *_: None)
    answers = []
    try:
        for member in roster.members():
            if member.node_id != files.membership.node_id:
                address = ("127.0.0.1", mesh.ports[member.name][0])
                answers.append(await streams.ask(member.node_id, address, request, 5.0))
    finally:
        await streams.close()
    assert all(isinstance(answer, ReleaseAnswer) for answer in answers)
    return answers  # type: ignore[return-value]


def test_a_node_without_the_lease_gets_no_share(
    mesh: LocalMesh, traitor: node_files.NodeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every custodian refuses, and says so in an audit event that any agent shows."""
    monkeypatch.setenv("BEEMESH_HOME", str(mesh.folder / "home"))
    (signed,) = (record for key, record in Client().records().items() if key == "workload/pod/default/prey")
    intent = decode_body(signed, Intent)
    revision = msgspec.msgpack.decode(intent.body, type=Workload).current
    request = ReleaseRequest(intent.key, revision.manifest, revision.sealing.epoch)

    answers = asyncio.run(asked_for_shares(mesh, traitor, request))

    assert len(answers) == 2
    assert not any(answer.released or answer.box for answer in answers)
    assert {answer.reason for answer in answers} == {"no_majority"}

    def told() -> bool:
        events = json.loads(mesh.run("events", "-o", "json").stdout)["items"]
        refused = [event for event in events if event["action"] == "ShareRefused"]
        return len(refused) == 2 and all(traitor.membership.name in json.dumps(event) for event in refused)

    assert eventually(told, 10), mesh.run("events").stdout
