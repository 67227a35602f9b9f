"""Every way to a machine keeps the same promises; asyncssh keeps the harder ones against a server by other hands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import paramiko
import pytest

from beemesh.errors import ExitCode, NotAllowed, Unreachable
from beemeshctl.inventory.desired import ConnectionSettings
from beemeshctl.ssh.connection import Connection, TransferFailed
from beemeshctl.ssh.host_keys import HostKeyChanged, HostKeys, HostKeyUnknown
from beemeshctl.ssh.local import LocalConnection
from beemeshctl.ssh.over_ssh import SshConnection
from tests.contract.ssh_server import USER, Behaviour, SshServer, serving, write_key

HOST_KEY = paramiko.ECDSAKey.generate()
OTHER_HOST_KEY = paramiko.ECDSAKey.generate()
OTHER_TYPE_OF_KEY = paramiko.RSAKey.generate(2048)
USER_KEY = paramiko.ECDSAKey.generate()
STRANGER_KEY = paramiko.ECDSAKey.generate()

Rig = Callable[[], contextlib.AbstractAsyncContextManager[Connection]]


class SshRig:
    """A server and all that is needed to reach it."""

    def __init__(self, folder: Path, server: SshServer) -> None:
        self.folder, self.server = folder, server
        self.key_file = write_key(USER_KEY, folder / "id")
        self.user_file = folder / "user_known_hosts"
        self.user_file.write_text(server.known_hosts_line())

    def keys(self, *, accept_new: bool = False) -> HostKeys:
        """Known hosts of this rig alone."""
        return HostKeys(self.folder / "home" / "known_hosts", user_file=self.user_file, accept_new=accept_new)

    def connection(
        self, *, key: Path | None = None, password: str = "", keys: HostKeys | None = None, timeout_s: float = 10
    ) -> SshConnection:
        """A connection that is not open yet."""
        settings = ConnectionSettings(
            kind="ssh",
            host="127.0.0.1",
            port=self.server.port,
            user=USER,
            private_key_file="" if password else str(key or self.key_file),
            password=password,
        )
        return SshConnection(settings, keys or self.keys(), connect_timeout_s=timeout_s)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Connection]:
        """A connection that works."""
        connection = self.connection()
        await connection.open()
        try:
            yield connection
        finally:
            await connection.close()


@pytest.fixture
def ssh(tmp_path: Path) -> SshRig:
    """A server that knows one key and one password."""
    with serving(HOST_KEY, Behaviour(key=USER_KEY, password="right")) as server:
        yield SshRig(tmp_path, server)


@pytest.fixture(params=["local", "ssh"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Each way to a machine in turn."""
    if request.param == "ssh":
        return request.getfixturevalue("ssh").open

    @contextlib.asynccontextmanager
    async def local() -> AsyncIterator[Connection]:
        connection = LocalConnection()
        await connection.open()
        yield connection
        await connection.close()

    return local


def _with_connection(rig: Rig, work: Callable[[Connection], object]) -> object:
    async def body() -> object:
        async with rig() as connection:
            return await work(connection)  # type: ignore[misc]

    return asyncio.run(body())


def test_status_output_and_errors_come_back_apart(rig: Rig) -> None:
    """A command's status is a result, and its two outputs are not mixed."""
    result = _with_connection(rig, lambda c: c.run(["sh", "-c", "echo out; echo err >&2; exit 7"]))
    assert (result.status, result.stdout, result.stderr) == (7, b"out\n", b"err\n")
    assert result.complaint() == "err"


def test_words_arrive_as_they_are(rig: Rig) -> None:
    """No shell on the way takes a word for anything but itself."""
    words = ["a b", "$HOME", "`id`", "it's", 'say "hi"', "new\nline", "*", "", "ünïcode", "; false"]
    result = _with_connection(rig, lambda c: c.run(["printf", "%s|", *words]))
    assert result.stdout.decode() == "".join(f"{word}|" for word in words)


def test_input_arrives_whole(rig: Rig, tmp_path: Path) -> None:
    """Bytes and files of a megabyte of anything arrive unchanged."""
    content = os.urandom(1_000_003)
    (tmp_path / "input").write_bytes(content)

    async def work(connection: Connection) -> None:
        for stdin in (content, tmp_path / "input"):
            assert (await connection.run(["cat"], stdin=stdin)).stdout == content

    _with_connection(rig, work)


def test_input_that_nobody_reads_does_no_harm(rig: Rig) -> None:
    """A command may end without reading what it was offered."""
    assert _with_connection(rig, lambda c: c.run(["true"], stdin=b"x" * 500_000)).ok


def test_a_missing_command_is_a_result(rig: Rig) -> None:
    """127, as a shell has it."""
    assert _with_connection(rig, lambda c: c.run(["no-such-command-here"])).status == 127


def test_put_writes_whole_files_with_their_mode(rig: Rig, tmp_path: Path) -> None:
    """Folders are made, the old file is replaced, nothing else is left beside it."""
    target = tmp_path / "deep" / "er" / "file with space"
    content = os.urandom(700_000)

    async def work(connection: Connection) -> None:
        await connection.put(b"old", str(target))
        assert target.stat().st_mode & 0o777 == 0o600
        await connection.put(content, str(target), mode=0o755)

    _with_connection(rig, work)
    assert target.read_bytes() == content
    assert target.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_put_where_nothing_can_be_written_says_so(rig: Rig, tmp_path: Path) -> None:
    """The error names the path, and leaves what was there."""
    (tmp_path / "file").write_text("kept")
    with pytest.raises(TransferFailed, match=r"file/below"):
        _with_connection(rig, lambda c: c.put(b"new", str(tmp_path / "file" / "below")))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_command_that_hangs_is_given_up(rig: Rig) -> None:
    """The time limit holds, and the next command works."""

    async def work(connection: Connection) -> None:
        started = time.monotonic()
        with pytest.raises(Unreachable, match="no answer within"):
            await connection.run(["sleep", "60"], timeout_s=0.3)
        assert time.monotonic() - started < 5
        assert (await connection.run(["echo", "alive"])).stdout == b"alive\n"

    _with_connection(rig, work)


def test_commands_run_side_by_side(rig: Rig) -> None:
    """One connection carries several commands at once without mixing them."""

    async def work(connection: Connection) -> list[bytes]:
        results = await asyncio.gather(*(connection.run(["echo", str(number)]) for number in range(8)))
        return [result.stdout for result in results]

    assert _with_connection(rig, work) == [f"{number}\n".encode() for number in range(8)]


def test_closing_twice_does_no_harm(rig: Rig) -> None:
    """Whoever cleans up need not know who did before."""

    async def work(connection: Connection) -> None:
        await connection.close()
        await connection.close()

    _with_connection(rig, work)


def _opening(connection: SshConnection) -> None:
    async def body() -> None:
        await connection.open()
        await connection.close()

    asyncio.run(body())


def test_a_wrong_key_is_refused_with_advice(ssh: SshRig) -> None:
    """The error names host, user and key, and is one of permission."""
    stranger = write_key(STRANGER_KEY, ssh.folder / "stranger")
    with pytest.raises(NotAllowed, match=rf"refuses {USER} with .*stranger") as caught:
        _opening(ssh.connection(key=stranger))
    assert "ansible_user" in caught.value.hint


def test_a_wrong_password_is_refused_and_a_right_one_works(ssh: SshRig) -> None:
    """Passwords work, and a wrong one is said to be wrong without being shown."""
    _opening(ssh.connection(password="right"))
    with pytest.raises(NotAllowed, match="refuses the password") as caught:
        _opening(ssh.connection(password="wrong-word"))
    assert "wrong-word" not in str(caught.value)


def test_an_unknown_host_key_is_refused_with_its_fingerprint(ssh: SshRig) -> None:
    """Nothing is trusted at first sight unless that was asked for."""
    ssh.user_file.write_text("")
    with pytest.raises(HostKeyUnknown, match=r"SHA256:"):
        _opening(ssh.connection())
    assert ssh.server.behaviour.commands == []


def test_accepting_new_keys_records_them(ssh: SshRig) -> None:
    """Accepted once, the key is known afterwards, in our own file and not in the user's."""
    ssh.user_file.write_text("")
    _opening(ssh.connection(keys=ssh.keys(accept_new=True)))
    _opening(ssh.connection(keys=ssh.keys()))
    assert ssh.user_file.read_text() == ""
    assert ssh.keys().own_file.stat().st_mode & 0o777 == 0o600
    assert len(ssh.keys().own_file.read_text().splitlines()) == 1


@pytest.mark.parametrize("former", [OTHER_HOST_KEY, OTHER_TYPE_OF_KEY], ids=["same type", "other type"])
@pytest.mark.parametrize("accept_new", [False, True])
def test_a_changed_host_key_is_always_refused(ssh: SshRig, former: paramiko.PKey, accept_new: bool) -> None:
    """Accepting new keys never overrides one that is on record, whatever its type."""
    line = f"[127.0.0.1]:{ssh.server.port} {former.get_name()} {former.get_base64()}\n"
    ssh.user_file.write_text(line)
    with pytest.raises(HostKeyChanged, match="CHANGED") as caught:
        _opening(ssh.connection(keys=ssh.keys(accept_new=accept_new)))
    assert "ssh-keygen -R" in caught.value.hint
    assert caught.value.exit_code == ExitCode.NOT_ALLOWED
    assert not ssh.keys().own_file.exists()


def test_a_connection_dropped_in_mid_transfer_leaves_the_old_file(ssh: SshRig) -> None:
    """Half a file never takes the place of a whole one."""
    target = ssh.folder / "target"
    target.write_text("old")
    ssh.server.behaviour.drop_after_bytes = 300_000

    async def work(connection: Connection) -> None:
        await connection.put(os.urandom(2_000_000), str(target))

    with pytest.raises(Unreachable, match="was lost"):
        _with_connection(ssh.open, work)
    ssh.server.behaviour.wait()
    assert target.read_bytes() == b"old"
    assert not list(ssh.folder.glob(".beemesh*"))


def test_a_host_that_accepts_and_says_nothing_is_given_up(ssh: SshRig) -> None:
    """A slow host costs the connect timeout and no more."""
    ssh.server.behaviour.silent = True
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"did not answer within 0\.5 s"):
        _opening(ssh.connection(timeout_s=0.5))
    assert time.monotonic() - started < 5


def test_a_closed_port_and_an_unknown_name_are_told_apart(ssh: SshRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are out of reach, for reasons that lead to different cures."""
    monkeypatch.setattr("beemeshctl.ssh.over_ssh.RETRY_WAIT_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    keys = ssh.keys()
    refused = ConnectionSettings("ssh", "127.0.0.1", port, USER, str(ssh.key_file))
    with pytest.raises(Unreachable, match="refused"):
        _opening(SshConnection(refused, keys, connect_timeout_s=5))
    unknown = ConnectionSettings("ssh", "no-such-host.invalid", 22, USER, str(ssh.key_file))
    with pytest.raises(Unreachable, match="cannot be resolved"):
        _opening(SshConnection(unknown, keys, connect_timeout_s=5))


def test_a_key_with_a_passphrase_is_left_to_the_agent(ssh: SshRig) -> None:
    """Nothing is asked in the middle of a parallel run; the error says how to load the key."""
    locked = ssh.folder / "locked"
    paramiko.RSAKey.generate(1024).write_private_key_file(str(locked), password="secret")
    with pytest.raises(NotAllowed, match="has a passphrase"):
        _opening(ssh.connection(key=locked))
