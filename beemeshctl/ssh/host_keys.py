"""Which host keys are trusted: the user's, the system's, and those that bootstrap was told to accept.

An unknown key is refused unless new keys are accepted; a changed key is always refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from beemesh.errors import BeemeshError, InvalidInput, NotAllowed, Untrusted

if TYPE_CHECKING:
    from asyncssh import SSHKey, SSHKnownHosts

Verdict = Literal["trusted", "accepted", "unknown", "changed", "revoked"]

SYSTEM_FILE = Path("/etc/ssh/ssh_known_hosts")


class HostKeyUnknown(NotAllowed):
    """Nobody has vouched for this host's key yet."""


class HostKeyChanged(Untrusted):
    """The host shows another key than the one on record: it was set up anew, or somebody sits in between."""


class HostKeys:
    """All known host keys; new ones are recorded in a file of our own (0600), never in the user's."""

    def __init__(self, own_file: Path, *, user_file: Path | None = None, accept_new: bool = False) -> None:
        self.own_file = own_file
        self.accept_new = accept_new
        self._files = [user_file or Path("~/.ssh/known_hosts").expanduser(), SYSTEM_FILE, own_file]

    def known(self) -> SSHKnownHosts:
        """The keys of all files; raises `InvalidInput` when one cannot be read."""
        import asyncssh

        text = []
        for file in self._files:
            try:
                text.append(file.read_text(encoding="utf-8", errors="replace"))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise InvalidInput(f"{file} cannot be read: {error.strerror}") from None
        try:
            return asyncssh.import_known_hosts("\n".join(text) + "\n")
        except ValueError as error:
            names = ", ".join(str(file) for file in self._files if file.exists())
            raise InvalidInput(f"a known_hosts file is broken: {error}", hint=f"mend one of {names}") from None

    def judge(self, host: str, address: str, port: int, key: SSHKey) -> Verdict:
        """What to make of a key that a host shows; records it when it is new and new ones are accepted."""
        matches = self.known().match(host, address, port)
        trusted, revoked = matches[0], matches[2]
        if key in revoked:
            return "revoked"
        if key in trusted:
            return "trusted"
        if trusted:
            return "changed"
        if not self.accept_new:
            return "unknown"
        self._record(host, port, key)
        return "accepted"

    def has_keys(self, host: str, port: int) -> bool:
        """Whether any key of the host is on record."""
        return bool(self.known().match(host, "", port)[0])

    def is_changed(self, host: str, port: int, key: SSHKey) -> bool:
        """Whether keys are on record for the host, and this is none of them."""
        known = self.known().match(host, "", port)[0]
        return bool(known) and key not in known

    def refusal(self, verdict: Verdict, host: str, port: int, key: SSHKey | None) -> BeemeshError:
        """The error for a key that was not trusted."""
        name = host_token(host, port)
        shown = f"{key.get_algorithm()} {key.get_fingerprint()}" if key else "of another type"
        if verdict == "unknown":
            return HostKeyUnknown(
                f"the host key of {name} is unknown ({shown})",
                hint="compare the fingerprint, then run ssh to it once, or pass --accept-new-host-keys",
            )
        if verdict == "revoked":
            return HostKeyChanged(f"the host key of {name} ({shown}) is marked as revoked in known_hosts")
        return HostKeyChanged(
            f"the host key of {name} has CHANGED (it shows {shown}): set up anew, or somebody sits in between",
            hint=f"when you know why: ssh-keygen -R '{name}' and ssh-keygen -R '{name}' -f {self.own_file}",
        )

    def _record(self, host: str, port: int, key: SSHKey) -> None:
        self.own_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        public = key.export_public_key("openssh").decode("ascii").split()
        line = f"{host_token(host, port)} {public[0]} {public[1]}\n"
        descriptor = os.open(self.own_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
            stream.write(line)


def host_token(host: str, port: int) -> str:
    """A host's name as known_hosts has it."""
    return host if port in (0, 22) else f"[{host}]:{port}"
