"""A Deployment of many replicas on three agents: how long from `apply` until each has its lease.

`python bench/deployment.py`. It bootstraps a mesh of three agents on this machine, of its own, whose runtime only
pretends to run pods, so that what is measured is the mesh alone: sealing, spreading the record, one task, auction and
lease for each replica. Times come from the mesh's own signed events (their names begin with the millisecond in which
they were issued), on this machine's one clock; they count from the moment before `beemeshctl apply` is started, so they
contain the start of Python too. `task` is the part from the replica's own task to its lease.

Beside it stands what the steward's herd allows: replicas are placed `STARTING_MAX` at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from beemesh.ids import ulid_time_ms  # noqa: E402
from beemesh.workloads.reconciler import STARTING_MAX  # noqa: E402
from bench.figures import quantile  # noqa: E402
from tests.e2e.local_mesh import LocalMesh, why_not  # noqa: E402

PATIENCE_S = 120.0

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "main",
                        "image": "localhost/hello:1",
                        "imagePullPolicy": "Never",
                        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
                    }
                ]
            }
        },
    },
}


def manifest(name: str, replicas: int) -> str:
    """A Deployment of so many tiny replicas, as JSON."""
    spec = DEPLOYMENT["spec"]
    template = {"metadata": {"labels": {"app": name}}, **spec["template"]}
    whole = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return json.dumps({**DEPLOYMENT, "metadata": {"name": name}, "spec": whole})


def one_round(mesh: LocalMesh, name: str, replicas: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the command, and from its own task, to each replica's lease."""
    began_ms = time.time_ns() / 1e6
    applied = mesh.run("apply", "-", stdin=manifest(name, replicas))
    if applied.returncode:
        raise SystemExit(applied.stderr)
    told = wait_scheduled(mesh, name, replicas)
    mesh.run("delete", "deployment", name)
    from_apply = [told_ms(event) - began_ms for event in told]
    from_task = [told_ms(event) - ulid_time_ms(event["details"]["task"].upper()) for event in told]
    return from_apply, from_task


def told_ms(event: dict[str, Any]) -> int:
    """When an event was told, by the clock of its node: its name is a ULID."""
    return ulid_time_ms(event["metadata"]["name"].upper())


def wait_scheduled(mesh: LocalMesh, name: str, replicas: int) -> list[dict[str, Any]]:
    """The `Scheduled` event of each task, once there are as many as replicas."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        first: dict[str, dict[str, Any]] = {}
        for event in sorted(mesh.json("get", "events")["items"], key=lambda each: str(each["metadata"]["name"])):
            if event["involvedObject"]["name"] == name and event["action"] == "Scheduled":
                first.setdefault(str(event["details"]["task"]), event)
        if len(first) >= replicas:
            return list(first.values())
        time.sleep(0.5)
    raise SystemExit(f"{len(first)} of {replicas} replicas were scheduled within {PATIENCE_S:g} s")


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=100, help="replicas of the Deployment (default 100)")
    parser.add_argument("-n", type=int, default=3, help="rounds (default 3)")
    options = parser.parse_args()
    if why := why_not():
        print(f"this bench {why}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="beemesh-deployment-") as folder:
        mesh = LocalMesh(Path(folder))
        mesh.write_inventory(beemesh_runtime="mock", beemesh_images=[])
        try:
            if (booted := mesh.bootstrap()).returncode:
                raise SystemExit(booted.stdout + booted.stderr)
            rounds = [one_round(mesh, f"herd-{index}", options.replicas) for index in range(options.n)]
        finally:
            mesh.down()
    result: dict[str, Any] = {"replicas": options.replicas, "rounds": options.n, "herd": STARTING_MAX}
    print(f"{'ms, all rounds':<28}{'p50':>10}{'p99':>10}{'last':>10}")
    for index, (key, title) in enumerate((("apply_to_lease", "from apply to lease"), ("task", "from task to lease"))):
        values = [round(value) for found in rounds for value in found[index]]
        last = round(statistics.median(max(found[index]) for found in rounds))
        result[f"{key}_ms"] = {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "last": last}
        print(f"{title:<28}{quantile(values, 0.5):>10.0f}{quantile(values, 0.99):>10.0f}{last:>10.0f}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
