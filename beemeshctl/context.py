"""The folder that makes somebody the operator of a mesh: keys, certificates, and where the agents are.

`BEEMESH_HOME` names it. Without that, `bootstrap` uses `.beemesh` beside the inventory; every other command looks at
`./.beemesh` and then at `~/.beemesh`. The folder is of mode 0700, its files 0600; each is replaced whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from beemesh.errors import Conflict, InvalidInput, NotFound
from beemesh.undecodable import UNDECODABLE
from beemeshctl.keyfile import Passphrase, read_secret, write_private

if TYPE_CHECKING:
    from beemesh.crypto_native import NativeCrypto
    from beemesh.identity.signing import Signed

HOME_VARIABLE = "BEEMESH_HOME"
FOLDER = ".beemesh"


class AgentEntry(msgspec.Struct, frozen=True):
    """One agent: its node's name and id (base32), and where it answers."""

    name: str
    node_id: str
    address: str
    api_port: int
    gossip_port: int


class Context(msgspec.Struct, frozen=True):
    """`context.yaml`: the mesh, who we are in it, and its agents in the inventory's order."""

    mesh: str
    operator: str
    agents: tuple[AgentEntry, ...] = ()

    def agent(self, name: str) -> AgentEntry:
        """The agent of a node; raises `NotFound` naming those that there are."""
        for agent in self.agents:
            if agent.name == name:
                return agent
        known = ", ".join(agent.name for agent in self.agents) or "none"
        raise NotFound(f"no node {name!r} in this context", hint=f"known: {known}")


class Home:
    """The folder itself; nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def ca_key_file(self) -> Path:
        """The mesh CA's Ed25519 seed (32 bytes), encrypted unless chosen otherwise."""
        return self.path / "ca.key"

    @property
    def ca_pem_file(self) -> Path:
        """The mesh CA's certificate."""
        return self.path / "ca.pem"

    @property
    def operator_key_file(self) -> Path:
        """The operator's Ed25519 seed and X25519 key (64 bytes)."""
        return self.path / "operator.key"

    @property
    def operator_pem_file(self) -> Path:
        """The CA-signed issuing certificate over the operator's key."""
        return self.path / "operator.pem"

    @property
    def grant_file(self) -> Path:
        """The operator's grant: a msgpack `Signed` intent."""
        return self.path / "operator.grant"

    @property
    def gossip_file(self) -> Path:
        """The gossip ring (msgpack `GossipRing`), encrypted as the CA key is."""
        return self.path / "gossip.keys"

    @property
    def fingerprint_file(self) -> Path:
        """The mesh's fingerprint key (32 bytes): for operators, never for agents."""
        return self.path / "fingerprint.key"

    @property
    def work_key_file(self) -> Path:
        """The work root's Ed25519 seed (32 bytes), which certifies workloads: for operators, never for agents."""
        return self.path / "work.key"

    @property
    def work_pem_file(self) -> Path:
        """The work root's certificate."""
        return self.path / "work.pem"

    @property
    def context_file(self) -> Path:
        """See `Context`."""
        return self.path / "context.yaml"

    @property
    def known_hosts_file(self) -> Path:
        """SSH host keys that bootstrap was told to accept."""
        return self.path / "known_hosts"

    @property
    def bundles(self) -> Path:
        """The agent's bundles and the wheels they are made of."""
        return self.path / "bundles"

    def node(self, name: str) -> Path:
        """What was signed for a node."""
        return self.path / "nodes" / name

    def forget_node(self, name: str) -> None:
        """A node was removed: drop what was signed for it, and its agent from the context."""
        import shutil

        shutil.rmtree(self.node(name), ignore_errors=True)
        context = self.context()
        left = tuple(agent for agent in context.agents if agent.name != name)
        self.save_context(msgspec.structs.replace(context, agents=left))

    def exists(self) -> bool:
        """Whether a bootstrap has made a mesh here."""
        return self.context_file.is_file()

    def prepare(self) -> None:
        """Make the folder, for its owner alone."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.chmod(0o700)

    def context(self) -> Context:
        """The context; raises `InvalidInput` when there is none or it is damaged."""
        try:
            raw = self.context_file.read_bytes()
        except FileNotFoundError:
            raise InvalidInput(
                f"{self.path} holds no mesh",
                hint=f"run `beemeshctl bootstrap INVENTORY`, or set {HOME_VARIABLE} to the folder of your mesh",
            ) from None
        try:
            return msgspec.json.decode(raw, type=Context)
        except UNDECODABLE:
            return self._edited_context(raw)

    def save_context(self, context: Context) -> bool:
        """Write the context when it differs; whether it did."""
        text = json.dumps(msgspec.to_builtins(context), indent=2) + "\n"
        content = text.encode()
        if self.context_file.is_file() and self.context_file.read_bytes() == content:
            return False
        write_private(self.context_file, content)
        return True

    def ca_pem(self) -> bytes:
        """The mesh CA's certificate in PEM."""
        return self._read(self.ca_pem_file)

    def operator_pem(self) -> bytes:
        """The operator's issuing certificate in PEM."""
        return self._read(self.operator_pem_file)

    def grant(self) -> Signed:
        """The operator's signed grant."""
        from beemesh.identity.signing import Signed

        return msgspec.msgpack.decode(self._read(self.grant_file), type=Signed)

    def operator(self) -> NativeCrypto:
        """The operator's keys, ready to sign and to open."""
        from beemesh.crypto_native import NativeCrypto

        raw = read_secret(self.operator_key_file, Passphrase())
        return NativeCrypto(raw[:32], raw[32:])

    def fingerprint_key(self) -> bytes:
        """The key of manifest fingerprints."""
        return read_secret(self.fingerprint_file, Passphrase())

    def work_root_seed(self) -> bytes:
        """The seed of the work root."""
        return read_secret(self.work_key_file, Passphrase())

    def work_pem(self) -> bytes:
        """The work root's certificate in PEM."""
        return self._read(self.work_pem_file)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one writer; raises `Conflict` when another bootstrap has it."""
        self.prepare()
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"another bootstrap is at work in {self.path}", hint="wait until it is done") from None
            yield
        finally:
            os.close(descriptor)

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise InvalidInput(
                f"{path} is missing", hint=f"is {HOME_VARIABLE} right? Else run `beemeshctl bootstrap` again"
            ) from None

    def _edited_context(self, raw: bytes) -> Context:
        """A context that a person has turned into other YAML."""
        from beemeshctl.inventory.positions import parse_document

        document = parse_document(raw.decode("utf-8", "replace"), str(self.context_file))
        try:
            return msgspec.convert(document.data, Context)
        except msgspec.ValidationError as error:
            raise InvalidInput(
                f"{self.context_file} is damaged: {error}", hint="run `beemeshctl bootstrap` again"
            ) from None


def find_home(inventory: Path | None = None) -> Home:
    """The folder to use: see the module. With an inventory, the one that belongs to it."""
    named = os.environ.get(HOME_VARIABLE, "")
    if named:
        return Home(Path(named).expanduser())
    if inventory is not None:
        return Home(inventory.parent / FOLDER)
    here = Path.cwd() / FOLDER
    return Home(here if here.is_dir() else Path("~").expanduser() / FOLDER)
