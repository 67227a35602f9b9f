"""How long an apply takes on the demo mesh, stage by stage, beside a bare `podman kube play` of the same pod.

`make demo`, then `python bench/apply_latency.py`. The process is warm: what is measured begins with the parsed manifest
and ends with podman's start of the container. Stages come from the mesh's own signed bids and events. The bare podman
works on a memory-backed store of its own with the same images, in turn with the applies; its pods get no network, which
is to its advantage.

`accept` is what the operator waits for; the mesh begins as soon as the record is known, so that time runs beside the
stages from `task` to `release` and is no part of the sum.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402

from agent.runtime.podman import PodmanRuntime  # noqa: E402
from agent.runtime.podman_setup import PodmanSettings  # noqa: E402
from beemesh.identity.signing import decode_body  # noqa: E402
from beemesh.ids import ulid_time_ms  # noqa: E402
from beemesh.intents.record import Intent  # noqa: E402
from beemesh.workloads.record import Workload  # noqa: E402
from beemesh.workloads.resolve import resolve  # noqa: E402
from beemeshctl import applying  # noqa: E402
from beemeshctl.client import BEEMESH, Client  # noqa: E402
from beemeshctl.context import Home  # noqa: E402
from beemeshctl.manifests import ManifestSet, read_manifests  # noqa: E402
from bench.figures import judged, quantile  # noqa: E402

POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: localhost/hello:1
      imagePullPolicy: Never
      resources: {{limits: {{memory: 32Mi}}}}
"""
PATIENCE_S = 30.0
OVERHEAD_AIM_MS = 150
"""Above a bare podman, for half of all applies."""


def main() -> int:
    """Measure, print a table, and JSON as the last line; fails when the aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20, help="applies (default 20)")
    runs = parser.parse_args().n
    home = Path(os.environ.get("BEEMESH_HOME", str(ROOT / ".demo")))
    if not (home / "context.yaml").exists():
        print("needs a running mesh: run `make demo`, or name its folder in BEEMESH_HOME", file=sys.stderr)
        return 1
    client = Client(Home(home))
    with tempfile.TemporaryDirectory() as folder:
        bare = Bare(Path(folder), home / "nodes")
        try:
            rows, bares = [], []
            for index in range(runs):
                rows.append(one_apply(client, Path(folder), f"lat-{index}"))
                bares.append(bare.play(f"bare-{index}"))
        finally:
            bare.close()
    return report(rows, bares, cli_start_ms())


def one_apply(client: Client, folder: Path, name: str) -> dict[str, float]:
    """Apply one pod and take its times (ms) apart; removes it again."""
    file = folder / f"{name}.yaml"
    file.write_text(POD.format(name=name))
    manifests = read_manifests((str(file),), default_namespace="default")
    started_ns = time.time_ns()
    change = plan(client, manifests)
    sealed_ns = time.time_ns()
    applying.submit(client, change)
    accepted_ns = time.time_ns()
    workload = change.key.partition("/")[2]
    events = wait_deployed(client, workload, started_ns // 1_000_000)
    told = {event["action"]: event for event in events}
    at_ms = {action: event_ms(event) for action, event in told.items()}
    task_id = told["Scheduled"]["details"]["task"]
    released = sorted(event_ms(event) for event in events if event["action"] == "ShareReleased")
    marks = {
        "seal": sealed_ns / 1e6,
        "task": ulid_time_ms(task_id.upper()),
        "bids": winning_bid_ms(client, task_id, told["Scheduled"]["source"]["host"]),
        "lease": at_ms["Scheduled"],
        "release": released[threshold_of(change) - 1],
        "podman": at_ms["Deployed"],
    }
    remove(client, name)
    return {**stages(started_ns / 1e6, marks), "accept": (accepted_ns - sealed_ns) / 1e6}


def stages(start_ms: float, marks: dict[str, float]) -> dict[str, float]:
    """What each stage added to the whole. Events carry whole milliseconds, so a stage may seem to end 1 ms early."""
    row, reached_ms = {}, start_ms
    for stage, end_ms in marks.items():
        row[stage] = max(0.0, end_ms - reached_ms)
        reached_ms = max(reached_ms, end_ms)
    return {**row, "whole": reached_ms - start_ms}


def threshold_of(change: applying.Change) -> int:
    """How many shares open what was sealed."""
    assert change.record is not None, "a new pod is always sent"
    workload = msgspec.msgpack.decode(decode_body(change.record, Intent).body, type=Workload)
    return workload.current.sealing.k


def winning_bid_ms(client: Client, task_id: str, winner: str) -> float:
    """When the winner of a task spoke."""
    bids = client.get(f"{BEEMESH}/tasks/{task_id.lower()}/explanation")["bids"]
    for bid in bids:
        if bid["node"] == winner:
            return float(bid["at_ms"])
    raise SystemExit(f"task {task_id}: {winner} runs it, and the agent that was asked heard no bid of it")


def plan(client: Client, manifests: ManifestSet) -> applying.Change:
    """Resolve and seal the one workload of a manifest, with the mesh read anew as `apply` does."""
    planner = applying.Planner(client, applying.Mesh.read(client))
    (workload,) = resolve(manifests.objects).workloads
    return planner.workload(workload)


def wait_deployed(client: Client, workload: str, since_ms: float) -> list[dict[str, Any]]:
    """The events of a workload once it is deployed."""
    name = workload.rpartition("/")[2]
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = client.get("/api/v1/events")["items"]
        own = [event for event in found if event["involvedObject"]["name"] == name and event_ms(event) >= since_ms]
        if any(event["action"] == "Deployed" for event in own):
            return own
        time.sleep(0.02)
    raise SystemExit(f"{name} was not deployed within {PATIENCE_S:g} s")


def event_ms(event: dict[str, Any]) -> float:
    """When an event was issued: its name is a ULID, which begins with the time in milliseconds."""
    return ulid_time_ms(event["metadata"]["name"].upper())


def remove(client: Client, name: str) -> None:
    """Withdraw the pod and wait until it is gone, so that applies do not add up."""
    change = applying.Planner(client, applying.Mesh.read(client)).removal("Pod", "default", name)
    if change is not None:
        applying.submit(client, change)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        pods = client.get("/api/v1/pods")["items"]
        if all(pod["metadata"]["name"] != name for pod in pods):
            return
        time.sleep(0.1)


class Bare:
    """Podman alone, with its containers on a tmpfs as an agent has them."""

    def __init__(self, folder: Path, nodes: Path) -> None:
        store = next(nodes.glob("*/images"))
        self._storage = Path("/run/beemesh-bench")
        settings = PodmanSettings(
            storage_dir=self._storage, data_dir=folder / "data", image_store=store, lock_dir=folder / "locks"
        )
        self._runtime = PodmanRuntime(settings)
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        await self._runtime.prepare()
        await self._runtime.close()

    def play(self, name: str) -> float:
        """Milliseconds of one `podman kube play`; the pod is removed again, uncounted."""
        started = time.perf_counter()
        self._podman(["kube", "play", "--network", "none", "-"], POD.format(name=name))
        took_ms = (time.perf_counter() - started) * 1000
        self._podman(["pod", "rm", "-f", "-t", "0", name], "")
        return took_ms

    def _podman(self, words: Sequence[str], stdin: str) -> None:
        subprocess.run(
            ["podman", *words],
            input=stdin,
            text=True,
            env=self._runtime.setup.environment,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def close(self) -> None:
        """Leave nothing behind."""
        asyncio.run(self._runtime.teardown())
        if self._storage.is_dir():
            self._storage.rmdir()


def cli_start_ms() -> float:
    """Median milliseconds of `beemeshctl --help`: what a person waits for before any of this begins."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "beemeshctl.main", "--help"], cwd=ROOT, check=True, capture_output=True)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def report(rows: list[dict[str, float]], bares: list[float], start_ms: float) -> int:
    """A table for people, JSON for scripts; the exit code."""
    print(f"{'stage':<12} {'p50 ms':>8} {'p99 ms':>8}")
    result: dict[str, Any] = {"applies": len(rows)}
    for stage in rows[0]:
        values = [row[stage] for row in rows]
        result[stage] = {"p50_ms": round(quantile(values, 0.5), 1), "p99_ms": round(quantile(values, 0.99), 1)}
        print(f"{stage:<12} {result[stage]['p50_ms']:>8.1f} {result[stage]['p99_ms']:>8.1f}")
    bare_ms = quantile(bares, 0.5)
    overhead = [row["whole"] - row["podman"] for row in rows]
    result["bare_podman_p50_ms"] = round(bare_ms, 1)
    result["ratio_to_bare_podman"] = round(result["whole"]["p50_ms"] / bare_ms, 2)
    result["overhead_p50_ms"] = round(quantile([row["whole"] for row in rows], 0.5) - bare_ms, 1)
    result["before_podman_p50_ms"] = round(quantile(overhead, 0.5), 1)
    result["cli_start_ms"] = round(start_ms, 1)
    print(f"bare podman  {bare_ms:>8.1f}   whole / bare: {result['ratio_to_bare_podman']}")
    print(f"overhead above bare podman, p50: {result['overhead_p50_ms']} ms; the CLI's own start: {start_ms:.0f} ms")
    code = judged((f"overhead p50 at most {OVERHEAD_AIM_MS} ms", result["overhead_p50_ms"] <= OVERHEAD_AIM_MS))
    print(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
