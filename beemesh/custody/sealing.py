"""Sealing: what operators apply leaves their machine only as ciphertext whose key is in pieces (DESIGN section 7).

A fresh 256-bit key encrypts the content (XChaCha20-Poly1305; the associated data binds mesh, workload, revision and
sharing); the key is split, and each share is sealed to its custodian. The record names every share by its digest and
the key by a commitment, so a wrong share is caught and its sender named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from beemesh.crypto import Crypto, Share
from beemesh.custody.messages import SEALED_BYTES_MAX
from beemesh.errors import InvalidInput, Unavailable, Untrusted
from beemesh.identity.membership_card import Membership
from beemesh.ids import Digest, NodeId, digest_of
from beemesh.secret import SecretBytes
from beemesh.undecodable import UNDECODABLE
from beemesh.workloads.record import Revision, Scheme, Sealing, ShareTicket

PAD_BYTES = 256
"""Content is padded to a multiple: a ciphertext's length then tells little about a Secret's."""

HOLDERS = 3
"""Nodes that keep a ciphertext: two may die between repairs."""

COMMITMENT_DOMAIN = b"beemesh/1/key-commitment\0"


class SealedContent(msgspec.Struct, frozen=True):
    """What is sealed: the resolved manifest (canonical JSON of `workloads.resolve`) and the workload's issuing key."""

    manifest: bytes
    issuing_key: bytes = b""
    issuing_pem: bytes = b""

    def __repr__(self) -> str:
        return "SealedContent(***)"


@dataclass(frozen=True, slots=True)
class SealContext:
    """What a seal is bound to: opened in any other context it fails. `key` is the intent key of workload or object."""

    mesh: str
    key: str
    revision: int
    k: int
    n: int
    epoch: int

    def associated(self) -> bytes:
        """The associated data of the encryption."""
        return msgspec.msgpack.encode((self.mesh, self.key, self.revision, self.k, self.n, self.epoch))


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed content on its way to the mesh: what the record says, the ciphertext, and each custodian's box."""

    revision: Revision
    ciphertext: bytes
    boxes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class CustodyPlan:
    """How a key will be kept: the scheme, k, and the custodians of the n shares in the order of their indices."""

    scheme: Scheme
    k: int
    custodians: tuple[Membership, ...]
    holders: tuple[Membership, ...]


def plan_custody(keepers: Iterable[Membership], place: bytes, scheme: Scheme = "shamir") -> CustodyPlan:
    """Choose custodians and holders for the content at `place` (32 bytes): keepers nearest to it by XOR, one for each
    failure domain. 1 keeper: sealed to it; 2: to each; 3–4: 2 of 3; from 5: 3 of 5. Raises `Unavailable` for none."""
    ranked = sorted(keepers, key=lambda member: _distance(member.node_id, place))
    apart: dict[str, Membership] = {}
    for member in ranked:
        apart.setdefault(member.failure_domain, member)
    chosen = list(apart.values())
    if not chosen:
        raise Unavailable("no node of the mesh keeps shares", hint="give at least one node `beemesh_keeper: true`")
    holders = tuple(ranked[:HOLDERS])
    if len(chosen) < 3:
        return CustodyPlan("direct", 1, tuple(chosen), holders)
    n = 3 if len(chosen) < 5 else 5
    return CustodyPlan(scheme, n // 2 + 1, tuple(chosen[:n]), holders)


def _distance(node_id: bytes, place: bytes) -> int:
    return int.from_bytes(node_id, "big") ^ int.from_bytes(place, "big")


def seal(
    crypto: Crypto,
    key: bytes,
    content: SealedContent,
    plan: CustodyPlan,
    *,
    mesh: str,
    intent_key: str,
    number: int,
    fingerprint: bytes,
    epoch: int = 0,
) -> Sealed:
    """Seal `content` as revision `number` under the fresh random `key` (32 bytes, used here and nowhere else)."""
    n = len(plan.custodians)
    context = SealContext(mesh, intent_key, number, plan.k, n, epoch)
    ciphertext = crypto.encrypt(key, _pad(msgspec.msgpack.encode(content)), context.associated())
    if len(ciphertext) > SEALED_BYTES_MAX:
        raise InvalidInput(
            f"{intent_key}: sealed it takes {len(ciphertext)} bytes, more than {SEALED_BYTES_MAX}",
            hint="keep large files in images or volumes, not in ConfigMaps and Secrets",
        )
    shares = _shares(crypto, key, plan, n)
    tickets = tuple(
        ShareTicket(share.index, member.node_id, digest_of(share.value))
        for share, member in zip(shares, plan.custodians, strict=True)
    )
    boxes = tuple(
        (share.index, crypto.seal_to(member.open_key, share.value))
        for share, member in zip(shares, plan.custodians, strict=True)
    )
    revision = Revision(
        number=number,
        manifest=digest_of(ciphertext),
        size_bytes=len(ciphertext),
        sealing=Sealing(plan.scheme, plan.k, n, tickets, commitment_of(key), epoch),
        holders=tuple(member.node_id for member in plan.holders),
        fingerprint=fingerprint,
    )
    return Sealed(revision, ciphertext, boxes)


def _shares(crypto: Crypto, key: bytes, plan: CustodyPlan, n: int) -> list[Share]:
    if plan.scheme == "direct":
        return [Share(index, key) for index in range(1, n + 1)]
    if plan.scheme == "shamir":
        return crypto.split(key, plan.k, n)
    raise InvalidInput("sealing scheme 'verifiable' is not offered by this version", hint="use 'shamir'")


def commitment_of(key: bytes) -> bytes:
    """What a record says about a key without telling it: anyone who combined shares can check the result."""
    return hashlib.sha256(COMMITMENT_DOMAIN + key).digest()


def ticket_of(sealing: Sealing, index: int) -> ShareTicket | None:
    """The ticket of a share, if the record has one of that index."""
    return next((ticket for ticket in sealing.tickets if ticket.index == index), None)


def check_share(sealing: Sealing, index: int, value: bytes) -> bool:
    """Whether a share is the one that the operator made."""
    ticket = ticket_of(sealing, index)
    return ticket is not None and ticket.share_digest == digest_of(value)


def reseal(crypto: Crypto, sealing: Sealing, index: int, box: bytes, open_key: bytes) -> bytes:
    """A custodian's answer: its own box opened, checked against its ticket, and sealed to the requester."""
    value = crypto.open_box(box)
    if not check_share(sealing, index, value):
        raise Untrusted(f"the share {index} kept here is not the one that the record names")
    return crypto.seal_to(open_key, value)


@dataclass(frozen=True, slots=True)
class ShareOffer:
    """A share as it came from a custodian, sealed to us."""

    custodian: NodeId
    index: int
    box: bytes


def good_shares(
    crypto: Crypto, sealing: Sealing, offers: Iterable[ShareOffer], name_of: Callable[[NodeId], str]
) -> tuple[dict[int, Share], list[str]]:
    """(the shares that hold, what is wrong with the others, by the names of their senders)."""
    good: dict[int, Share] = {}
    bad = []
    for offer in offers:
        try:
            value = crypto.open_box(offer.box)
        except Untrusted as error:
            bad.append(f"{name_of(offer.custodian)}: {error.message}")
            continue
        ticket = ticket_of(sealing, offer.index)
        if ticket is None or ticket.custodian != offer.custodian or not check_share(sealing, offer.index, value):
            bad.append(f"{name_of(offer.custodian)}: sent a share that is not the one the operator made")
        else:
            good[offer.index] = Share(offer.index, value)
    return good, bad


def open_content(
    crypto: Crypto, context: SealContext, revision: Revision, shares: Mapping[int, Share], ciphertext: bytes
) -> SecretBytes:
    """The encoded `SealedContent`; raises `Unavailable` with too few shares, `Untrusted` when anything was altered."""
    sealing = revision.sealing
    if digest_of(ciphertext) != revision.manifest:
        raise Untrusted("the ciphertext is not the one that the record names")
    if len(shares) < sealing.k:
        raise Unavailable(f"only {len(shares)} of the {sealing.k} shares that open it could be had")
    chosen: Sequence[Share] = [shares[index] for index in sorted(shares)[: sealing.k]]
    key = chosen[0].value if sealing.scheme == "direct" else crypto.combine(chosen)
    if commitment_of(key) != sealing.key_commitment:
        raise Untrusted("the key that the shares give is not the one that the record committed to")
    return SecretBytes(_unpad(crypto.decrypt(key, ciphertext, context.associated())))


def context_of(mesh: str, intent_key: str, revision: Revision) -> SealContext:
    """The context that a record's revision was sealed in."""
    sealing = revision.sealing
    return SealContext(mesh, intent_key, revision.sealed_number, sealing.k, sealing.n, sealing.epoch)


def decode_content(plaintext: SecretBytes) -> SealedContent:
    """The opened content; raises `Untrusted` (without content) when it is something else."""
    try:
        return msgspec.msgpack.decode(plaintext.reveal(), type=SealedContent)
    except UNDECODABLE:
        raise Untrusted("an opened manifest does not decode") from None


def place_of(intent_key: str) -> Digest:
    """Where in the ID space the shares and ciphertexts of a workload or object belong."""
    return digest_of(intent_key.encode())


def _pad(content: bytes) -> bytes:
    """ISO/IEC 7816-4: a one bit, then zeros."""
    return content + b"\x80" + bytes(-(len(content) + 1) % PAD_BYTES)


def _unpad(padded: bytes) -> bytes:
    content, mark, rest = padded.rpartition(b"\x80")
    if not mark or rest.strip(b"\0"):
        raise Untrusted("an opened manifest has no padding")
    return content
