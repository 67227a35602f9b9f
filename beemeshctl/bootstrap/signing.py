"""What the mesh CA says about a node and an operator, kept so that nothing is signed twice without a reason.

Everything that was signed lies in the operator's home (`nodes/<name>/`). A statement is made anew only when its content
changed, its keys changed, or half of its life is over; the CA key is unlocked only then.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from beemesh.crypto_native import NativeCrypto
from beemesh.errors import InvalidInput
from beemesh.identity import certificates
from beemesh.identity.grants import Grant, Revocation
from beemesh.identity.membership_card import (
    MEMBERSHIP_LIFETIME_MS,
    ROLE_KEEPER,
    Caps,
    ConfigStatement,
    GossipKey,
    GossipRing,
    Membership,
    SealedRing,
    Taint,
)
from beemesh.identity.signing import Signed, decode_body, sign_statement
from beemesh.ids import NodeId, OperatorId, digest_of, from_text, node_id_of, to_text
from beemesh.intents.record import Intent, IntentKind, node_key, operator_key, revoked_key, sign_intent
from beemesh.settings import NodeSettings
from beemesh.undecodable import UNDECODABLE
from beemeshctl.context import Context, Home
from beemeshctl.inventory.desired import DesiredNode
from beemeshctl.keyfile import Passphrase, read_secret, write_private, write_secret
from beemeshctl.workload_identity import create_work_root

CONFIG_FILES = (
    "node.yaml",
    "node.yaml.sig",
    "membership.card",
    "issuing.pem",
    "ca.pem",
    "gossip.sealed",
    "intents.seed",
)
"""What a node's config directory holds; `intents.seed` stays as it was first written."""

MAX_SEEDS = 5
"""Nodes whose addresses a new node gets; it keeps the whole roster once it is in."""

Body = TypeVar("Body", bound=msgspec.Struct)


class NodeKeys(msgspec.Struct, frozen=True):
    """The public halves of the keys that a node made."""

    node_id: str
    sign_key: str
    open_key: str


class NodeRecord(msgspec.Struct, frozen=True):
    """`nodes/<name>/record.json`: what signing has to remember about a node."""

    keys: NodeKeys
    seeds: tuple[str, ...]
    gossip_epoch: int
    issued_ms: int


@dataclass(frozen=True, slots=True)
class SignedNode:
    """Everything for a node's config directory, and whether any of it was made anew."""

    files: dict[str, bytes]
    renewed: tuple[str, ...] = field(default=())


class Authority:
    """The mesh CA as its operator holds it."""

    def __init__(self, home: Home, passphrase: Passphrase, *, check: bool = False) -> None:
        """With `check` nothing is signed or written: `SignedNode.renewed` says what would be."""
        self._home = home
        self._check = check
        self._passphrase = passphrase
        self._signer: NativeCrypto | None = None
        self._ring: GossipRing | None = None

    def create(self, mesh: str, operator: str, now_ms: int) -> bool:
        """Make CA, work root, gossip key, fingerprint key and operator of a new mesh; False when they are all there.

        An interrupted creation goes on with the keys that it already made. The operator's grant is renewed here.
        """
        home = self._home
        home.prepare()
        if not home.ca_key_file.exists():
            write_secret(home.ca_key_file, secrets.token_bytes(32), self._passphrase.for_new_keys())
        if not home.gossip_file.exists():
            ring = GossipRing(active=1, keys=(GossipKey(epoch=1, key=secrets.token_bytes(32)),))
            write_secret(home.gossip_file, msgspec.msgpack.encode(ring), self._same_passphrase())
        if not home.fingerprint_file.exists():
            write_secret(home.fingerprint_file, secrets.token_bytes(32), "")
        if not home.operator_key_file.exists():
            sign_private, open_private = NativeCrypto.generate().private_keys()
            write_secret(home.operator_key_file, sign_private.reveal() + open_private.reveal(), "")
        if not home.ca_pem_file.exists():
            write_private(home.ca_pem_file, certificates.ca_certificate(self.signer, mesh, now_ms))
        create_work_root(home, mesh, now_ms)
        self._certify_operator(mesh, operator, now_ms)
        if home.exists():
            return False
        home.save_context(Context(mesh=mesh, operator=operator))
        return True

    @property
    def signer(self) -> NativeCrypto:
        """The CA's key, unlocked at its first use."""
        if self._signer is None:
            seed = read_secret(self._home.ca_key_file, self._passphrase)
            # The CA only signs; the second key fills a place and is never published.
            self._signer = NativeCrypto(seed, hashlib.sha256(b"beemesh ca opens nothing" + seed).digest())
        return self._signer

    @property
    def ring(self) -> GossipRing:
        """The gossip keys, unlocked at their first use."""
        if self._ring is None:
            raw = read_secret(self._home.gossip_file, self._passphrase)
            self._ring = msgspec.msgpack.decode(raw, type=GossipRing)
        return self._ring

    def sign_node(
        self,
        keys: NodeKeys,
        card: Membership,
        render: Callable[[Sequence[str]], bytes],
        known: Iterable[Signed],
        seeds: Sequence[str],
        now_ms: int,
    ) -> SignedNode:
        """All of a node's files. `card` without serial and times; `render` makes `node.yaml` from seed names."""
        self._refuse_revoked(keys, card.name)
        folder = self._home.node(card.name)
        old = self.record(card.name)
        rekeyed = old is None or old.keys != keys
        if rekeyed and not self._check:
            self._revoke_former(card.name, old, now_ms)
        chosen = tuple(seeds) if old is None else old.seeds
        renewed: list[str] = []

        membership = self._membership(folder, card, renewed, now_ms)
        yaml = render(chosen)
        signature = self._config_signature(folder, card, yaml, renewed, now_ms)
        issuing = self._issuing(folder, card, old, renewed, now_ms)
        sealed = self._sealed_ring(folder, card, old, renewed)
        seed_file = folder / "intents.seed"
        if (rekeyed or not seed_file.is_file()) and not self._check:
            others = {digest_of(msgspec.msgpack.encode(item)): item for item in [*self.records(), *known]}
            write_private(seed_file, msgspec.msgpack.encode(tuple(others.values())))
        files = {
            "node.yaml": yaml,
            "node.yaml.sig": signature,
            "membership.card": msgspec.msgpack.encode(membership),
            "issuing.pem": issuing,
            "ca.pem": self._home.ca_pem(),
            "gossip.sealed": sealed,
            "intents.seed": _bytes(seed_file),
        }
        if self._check:
            return SignedNode(files, tuple(renewed))
        if _bytes(folder / "node.yaml") != yaml:
            write_private(folder / "node.yaml", yaml)
        issued_ms = now_ms if "issuing.pem" in renewed or old is None else old.issued_ms
        epoch = self.ring.active if "gossip.sealed" in renewed or old is None else old.gossip_epoch
        record = NodeRecord(keys, chosen, epoch, issued_ms)
        if record != old:
            write_private(folder / "record.json", msgspec.json.encode(record))
        return SignedNode(files, tuple(renewed))

    def sign_card(self, card: Membership, now_ms: int) -> Signed:
        """The node's signed membership: the old one while it still says the same and is young enough."""
        return self._membership(self._home.node(card.name), card, [], now_ms)

    def record(self, name: str) -> NodeRecord | None:
        """What is remembered about a node."""
        path = self._home.node(name) / "record.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=NodeRecord)
        except FileNotFoundError:
            return None
        except UNDECODABLE as error:
            raise InvalidInput(f"{path} is damaged: {error}", hint="remove it: the node is then signed anew") from None

    def cards(self, first: Sequence[str]) -> dict[str, Signed]:
        """Every node's signed membership by name: those named `first` in their order, then the others."""
        folder = self._home.path / "nodes"
        stored = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        found = {name: _stored(self._home.node(name) / "membership.card") for name in [*first, *stored]}
        return {name: signed for name, signed in found.items() if signed is not None}

    def records(self) -> list[Signed]:
        """What every node should know besides memberships: the operator's grant, and revocations."""
        revoked = self._home.path / "revocations"
        found = [self._home.grant()]
        for path in sorted(revoked.iterdir()) if revoked.is_dir() else ():
            signed = _stored(path)
            if signed is not None:
                found.append(signed)
        return found

    def _dry(self, name: str, renewed: list[str]) -> bool:
        """Note what would be made anew, and whether to leave it at that."""
        if self._check:
            renewed.append(name)
        return self._check

    def _same_passphrase(self) -> str:
        from beemeshctl.keyfile import is_encrypted

        return self._passphrase.for_old_keys() if is_encrypted(self._home.ca_key_file) else ""

    def _certify_operator(self, mesh: str, operator: str, now_ms: int) -> None:
        """The operator's issuing certificate and grant; the old ones while they are young enough. A renewed grant keeps
        its name, whoever runs this: it stands in the place of the former one."""
        home = self._home
        former = _body(_stored(home.grant_file), Grant)
        if former is not None and home.operator_pem_file.is_file() and not _half_over(former.not_after_ms, now_ms):
            return
        name, serial = (operator, 1) if former is None else (former.name, former.serial + 1)
        keys = home.operator()
        not_after_ms = now_ms + MEMBERSHIP_LIFETIME_MS
        pem = certificates.issuing_certificate(
            self.signer, home.ca_pem(), mesh, "operator", name, keys.sign_key, now_ms, not_after_ms
        )
        # The grant, whose age decides, comes last: a run that is cut off in between leaves both to the next one.
        write_private(home.operator_pem_file, pem)
        grant = Grant(
            mesh=mesh,
            operator_id=OperatorId(keys.signer_id),
            name=name,
            sign_key=keys.sign_key,
            open_key=keys.open_key,
            role="admin",
            serial=serial,
            signed_at_ms=now_ms,
            not_after_ms=not_after_ms,
        )
        signed = self._intent("grant", operator_key(name), mesh, serial, grant, now_ms)
        write_private(home.grant_file, msgspec.msgpack.encode(signed))

    def _membership(self, folder: Path, card: Membership, renewed: list[str], now_ms: int) -> Signed:
        path = folder / "membership.card"
        stored = _stored(path)
        former = _body(stored, Membership)
        if stored is not None and former is not None and not _half_over(former.not_after_ms, now_ms):
            same = msgspec.structs.replace(card, serial=former.serial, signed_at_ms=former.signed_at_ms)
            if msgspec.structs.replace(same, not_after_ms=former.not_after_ms) == former:
                return stored
        if stored is not None and self._dry(path.name, renewed):
            return stored
        serial = 1 if former is None else former.serial + 1
        fresh = msgspec.structs.replace(
            card, serial=serial, signed_at_ms=now_ms, not_after_ms=now_ms + MEMBERSHIP_LIFETIME_MS
        )
        signed = self._intent("membership", node_key(card.name), card.mesh, serial, fresh, now_ms)
        write_private(path, msgspec.msgpack.encode(signed))
        renewed.append("membership.card")
        return signed

    def _config_signature(self, folder: Path, card: Membership, yaml: bytes, renewed: list[str], now_ms: int) -> bytes:
        path = folder / "node.yaml.sig"
        stored = _stored(path)
        former = decode_body(stored, ConfigStatement) if stored is not None else None
        fits = former is not None and (former.config_digest, former.node_id) == (digest_of(yaml), card.node_id)
        if fits or self._dry(path.name, renewed):
            return _bytes(path)
        statement = ConfigStatement(
            mesh=card.mesh,
            node_id=card.node_id,
            config_digest=digest_of(yaml),
            serial=1 if former is None else former.serial + 1,
            signed_at_ms=now_ms,
        )
        content = msgspec.msgpack.encode(sign_statement(self.signer, "config", statement))
        write_private(path, content)
        renewed.append("node.yaml.sig")
        return content

    def _issuing(
        self, folder: Path, card: Membership, old: NodeRecord | None, renewed: list[str], now_ms: int
    ) -> bytes:
        path = folder / "issuing.pem"
        same_key = old is not None and old.keys.sign_key == card.sign_key.hex()
        young = old is not None and not _half_over(old.issued_ms + MEMBERSHIP_LIFETIME_MS, now_ms)
        if (path.is_file() and same_key and young) or self._dry(path.name, renewed):
            return _bytes(path)
        not_after_ms = now_ms + MEMBERSHIP_LIFETIME_MS
        pem = certificates.issuing_certificate(
            self.signer, self._home.ca_pem(), card.mesh, "node", card.name, card.sign_key, now_ms, not_after_ms
        )
        write_private(path, pem)
        renewed.append("issuing.pem")
        return pem

    def _sealed_ring(self, folder: Path, card: Membership, old: NodeRecord | None, renewed: list[str]) -> bytes:
        path = folder / "gossip.sealed"
        fits = path.is_file() and old is not None and old.keys.open_key == card.open_key.hex()
        if fits or self._dry(path.name, renewed):
            return _bytes(path)
        box = self.signer.seal_to(card.open_key, msgspec.msgpack.encode(self.ring))
        sealed = SealedRing(mesh=card.mesh, node_id=card.node_id, box=box)
        content = msgspec.msgpack.encode(sign_statement(self.signer, "gossip-ring", sealed))
        write_private(path, content)
        renewed.append("gossip.sealed")
        return content

    def _revoke_former(self, name: str, old: NodeRecord | None, now_ms: int) -> None:
        """A new key for a name revokes the old identity in the same act (DESIGN section 3)."""
        if old is not None:
            self.revoke("node", from_text(old.keys.node_id), name, "the node has new keys", now_ms)

    def revoke(
        self, subject: Literal["node", "operator"], subject_id: bytes, name: str, reason: str, now_ms: int
    ) -> Signed:
        """The signed revocation of a node or an operator, kept for the seeds of nodes that come later."""
        path = self._home.path / "revocations" / to_text(subject_id)
        stored = _stored(path)
        if stored is not None:
            return stored
        mesh = self._home.context().mesh
        body = Revocation(
            mesh=mesh, subject=subject, subject_id=subject_id, name=name, revoked_at_ms=now_ms, reason=reason
        )
        signed = self._intent("revocation", revoked_key(subject, subject_id), mesh, 1, body, now_ms)
        write_private(path, msgspec.msgpack.encode(signed))
        return signed

    def _refuse_revoked(self, keys: NodeKeys, name: str) -> None:
        if (self._home.path / "revocations" / keys.node_id).is_file():
            raise InvalidInput(
                f"{name} still has the keys that were revoked when it was removed",
                hint="remove the folder `keys` in its data directory, and bootstrap it again: it makes new ones",
            )

    def _intent(self, kind: IntentKind, key: str, mesh: str, seq: int, body: msgspec.Struct, now_ms: int) -> Signed:
        return sign_intent(self.signer, mesh, kind, key, body, seq, now_ms)


def card_of(node: DesiredNode, settings: NodeSettings, keys: NodeKeys, *, address: str, machine: str) -> Membership:
    """A node's membership as wanted now, without serial and times. Raises `InvalidInput` when the keys do not fit."""
    sign_key, open_key = bytes.fromhex(keys.sign_key), bytes.fromhex(keys.open_key)
    if to_text(node_id_of(sign_key)) != keys.node_id or len(open_key) != 32:
        raise InvalidInput(f"{node.host} answered with keys that do not belong together")
    caps = node.caps
    return Membership(
        mesh=node.mesh,
        name=node.name,
        node_id=NodeId(node_id_of(sign_key)),
        sign_key=sign_key,
        open_key=open_key,
        addresses=(address,),
        gossip_port=node.gossip_port,
        api_port=node.api_port,
        serial=0,
        signed_at_ms=0,
        not_after_ms=0,
        machine=node.failure_domain or machine,
        allow_same_host=settings.policies.custody.allow_same_host,
        site=settings.node.site,
        zone=settings.node.zone,
        org=settings.node.org,
        labels=dict(sorted(settings.node.labels.items())),
        taints=tuple(taint_of(text) for text in settings.node.taints),
        caps=Caps(
            cpu_m=round(caps.get("cpu", 0) * 1000), mem_mb=caps.get("mem_mb", 0), storage_mb=caps.get("disk_mb", 0)
        ),
        roles=(ROLE_KEEPER,) if node.keeper else (),
    )


def card_in(signed: Signed) -> Membership:
    """The membership inside a signed intent of our own home."""
    return msgspec.msgpack.decode(decode_body(signed, Intent).body, type=Membership)


def taint_of(text: str) -> Taint:
    """`key[=value]:Effect` as a taint; the schema has checked its form."""
    rest, _, effect = text.rpartition(":")
    key, _, value = rest.partition("=")
    return Taint(key=key, value=value, effect=effect)


def choose_seeds(name: str, others: Sequence[str]) -> tuple[str, ...]:
    """The nodes a new node tries first; written once, so that a later host changes nobody's configuration."""
    return tuple(other for other in others if other != name)[:MAX_SEEDS]


def _half_over(not_after_ms: int, now_ms: int) -> bool:
    return not_after_ms - now_ms < MEMBERSHIP_LIFETIME_MS // 2


def _stored(path: Path) -> Signed | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Signed)
    except FileNotFoundError:
        return None
    except UNDECODABLE as error:
        raise InvalidInput(f"{path} is damaged: {error}", hint="remove it: it is then signed anew") from None


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _body(signed: Signed | None, kind: type[Body]) -> Body | None:
    if signed is None:
        return None
    return msgspec.msgpack.decode(decode_body(signed, Intent).body, type=kind)
