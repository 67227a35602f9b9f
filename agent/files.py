"""What lies on a node's disk: its keys, and what the mesh CA signed for it.

An agent takes no order from a file that the CA did not sign for this very node: a configuration that is unsigned,
altered or meant for another node is refused before anything else happens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from beemesh import settings as node_settings
from beemesh.crypto_native import NativeCrypto
from beemesh.errors import BeemeshError, InvalidInput, Untrusted
from beemesh.identity.certificates import ca_public_key
from beemesh.identity.membership_card import ConfigStatement, GossipRing, Membership, SealedRing
from beemesh.identity.signing import Signed, open_statement
from beemesh.ids import digest_of, node_id_of, short
from beemesh.intents.record import Intent
from beemesh.settings import NodeSettings
from beemesh.undecodable import UNDECODABLE

FILE_BYTES_MAX = 16 * 1024 * 1024
"""Larger than any of these files ever is (the seed of 1,000 memberships takes about 1 MiB)."""

SIGN_KEY_FILE = "ed25519"
OPEN_KEY_FILE = "x25519"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """A node's verified belongings, ready to run with."""

    settings: NodeSettings
    membership: Membership
    membership_record: Signed
    ca_key: bytes
    ca_pem: bytes
    issuing_pem: bytes
    ring: GossipRing
    crypto: NativeCrypto
    seeds: tuple[Signed, ...]
    config_signed_ms: int
    directory: Path
    """Where they were read."""


def data_directory(config_directory: Path) -> Path:
    """Where the (not yet verified) `node.yaml` says the data lies; enough to find the keys that verify it."""
    return Path(read_settings(config_directory).paths.data)


def read_settings(config_directory: Path) -> NodeSettings:
    """The settings as they stand in the file, with no word yet on whether they may be trusted."""
    path = config_directory / "node.yaml"
    content = _read(path)
    if node_settings.is_nested_too_deeply(content.decode("utf-8", "replace")):
        raise InvalidInput(f"{path}: not valid YAML: it is nested too deeply")
    try:
        data = yaml.safe_load(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise InvalidInput(f"{path}{place}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not valid YAML: {error}") from error
    return node_settings.decode(data, file=str(path))


def load(config_directory: Path) -> NodeFiles:
    """Read and verify everything; raises `Untrusted` or `InvalidInput`, naming the file and what to do."""
    settings = read_settings(config_directory)
    crypto = load_keys(Path(settings.paths.data))
    ca_pem = _read(config_directory / "ca.pem")
    ca_key = ca_public_key(ca_pem)
    record = _decode(config_directory / "membership.card", Signed)
    membership = _membership(config_directory / "membership.card", record, ca_key, crypto, settings.mesh)
    statement = _config_statement(config_directory, ca_key, crypto, membership)
    if settings.node.name != membership.name:
        raise Untrusted(
            f"{config_directory / 'node.yaml'}: names node {settings.node.name!r}, "
            f"but the membership card is for {membership.name!r}",
            hint="run `beemeshctl bootstrap` again for this host",
        )
    return NodeFiles(
        settings=settings,
        membership=membership,
        membership_record=record,
        ca_key=ca_key,
        ca_pem=ca_pem,
        issuing_pem=_read(config_directory / "issuing.pem"),
        ring=_ring(config_directory / "gossip.sealed", ca_key, crypto, membership),
        crypto=crypto,
        seeds=_seeds(config_directory / "intents.seed"),
        config_signed_ms=statement.signed_at_ms,
        directory=config_directory.absolute(),
    )


def make_keys(data_directory: Path) -> NativeCrypto:
    """The node's keys, made here at the first call and never leaving; later calls find them again."""
    directory = data_directory / "keys"
    if not (directory / OPEN_KEY_FILE).exists():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)
        crypto = NativeCrypto.generate()
        sign_private, open_private = crypto.private_keys()
        _write_secret(directory / SIGN_KEY_FILE, sign_private.reveal())
        _write_secret(directory / OPEN_KEY_FILE, open_private.reveal())  # last: its presence says that both are there
    return load_keys(data_directory)


def load_keys(data_directory: Path) -> NativeCrypto:
    """The node's keys; raises `BeemeshError` when there are none or others may read them."""
    directory = data_directory / "keys"
    private = []
    for name in (SIGN_KEY_FILE, OPEN_KEY_FILE):
        path = directory / name
        content = _read(path, hint="run `beemesh-agent init`, or bootstrap this host")
        if path.stat().st_mode & 0o077:
            raise BeemeshError(f"{path}: others may read this private key", hint=f"chmod 600 {path}")
        if len(content) != 32:
            raise BeemeshError(f"{path}: a private key has 32 bytes, this file {len(content)}", hint="restore it")
        private.append(content)
    return NativeCrypto(private[0], private[1])


def _membership(path: Path, record: Signed, ca_key: bytes, crypto: NativeCrypto, mesh: str) -> Membership:
    try:
        intent = open_statement(crypto, record, "intent", ca_key, Intent)
        membership = msgspec.msgpack.decode(intent.body, type=Membership)
    except (Untrusted, *UNDECODABLE) as error:
        raise Untrusted(
            f"{path}: not a membership card that this mesh's CA signed: {error}",
            hint="run `beemeshctl bootstrap` again for this host",
        ) from error
    if membership.mesh != mesh:
        raise Untrusted(f"{path}: is for mesh {membership.mesh!r}, but node.yaml is for {mesh!r}")
    if membership.node_id != node_id_of(crypto.sign_key) or membership.node_id != crypto.signer_id:
        raise Untrusted(
            f"{path}: is for node {membership.name} ({short(membership.node_id)}), "
            f"but the keys on this machine are those of {short(crypto.signer_id)}",
            hint="a card does not move with its file: run `beemeshctl bootstrap` for this host",
        )
    return membership


def _config_statement(
    config_directory: Path, ca_key: bytes, crypto: NativeCrypto, membership: Membership
) -> ConfigStatement:
    path = config_directory / "node.yaml"
    hint = "only `beemeshctl bootstrap` writes this file: change the inventory and run it again"
    if not path.with_name("node.yaml.sig").exists():
        raise Untrusted(f"{path}: is not signed (node.yaml.sig is missing)", hint=hint)
    signed = _decode(path.with_name("node.yaml.sig"), Signed)
    try:
        statement = open_statement(crypto, signed, "config", ca_key, ConfigStatement)
    except Untrusted as error:
        raise Untrusted(f"{path}: its signature is not of this mesh's CA: {error}", hint=hint) from error
    if statement.mesh != membership.mesh or statement.node_id != membership.node_id:
        raise Untrusted(f"{path}: was signed for node {short(statement.node_id)} of {statement.mesh!r}", hint=hint)
    if statement.config_digest != digest_of(_read(path)):
        raise Untrusted(f"{path}: was altered after it was signed", hint=hint)
    return statement


def _ring(path: Path, ca_key: bytes, crypto: NativeCrypto, membership: Membership) -> GossipRing:
    sealed = open_statement(crypto, _decode(path, Signed), "gossip-ring", ca_key, SealedRing)
    if sealed.node_id != membership.node_id or sealed.mesh != membership.mesh:
        raise Untrusted(f"{path}: was sealed for another node", hint="run `beemeshctl bootstrap` again for this host")
    return msgspec.msgpack.decode(crypto.open_box(sealed.box), type=GossipRing)


def _seeds(path: Path) -> tuple[Signed, ...]:
    """The records known at bootstrap; each is verified when it is merged, so this only decodes."""
    if not path.exists():
        return ()
    return _decode(path, tuple[Signed, ...])


def _decode(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(_read(path), type=kind)
    except UNDECODABLE as error:
        raise Untrusted(
            f"{path}: damaged or not ours: {error}", hint="run `beemeshctl bootstrap` again for this host"
        ) from error


def _read(path: Path, *, hint: str = "run `beemeshctl bootstrap` for this host") -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise InvalidInput(f"{path}: larger than {FILE_BYTES_MAX} bytes", hint=hint)
        return path.read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file", hint=hint) from None
    except PermissionError:
        hint = "run this as root, or as the agent's user"
        raise BeemeshError(f"{path}: not readable for this user", hint=hint) from None


def _write_secret(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
