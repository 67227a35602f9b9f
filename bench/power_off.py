"""A machine loses power: how long until its replicas run elsewhere, and whether anything is doubled on its return.

`python bench/power_off.py` as root, with podman. Three whole machines (systemd, sshd, podman in it) form a mesh over
real SSH and run a Deployment of six HTTP servers. In each round one of them is cut off without warning; the clock stops
when six replicas run on the other two, as the mesh tells it. Then the machine gets its power back, and for half a
minute the servers' processes are counted on all machines, in turn: `doubled` is how long there were more than six.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.machines import podman  # noqa: E402
from tests.machines.harness import Machines  # noqa: E402
from tests.machines.person import Operator, bootstrapped  # noqa: E402

REPLICAS = 6
PATIENCE_S = 120.0
WATCHED_S = 30.0
POLL_S = 0.25

MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 6
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers:
        - name: web
          image: localhost/hello:1
          imagePullPolicy: Never
          ports: [{containerPort: 8080}]
          resources: {limits: {memory: 32Mi}}
"""


def one_round(machines: Machines, operator: Operator, number: int) -> tuple[float, float]:
    """Seconds until the replicas of that machine run elsewhere, and seconds during which one was doubled."""
    began_s = time.monotonic()
    machines.power_off(number)
    elsewhere_s = 0.0
    while not elsewhere_s:
        running = operator.running()
        if len(running) >= REPLICAS and machines[number].name not in running.values():
            elsewhere_s = time.monotonic() - began_s
        elif time.monotonic() - began_s > PATIENCE_S:
            raise SystemExit(f"the replicas of machine {number} run nowhere else after {PATIENCE_S:g} s: {running}")
        time.sleep(POLL_S)
    machines.power_on(number)
    return elsewhere_s, doubled_s(machines)


def doubled_s(machines: Machines) -> float:
    """For how long more servers ran than are wanted, in the time that is watched."""
    doubled, looked_s, end_s = 0.0, time.monotonic(), time.monotonic() + WATCHED_S
    while looked_s < end_s:
        servers = sum(int(machines.run(each, COUNT).stdout) for each in (1, 2, 3))
        now_s = time.monotonic()
        doubled += now_s - looked_s if servers > REPLICAS else 0.0
        looked_s = now_s
    return doubled


COUNT = "pgrep -fc '[b]in/hello-server' || true"


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10, help="rounds (default 10)")
    rounds = parser.parse_args().n
    if why := podman.why_unavailable():
        print(f"this bench cannot run here: {why}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="beemesh-power-") as folder, Machines(3) as machines:
        operator = bootstrapped(machines, Path(folder))
        operator.deploy(MANIFEST)
        found = [one_round(machines, operator, 1 + index % 3) for index in range(rounds)]
    moved, doubled = [each[0] for each in found], [each[1] for each in found]
    print(f"{'seconds, of ' + str(rounds) + ' rounds':<28}{'median':>10}{'worst':>10}")
    print(f"{'running again elsewhere':<28}{statistics.median(moved):>10.1f}{max(moved):>10.1f}")
    print(f"{'doubled after its return':<28}{statistics.median(doubled):>10.1f}{max(doubled):>10.1f}")
    result = {
        "rounds": rounds,
        "elsewhere_s": {"median": round(statistics.median(moved), 1), "worst": round(max(moved), 1)},
        "doubled_s": {"median": round(statistics.median(doubled), 1), "worst": round(max(doubled), 1)},
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
