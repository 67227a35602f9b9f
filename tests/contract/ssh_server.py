"""An SSH server by other hands (paramiko) on the loopback, which runs commands and can misbehave when told to."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

USER = "tester"


@dataclass
class Behaviour:
    """What the server accepts, and how it fails."""

    key: paramiko.PKey | None = None
    password: str | None = None
    drop_after_bytes: int | None = None
    silent: bool = False
    commands: list[str] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def wait(self, patience_s: float = 10) -> None:
        """Until every command has ended, as it may well after the connection has."""
        for process in self.processes:
            process.wait(patience_s)


class _Door(paramiko.ServerInterface):
    def __init__(self, behaviour: Behaviour, transport: paramiko.Transport) -> None:
        self._behaviour, self._transport = behaviour, transport

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        fits = username == USER and self._behaviour.key is not None and key == self._behaviour.key
        return paramiko.AUTH_SUCCESSFUL if fits else paramiko.AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        fits = username == USER and password == self._behaviour.password
        return paramiko.AUTH_SUCCESSFUL if fits else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._behaviour.commands.append(command.decode())
        threading.Thread(target=self._execute, args=(channel, command.decode()), daemon=True).start()
        return True

    def _execute(self, channel: paramiko.Channel, command: str) -> None:
        process = subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._behaviour.processes.append(process)
        out = threading.Thread(target=self._pump, args=(process.stdout, channel.sendall), daemon=True)
        err = threading.Thread(target=self._pump, args=(process.stderr, channel.sendall_stderr), daemon=True)
        into = threading.Thread(target=self._feed, args=(channel, process), daemon=True)
        for thread in (out, err, into):
            thread.start()
        status = process.wait()
        out.join()
        err.join()
        with contextlib.suppress(Exception):
            channel.send_exit_status(status)
            channel.close()

    def _feed(self, channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
        seen = 0
        with contextlib.suppress(OSError):
            while chunk := channel.recv(32768):
                seen += len(chunk)
                limit = self._behaviour.drop_after_bytes
                if limit is not None and seen > limit:
                    self._transport.close()
                    break
                process.stdin.write(chunk)
                process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()

    @staticmethod
    def _pump(stream: object, send: object) -> None:
        with contextlib.suppress(OSError):
            while chunk := stream.read1(32768):  # type: ignore[attr-defined]
                send(chunk)  # type: ignore[operator]


class SshServer:
    """Listens on a free port of 127.0.0.1 until closed."""

    def __init__(self, host_key: paramiko.PKey, behaviour: Behaviour) -> None:
        self._host_key, self.behaviour = host_key, behaviour
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._open: list[paramiko.Transport | socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                if self.behaviour.silent:
                    self._open.append(client)
                    continue
                transport = paramiko.Transport(client)
                transport.add_server_key(self._host_key)
                self._open.append(transport)
                with contextlib.suppress(paramiko.SSHException, EOFError):
                    transport.start_server(event=threading.Event(), server=_Door(self.behaviour, transport))

    def known_hosts_line(self) -> str:
        """The line that makes this server known."""
        return f"[127.0.0.1]:{self.port} {self._host_key.get_name()} {self._host_key.get_base64()}\n"

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self._socket.close()
        for item in self._open:
            item.close()


@contextlib.contextmanager
def serving(host_key: paramiko.PKey, behaviour: Behaviour) -> Iterator[SshServer]:
    """A server for the length of a `with`."""
    server = SshServer(host_key, behaviour)
    try:
        yield server
    finally:
        server.close()


def write_key(key: paramiko.PKey, path: Path) -> Path:
    """Put a private key into a file, as ssh-keygen would."""
    key.write_private_key_file(str(path))
    return path
