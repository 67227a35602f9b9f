"""Requests without a pause to whatever `get endpoints -w` lists as ready: what users of a workload would notice."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.pods import ENDPOINT_GRACE_S
from tests.e2e.local_mesh import ROOT, eventually

CLIENTS = 3
REQUEST_PATIENCE_S = 5.0


def addresses(shape: dict[str, Any], field: str = "addresses") -> dict[str, str]:
    """Where to send requests, by pod."""
    return {
        address["targetRef"]["name"]: f"{address['ip']}:{port['port']}"
        for subset in shape.get("subsets", [])
        for address in subset.get(field, [])
        for port in subset["ports"]
    }


class Watch(threading.Thread):
    """`get endpoints -w` of a workload, and when each line came."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        super().__init__(daemon=True)
        words = ("get", "endpoints", name, "-o", "json", "-w")
        command = [sys.executable, "-u", "-m", "beemeshctl.main", *words]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        self.seen: list[tuple[float, dict[str, str]]] = []

    def run(self) -> None:
        """Read until the end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append((time.time(), addresses(json.loads(line)["object"])))

    def ready(self) -> list[str]:
        """The places that are ready now."""
        return list(self.seen[-1][1].values()) if self.seen else []

    def gone_s(self, pod: str, since_s: float) -> float | None:
        """When a pod was first told not to be an endpoint any more."""
        return next((at_s for at_s, places in self.seen if at_s >= since_s and pod not in places), None)

    def end(self) -> None:
        """Stop watching."""
        self.process.kill()
        self.process.wait()


class Client(threading.Thread):
    """Sends one request after the other to the ready places, in turn; a new connection each."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(daemon=True)
        self.watch = watch
        self.stop = threading.Event()
        self.sent = 0
        self.failed: list[str] = []
        self.pages: set[str] = set()

    def run(self) -> None:
        """Go on until told to stop."""
        while not self.stop.is_set():
            for place in self.watch.ready():
                self.sent += 1
                try:
                    with urllib.request.urlopen(f"http://{place}/", timeout=REQUEST_PATIENCE_S) as answer:
                        self.pages.add(answer.read().decode())
                except (OSError, urllib.error.URLError) as error:
                    self.failed.append(f"{time.time():.3f} {place}: {error}")
            time.sleep(0.002)


@dataclass
class Load:
    """Requests without a pause, and what came of them."""

    watch: Watch
    clients: list[Client]

    @property
    def sent(self) -> int:
        """All of them so far."""
        return sum(client.sent for client in self.clients)

    @property
    def failed(self) -> list[str]:
        """Those without an answer."""
        return [failure for client in self.clients for failure in client.failed]


@contextmanager
def under_requests(name: str, replicas: int, environment: Mapping[str, str]) -> Iterator[Load]:
    """All ready places of a workload are asked all the time, and for as long afterwards as it takes the last to go."""
    load = Load(watch := Watch(name, environment), [Client(watch) for _ in range(CLIENTS)])
    watch.start()
    try:
        assert eventually(lambda: len(watch.ready()) == replicas, 20)
        for client in load.clients:
            client.start()
        yield load
        time.sleep(ENDPOINT_GRACE_S + 1)
    finally:
        for client in load.clients:
            client.stop.set()
        for client in load.clients:
            if client.is_alive():
                client.join(REQUEST_PATIENCE_S + 1)
        watch.end()
