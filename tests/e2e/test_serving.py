"""Serving without a break, with real podman: probes, endpoints that are pushed, and a rolling update under requests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from agent.pods import ENDPOINT_GRACE_S
from tests.e2e.constant_requests import Watch, addresses, under_requests
from tests.e2e.local_mesh import ROOT, LocalMesh, applied, eventually, why_not

pytestmark = [
    pytest.mark.podman,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run"),
]

REPLICAS = 3

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


def test_endpoints_are_those_of_ready_pods(mesh: LocalMesh) -> None:
    """Each replica is an address with its node and the port's name, on every agent; the table shows the same."""
    shape = mesh.json("get", "endpoints", "hello")
    assert shape["kind"] == "Endpoints"
    assert len(addresses(shape)) == REPLICAS
    assert {port["name"] for subset in shape["subsets"] for port in subset["ports"]} == {"http"}
    (line,) = mesh.run("get", "endpoints", "hello", "-o", "wide").stdout.splitlines()[1:]
    assert all(place in line for place in addresses(shape).values())


def test_an_update_under_requests_loses_none(mesh: LocalMesh) -> None:
    """While a new revision replaces three replicas, every request to an endpoint that is listed as ready is answered,
    and whoever watches hears of each leaving pod long before its processes are asked to end."""
    begun_s = time.time()
    with under_requests("hello", REPLICAS, mesh.environment) as load:
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
    with under_requests("hello", REPLICAS, mesh.environment) as load:
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
