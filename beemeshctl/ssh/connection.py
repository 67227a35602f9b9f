"""What a connection to a machine promises, and what its implementations share.

A connection only runs commands: putting a file is a command too, so that it works the same as root by sudo, and a
transfer that is cut off leaves the old file (or none), never half of the new one.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from beemesh.errors import BeemeshError, NotAllowed, Unreachable

DEFAULT_TIMEOUT_S = 60.0
"""A command that says nothing of its own limit; loaded machines still start Python in a tenth of it."""

TRANSFER_BASE_S = 60.0
TRANSFER_BYTES_PER_S = 128 * 1024
"""A transfer may take the base plus its size at this rate (1 Mbit/s): slower lines are taken for dead."""

MAX_OUTPUT_BYTES = 8 * 1024 * 1024
"""Output kept of one command; what is beyond it is read and dropped, so that a chatty command cannot fill memory."""

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did: its exit status, output and error output."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether the command exited with 0."""
        return self.status == 0

    def complaint(self, limit: int = 400) -> str:
        """The last words of the command's error output, else of its output."""
        text = (self.stderr or self.stdout).decode("utf-8", "replace").strip()
        return text[-limit:] if text else f"exit status {self.status}"


class Connection(Protocol):
    """An open way to one machine; every call is root's when the connection becomes root."""

    @property
    def peer_address(self) -> str:
        """The address at which the machine was reached, as the machine sees it; empty for a local connection."""
        ...

    async def run(
        self, command: Sequence[str], *, stdin: bytes | Path = b"", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Result:
        """Run a command without a shell's interpretation of its words, feeding it bytes or a local file.

        Raises `Unreachable` when the machine is lost or the time is up. A status other than 0 is a result, no error.
        """
        ...

    async def put(self, content: bytes | Path, path: str, *, mode: int = 0o600) -> None:
        """Put a file, whole or not at all; raises `TransferFailed` when the machine refuses it."""
        ...

    async def close(self) -> None:
        """Let go of the machine; calling it twice does no harm."""
        ...


class TransferFailed(BeemeshError):
    """A file could not be put on a machine; what was there before is still there."""


class CannotBecomeRoot(NotAllowed):
    """The login works, and sudo does not."""


def size_of(content: bytes | Path) -> int:
    """The number of bytes in the content of a transfer."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def transfer_timeout_s(size_bytes: int) -> float:
    """How long a transfer of so many bytes may take."""
    return TRANSFER_BASE_S + size_bytes / TRANSFER_BYTES_PER_S


def put_command(path: str, mode: int, size_bytes: int) -> list[str]:
    """The command that takes a file on its input and puts it in place only when all of it has arrived.

    The size is checked because a lost connection looks like the end of the file to `cat`.
    """
    script = (
        'set -e; umask 077; d=$(dirname -- "$1"); mkdir -p -- "$d"; t=$(mktemp -- "$d/.beemesh.XXXXXX"); '
        'trap \'rm -f -- "$t"\' EXIT; trap "exit 1" HUP INT TERM; cat > "$t"; '
        'n=$(wc -c < "$t"); [ "$n" -eq "$3" ] || { echo "got $n of $3 bytes" >&2; exit 1; }; '
        'chmod "$2" "$t"; mv -f -- "$t" "$1"'
    )
    return ["sh", "-c", script, "sh", path, f"{mode:04o}", str(size_bytes)]


async def put_by_command(connection: Connection, content: bytes | Path, path: str, mode: int) -> None:
    """`Connection.put` in terms of `Connection.run`."""
    size = size_of(content)
    timeout_s = transfer_timeout_s(size)
    result = await connection.run(put_command(path, mode, size), stdin=content, timeout_s=timeout_s)
    if not result.ok:
        raise TransferFailed(f"{path} cannot be written: {result.complaint()}", hint=_advice(result.complaint()))


def _advice(complaint: str) -> str:
    if "No space left" in complaint:
        return "free disk space on the host, or set beemesh_data_dir and beemesh_prefix to a larger file system"
    if "Permission denied" in complaint:
        return "log in as root or set ansible_become: true"
    if "Read-only file system" in complaint:
        return "set beemesh_prefix, beemesh_data_dir and beemesh_config_dir to paths that can be written"
    return ""


class Become:
    """Turns commands into root's, by sudo. The password goes to sudo's input, never on a command line."""

    def __init__(self, *, wanted: bool, password: str) -> None:
        self._wanted = wanted
        self._password = password
        self._needs_password = False

    async def prepare(self, connection: Connection) -> None:
        """Find out whether sudo wants the password; `connection` must not become root by itself here.

        Raises `CannotBecomeRoot` when neither way works. With `NOPASSWD` sudo reads no password, which would then be
        taken for the command's input: hence the question first.
        """
        if not self._wanted:
            return
        silent = await connection.run(["sudo", "-n", "true"], timeout_s=30)
        if silent.ok:
            return
        if silent.status == 127:
            raise CannotBecomeRoot("sudo is not installed on the host", hint="install it, or log in as root")
        if not self._password:
            raise CannotBecomeRoot(
                f"sudo refuses without a password: {silent.complaint(200)}",
                hint="set ansible_become_password, or allow this user passwordless sudo",
            )
        spoken = await connection.run(
            ["sudo", "-k", "-S", "-p", "", "true"], stdin=f"{self._password}\n".encode(), timeout_s=30
        )
        if not spoken.ok:
            raise CannotBecomeRoot(
                f"sudo refuses: {spoken.complaint(200)}", hint="check ansible_become_password and the host's sudoers"
            )
        self._needs_password = True

    def wrap(self, command: Sequence[str]) -> tuple[list[str], bytes]:
        """(the command to run, what to feed it first)."""
        if not self._wanted:
            return list(command), b""
        if self._needs_password:
            return ["sudo", "-k", "-S", "-p", "", "--", *command], f"{self._password}\n".encode()
        return ["sudo", "-n", "--", *command], b""


def command_line(command: Sequence[str]) -> str:
    """The command as one line for a remote shell, every word quoted."""
    return shlex.join(command)


def too_slow(what: str, timeout_s: float) -> Unreachable:
    """The error for a command that ran out of time."""
    return Unreachable(
        f"no answer within {timeout_s:g} s ({what})", hint="look at the host's load and network, then run it again"
    )
