"""A pod that must not be doubled, on whole machines under systemd: it is gone before another machine runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.machines.harness import Machines
from tests.machines.person import Operator, bootstrapped, eventually

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]

MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: lone
  annotations: {beemesh.io/duplicate-tolerant: "false"}
spec:
  replicas: 1
  selector: {matchLabels: {app: lone}}
  template:
    metadata: {labels: {app: lone}}
    spec:
      containers:
        - name: main
          image: localhost/hello:1
          imagePullPolicy: Never
          command: ["/bin/busybox", "sleep", "31415"]
"""
WRITE_DOWN = """\
nohup sh -c 'while sleep 0.1; do pgrep -f "^/bin/busybox sleep 31415" >/dev/null && date +%s.%N; done' \
    >/tmp/ran 2>/dev/null </dev/null &
"""
"""One line for each tenth of a second in which the pod has a process. All these machines have one clock."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machines, Operator]]:
    """Three machines, one of which runs the pod; each writes down when it does."""
    folder = tmp_path_factory.mktemp("operator")
    with Machines(3) as machines:
        operator = bootstrapped(machines, folder)
        operator.deploy(MANIFEST)
        for machine in machines.machines:
            machines.run(machine.number, WRITE_DOWN)
        yield machines, operator


def ran(machines: Machines) -> dict[int, list[float]]:
    """When each machine ran the pod, so far."""

    def lines(number: int) -> list[float]:
        return [float(line) for line in machines.run(number, "cat /tmp/ran").stdout.split()]

    numbers = [machine.number for machine in machines.machines]
    with ThreadPoolExecutor(len(numbers)) as people:
        return dict(zip(numbers, people.map(lines, numbers), strict=True))


@pytest.mark.parametrize("away", ["systemctl stop {unit}", "systemctl kill --signal=STOP --kill-who=main {unit}"])
def test_the_pod_of_an_absent_agent_ends_before_another_machine_runs_it(
    mesh: tuple[Machines, Operator], away: str
) -> None:
    """Whether the agent was stopped in good order, as by an upgrade that takes its time, or stands still."""
    machines, operator = mesh
    unit = "beemesh-agent.service"
    (node,) = operator.running().values()
    number = next(machine.number for machine in machines.machines if machine.name == node)
    left_s = time.time()

    machines.run(number, away.format(unit=unit))
    assert eventually(
        lambda: any(line > left_s for other, lines in ran(machines).items() if other != number for line in lines), 60
    )

    when = ran(machines)
    began_s = min(line for other, lines in when.items() if other != number for line in lines if line > left_s)
    ended_s = max(when[number])
    print(f"ended after {ended_s - left_s:.1f} s, began elsewhere after {began_s - left_s:.1f} s")
    assert left_s < ended_s < began_s
    assert "ended pod default/lone" in machines.run(number, f"journalctl -u {unit} -o cat").stdout

    machines.run(number, f"systemctl restart {unit}")
    assert eventually(lambda: operator.run("get", "nodes").stdout.count(" Ready ") == 3, 60)
