"""Secrets at rest on the operator's machine: files of mode 0600, encrypted with a passphrase where it matters.

Argon2id turns the passphrase into a key, XSalsa20-Poly1305 seals the secret. Whoever chooses `--no-passphrase` gets a
file that says so.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beemesh.errors import InvalidInput, NotAllowed

FORMAT = "beemesh-secret/1"
OPS_MAX = 16
MEMORY_BYTES_MAX = 1024 * 1024 * 1024
"""What a key file may ask of the machine that opens it: a damaged one must not take it down."""
PASSPHRASE_VARIABLE = "BEEMESH_PASSPHRASE"  # noqa: S105 - the name of a variable

ARGON2_OPS = 3
ARGON2_MEMORY_BYTES = 256 * 1024 * 1024
"""libsodium's "moderate" choice: about 0.7 s and 256 MiB per guess."""

MIN_PASSPHRASE_CHARACTERS = 8


class Passphrase:
    """The passphrase of the mesh's keys, asked for once and only when it is needed."""

    def __init__(self, *, none: bool = False, ask: Callable[[str], str] | None = None) -> None:
        """`none`: keys are kept without one. `ask` shows a prompt and returns what was typed."""
        self.none = none
        self._ask = ask
        self._text = os.environ.get(PASSPHRASE_VARIABLE, "")

    def for_new_keys(self) -> str:
        """A new passphrase, typed twice; raises `InvalidInput` when nobody can be asked. Empty means none."""
        if self.none or self._text:
            return "" if self.none else self._checked(self._text)
        first = self._prompt("New passphrase for the mesh's CA key: ")
        if self._prompt("The same again: ") != first:
            raise InvalidInput("the two passphrases differ", hint="run it again")
        self._text = self._checked(first)
        return self._text

    def for_old_keys(self) -> str:
        """The passphrase of keys that exist."""
        if not self._text:
            self._text = self._prompt("Passphrase of the mesh's CA key: ")
        return self._text

    def forget(self) -> None:
        """Drop a passphrase that turned out wrong."""
        self._text = ""

    @staticmethod
    def _checked(text: str) -> str:
        if len(text) < MIN_PASSPHRASE_CHARACTERS:
            raise InvalidInput(f"the passphrase is shorter than {MIN_PASSPHRASE_CHARACTERS} characters")
        return text

    def _prompt(self, text: str) -> str:
        if self._ask is None or not sys.stdin.isatty():
            raise InvalidInput(
                "a passphrase for the mesh's CA key is needed, and there is no terminal to ask at",
                hint=f"set {PASSPHRASE_VARIABLE}, or pass --no-passphrase at the first bootstrap",
            )
        return self._ask(text)


def write_secret(path: Path, secret: bytes, passphrase: str) -> None:
    """Keep a secret in a file of mode 0600, encrypted unless the passphrase is empty."""
    from nacl import pwhash, utils
    from nacl import secret as box

    content: dict[str, Any] = {"format": FORMAT}
    if passphrase:
        salt = utils.random(pwhash.argon2id.SALTBYTES)
        key = _derive(passphrase, salt, ARGON2_OPS, ARGON2_MEMORY_BYTES)
        sealed = box.SecretBox(key).encrypt(secret)
        content |= {"kdf": "argon2id", "ops": ARGON2_OPS, "memory_bytes": ARGON2_MEMORY_BYTES}
        content |= {"salt": _to_text(salt), "box": _to_text(bytes(sealed))}
    else:
        content |= {"kdf": "none", "secret": _to_text(secret)}
    write_private(path, (json.dumps(content, indent=1) + "\n").encode())


def read_secret(path: Path, passphrase: Passphrase) -> bytes:
    """The secret in a file; asks for the passphrase only when the file is encrypted.

    Raises `NotAllowed` for a wrong passphrase, `InvalidInput` for a file that is missing or damaged.
    """
    from nacl import exceptions
    from nacl import secret as box

    content = _load(path)
    try:
        if content["kdf"] == "none":
            return base64.b64decode(content["secret"], validate=True)
        salt, sealed = (base64.b64decode(content[name], validate=True) for name in ("salt", "box"))
        ops, memory_bytes = int(content["ops"]), int(content["memory_bytes"])
        if not (0 < ops <= OPS_MAX and 0 < memory_bytes <= MEMORY_BYTES_MAX):
            raise ValueError(f"{ops} rounds in {memory_bytes} bytes are out of range")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{path} is damaged: {error}", hint="restore it from a backup") from None
    try:
        return bytes(box.SecretBox(_derive(passphrase.for_old_keys(), salt, ops, memory_bytes)).decrypt(sealed))
    except (exceptions.ValueError, exceptions.TypeError) as error:
        raise InvalidInput(f"{path} is damaged: {error}", hint="restore it from a backup") from None
    except exceptions.CryptoError:
        passphrase.forget()
        raise NotAllowed(f"the passphrase does not open {path}", hint=f"check {PASSPHRASE_VARIABLE}") from None


def is_encrypted(path: Path) -> bool:
    """Whether the file's secret is behind a passphrase."""
    return bool(_load(path).get("kdf") != "none")


def write_private(path: Path, content: bytes) -> None:
    """Put a file of mode 0600 in a folder of mode 0700, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InvalidInput(f"{path} does not exist", hint="is BEEMESH_HOME the folder of this mesh?") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is damaged: {error}", hint="restore it from a backup") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InvalidInput(f"{path} is not a key file of beemesh", hint="restore it from a backup")
    return content


def _derive(passphrase: str, salt: bytes, ops: int, memory_bytes: int) -> bytes:
    from nacl import pwhash
    from nacl import secret as box

    size = box.SecretBox.KEY_SIZE
    return bytes(pwhash.argon2id.kdf(size, passphrase.encode(), salt, opslimit=ops, memlimit=memory_bytes))


def _to_text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
