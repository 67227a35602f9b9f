"""Who belongs to the mesh: the cards, grants and revocations of the intent map, as a read model.

The roster says who may speak; `beemesh.membership.view` says who is there. Only the node's intent map writes it; every
protocol reads it. It grows and shrinks with what the mesh CA signed and never with what is observed.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from beemesh.identity.grants import Grant, Revocation
from beemesh.identity.membership_card import Membership
from beemesh.ids import NodeId, OperatorId, node_id_of
from beemesh.intents.record import Intent

Standing = Literal["valid", "grace", "out"]


class Roster:
    """The unrevoked memberships and grants of one mesh. `ca_key` is the mesh CA's Ed25519 public key."""

    def __init__(self, mesh: str, ca_key: bytes) -> None:
        self.mesh = mesh
        self.ca_key = ca_key
        self.ca_id = node_id_of(ca_key)
        self.version = 0
        """Grows with every change: readers that derive something expensive compare it."""
        self.removals = 0
        """Grows whenever somebody may have left; a new card alone does not change it."""
        self._cards: dict[str, Membership] = {}
        self._grants: dict[str, Grant] = {}
        self._revoked: dict[bytes, Revocation] = {}
        self._members: tuple[Membership, ...] = ()
        self._keepers: tuple[Membership, ...] = ()
        self._keeper_ids: tuple[NodeId, ...] = ()
        self._by_id: dict[bytes, Membership] = {}
        self._by_name: dict[str, Membership] = {}
        self._operators: dict[OperatorId, Grant] = {}
        self._digest = hashlib.sha256().digest()
        self._sorted_at = 0
        """The version that the sorted tuples and the digest belong to: they are made when somebody reads them."""

    def apply(self, intent: Intent) -> None:
        """Take the winning record of its key; records of other kinds are ignored. Verified by the caller."""
        match intent.kind:
            case "membership":
                if self._is_added(intent.key, msgspec.msgpack.decode(intent.body, type=Membership)):
                    return
            case "grant":
                self._grants[intent.key] = msgspec.msgpack.decode(intent.body, type=Grant)
            case "revocation":
                revocation = msgspec.msgpack.decode(intent.body, type=Revocation)
                self._revoked[revocation.subject_id] = revocation
            case "tombstone":
                if self._cards.pop(intent.key, None) is None and self._grants.pop(intent.key, None) is None:
                    return
            case _:
                return
        self._derive()

    def member(self, node_id: bytes) -> Membership | None:
        """The unrevoked card of a node."""
        return self._by_id.get(node_id)

    def named(self, name: str) -> Membership | None:
        """The unrevoked card of the node that bears `name`."""
        return self._by_name.get(name)

    def members(self) -> tuple[Membership, ...]:
        """All unrevoked cards, sorted by node ID."""
        self._sort()
        return self._members

    def keepers(self) -> tuple[Membership, ...]:
        """Those that hold records and shares, sorted by node ID."""
        self._sort()
        return self._keepers

    def keeper_ids(self) -> tuple[NodeId, ...]:
        """The IDs of the keepers, sorted."""
        self._sort()
        return self._keeper_ids

    def grant(self, operator_id: bytes) -> Grant | None:
        """The unrevoked grant of an operator; the caller looks at its expiry."""
        return self._operators.get(OperatorId(operator_id))

    def grants(self) -> tuple[Grant, ...]:
        """All unrevoked grants, sorted by operator ID."""
        return tuple(self._operators[operator] for operator in sorted(self._operators))

    def issued_grant(self, operator_id: bytes) -> Grant | None:
        """The grant of an operator even when revoked: what was signed before the revocation can still be checked."""
        return next((grant for grant in self._grants.values() if grant.operator_id == operator_id), None)

    def revocation(self, subject_id: bytes) -> Revocation | None:
        """The revocation of a node, operator or workload identity."""
        return self._revoked.get(subject_id)

    def is_revoked(self, subject_id: bytes) -> bool:
        """Whether the CA withdrew this node, operator or workload identity."""
        return subject_id in self._revoked

    def standing(self, node_id: bytes, wall_ms: int) -> Standing:
        """`valid`, `grace` (keeps what it runs, takes nothing new) or `out` (unknown, revoked, long expired)."""
        card = self.member(node_id)
        if card is None or wall_ms > card.ends_ms:
            return "out"
        return "valid" if wall_ms <= card.not_after_ms else "grace"

    def digest(self) -> bytes:
        """SHA-256 over the keepers' IDs: equal on nodes that would choose the same replicas."""
        self._sort()
        return self._digest

    def __len__(self) -> int:
        return len(self._by_id)

    def _is_added(self, key: str, card: Membership) -> bool:
        """Keep a card; whether that took nobody's place, so that nothing else has to be derived anew."""
        before = self._cards.get(key)
        self._cards[key] = card
        known = (self._by_id.get(card.node_id), self._by_name.get(card.name))
        if card.node_id in self._revoked or any(each is not before for each in known):
            return False
        if before is not None and (before.node_id, before.name) != (card.node_id, card.name):
            return False
        self._by_id[card.node_id] = self._by_name[card.name] = card
        self.version += 1
        return True

    def _sort(self) -> None:
        if self._sorted_at == self.version:
            return
        self._sorted_at = self.version
        self._members = tuple(self._by_id[node_id] for node_id in sorted(self._by_id))
        self._keepers = tuple(card for card in self._members if card.is_keeper)
        self._keeper_ids = tuple(card.node_id for card in self._keepers)
        self._digest = hashlib.sha256(b"".join(self._keeper_ids)).digest()

    def _derive(self) -> None:
        self.version += 1
        self.removals += 1
        live: dict[bytes, Membership] = {
            card.node_id: card for _, card in sorted(self._cards.items()) if card.node_id not in self._revoked
        }
        self._by_id = live
        self._by_name = {live[node_id].name: live[node_id] for node_id in sorted(live)}
        self._operators = {
            grant.operator_id: grant
            for _, grant in sorted(self._grants.items())
            if grant.operator_id not in self._revoked
        }
