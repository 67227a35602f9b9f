"""The parts a bootstrap is made of: keys at rest, bundles, templates, sudo, the command line itself."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from beemesh.errors import Conflict, ExitCode, InvalidInput, NotAllowed
from beemesh.identity.certificates import ISSUING_GRACE_MS
from beemesh.identity.grants import Grant
from beemesh.identity.signing import decode_body
from beemesh.intents.record import Intent
from beemeshctl import bundle, keyfile, main
from beemeshctl.bootstrap import rendering, signing
from beemeshctl.bootstrap.remote import source
from beemeshctl.bootstrap.signing import Authority, choose_seeds, taint_of
from beemeshctl.bundle import BundleFailed, Target
from beemeshctl.commands import COMMANDS
from beemeshctl.context import AgentEntry, Context, Home, find_home
from beemeshctl.inventory.desired import DesiredNode
from beemeshctl.keyfile import Passphrase, read_secret, write_secret
from beemeshctl.ssh.connection import Become, CannotBecomeRoot, Result

Wish = Callable[..., DesiredNode]


@pytest.fixture
def cheap_kdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id as cheap as it goes; its cost is not what is tested."""
    monkeypatch.setattr(keyfile, "ARGON2_OPS", 1)
    monkeypatch.setattr(keyfile, "ARGON2_MEMORY_BYTES", 8192)


def test_a_secret_at_rest_opens_with_its_passphrase_alone(
    tmp_path: Path, cheap_kdf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the file nor a wrong passphrase gives it away."""
    path = tmp_path / "home" / "ca.key"
    write_secret(path, b"the very secret!", "correct horse")
    assert b"the very secret!" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("BEEMESH_PASSPHRASE", "correct horse")
    assert read_secret(path, Passphrase()) == b"the very secret!"
    monkeypatch.setenv("BEEMESH_PASSPHRASE", "wrong horse")
    with pytest.raises(NotAllowed, match="does not open"):
        read_secret(path, Passphrase())


def test_without_a_terminal_a_missing_passphrase_says_what_to_set(
    tmp_path: Path, cheap_kdf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for an answer that cannot come."""
    monkeypatch.delenv("BEEMESH_PASSPHRASE", raising=False)
    with pytest.raises(InvalidInput, match="no terminal") as caught:
        Passphrase().for_new_keys()
    assert "BEEMESH_PASSPHRASE" in caught.value.hint
    assert Passphrase(none=True).for_new_keys() == ""


def test_a_damaged_key_file_is_told_from_a_wrong_passphrase(tmp_path: Path) -> None:
    """Both are errors for people, with different cures."""
    path = tmp_path / "ca.key"
    for content in ("", "{}", "[]", '{"format": "beemesh-secret/1", "kdf": "argon2id", "salt": "!"}'):
        path.write_text(content)
        with pytest.raises(InvalidInput, match=r"ca\.key"):
            read_secret(path, Passphrase())


def test_the_context_survives_being_edited_as_yaml(tmp_path: Path) -> None:
    """It is JSON, hence YAML; what a person makes of it is read too."""
    home = Home(tmp_path)
    context = Context("m", "me", (AgentEntry("n1", "abc", "10.0.0.1", 7947, 7946),))
    assert home.save_context(context)
    assert not home.save_context(context)
    assert home.context() == context
    agent = "{name: n1, node_id: abc, address: 10.0.0.1, api_port: 7947, gossip_port: 7946}"
    home.context_file.write_text(f"mesh: m\noperator: me\nagents:\n  - {agent}\n")
    assert home.context() == context
    home.context_file.write_text("mesh: 1\n")
    with pytest.raises(InvalidInput, match="damaged"):
        home.context()


def test_two_bootstraps_do_not_share_a_home(tmp_path: Path) -> None:
    """The second is turned away at once."""
    with Home(tmp_path).locked(), pytest.raises(Conflict, match="another bootstrap"), Home(tmp_path).locked():
        pass


def test_the_home_is_found_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable first, then beside the inventory, then here."""
    monkeypatch.setenv("BEEMESH_HOME", str(tmp_path / "named"))
    assert find_home(Path("x/inventory.yaml")).path == tmp_path / "named"
    monkeypatch.delenv("BEEMESH_HOME")
    assert find_home(Path("x/inventory.yaml")).path == Path("x/.beemesh")
    (tmp_path / ".beemesh").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_home().path == tmp_path / ".beemesh"


DAY_MS = 86_400_000
BEGUN_MS = 1_800_000_000_000


def _bootstrap(home: Home, day: int, operator: str = "ada") -> tuple[int, str, int, int]:
    """Run bootstrap's first step on some day; the grant's number, name and last day, and the certificate's last day."""
    Authority(home, Passphrase(none=True)).create("m", operator, BEGUN_MS + day * DAY_MS)
    intent = decode_body(home.grant(), Intent)
    grant = msgspec.msgpack.decode(intent.body, type=Grant)
    assert (intent.key, intent.seq) == (f"operator/{grant.name}", grant.serial)
    ends_ms = x509.load_pem_x509_certificate(home.operator_pem()).not_valid_after_utc.timestamp() * 1000
    days = ((grant.not_after_ms - BEGUN_MS) // DAY_MS, int(ends_ms - ISSUING_GRACE_MS - BEGUN_MS) // DAY_MS)
    return grant.serial, grant.name, *days


def test_the_operators_grant_is_renewed_past_half_of_its_life_also_when_it_has_ended(tmp_path: Path) -> None:
    """Each is later than the former one and stands under its name, whoever runs this; a young one stays as it is."""
    home = Home(tmp_path)

    assert _bootstrap(home, 0) == (1, "ada", 730, 730)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert _bootstrap(home, 364) == (1, "ada", 730, 730)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert _bootstrap(home, 366, "bob") == (2, "ada", 1096, 1096)
    assert _bootstrap(home, 1500) == (3, "ada", 2230, 2230)
    home.operator_pem_file.unlink()
    assert _bootstrap(home, 1501) == (4, "ada", 2231, 2231)


def test_a_renewal_of_the_operator_that_was_cut_off_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grant and certificate end together: the next run makes both, wherever the last one was cut off."""
    home, write = Home(tmp_path), signing.write_private
    _bootstrap(home, 0)

    for written in (0, 1):
        left = list(range(written))

        def cut_off(path: Path, content: bytes, left: list[int] = left) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop()
            write(path, content)

        monkeypatch.setattr(signing, "write_private", cut_off)
        with pytest.raises(KeyboardInterrupt):
            _bootstrap(home, 400)
    monkeypatch.setattr(signing, "write_private", write)

    assert _bootstrap(home, 401) == (2, "ada", 1131, 1131)


def test_a_target_lists_the_platforms_whose_wheels_run_there() -> None:
    """Newest first, down to the oldest; musl is no glibc."""
    glibc = Target((3, 11), "x86_64", "glibc", (2, 28)).platforms()
    assert glibc[0] == "manylinux_2_28_x86_64"
    assert "manylinux_2_29_x86_64" not in glibc
    assert {"manylinux2014_x86_64", "manylinux_2_17_x86_64"} <= set(glibc)
    assert Target((3, 12), "aarch64", "musl", (1, 2)).platforms()[0] == "musllinux_1_2_aarch64"


def test_a_bundle_is_the_same_bytes_for_the_same_content(tmp_path: Path) -> None:
    """Whatever order or clock made it."""
    first = bundle.pack({"b": b"2", "a/x.so": b"1"})
    assert first == bundle.pack({"a/x.so": b"1", "b": b"2"})
    (tmp_path / "b.tar.gz").write_bytes(first)
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        assert [(entry.name, entry.mode, entry.mtime) for entry in archive] == [("a/x.so", 0o755, 0), ("b", 0o644, 0)]


def test_the_bundle_needs_only_what_an_agent_needs() -> None:
    """None of the command line's libraries travels."""
    names = " ".join(bundle.requirements())
    assert "msgspec" in names
    assert not any(word in names for word in ("asyncssh", "jinja2", "click", "rich", "jsonschema"))
    assert set(bundle.own_packages()) == {"beemesh", "agent"}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("No module named pip", "has no pip"),
        ("ERROR: No matching distribution found for msgspec>=0.19", "no wheel of msgspec"),
        (
            "WARNING: Retrying NewConnectionError\nERROR: No matching distribution found for msgspec>=0.19",
            "could not be fetched",
        ),
    ],
)
def test_pips_failures_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, expected: str
) -> None:
    """No pip, no wheel and no network have different cures; nothing half-made stays in the cache."""
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(bundle.sys, "executable", str(fake))
    store = bundle.BundleStore(tmp_path / "bundles")
    with pytest.raises(BundleFailed, match=expected):
        asyncio.run(store.get(Target((3, 11), "x86_64", "glibc", (2, 36))))
    assert list((tmp_path / "bundles").iterdir()) == []


def _unpack(folder: Path, content: dict[str, bytes], *, sha256: str = "") -> subprocess.CompletedProcess[bytes]:
    archive = folder / "in.tar.gz"
    archive.write_bytes(bundle.pack(content))
    asked = {
        "archive": str(archive),
        "sha256": sha256 or hashlib.sha256(archive.read_bytes()).hexdigest(),
        "digest": "d1",
        "prefix": str(folder / "prefix"),
    }
    command = [sys.executable, "-I", "-", json.dumps(asked)]
    return subprocess.run(command, input=source("unpack"), capture_output=True, timeout=60)


def test_a_release_is_unpacked_whole_or_not_at_all(tmp_path: Path) -> None:
    """A damaged or malicious archive leaves nothing behind; a good one becomes current."""
    assert b"damaged" in _unpack(tmp_path, {"a": b"1"}, sha256="0" * 64).stderr
    assert b"does not belong" in _unpack(tmp_path, {"../evil": b"1"}).stderr
    assert not (tmp_path / "evil").exists()
    assert list((tmp_path / "prefix" / "releases").iterdir()) == []
    assert _unpack(tmp_path, {"lib/a.py": b"1"}).returncode == 0
    assert (tmp_path / "prefix" / "current" / "lib" / "a.py").read_bytes() == b"1"
    assert not (tmp_path / "in.tar.gz").exists()


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="systemd-escape is not installed")
@pytest.mark.parametrize("path", ["/run/beemesh/state", "/run/bee-mesh/st@te", "/.hidden/x.y", "/a_b:c"])
def test_mount_units_are_named_as_systemd_names_them(path: str) -> None:
    """systemd refuses a mount unit of any other name."""
    done = subprocess.run(["systemd-escape", "--path", "--suffix=mount", path], capture_output=True, text=True)
    assert rendering.mount_unit(path) == done.stdout.strip()


def test_node_yaml_says_what_was_wished(wish: Wish) -> None:
    """Values with quotes and braces come through the template unchanged."""
    node = wish(beemesh_site='the "old" {{ "{{" }} barn: #1', beemesh_scheduler={"lease_ttl_ms": 4000})
    settings = rendering.settings_of(node, manager="systemd", seeds=["10.0.0.9:7946"])
    text = rendering.node_yaml(settings)
    assert b"lease_ttl_ms: 4000" in text
    assert settings.node.site == 'the "old" {{ barn: #1'


def test_contradictions_are_found_before_anything_is_signed(wish: Wish) -> None:
    """The same check as the agent's, on the operator's machine."""
    with pytest.raises(InvalidInput, match="lease_renew_ms"):
        rendering.settings_of(wish(beemesh_scheduler={"lease_ttl_ms": 1000}), manager="systemd", seeds=())


def test_taints_and_seeds_are_read_and_chosen() -> None:
    """Kubernetes' short form; never oneself as a seed, never more than a few."""
    assert (taint_of("gpu=yes:NoExecute").value, taint_of("gpu:NoSchedule").effect) == ("yes", "NoSchedule")
    assert choose_seeds("b", ["a", "b", "c", "d", "e", "f", "g"]) == ("a", "c", "d", "e", "f")


class _Sudo:
    """A machine whose sudo wants a password, or does not, or is missing."""

    peer_address = ""

    def __init__(self, *, password: str | None) -> None:
        self._password = password

    async def run(self, command: Sequence[str], *, stdin: bytes | Path = b"", timeout_s: float = 0) -> Result:
        if "-n" in command:
            return Result(0, b"", b"") if self._password == "" else Result(1, b"", b"a password is required")
        return Result(0 if stdin == f"{self._password}\n".encode() else 1, b"", b"sorry, try again")

    async def put(self, content: bytes | Path, path: str, *, mode: int = 0o600) -> None:
        raise AssertionError("not called here")

    async def close(self) -> None:
        raise AssertionError("not called here")


def test_sudo_gets_the_password_only_where_it_asks() -> None:
    """Else the password would be taken for the command's input; it is never a word of a command line."""
    asking = Become(wanted=True, password="word")
    asyncio.run(asking.prepare(_Sudo(password="word")))
    command, first = asking.wrap(["id"])
    assert first == b"word\n"
    assert "word" not in command
    silent = Become(wanted=True, password="word")
    asyncio.run(silent.prepare(_Sudo(password="")))
    assert silent.wrap(["id"]) == (["sudo", "-n", "--", "id"], b"")
    for password, advice in (("", "set ansible_become_password"), ("bad", "check ansible_become_password")):
        with pytest.raises(CannotBecomeRoot) as caught:
            asyncio.run(Become(wanted=True, password=password).prepare(_Sudo(password="word")))
        assert advice in caught.value.hint


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    """Looking at `sys.modules` tells more than a stopwatch."""
    script = (
        "import sys; from beemeshctl.main import run; code = run(['--help']); "
        "heavy = {'asyncssh', 'jinja2', 'jsonschema', 'rich', 'ruamel', 'nacl', 'cryptography', 'msgspec', 'asyncio'}; "
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["bootstrp"], ExitCode.INVALID_INPUT, "Did you mean 'bootstrap'?"),
        (["bootstrap"], ExitCode.INVALID_INPUT, "INVENTORY"),
        (["bootstrap", "/no/such/inventory.yaml"], ExitCode.INVALID_INPUT, "does not exist"),
        (["bootstrap", "--forks", "0", "x"], ExitCode.INVALID_INPUT, "--forks"),
    ],
)
def test_mistakes_on_the_command_line_are_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: ExitCode, text: str
) -> None:
    """The exit code says whose fault it was."""
    assert main.run(arguments) == code
    shown = capsys.readouterr().err
    assert text in shown
    assert "Traceback" not in shown


def test_ctrl_c_says_that_a_second_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback, exit code 1, and what to do next."""
    from beemeshctl.bootstrap.run import Bootstrap

    async def interrupted(self: Bootstrap) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bootstrap, "run", interrupted)
    monkeypatch.setenv("BEEMESH_HOME", str(tmp_path / "home"))
    (tmp_path / "inventory.yaml").write_text("all:\n  hosts:\n    a: {ansible_connection: local}\n")
    assert main.run(["bootstrap", str(tmp_path / "inventory.yaml")]) == ExitCode.FAILED
    assert "run it again" in capsys.readouterr().err
