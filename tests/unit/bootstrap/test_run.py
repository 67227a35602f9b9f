"""A whole bootstrap of this machine, with an agent that only pretends: what changes, what not, and what is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from beemesh.crypto_native import NativeCrypto
from beemesh.errors import ExitCode, InvalidInput
from beemesh.identity.membership_card import ConfigStatement, Membership
from beemesh.identity.signing import Signed, decode_body, open_statement
from beemesh.ids import digest_of
from beemesh.intents.record import Intent
from beemeshctl.bootstrap import host as host_module
from beemeshctl.bootstrap import run as run_module
from beemeshctl.bootstrap.report import Progress, Report
from beemeshctl.bootstrap.run import Bootstrap, Options
from beemeshctl.context import Home
from beemeshctl.inventory.desired import desired_nodes
from beemeshctl.inventory.reader import read_inventory
from beemeshctl.keyfile import Passphrase
from tests.unit.bootstrap.conftest import StubBundles

pytestmark = pytest.mark.slow


_given: set[int] = set()


def _free_port() -> int:
    """One that nobody has: the kernel may name a port again that it named before."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


class Playground:
    """Some nodes on this machine, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.hosts: dict[str, dict[str, Any]] = {}
        self.common: dict[str, Any] = {
            "ansible_connection": "local",
            "beemesh_mesh": "play",
            "beemesh_runtime": "process",
            "beemesh_service": "supervised",
            "beemesh_address": "127.0.0.1",
            "beemesh_listen_address": "127.0.0.1",
            "beemesh_prefix": f"{folder}/program",
            "beemesh_data_dir": f"{folder}/" + "{{ inventory_hostname }}/data",
            "beemesh_config_dir": f"{folder}/" + "{{ inventory_hostname }}/config",
        }

    def add(self, name: str, **variables: Any) -> None:
        """One more host."""
        ports = {"beemesh_gossip_port": _free_port(), "beemesh_api_port": _free_port()}
        self.hosts[name] = {**ports, **variables}

    def bootstrap(self, *, check: bool = False, only: list[str] | None = None) -> Report:
        """What `beemeshctl bootstrap` does."""
        path = self.folder / "inventory.yaml"
        path.write_text(json.dumps({"all": {"vars": self.common, "hosts": self.hosts}}))
        inventory = read_inventory(path)
        nodes = desired_nodes(inventory, only or list(inventory.hosts))
        options = Options(check=check, connect_timeout_s=3)
        return asyncio.run(Bootstrap(nodes, self.home, Passphrase(none=True), options, Progress()).run())

    def file(self, host: str, name: str) -> bytes:
        """A file of a node's config directory."""
        return (self.folder / host / "config" / name).read_bytes()

    def calls(self, host: str) -> list[str]:
        """What the host's service was told."""
        return (self.folder / host / "data" / "calls").read_text().split()


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Playground]:
    """Two nodes to begin with; whatever runs is ended."""
    monkeypatch.setattr(run_module, "BundleStore", StubBundles)
    monkeypatch.setattr(host_module, "READY_TIMEOUT_S", 5.0)
    playground = Playground(tmp_path)
    playground.add("n1")
    playground.add("n2")
    yield playground
    for lock in tmp_path.glob("*/data/service.lock"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(lock.read_text()), signal.SIGKILL)


def _statuses(report: Report) -> dict[str, str]:
    return {host.host: host.status for host in report.hosts}


def _changes(report: Report) -> dict[str, list[str]]:
    return {host.host: [step.name for step in host.steps if step.changed] for host in report.hosts}


def test_a_mesh_appears_and_a_second_run_changes_nothing(play: Playground) -> None:
    """The whole way once; then nothing but a look."""
    first = play.bootstrap()
    assert first.created
    assert first.exit_code == ExitCode.DONE, first.to_json()
    assert _changes(first)["n1"] == ["agent", "keys", "config", "service"]
    before = {path: path.stat().st_mtime_ns for path in play.home.path.rglob("*") if path.is_file()}
    second = play.bootstrap()
    assert not second.created
    assert _changes(second) == {"n1": [], "n2": []}
    assert second.to_json()["changed"] == 0
    after = {path: path.stat().st_mtime_ns for path in play.home.path.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= set(play.home.bundles.iterdir())
    assert play.calls("n1") == ["start"]


def test_cards_of_one_run_bear_one_moment_and_a_later_runs_another(play: Playground) -> None:
    """By it replicas of leases know whether any keeper was there before them."""
    play.bootstrap()
    play.add("late")
    play.bootstrap()
    records = [msgspec.msgpack.decode(play.file(name, "membership.card"), type=Signed) for name in play.hosts]
    cards = [msgspec.msgpack.decode(decode_body(each, Intent).body, type=Membership) for each in records]
    moments = [card.signed_at_ms for card in cards]
    assert moments[-1] > moments[0]
    assert set(moments[:-1]) == {moments[0]}


def test_what_lies_on_a_node_is_signed_for_it(play: Playground) -> None:
    """Config, card and seed hold under the CA's key, and nobody else may read them."""
    play.bootstrap()
    crypto = NativeCrypto.generate()
    from beemesh.identity.certificates import ca_public_key

    ca_key = ca_public_key(play.home.ca_pem())
    record = msgspec.msgpack.decode(play.file("n1", "membership.card"), type=Signed)
    intent = open_statement(crypto, record, "intent", ca_key, Intent)
    card = msgspec.msgpack.decode(intent.body, type=Membership)
    assert (card.name, card.mesh, card.addresses) == ("n1", "play", ("127.0.0.1",))
    statement = open_statement(
        crypto, msgspec.msgpack.decode(play.file("n1", "node.yaml.sig"), type=Signed), "config", ca_key, ConfigStatement
    )
    assert statement.node_id == card.node_id
    assert statement.config_digest == digest_of(play.file("n1", "node.yaml"))
    seed = msgspec.msgpack.decode(play.file("n1", "intents.seed"), type=tuple[Signed, ...])
    kinds = sorted(open_statement(crypto, item, "intent", ca_key, Intent).kind for item in seed)
    assert kinds == ["grant", "membership", "membership"]
    modes = {path.stat().st_mode & 0o777 for path in (play.folder / "n1" / "config").iterdir()}
    assert modes == {0o600}
    assert play.home.path.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in play.home.path.glob("*.key"))


def test_a_changed_variable_touches_only_what_it_concerns(play: Playground) -> None:
    """One host's config is rendered, signed and restarted; the other is left alone."""
    play.bootstrap()
    issuing = play.file("n2", "issuing.pem")
    play.hosts["n2"]["beemesh_max_pods"] = 7
    checked = play.bootstrap(check=True)
    assert _changes(checked) == {"n1": [], "n2": ["config", "service"]}
    report = play.bootstrap()
    assert _changes(report) == {"n1": [], "n2": ["config", "service"]}
    assert [step.detail for step in report.hosts[1].steps if step.name == "config"] == ["node.yaml, node.yaml.sig"]
    assert b'"max_pods": 7' in play.file("n2", "node.yaml")
    assert play.file("n2", "issuing.pem") == issuing
    assert (play.calls("n1"), play.calls("n2")) == (["start"], ["start", "restart"])


def test_a_new_host_joins_and_leaves_the_others_as_they_are(play: Playground) -> None:
    """Adding a machine to the inventory changes no other machine."""
    play.bootstrap()
    play.add("n3")
    report = play.bootstrap()
    assert _changes(report) == {"n1": [], "n2": [], "n3": ["keys", "config", "service"]}
    assert len(msgspec.msgpack.decode(play.file("n3", "intents.seed"), type=tuple[Signed, ...])) == 4
    assert [agent.name for agent in play.home.context().agents] == ["n1", "n2", "n3"]
    assert _changes(play.bootstrap()) == {"n1": [], "n2": [], "n3": []}


def _submissions(play: Playground) -> int:
    return sum(len(path.read_text().splitlines()) for path in play.folder.glob("*/data/submissions"))


def test_a_joiner_is_made_known_to_the_running_mesh_once(play: Playground) -> None:
    """Nobody is told what its seed told it; a joiner's card goes to one older node, which spreads it."""
    play.bootstrap()
    assert _submissions(play) == 0
    play.add("n3")
    assert [host.warnings[1:] for host in play.bootstrap().hosts] == [[], [], []]
    assert _submissions(play) == 1
    assert not (play.folder / "n3" / "data" / "submissions").exists()
    play.bootstrap()
    assert _submissions(play) == 1


def test_a_joiner_nobody_was_told_about_is_announced_by_a_later_run(play: Playground) -> None:
    """A refusal, or a limit without any older node, is warned about and made good."""
    play.bootstrap()
    play.add("n3")
    alone = play.bootstrap(only=["n3"])
    assert "could not be told about node/n3" in alone.hosts[0].warnings[-1]
    for name in ("n1", "n2"):
        (play.folder / name / "data" / "refuse").touch()
    refused = play.bootstrap()
    assert "503 busy" in refused.hosts[0].warnings[-1]
    for name in ("n1", "n2"):
        (play.folder / name / "data" / "refuse").unlink()
    assert "could not" not in str(play.bootstrap().to_json())
    assert (play.home.path / "announced.json").exists()


def test_a_renewed_grant_is_told_to_the_running_mesh_once(play: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes the way of the renewed cards, before them: under it stands what the operator signs from then on."""
    play.bootstrap()
    now_ms = run_module.wall_ms() + 800 * 86_400_000
    monkeypatch.setattr(run_module, "wall_ms", lambda: now_ms)
    report = play.bootstrap()
    assert [host.warnings[1:] for host in report.hosts] == [[], []]
    announced = json.loads((play.home.path / "announced.json").read_bytes())
    assert decode_body(play.home.grant(), Intent).seq == 2
    assert play.home.grant().signature.hex() in announced
    told = _submissions(play)
    play.bootstrap()
    assert _submissions(play) == told


def test_a_run_with_a_limit_keeps_what_the_context_knew(play: Playground) -> None:
    """Agents out of a run's sight stay in the context."""
    play.bootstrap()
    play.bootstrap(only=["n2"])
    assert [agent.name for agent in play.home.context().agents] == ["n1", "n2"]


def test_a_dead_host_stops_nobody_and_joins_later(play: Playground) -> None:
    """Unreachable is told, the others are done, and the exit code says which it was."""
    dead = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": _free_port()}
    play.hosts["n2"] |= dead
    report = play.bootstrap()
    assert _statuses(report) == {"n1": "changed", "n2": "unreachable"}
    assert report.exit_code == ExitCode.UNREACHABLE
    for name in dead:
        del play.hosts["n2"][name]
    assert _statuses(play.bootstrap()) == {"n1": "ok", "n2": "changed"}


def test_every_problem_of_every_host_is_told_and_such_a_host_is_left_alone(play: Playground) -> None:
    """An occupied port, and a disk without room: nothing is written on either host."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        play.hosts["n1"]["beemesh_api_port"] = taken.getsockname()[1]
        play.hosts["n2"]["beemesh_data_dir"] = "/proc/beemesh"
        report = play.bootstrap()
    assert _statuses(report) == {"n1": "failed", "n2": "failed"}
    assert "cannot be had" in report.hosts[0].problems[0]
    assert "beemesh_api_port" in report.hosts[0].problems[0]
    assert "set beemesh_data_dir" in report.hosts[1].problems[0]
    assert not (play.folder / "program").exists()
    assert not play.home.exists()


def test_check_writes_nothing_anywhere(play: Playground) -> None:
    """What would happen is told, and nothing has happened."""
    report = play.bootstrap(check=True)
    assert _changes(report)["n1"] == ["agent", "keys", "config", "service"]
    assert not (play.folder / "n1").exists()
    assert not (play.folder / "program").exists()
    assert not play.home.ca_key_file.exists()


def test_an_interrupted_run_is_finished_by_the_next(play: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off between signing and writing, the next run goes on with the same keys."""
    original = host_module.HostRun.configure

    async def cut_off(self: host_module.HostRun, signed: Any) -> None:
        if self.node.name == "n1":  # once: a second Ctrl-C means at once, without waiting for anybody
            signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    monkeypatch.setattr(host_module.HostRun, "configure", cut_off)
    with pytest.raises(KeyboardInterrupt):
        play.bootstrap()
    ca = play.home.ca_pem()
    monkeypatch.setattr(host_module.HostRun, "configure", original)
    report = play.bootstrap()
    assert report.exit_code == ExitCode.DONE
    assert _changes(report)["n1"] == ["config", "service"]
    assert play.home.ca_pem() == ca


def test_new_keys_for_a_name_revoke_the_old_identity(play: Playground) -> None:
    """A machine set up anew gets a new card, and the former one is withdrawn in the same act."""
    play.bootstrap()
    old = msgspec.json.decode((play.home.node("n1") / "record.json").read_bytes())["keys"]["node_id"]
    (play.folder / "n1" / "data" / "keys" / "x25519").unlink()
    report = play.bootstrap()
    assert report.exit_code == ExitCode.DONE
    assert [path.name for path in (play.home.path / "revocations").iterdir()] == [old]
    seed = msgspec.msgpack.decode(play.file("n1", "intents.seed"), type=tuple[Signed, ...])
    assert "revocation" in {msgspec.msgpack.decode(item.body, type=Intent).kind for item in seed}


def test_another_mesh_is_refused_in_the_same_home(play: Playground) -> None:
    """A mesh is never renamed by a slip in the inventory."""
    play.bootstrap(only=["n1"])
    play.common["beemesh_mesh"] = "other"
    with pytest.raises(InvalidInput, match="belongs to the mesh 'play'"):
        play.bootstrap()


def test_an_agent_that_never_gets_ready_fails_with_its_last_words(
    play: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The person sees why without logging in there."""
    monkeypatch.setattr(host_module, "READY_TIMEOUT_S", 0.2)
    play.bootstrap(only=["n1"])
    data = play.folder / "n1" / "data"
    (data / "agent.log").write_text("error: something is broken here\n")
    os.kill(int((data / "service.lock").read_text()), signal.SIGSTOP)
    try:
        report = play.bootstrap(only=["n1"])
    finally:
        os.kill(int((data / "service.lock").read_text()), signal.SIGCONT)
    assert report.exit_code == ExitCode.FAILED
    assert "not ready" in report.hosts[0].error
    assert "something is broken here" in report.hosts[0].error
