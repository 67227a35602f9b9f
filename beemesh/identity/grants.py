"""The mesh CA's statements about operators, and its withdrawals.

Grants and revocations are bodies of intents of kinds `grant` and `revocation`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from beemesh.ids import OperatorId

Role = Literal["admin", "deployer", "viewer"]

ALL_NAMESPACES = "*"


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an operator may do: `admin` everything, `deployer` apply and read in `namespaces`, `viewer` read there.

    `sign_key` (Ed25519) signs requests and records; `open_key` (X25519) opens what is released to the operator.
    """

    mesh: str
    operator_id: OperatorId
    name: str
    sign_key: bytes
    open_key: bytes
    role: Role
    serial: int
    signed_at_ms: int
    not_after_ms: int
    namespaces: tuple[str, ...] = (ALL_NAMESPACES,)

    def covers(self, namespace: str) -> bool:
        """Whether the grant reaches into `namespace`."""
        return ALL_NAMESPACES in self.namespaces or namespace in self.namespaces

    def may_write(self, namespace: str) -> bool:
        """Whether the operator may change what runs in `namespace`."""
        return self.role in ("admin", "deployer") and self.covers(namespace)

    def may_read(self, namespace: str) -> bool:
        """Whether the operator may look at `namespace`."""
        return self.covers(namespace)


class Revocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The CA's withdrawal of a node, an operator or a workload identity; it wins over everything else."""

    mesh: str
    subject: Literal["node", "operator", "workload"]
    subject_id: bytes
    name: str
    revoked_at_ms: int
    reason: str = ""
