"""Agents as bare processes on loopback, without containers, SSH or supervisor: for measurements and for tests."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from agent.files import make_keys
from beemesh.identity.membership_card import Membership
from beemesh.ids import NodeId, node_id_of, to_text
from beemeshctl.bootstrap.signing import Authority, NodeKeys
from beemeshctl.context import AgentEntry, Context, Home
from beemeshctl.keyfile import Passphrase

ROOT = Path(__file__).resolve().parents[1]


PORTS = range(15_000, 30_000)
"""Below those that Linux gives to outgoing connections: nobody takes one between the look and the agent's start."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, neither over TCP nor over UDP."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"fewer than {count} ports from {PORTS.start} to {PORTS.stop} are free")


def eventually(condition: Callable[[], bool], patience_s: float, every_s: float = 0.05) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


class BareMesh:
    """`size` agents below `folder`, with a home of their own; nothing runs before `start`.

    With `joined` every agent knows all cards at its start; otherwise each knows itself alone until it is told a card.
    `aged_days`: all was signed so long ago. `with_metrics`: each also shows its metrics by plain HTTP.
    """

    def __init__(
        self, folder: Path, size: int, *, joined: bool = True, aged_days: int = 0, with_metrics: bool = False
    ) -> None:
        self.folder = folder
        self.names = [f"b{index}" for index in range(size)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.home = Home(folder / "home")
        ports = free_ports(3 * size)
        plain = dict(zip(self.names, ports[2 * size :], strict=True))
        self.listen = {name: {"metrics": f"127.0.0.1:{port}"} for name, port in plain.items()} if with_metrics else {}
        """Further places where agents listen, by name."""
        self.ports = {name: (ports[2 * index], ports[2 * index + 1]) for index, name in enumerate(self.names)}
        self.authority = Authority(self.home, Passphrase(none=True))
        now_ms = time.time_ns() // 1_000_000 - aged_days * 86_400_000
        self.authority.create("bare", "bench", now_ms)
        cards = {name: self._card(name) for name in self.names}
        self.cards = {name: self.authority.sign_card(card, now_ms) for name, card in cards.items()}
        agents = []
        for name, card in cards.items():
            known = list(self.cards.values()) if joined else [self.cards[name]]
            keys = NodeKeys(to_text(card.node_id), card.sign_key.hex(), card.open_key.hex())
            signed = self.authority.sign_node(keys, card, self._config(name), known, [], now_ms)
            config = self.folder / name / "config"
            config.mkdir(parents=True, exist_ok=True)
            for file, content in signed.files.items():
                (config / file).write_bytes(content)
            agents.append(AgentEntry(name, keys.node_id, "127.0.0.1", self.ports[name][1], self.ports[name][0]))
        self.home.save_context(Context("bare", "bench", tuple(agents)))
        self.environment = {**os.environ, "BEEMESH_HOME": str(self.home.path)}

    def _card(self, name: str) -> Membership:
        crypto = make_keys(self.folder / name / "data")
        gossip, api = self.ports[name]
        return Membership(
            mesh="bare",
            name=name,
            node_id=NodeId(node_id_of(crypto.sign_key)),
            sign_key=crypto.sign_key,
            open_key=crypto.open_key,
            addresses=("127.0.0.1",),
            gossip_port=gossip,
            api_port=api,
            serial=0,
            signed_at_ms=0,
            not_after_ms=0,
            machine=name,
            site=f"site-{self.names.index(name) % 2}",
        )

    def _config(self, name: str) -> Callable[[Any], bytes]:
        gossip, api = self.ports[name]
        content = {
            "mesh": "bare",
            "node": {"name": name, "site": f"site-{self.names.index(name) % 2}"},
            "listen": {"gossip": f"127.0.0.1:{gossip}", "api": f"127.0.0.1:{api}", **self.listen.get(name, {})},
            "runtime": {"engine": "mock"},
            "paths": {"data": str(self.folder / name / "data"), "config": str(self.folder / name / "config")},
        }
        return lambda _seeds: yaml.safe_dump(content).encode()

    def start(self, *names: str, watched: bool = False) -> None:
        """Start some agents, or all; `watched` ones talk over pipes, see `bench.watched_agent`."""
        for name in names or self.names:
            config = str(self.folder / name / "config")
            with (self.folder / name / "log").open("ab") as log:
                if watched:
                    command, pipe = [sys.executable, "-m", "bench.watched_agent", config], subprocess.PIPE
                    started = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=log)
                else:
                    command = [sys.executable, "-m", "agent.main", "run", "--config-dir", config]
                    started = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            self.processes[name] = started

    def is_up(self, name: str) -> bool:
        """Whether an agent answers on its socket."""
        try:
            return self.local(name, "/healthz").startswith(b"ok")
        except OSError:
            return False

    def local(self, name: str, target: str, *, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        """One request over an agent's unix socket; the answer's body, or OSError."""
        lines = [f"{'POST' if body else 'GET'} {target} HTTP/1.1", "host: agent", "connection: close"]
        lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
        lines += [f"content-length: {len(body)}"] if body else []
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(10)
            stream.connect(str(self.folder / name / "data" / "agent.sock"))
            stream.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            answer = b""
            while part := stream.recv(65_536):
                answer += part
        return answer.partition(b"\r\n\r\n")[2]

    def signed(self, name: str, method: str, target: str, body: bytes = b"") -> bytes:
        """The same, signed by the operator."""
        import secrets

        from beemesh.identity.requests import NONCE_BYTES, sign_request

        now_ms = time.time_ns() // 1_000_000
        headers = sign_request(self.home.operator(), method, target, body, now_ms, secrets.token_bytes(NONCE_BYTES))
        return self.local(name, target, body=body, headers={**headers, "content-type": "application/msgpack"})

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command line of `beemeshctl`."""
        command = [sys.executable, "-m", "beemeshctl.main", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=90, check=False
        )

    def json(self, *words: str) -> Any:
        """What a command prints with `-o json`."""
        result = self.ctl(*words, "-o", "json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        """End all agents that this object started."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self.processes.clear()


def text_of(record: bytes) -> str:
    """Bytes as they stand in JSON."""
    return base64.b64encode(record).decode("ascii")
