"""X.509 for TLS: the mesh CA, issuing certificates over members' keys, and the short leaves that members issue.

Standard verifiers accept the chain CA → issuing certificate → leaf. X.509 cannot constrain the path of a URI, so a node
could name another in its leaf; `peer_of` is therefore called after every handshake, on both sides (DESIGN section 3).
Times are handed in; nothing here looks at a clock.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from beemesh.errors import InvalidInput, Untrusted
from beemesh.identity.grants import Grant
from beemesh.identity.membership_card import Membership
from beemesh.secret import SecretBytes

PeerKind = Literal["node", "operator"]

CA_LIFETIME_MS = 30 * 365 * 86_400_000
"""The CA outlives every machine: what it signed ends by itself, and a CA that ends kills a mesh."""

BACKDATED_MS = 600_000
"""Certificates begin ten minutes ago: a peer's clock may be behind ours by that much and still accept them."""

WORKLOAD_ISSUING_MS = 10 * 365 * 86_400_000
"""A workload that nobody touches must go on for years; what ends its identity early is a revocation."""

ISSUING_GRACE_MS = 90 * 86_400_000
"""An issuing certificate lives through its membership's grace: only revocation or the end of grace shuts a node out."""

_SPIFFE = re.compile(r"spiffe://([a-z0-9-]+)/(node|operator)/([a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?)")
_WORK_SPIFFE = re.compile(r"spiffe://([a-z0-9-]+)\.work/ns/([a-z0-9-]+)/([a-z0-9.-]+)/([a-z0-9.-]+)")

_MALFORMED = (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What the library raises for certificates that it cannot read."""


class KeyHolder(Protocol):
    """Whoever holds an Ed25519 key and may hand its private half to OpenSSL in this process."""

    @property
    def sign_key(self) -> bytes:
        """The public key."""
        ...

    def private_keys(self) -> tuple[SecretBytes, SecretBytes]:
        """(Ed25519 seed, X25519 scalar)."""
        ...


class Directory(Protocol):
    """Where unrevoked members and operators are looked up: the roster, or an operator's copy of it."""

    def named(self, name: str) -> Membership | None:
        """The unrevoked card of a node."""
        ...

    def grants(self) -> Sequence[Grant]:
        """All unrevoked grants."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: a node or an operator, by name and by ID (SHA-256 of its signing key)."""

    kind: PeerKind
    name: str
    id: bytes


@dataclass(frozen=True, slots=True)
class LeafBundle:
    """What TLS needs: the leaf followed by its issuing certificate, and the leaf's own private key."""

    chain_pem: bytes
    private_key_pem: SecretBytes


def ca_certificate(ca: KeyHolder, mesh: str, now_ms: int) -> bytes:
    """The self-signed certificate (PEM) of a mesh's CA."""
    return _root(ca, f"beemesh CA {mesh}", now_ms)


def workload_root(root: KeyHolder, mesh: str, now_ms: int) -> bytes:
    """The self-signed certificate (PEM) of the work plane's own root: another key, another trust domain."""
    return _root(root, f"beemesh work root {mesh}", now_ms)


def ca_public_key(ca_pem: bytes) -> bytes:
    """The 32-byte Ed25519 key of a CA certificate; raises `InvalidInput` for anything else."""
    certificate = _load(ca_pem, "the CA certificate")
    try:
        key: object = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInput("the CA certificate holds no Ed25519 key")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def issuing_certificate(
    ca: KeyHolder,
    ca_pem: bytes,
    mesh: str,
    kind: PeerKind,
    name: str,
    public_key: bytes,
    now_ms: int,
    not_after_ms: int,
) -> bytes:
    """The CA's certificate (PEM) over a member's signing key, with which the member issues its own leaves.

    It can issue nothing but leaves (pathlen 0) with URIs of this mesh's trust domain and, for a node, its own DNS name.
    """
    permitted: list[x509.GeneralName] = [x509.UniformResourceIdentifier(mesh)]
    permitted.append(x509.DNSName(dns_name(mesh, kind, name)))
    excluded = [
        x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
        x509.IPAddress(ipaddress.ip_network("::/0")),
    ]
    return _issuing(ca, ca_pem, f"{kind} {name}", public_key, permitted, excluded, now_ms, not_after_ms)


def workload_issuing(
    root: KeyHolder,
    root_pem: bytes,
    mesh: str,
    namespace: str,
    workload: str,
    public_key: bytes,
    now_ms: int,
    end_ms: int,
) -> bytes:
    """The work root's certificate (PEM) over one workload's issuing key, for its replicas' identities."""
    permitted: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"{mesh}.work")]
    excluded = [x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")), x509.IPAddress(ipaddress.ip_network("::/0"))]
    return _issuing(root, root_pem, f"workload {namespace}/{workload}", public_key, permitted, excluded, now_ms, end_ms)


def issue_leaf(
    owner: KeyHolder, mesh: str, kind: PeerKind, name: str, issuing_pem: bytes, now_ms: int, lifetime_ms: int
) -> LeafBundle:
    """A fresh short leaf with a key of its own, signed by `owner`'s key under its issuing certificate."""
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(f"spiffe://{mesh}/{kind}/{name}"),
        x509.DNSName(dns_name(mesh, kind, name)),
    ]
    return _leaf(owner, f"{kind} {name}", names, issuing_pem, now_ms, lifetime_ms)


def issue_workload_leaf(
    owner: KeyHolder,
    mesh: str,
    namespace: str,
    workload: str,
    replica: str,
    issuing_pem: bytes,
    now_ms: int,
    life_ms: int,
) -> LeafBundle:
    """A replica's leaf in the work plane's trust domain."""
    uri = f"spiffe://{mesh}.work/ns/{namespace}/{workload}/{replica}"
    return _leaf(owner, f"replica {replica}", [x509.UniformResourceIdentifier(uri)], issuing_pem, now_ms, life_ms)


def dns_name(mesh: str, kind: PeerKind, name: str) -> str:
    """The name that a client asks for in a handshake."""
    return f"{name}.{kind}.{mesh}"


class NotYetValid(Untrusted):
    """A leaf whose time has not come by our clock, though its owner signed it: our clock may be what is wrong."""

    def __init__(self, message: str, *, hint: str, begins_ms: int) -> None:
        super().__init__(message, hint=hint)
        self.begins_ms = begins_ms
        """The wall time at which its owner issued it."""
        self.peer: Peer | None = None


def peer_of(leaf_der: bytes, mesh: str, directory: Directory, wall_ms: int) -> Peer:
    """Who showed this leaf; raises `Untrusted` unless it verifies under the key of the one that its URI names.

    It does not rely on OpenSSL's view of the time, which is the machine's own clock: a membership that is past its
    grace, and a leaf that is not valid at `wall_ms`, are refused here."""
    leaf = _load_der(leaf_der)
    match = _SPIFFE.fullmatch(_only_uri(leaf))
    if match is None or match[1] != mesh:
        raise Untrusted(f"the peer's certificate names nobody of mesh {mesh}")
    kind: PeerKind = "node" if match[2] == "node" else "operator"
    found = _member_key(directory, kind, match[3])
    if found is None:
        raise Untrusted(f"{kind} {match[3]} is unknown here, or was revoked")
    peer = Peer(kind=kind, name=match[3], id=found[0])
    if kind == "node":
        _check_grace(directory, match[3], wall_ms)
    try:
        _check_leaf(leaf, found[1], f"{kind} {match[3]}", wall_ms)
    except NotYetValid as early:
        early.peer = peer
        raise
    return peer


def replica_of(leaf_der: bytes, mesh: str, namespace: str, workload: str, issuing_key: bytes, wall_ms: int) -> str:
    """The replica's name in a work-plane leaf; raises `Untrusted` unless it is one of this very workload."""
    leaf = _load_der(leaf_der)
    match = _WORK_SPIFFE.fullmatch(_only_uri(leaf))
    if match is None or match.group(1, 2, 3) != (mesh, namespace, workload):
        raise Untrusted(f"the peer's certificate names no replica of {namespace}/{workload}")
    _check_leaf(leaf, issuing_key, f"workload {namespace}/{workload}", wall_ms)
    return match[4]


def _member_key(directory: Directory, kind: PeerKind, name: str) -> tuple[bytes, bytes] | None:
    if kind == "node":
        member = directory.named(name)
        return (member.node_id, member.sign_key) if member else None
    grant = next((grant for grant in directory.grants() if grant.name == name), None)
    return (grant.operator_id, grant.sign_key) if grant else None


def _only_uri(leaf: x509.Certificate) -> str:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except _MALFORMED as error:
        raise Untrusted(f"the peer's certificate has malformed extensions: {error}") from error
    if len(uris) != 1:
        raise Untrusted(f"the peer's certificate has {len(uris)} URIs, expected one")
    return uris[0]


def _check_leaf(leaf: x509.Certificate, issuer_key: bytes, who: str, wall_ms: int) -> None:
    try:
        if leaf.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(issuer_key).verify(leaf.signature, leaf.tbs_certificate_bytes)
    except (InvalidSignature, *_MALFORMED) as error:
        raise Untrusted(f"a certificate names {who}, but was not signed with that key") from error
    moment, hint = _time(wall_ms), "compare the clocks of both machines"
    if moment > leaf.not_valid_after_utc:
        raise Untrusted(f"the certificate of {who} is not valid any more", hint=hint)
    if moment < leaf.not_valid_before_utc:
        begins_ms = int(leaf.not_valid_before_utc.timestamp() * 1000) + BACKDATED_MS
        raise NotYetValid(f"the certificate of {who} is not valid yet", hint=hint, begins_ms=begins_ms)


def _check_grace(directory: Directory, name: str, wall_ms: int) -> None:
    """The issuing certificate ends with the grace of its membership, and OpenSSL is not asked about times."""
    member = directory.named(name)
    if member is not None and wall_ms > member.not_after_ms + ISSUING_GRACE_MS:
        raise Untrusted(f"the membership of node {name} has ended", hint="run `beemeshctl bootstrap` for it again")


def _root(holder: KeyHolder, common_name: str, now_ms: int) -> bytes:
    key = _private(holder)
    name = _name(common_name)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_serial(holder.sign_key, now_ms))
        .not_valid_before(_time(now_ms - BACKDATED_MS))
        .not_valid_after(_time(now_ms + CA_LIFETIME_MS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_ca_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )
    return certificate.public_bytes(Encoding.PEM)


def _issuing(
    ca: KeyHolder,
    ca_pem: bytes,
    common_name: str,
    public_key: bytes,
    permitted: list[x509.GeneralName],
    excluded: list[x509.IPAddress],
    now_ms: int,
    not_after_ms: int,
) -> bytes:
    ca_key = _private(ca)
    key = Ed25519PublicKey.from_public_bytes(public_key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(_load(ca_pem, "the CA certificate").subject)
        .public_key(key)
        .serial_number(_serial(public_key, now_ms))
        .not_valid_before(_time(now_ms - BACKDATED_MS))
        .not_valid_after(_time(not_after_ms + ISSUING_GRACE_MS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ca_usage(), critical=True)
        .add_extension(x509.NameConstraints(permitted, excluded), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, None)
    )
    return certificate.public_bytes(Encoding.PEM)


def _leaf(
    owner: KeyHolder, common_name: str, names: list[x509.GeneralName], issuing_pem: bytes, now_ms: int, lifetime_ms: int
) -> LeafBundle:
    issuer = _private(owner)
    issuing = _load(issuing_pem, "the issuing certificate")
    key = Ed25519PrivateKey.generate()
    # A leaf named like its issuer, without a key identifier of its own, is taken for self-signed by OpenSSL.
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(f"leaf of {common_name}"))
        .issuer_name(issuing.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now_ms - BACKDATED_MS))
        .not_valid_after(_time(now_ms + lifetime_ms))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_leaf_usage(), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
        .sign(issuer, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return LeafBundle(certificate.public_bytes(Encoding.PEM) + issuing_pem, SecretBytes(private))


def _private(holder: KeyHolder) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(holder.private_keys()[0].reveal())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _serial(public_key: bytes, now_ms: int) -> int:
    """Unique per key and moment, and without chance, so that the same signing makes the same bytes."""
    return int.from_bytes(now_ms.to_bytes(6, "big") + public_key[:12], "big") | 1


def _ca_usage() -> x509.KeyUsage:
    return _usage(certify=True)


def _leaf_usage() -> x509.KeyUsage:
    return _usage(certify=False)


def _usage(*, certify: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certify,
        key_cert_sign=certify,
        crl_sign=certify,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _time(wall_ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(wall_ms // 1000, tz=datetime.UTC)


def _load(pem: bytes, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except _MALFORMED as error:
        raise InvalidInput(f"{what} is not a PEM certificate: {error}") from error


def _load_der(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except _MALFORMED as error:
        raise Untrusted(f"the peer's certificate does not decode: {error}") from error
