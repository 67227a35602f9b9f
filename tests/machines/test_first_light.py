"""The main job on whole machines: bootstrap over real SSH, apply, power cuts, and the pods are there again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.constant_requests import under_requests
from tests.machines.harness import Machines
from tests.machines.person import Operator, bootstrapped, eventually

pytestmark = [pytest.mark.machines, pytest.mark.timeout(600)]

MARKER = "MARKER-4f7c1e"
MANIFEST = f"""\
apiVersion: v1
kind: Secret
metadata: {{name: hello}}
stringData: {{token: {MARKER}}}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: hello
  annotations: {{beemesh.io/publish: auto}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: hello}}}}
  template:
    metadata: {{labels: {{app: hello}}}}
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector: {{matchLabels: {{app: hello}}}}
      containers:
        - name: web
          image: localhost/hello:1
          imagePullPolicy: Never
          ports: [{{containerPort: 8080}}]
          env:
            - name: GREETING_TOKEN
              valueFrom: {{secretKeyRef: {{name: hello, key: token}}}}
"""

REPLICAS = 3
WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  annotations: {beemesh.io/publish: auto}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: localhost/hello:1
          imagePullPolicy: Never
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
          resources: {limits: {memory: 32Mi}}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machines, Operator]]:
    """Three machines, bootstrapped over SSH, with three replicas of an HTTP server."""
    folder = tmp_path_factory.mktemp("operator")
    with Machines(3) as machines:
        operator = bootstrapped(machines, folder)
        operator.deploy(MANIFEST)
        yield machines, operator


def test_three_replicas_run_on_three_machines(mesh: tuple[Machines, Operator]) -> None:
    """One pod on each machine, and any agent lists the same."""
    _, operator = mesh

    assert len(set(operator.running().values())) == 3
    nodes = [node["metadata"]["name"] for node in operator.json("get", "nodes")["items"]]
    lists = [operator.json("get", "pods", "--via", node)["items"] for node in nodes]
    names = [[(pod["metadata"]["name"], pod["spec"]["nodeName"]) for pod in pods] for pods in lists]
    assert names[0] == names[1] == names[2]


def test_a_second_bootstrap_changes_nothing(mesh: tuple[Machines, Operator]) -> None:
    """`bootstrap` is idempotent on real machines."""
    _, operator = mesh

    again = operator.json("bootstrap", str(operator.folder / "inventory.yaml"), "--no-passphrase")

    assert {host["status"] for host in again["hosts"]} == {"ok"}, again


def test_a_machine_that_lost_power_runs_its_pod_again(mesh: tuple[Machines, Operator]) -> None:
    """Power off and on: all three replicas run again without any command."""
    machines, operator = mesh

    machines.power_off(1)
    machines.power_on(1)

    assert eventually(lambda: len(set(operator.running().values())) == 3, 60), operator.running()


def test_a_whole_mesh_that_lost_power_runs_again(mesh: tuple[Machines, Operator]) -> None:
    """All three at once, off and on: every replica runs again without any command."""
    machines, operator = mesh

    machines.power_off(1, 2, 3)
    machines.power_on(1, 2, 3)

    assert eventually(lambda: len(set(operator.running().values())) == 3, 90), operator.running()


def test_no_machine_wrote_a_word_of_the_secret(mesh: tuple[Machines, Operator]) -> None:
    """After all of that, neither a file on a disk nor the journal of any machine holds the Secret; memory does."""
    machines, _ = mesh
    disks = "$(findmnt -rn -o TARGET -t ext2,ext3,ext4,xfs,btrfs,overlay,zfs | grep -v ^/etc/ | sort -u)"
    search = f"find / {disks} -xdev -type f -print0 2>/dev/null | xargs -0 grep -laF {MARKER} || true"
    seen = []
    for number in (1, 2, 3):
        assert machines.run(number, search).stdout.strip() == ""
        assert MARKER not in machines.run(number, "journalctl --no-pager -a -q").stdout
        assert "beemesh" in machines.run(number, "journalctl --no-pager -a -q").stdout
        seen.append(machines.run(number, f"cat /proc/[0-9]*/environ 2>/dev/null | grep -caF {MARKER} || true").stdout)
    assert any(int(count) for count in seen), seen


def test_a_drain_moves_the_pods_of_a_machine_and_loses_no_request(mesh: tuple[Machines, Operator]) -> None:
    """Each replica serves on another machine first, and every request is answered. (What ran before goes: of its
    replicas no machine takes two.)"""
    _, operator = mesh
    (operator.folder / "web.yaml").write_text(WEB)
    for words in (("delete", "deployment/hello"), ("apply", str(operator.folder / "web.yaml"))):
        done = operator.run(*words, "--wait", "--timeout", "90s")
        assert done.returncode == 0, done.stdout + done.stderr
    where = operator.running()
    node, moved = Counter(where.values()).most_common(1)[0]

    with under_requests("web", REPLICAS, operator.environment) as load:
        drained = operator.run("node", "drain", node, "--timeout", "120s")
        assert drained.returncode == 0, drained.stdout + drained.stderr
        assert eventually(lambda: len(load.watch.ready()) == REPLICAS, 30)

    print(f"{moved} of {REPLICAS} left {node}; {load.sent} requests, {len(load.failed)} failed")
    after = operator.running()
    assert len(after) == REPLICAS
    assert node not in after.values()
    assert load.sent > 100
    assert load.failed == []
