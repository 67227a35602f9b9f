"""An operator changes the gossip key of a running mesh, and shuts a node out, which comes back only as another one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator

import pytest

from tests.e2e.local_mesh import LocalMesh, applied, eventually, why_not

pytestmark = [
    pytest.mark.podman,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run"),
]

POD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: spread}
spec:
  replicas: 3
  selector: {matchLabels: {app: spread}}
  template:
    metadata: {labels: {app: spread}}
    spec:
      containers:
        - {name: web, image: "localhost/hello:1", imagePullPolicy: Never}
"""
SECONDS = 15.0
"""`takes effect mesh-wide within seconds`: for agents that share two cores with whatever else is tested."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Three agents with a pod each."""
    with applied(tmp_path_factory.mktemp("mesh"), POD) as mesh:
        yield mesh


def keys_of(mesh: LocalMesh) -> list[tuple[int, int]]:
    """(epoch, keys known) of every node that answers."""
    document = mesh.json("mesh", "status")
    return [(view["ring_epoch"], view["ring_keys"]) for view in document["views"]]


def runs_on(mesh: LocalMesh) -> list[str]:
    """Where the pods run."""
    return sorted(pod["spec"]["nodeName"] for pod in mesh.pods().values())


def test_the_gossip_key_changes_while_everything_runs(mesh: LocalMesh) -> None:
    """All send under the new key, then forget the old one; no pod moves, and no node is held dead meanwhile."""
    before = {epoch for epoch, _ in keys_of(mesh)}

    changed = mesh.run("mesh", "key", "rotate", "--urgent")

    assert changed.returncode == 0, changed.stderr
    assert eventually(lambda: all(epoch not in before for epoch, _ in keys_of(mesh)), SECONDS), keys_of(mesh)
    assert eventually(lambda: [known for _, known in keys_of(mesh)] == [1, 1, 1], 40), keys_of(mesh)
    assert runs_on(mesh) == ["e1", "e2", "e3"]
    assert "NodeDead" not in mesh.run("events").stdout


def test_a_revoked_node_is_out_within_seconds(mesh: LocalMesh) -> None:
    """The others drop it, run its pod themselves, and it can no longer ask or tell them anything."""
    revoked = mesh.run("mesh", "revoke", "node", "e3", "--reason", "stolen")

    assert revoked.returncode == 0, revoked.stderr
    assert eventually(lambda: "e3" not in mesh.run("get", "nodes").stdout, SECONDS), mesh.run("get", "nodes").stdout
    assert eventually(lambda: runs_on(mesh) in (["e1", "e1", "e2"], ["e1", "e2", "e2"]), 60), runs_on(mesh)
    applied = mesh.run("apply", "-", "--via", "e3", stdin=POD.replace("replicas: 3", "replicas: 4"))
    assert applied.returncode != 0
    assert eventually(lambda: [known for _, known in keys_of(mesh)] == [1, 1], 40), keys_of(mesh)


def test_it_comes_back_with_new_keys_only(mesh: LocalMesh) -> None:
    """A bootstrap of the machine as it is says what to do; done so, it joins as a new node."""
    again = mesh.bootstrap()
    assert again.returncode != 0
    assert "revoked" in again.stdout + again.stderr

    mesh.agent("e3", "service", "stop")
    shutil.rmtree(mesh.data / "e3" / "keys")
    fresh = mesh.bootstrap()

    assert fresh.returncode == 0, fresh.stdout + fresh.stderr
    began_s = time.monotonic()
    assert eventually(lambda: mesh.run("get", "nodes").stdout.count(" Ready ") == 3, 60), mesh.run(
        "get", "nodes"
    ).stdout
    assert time.monotonic() - began_s < 60
    nodes = json.loads(mesh.run("get", "nodes", "-o", "json").stdout)["items"]
    assert sorted(node["metadata"]["name"] for node in nodes) == ["e1", "e2", "e3"]
