"""The keys that issue the identities of a workload's replicas: made at `apply`, certified by the work root.

A workload's issuing key is derived from the work root's seed, the workload's name and the moment of its creation
(HKDF-SHA256, RFC 5869). So every revision carries the same key without anybody reading the former one back, a workload
that was deleted and made again gets another, and no issuing key tells anything of the root or of its siblings.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from beemesh.crypto_native import NativeCrypto
from beemesh.identity import certificates
from beemesh.secret import SecretBytes
from beemeshctl.context import Home
from beemeshctl.keyfile import write_private, write_secret

ISSUING_DOMAIN = b"beemesh/1/workload-issuing\0"
_NEVER_USED = bytes(32)
"""Issuing keys and the root only sign; the place of the key that opens is filled."""


def create_work_root(home: Home, mesh: str, now_ms: int) -> None:
    """Make the work root of a mesh, unless it is there. An interrupted creation goes on with the key it made.

    Its key is as open to the operator as their own: every `apply` needs it."""
    if not home.work_key_file.exists():
        write_secret(home.work_key_file, secrets.token_bytes(32), "")
    if not home.work_pem_file.exists():
        root = NativeCrypto(home.work_root_seed(), _NEVER_USED)
        write_private(home.work_pem_file, certificates.workload_root(root, mesh, now_ms))


@dataclass(frozen=True, slots=True)
class WorkloadIssuer:
    """One workload's issuing key, and the root that certifies it."""

    root: WorkRoot
    private_key: SecretBytes

    @property
    def public_key(self) -> bytes:
        """Its 32-byte Ed25519 key, for the record."""
        return NativeCrypto(self.private_key.reveal(), _NEVER_USED).sign_key

    def certify(self, namespace: str, workload: str, now_ms: int) -> bytes:
        """The issuing certificate followed by the work root's (PEM)."""
        root = self.root
        holder = NativeCrypto(root.seed.reveal(), _NEVER_USED)
        end_ms = now_ms + certificates.WORKLOAD_ISSUING_MS
        args = (root.mesh, namespace, workload, self.public_key, now_ms, end_ms)
        return certificates.workload_issuing(holder, root.pem, *args) + root.pem


@dataclass(frozen=True, slots=True)
class WorkRoot:
    """The work plane's own root: another key and another trust domain than the machines'."""

    mesh: str
    seed: SecretBytes
    pem: bytes

    @classmethod
    def of(cls, home: Home, mesh: str) -> WorkRoot:
        """The work root in an operator's home; raises `InvalidInput` when it is missing or damaged."""
        return cls(mesh, SecretBytes(home.work_root_seed()), home.work_pem())

    def issuer(self, workload_id: str, created_ms: int) -> WorkloadIssuer:
        """The issuing key of a workload that was created at `created_ms`."""
        info = ISSUING_DOMAIN + f"{self.mesh}\0{workload_id}\0{created_ms}".encode()
        private = HKDF(SHA256(), 32, salt=None, info=info).derive(self.seed.reveal())
        return WorkloadIssuer(self, SecretBytes(private))
