"""Serving without a break, with real podman: probes, endpoints that are pushed, and a rolling update under requests."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from agent.pods import ENDPOINT_GRACE_S
from tests.e2e.local_mesh import ROOT, LocalMesh, applied, eventually, why_not

pytestmark = [
    pytest.mark.podman,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run"),
]

REPLICAS = 3
CLIENTS = 3
REQUEST_PATIENCE_S = 5.0

PROBES = """
          startupProbe:
            tcpSocket:
              port: http
            periodSeconds: 1
            failureThreshold: 30
          readinessProbe:
            httpGet:
              path: /
              port: http
            periodSeconds: 1
            failureThreshold: 2
          livenessProbe:
            exec:
              command: [sh, -c, "test -d /www"]
            periodSeconds: 5
            timeoutSeconds: 5
"""

FRAIL = """
apiVersion: v1
kind: Pod
metadata:
  name: frail
spec:
  containers:
    - name: web
      image: localhost/hello:1
      imagePullPolicy: Never
      command: [sh, -c, "while :; do sleep 1; done"]
      livenessProbe:
        exec:
          command: [sh, -c, "exit 3"]
        periodSeconds: 1
        timeoutSeconds: 5
        failureThreshold: 2
        terminationGracePeriodSeconds: 1
      resources:
        limits:
          memory: 32Mi
"""


def manifest(token: str) -> str:
    """The example with three replicas, probes, and this word in its Secret."""
    text = (ROOT / "examples/hello.yaml").read_text()
    text = text.replace("honey-is-sweet", token).replace("replicas: 2", f"replicas: {REPLICAS}")
    return text.replace("          env:\n", PROBES.lstrip("\n") + "          env:\n", 1)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Three agents that serve the first revision."""
    with applied(tmp_path_factory.mktemp("mesh"), manifest("first"), "90s") as mesh:
        yield mesh


def addresses(shape: dict[str, Any], field: str = "addresses") -> dict[str, str]:
    """Where to send requests, by pod."""
    return {
        address["targetRef"]["name"]: f"{address['ip']}:{port['port']}"
        for subset in shape.get("subsets", [])
        for address in subset.get(field, [])
        for port in subset["ports"]
    }


class Watch(threading.Thread):
    """`get endpoints -w` of the workload, and when each line came."""

    def __init__(self, mesh: LocalMesh) -> None:
        super().__init__(daemon=True)
        words = ("get", "endpoints", "hello", "-o", "json", "-w")
        command = [sys.executable, "-u", "-m", "beemeshctl.main", *words]
        self.process = subprocess.Popen(command, cwd=ROOT, env=mesh.environment, stdout=subprocess.PIPE)
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


def test_endpoints_are_those_of_ready_pods(mesh: LocalMesh) -> None:
    """Each replica is an address with its node and the port's name, on every agent; the table shows the same."""
    shape = mesh.json("get", "endpoints", "hello")
    assert shape["kind"] == "Endpoints"
    assert len(addresses(shape)) == REPLICAS
    assert {port["name"] for subset in shape["subsets"] for port in subset["ports"]} == {"http"}
    (line,) = mesh.run("get", "endpoints", "hello", "-o", "wide").stdout.splitlines()[1:]
    assert all(place in line for place in addresses(shape).values())


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
def under_requests(mesh: LocalMesh) -> Iterator[Load]:
    """All ready places are asked all the time, and for as long afterwards as it takes the last to go."""
    load = Load(watch := Watch(mesh), [Client(watch) for _ in range(CLIENTS)])
    watch.start()
    try:
        assert eventually(lambda: len(watch.ready()) == REPLICAS, 20)
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


def test_an_update_under_requests_loses_none(mesh: LocalMesh) -> None:
    """While a new revision replaces three replicas, every request to an endpoint that is listed as ready is answered,
    and whoever watches hears of each leaving pod long before its processes are asked to end."""
    begun_s = time.time()
    with under_requests(mesh) as load:
        watch, before = load.watch, dict(load.watch.seen[-1][1])
        applied = mesh.run("apply", "-", "--wait", "--timeout", "120s", stdin=manifest("second"))
        assert applied.returncode == 0, applied.stdout + applied.stderr
        assert eventually(lambda: len(watch.ready()) == REPLICAS and not before.keys() & watch.seen[-1][1].keys(), 30)
    delays = _delays(mesh, watch, before, begun_s)
    print(f"{load.sent} requests, {len(load.failed)} failed; from unready to a watcher {sorted(delays.values())} s")
    assert load.failed == []
    assert load.sent > 100
    assert any("second" in page for client in load.clients for page in client.pages)
    assert len(delays) == REPLICAS
    assert sorted(delays.values())[REPLICAS // 2] < ENDPOINT_GRACE_S / 2
    assert max(delays.values()) < ENDPOINT_GRACE_S


def test_a_drain_under_requests_loses_none(mesh: LocalMesh) -> None:
    """While a node is emptied, each of its replicas serves elsewhere first, and every request is answered."""
    where = {name: str(pod["spec"]["nodeName"]) for name, pod in mesh.pods().items()}
    node, moved = Counter(where.values()).most_common(1)[0]
    with under_requests(mesh) as load:
        drained = mesh.run("node", "drain", node, "--timeout", "120s")
        assert drained.returncode == 0, drained.stdout + drained.stderr
        assert eventually(lambda: len(load.watch.ready()) == REPLICAS, 30)
    after = {name: pod["spec"]["nodeName"] for name, pod in mesh.pods().items()}
    print(f"{moved} of {REPLICAS} left {node}; {load.sent} requests, {len(load.failed)} failed")
    assert load.failed == []
    assert load.sent > 100
    assert node not in after.values()
    assert len(after) == REPLICAS
    assert mesh.run("node", "uncordon", node).returncode == 0


def _delays(mesh: LocalMesh, watch: Watch, pods: dict[str, str], since_s: float) -> dict[str, float]:
    """Seconds from a pod's leave, as its node tells it, to the line of the watch."""
    found = {}
    for event in mesh.json("events", "--limit", "1000")["items"]:
        pod = event.get("details", {}).get("pod", "")
        told_s = datetime.fromisoformat(event["firstTimestamp"]).timestamp()
        if event["action"] == "NotReady" and pod in pods and told_s >= since_s - 1 and pod not in found:
            gone_s = watch.gone_s(pod, since_s)
            if gone_s is not None:
                found[pod] = round(gone_s - told_s, 3)
    return found


def test_a_failing_liveness_probe_restarts_and_backs_off(mesh: LocalMesh) -> None:
    """The container is started again, which is counted and told with its cause, and from then on it pauses."""
    applied = mesh.run("apply", "-", stdin=FRAIL)
    assert applied.returncode == 0, applied.stdout + applied.stderr

    seen: list[dict[str, Any]] = []

    def pauses() -> bool:
        seen.append(mesh.pods().get("frail", {}).get("status", {}))
        return seen[-1].get("reason") == "CrashLoopBackOff"

    assert eventually(pauses, 60), seen[-1:]
    assert seen[-1]["containerStatuses"][0]["restartCount"] >= 1
    assert "CrashLoopBackOff" in mesh.run("get", "pods").stdout
    told = [each for each in mesh.json("events")["items"] if each["action"] == "Restarted"]
    assert any("liveness probe failed: exit code 3" in each["message"] for each in told), told
    assert mesh.run("delete", "pod/frail").returncode == 0
