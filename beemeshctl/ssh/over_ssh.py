"""The connection over SSH (asyncssh). Host keys are always verified; nothing is ever asked at a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beemesh.errors import InvalidInput, NotAllowed, Unreachable
from beemeshctl.inventory.desired import ConnectionSettings
from beemeshctl.ssh.connection import (
    CHUNK_BYTES,
    DEFAULT_TIMEOUT_S,
    MAX_OUTPUT_BYTES,
    Become,
    Result,
    command_line,
    put_by_command,
    too_slow,
)
from beemeshctl.ssh.host_keys import HostKeys, Verdict

if TYPE_CHECKING:
    import asyncssh

KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_COUNT = 3
"""A machine that falls silent in mid-work is given up after interval times count."""

CONNECT_ATTEMPTS = 3
RETRY_WAIT_S = 0.5
"""Only refused and reset connections are tried again: a machine that just booted opens its port any moment."""


class SshConnection:
    """One SSH connection; commands are sessions on it."""

    def __init__(self, settings: ConnectionSettings, keys: HostKeys, *, connect_timeout_s: float) -> None:
        self._settings = settings
        self._keys = keys
        self._connect_timeout_s = connect_timeout_s
        self._chain: list[asyncssh.SSHClientConnection] = []
        self._become = Become(wanted=False, password="")

    @property
    def peer_address(self) -> str:
        """See `Connection.peer_address`."""
        peer = self._chain[-1].get_extra_info("peername") if self._chain else None
        return "" if not peer or len(self._chain) > 1 else str(peer[0])

    async def open(self) -> None:
        """Connect, and make sure that root can be had where it is wanted.

        Raises `Unreachable`, `NotAllowed` (login refused, key unknown, sudo refused) or `Untrusted` (key changed).
        """
        settings = self._settings
        try:
            for jump in settings.jump:
                hop = ConnectionSettings(
                    "ssh", jump.host, jump.port, jump.user or settings.user, settings.private_key_file
                )
                self._chain.append(await self._connect(hop, self._chain[-1] if self._chain else None))
            self._chain.append(await self._connect(settings, self._chain[-1] if self._chain else None))
            wished = Become(wanted=settings.become, password=settings.become_password or settings.password)
            await wished.prepare(self)
            self._become = wished
        except BaseException:
            await self.close()
            raise

    async def run(
        self, command: Sequence[str], *, stdin: bytes | Path = b"", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Result:
        """See `Connection.run`."""
        import asyncssh

        words, first = self._become.wrap(command)
        process: Any = None
        try:
            async with asyncio.timeout(timeout_s):
                process = await self._chain[-1].create_process(command_line(words), encoding=None)
                _, stdout, stderr = await asyncio.gather(
                    _feed(process, first, stdin), _drain(process.stdout), _drain(process.stderr)
                )
                await process.wait_closed()
        except TimeoutError:
            raise too_slow(words[0], timeout_s) from None
        except (asyncssh.Error, OSError) as error:
            raise self._lost(error) from None
        finally:
            if process is not None:
                process.close()
        if process.exit_status is None:
            raise self._lost(None)
        status = process.exit_status if process.exit_status >= 0 else 128
        return Result(status, stdout, stderr)

    async def put(self, content: bytes | Path, path: str, *, mode: int = 0o600) -> None:
        """See `Connection.put`."""
        await put_by_command(self, content, path, mode)

    async def close(self) -> None:
        """See `Connection.close`."""
        while self._chain:
            connection = self._chain.pop()
            connection.close()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await connection.wait_closed()

    async def _connect(
        self, settings: ConnectionSettings, tunnel: asyncssh.SSHClientConnection | None
    ) -> asyncssh.SSHClientConnection:
        for attempt in range(1, CONNECT_ATTEMPTS + 1):
            try:
                return await self._connect_once(settings, tunnel)
            except (ConnectionRefusedError, ConnectionResetError) as error:
                if attempt == CONNECT_ATTEMPTS:
                    raise self._refused(settings, error) from None
                await asyncio.sleep(RETRY_WAIT_S * attempt)
        raise AssertionError("the loop returns or raises")

    async def _connect_once(
        self, settings: ConnectionSettings, tunnel: asyncssh.SSHClientConnection | None
    ) -> asyncssh.SSHClientConnection:
        import asyncssh

        watcher = _watcher(self._keys)
        options: dict[str, Any] = {
            "username": settings.user,
            "known_hosts": self._keys.known(),
            "client_factory": lambda: watcher,
            "keepalive_interval": KEEPALIVE_INTERVAL_S,
            "keepalive_count_max": KEEPALIVE_COUNT,
            "tunnel": tunnel or (),
            "config": [],
        }
        if settings.password:
            options["password"] = settings.password
        if settings.private_key_file:
            options["client_keys"] = [_private_key(settings.private_key_file)]
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await asyncssh.connect(settings.host, settings.port, **options)
        except TimeoutError:
            raise Unreachable(
                f"{settings.host} port {settings.port} did not answer within {self._connect_timeout_s:g} s",
                hint="is the machine on, and the address right? --timeout gives it longer",
            ) from None
        except asyncssh.HostKeyNotVerifiable:
            raise self._keys.refusal(watcher.verdict, settings.host, settings.port, watcher.key) from None
        except asyncssh.PermissionDenied:
            raise _login_refused(settings) from None
        except socket.gaierror as error:
            raise Unreachable(
                f"{settings.host} cannot be resolved: {error.strerror}", hint="check ansible_host, or your DNS"
            ) from None
        except ConnectionRefusedError:
            raise
        except ConnectionResetError:
            await self._refuse_changed_key(settings, tunnel)
            raise
        except (asyncssh.Error, OSError) as error:
            await self._refuse_changed_key(settings, tunnel)
            raise Unreachable(
                f"no SSH with {settings.host} port {settings.port}: {_words(error)}",
                hint="is the machine on, its address right, and an SSH server there?",
            ) from None

    async def _refuse_changed_key(
        self, settings: ConnectionSettings, tunnel: asyncssh.SSHClientConnection | None
    ) -> None:
        """Raise `HostKeyChanged` when a failed handshake is due to a key of another type than the one on record.

        With keys on record only their types are offered, so such a server ends the handshake without showing its key.
        """
        import asyncssh

        if not self._keys.has_keys(settings.host, settings.port):
            return
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                key = await asyncssh.get_server_host_key(settings.host, settings.port, tunnel=tunnel or (), config=[])
        except (asyncssh.Error, OSError):
            return
        if key is not None and self._keys.is_changed(settings.host, settings.port, key):
            raise self._keys.refusal("changed", settings.host, settings.port, key)

    @staticmethod
    def _refused(settings: ConnectionSettings, error: OSError) -> Unreachable:
        return Unreachable(
            f"{settings.host} port {settings.port}: {_words(error).lower()}",
            hint="is sshd running there, and ansible_port right?",
        )

    def _lost(self, error: Exception | None) -> Unreachable:
        why = f": {_words(error)}" if error else ""
        return Unreachable(
            f"the connection to {self._settings.host} was lost{why}", hint="run it again: it goes on where it stopped"
        )


def _watcher(keys: HostKeys) -> Any:
    import asyncssh

    class Watcher(asyncssh.SSHClient):
        """Is asked about keys that no known_hosts file vouches for."""

        verdict: Verdict = "trusted"
        key: asyncssh.SSHKey | None = None

        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            self.verdict, self.key = keys.judge(host, addr, port, key), key
            return self.verdict in ("trusted", "accepted")

    return Watcher()


def _private_key(path: str) -> Any:
    import asyncssh

    try:
        return asyncssh.read_private_key(path)
    except FileNotFoundError:
        raise InvalidInput(
            f"the private key {path} does not exist", hint="check ansible_ssh_private_key_file"
        ) from None
    except asyncssh.KeyEncryptionError:
        raise NotAllowed(f"the private key {path} has a passphrase", hint=f"load it first: ssh-add {path}") from None
    except asyncssh.KeyImportError as error:
        text = str(error)
        if "passphrase" in text.lower():
            raise NotAllowed(
                f"the private key {path} has a passphrase", hint=f"load it first: ssh-add {path}"
            ) from None
        raise InvalidInput(f"{path} is not a private key that can be read: {text}") from None
    except OSError as error:
        raise InvalidInput(f"the private key {path} cannot be read: {error.strerror}") from None


def _login_refused(settings: ConnectionSettings) -> NotAllowed:
    if settings.password:
        return NotAllowed(f"{settings.host} refuses the password of {settings.user}", hint="check ansible_password")
    tried = settings.private_key_file or "the keys of the SSH agent and of ~/.ssh"
    return NotAllowed(
        f"{settings.host} refuses {settings.user} with {tried}",
        hint="check ansible_user and ansible_ssh_private_key_file, or run ssh-copy-id",
    )


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(getattr(error, "reason", "") or str(error) or type(error).__name__)


async def _feed(process: Any, first: bytes, content: bytes | Path) -> None:
    # A command may end without reading all it is offered; what it said is in its status.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if first:
            process.stdin.write(first)
        if isinstance(content, bytes):
            for start in range(0, len(content), CHUNK_BYTES):
                process.stdin.write(content[start : start + CHUNK_BYTES])
                await process.stdin.drain()
        else:
            with content.open("rb") as stream:
                while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
                    process.stdin.write(chunk)
                    await process.stdin.drain()
        process.stdin.write_eof()


async def _drain(reader: Any) -> bytes:
    kept = bytearray()
    while chunk := await reader.read(CHUNK_BYTES):
        kept += chunk[: MAX_OUTPUT_BYTES - len(kept)]
    return bytes(kept)
