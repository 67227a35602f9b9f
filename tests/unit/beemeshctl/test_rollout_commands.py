"""`rollout` and `scale` against a mesh that remembers what it is told: what they print, sign and exit with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from beemesh.errors import InvalidInput
from beemesh.identity.signing import Signed, decode_body, sign_statement
from beemesh.ids import Digest
from beemesh.intents.record import SIGNED_KIND, Intent, workload_key
from beemesh.workloads.kubedaemons import DaemonSetView, daemon_set
from beemesh.workloads.kubedeployment import DeploymentView, deployment
from beemesh.workloads.record import Revision, Sealing, ShareTicket, Strategy, Workload
from beemesh.workloads.revising import with_revision
from beemeshctl.bootstrap.signing import Authority
from beemeshctl.commands import rollout, scale
from beemeshctl.context import Home
from beemeshctl.keyfile import Passphrase
from tests.unit.identity.cast import MESH, NOW_MS, card

KEEPER = card("n1").node_id


def revision(number: int) -> Revision:
    """A revision whose only custodian and holder is one node."""
    sealing = Sealing("shamir", 1, 1, (ShareTicket(1, KEEPER, Digest(bytes(32))),), b"c")
    return Revision(number, Digest(bytes([number]) * 32), 1, sealing, (KEEPER,), b"f")


def history() -> Workload:
    """Two revisions of a deployment of three."""
    found: Workload | None = None
    for number in (1, 2):
        draft = Workload("Deployment", "default", "hello", 3, (), images=(f"hello:{number}",))
        found = with_revision(found, draft, revision(number), 1_790_000_000_000 + number, f"release {number}")
    assert found is not None
    return found


class FakeMesh:
    """Answers as an agent; keeps what is submitted."""

    def __init__(self, home: Home) -> None:
        self.home, self.mesh, self.operator = home, MESH, home.operator()
        self.state = "alive"
        self.workload = history()
        self.views: list[DeploymentView] = []
        self.put: list[Workload] = []

    def roster(self) -> tuple[Any, dict[bytes, str]]:
        """One node."""
        return SimpleNamespace(keepers=lambda: [card("n1")]), {bytes(KEEPER): self.state}

    def records(self) -> dict[str, Signed]:
        """The one record."""
        key = workload_key(self.workload.workload_id)
        body = msgspec.msgpack.encode(self.workload)
        intent = Intent(MESH, "workload", key, 7, self.operator.signer_id, NOW_MS, body)
        return {key: sign_statement(self.operator, SIGNED_KIND, intent)}

    def get(self, path: str, **_: str) -> Any:
        """The next view of the deployment; the last one for ever."""
        assert path == "/apis/apps/v1/namespaces/default/deployments/hello"
        return deployment(self.views.pop(0) if len(self.views) > 1 else self.views[0])

    def post(self, _path: str, body: dict[str, Any], **_: str) -> None:
        """Take a record."""
        intent = decode_body(body["record"], Intent)
        assert (intent.seq, body["ciphertext"]) == (8, b"")
        self.put.append(msgspec.msgpack.decode(intent.body, type=Workload))


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMesh]:
    """A mesh with one deployment, in the place of every agent."""
    home = Home(tmp_path / "home")
    Authority(home, Passphrase(none=True)).create(MESH, "ada", NOW_MS)
    fake = FakeMesh(home)
    monkeypatch.setattr("beemeshctl.client.Client", lambda via="": fake)
    monkeypatch.setattr("beemeshctl.rollouts.POLL_S", 0.0)
    yield fake


def run(command: Any, *words: str) -> tuple[int, str]:
    """Exit code and what was printed; what went wrong is raised."""
    result = CliRunner().invoke(command, words, standalone_mode=False, catch_exceptions=False)
    return int(result.return_value or 0), result.output


def view(**changes: Any) -> DeploymentView:
    """A deployment of three at revision 2."""
    return DeploymentView(**{"name": "hello", "namespace": "default", "replicas": 3, "revision": 2, **changes})


def test_status_follows_to_the_end(mesh: FakeMesh) -> None:
    """Each step is told once, in kubectl's words, until the rollout is complete."""
    mesh.views = [
        view(running=3, ready=3),
        view(running=4, ready=4, updated=1),
        view(running=4, ready=4, updated=1),
        view(running=4, ready=4, updated=3),
        view(running=3, ready=2, updated=3),
        view(running=3, ready=3, updated=3),
    ]
    assert run(rollout.command, "status", "deployment/hello") == (0, """\
Waiting for deployment "hello" rollout to finish: 0 out of 3 new replicas have been updated
Waiting for deployment "hello" rollout to finish: 1 out of 3 new replicas have been updated
Waiting for deployment "hello" rollout to finish: 1 old replicas are pending termination
Waiting for deployment "hello" rollout to finish: 2 of 3 updated replicas are available
deployment "hello" successfully rolled out
""")  # fmt: skip


def test_status_of_a_failed_rollout(mesh: FakeMesh) -> None:
    """It exits with 1 and says why, and what runs instead; as JSON too."""
    why = "revision 2 failed, back to revision 1: all 5 attempts to start replica 0 failed: ImageNotFound"
    mesh.views = [view(running=3, ready=3, failed=why, rolled_back_to=1)]
    code, text = run(rollout.command, "status", "deployment/hello")
    assert code == 1
    assert text == f'deployment "hello": revision 2 failed; revision 1 runs in its place: {why}\n'
    code, text = run(rollout.command, "status", "deployment/hello", "-o", "json")
    assert code == 1
    (item,) = json.loads(text)["items"]
    assert (item["state"], item["rolledBackTo"], item["available"]) == ("failed", 1, 3)


def test_status_ends_at_its_time_out(mesh: FakeMesh) -> None:
    """What does not get on is told with how far it is."""
    from beemesh.errors import Unreachable

    mesh.views = [view(strategy=Strategy(paused=True))]
    with pytest.raises(Unreachable, match=r"timed out after 0\.01 s: .* \(paused\): 0 out of 3"):
        run(rollout.command, "status", "deployment/hello", "--timeout", "0.01s")


def test_history(mesh: FakeMesh) -> None:
    """Oldest first, the current one marked, each with its images and cause."""
    assert run(rollout.command, "history", "deployment/hello") == (0, """\
deployment.apps/hello
REVISION  SINCE                 IMAGES   SHARES  CHANGE-CAUSE
1         2026-09-21T14:13:20Z  hello:1  1 of 1  release 1
2*        2026-09-21T14:13:20Z  hello:2  1 of 1  release 2
""")  # fmt: skip
    _, text = run(rollout.command, "history", "deployment/hello", "--revision", "1", "-o", "json")
    (item,) = json.loads(text)["items"]
    assert [line["images"] for line in item["revisions"]] == [["hello:1"]]


def test_undo_signs_the_old_revision_anew(mesh: FakeMesh) -> None:
    """Nothing is sealed; the old manifest comes under a new number."""
    assert run(rollout.command, "undo", "deployment/hello") == (0, "deployment.apps/hello rolled back to revision 1\n")
    (put,) = mesh.put
    assert [each.number for each in put.revisions] == [3, 2]
    assert (put.current.manifest, put.images) == (revision(1).manifest, ("hello:1",))


def test_undo_to_what_nobody_can_open_is_refused(mesh: FakeMesh) -> None:
    """Where its custodians are gone the record stays as it is."""
    from beemesh.errors import Unavailable

    mesh.state = "dead"
    with pytest.raises(Unavailable, match="0 of its custodians are alive, 1 are needed"):
        run(rollout.command, "undo", "deployment/hello")
    assert not mesh.put


def test_restart_pause_and_resume(mesh: FakeMesh) -> None:
    """Each is one signed record."""
    assert run(rollout.command, "restart", "deployment/hello") == (0, "deployment.apps/hello restarted\n")
    assert run(rollout.command, "pause", "deployment/hello") == (0, "deployment.apps/hello paused\n")
    mesh.workload = mesh.put[-1]
    assert run(rollout.command, "resume", "deployment", "hello") == (0, "deployment.apps/hello resumed\n")

    assert [each.current.number for each in mesh.put] == [3, 2, 2]
    assert [each.strategy.paused for each in mesh.put] == [False, True, False]


def test_scale(mesh: FakeMesh) -> None:
    """The record wants another number; not when another one stands than was thought, and not for other kinds."""
    from beemesh.errors import Conflict, InvalidInput

    assert run(scale.command, "deployment/hello", "--replicas", "5") == (0, "deployment.apps/hello scaled\n")
    assert [each.replicas for each in mesh.put] == [5]
    with pytest.raises(Conflict, match="wants 3 replicas, not 4"):
        run(scale.command, "deployment/hello", "--replicas", "5", "--current-replicas", "4")
    with pytest.raises(InvalidInput, match="pods have no rollouts"):
        run(scale.command, "pod/hello", "--replicas", "5")
    with pytest.raises(InvalidInput, match="expected 0 to 10000"):
        run(scale.command, "deployment/hello", "--replicas", "10001")


def test_daemon_sets_have_rollouts(mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status, undo and restart are the same; they are neither scaled nor paused."""
    mesh.workload = msgspec.structs.replace(mesh.workload, kind="DaemonSet", replicas=0)
    item = daemon_set(DaemonSetView("hello", "default", 3, current=3, ready=3, updated=3, revision=2))
    paths: list[str] = []
    monkeypatch.setattr(mesh, "get", lambda path, **_: paths.append(path) or item)
    done = 'daemonset "hello" successfully rolled out\n'
    assert run(rollout.command, "status", "ds/hello") == (0, done)
    assert paths == ["/apis/apps/v1/namespaces/default/daemonsets/hello"]
    assert run(rollout.command, "undo", "ds/hello") == (0, "daemonset.apps/hello rolled back to revision 1\n")
    assert run(rollout.command, "restart", "ds/hello") == (0, "daemonset.apps/hello restarted\n")
    assert [put.current.number for put in mesh.put] == [3, 3]
    for command, words in ((scale.command, ("ds/hello", "--replicas", "2")), (rollout.command, ("pause", "ds/hello"))):
        with pytest.raises(InvalidInput, match="DaemonSet"):
            run(command, *words)
