"""Which nodes answer for a key: the k nearest keepers, counted over the roster and never over the live view.

A partition changes the view and not the roster, so it cannot vote itself a majority.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from beemesh.ids import Digest, NodeId
from beemesh.membership.roster import Roster

K = 8
"""Replicas of a key: seven may be lost before it is gone, and three before nobody gets a majority."""


def point_of(key: str) -> int:
    """Where a key lies among the node IDs."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest())


def nearest(node_ids: Iterable[NodeId], key: str, k: int = K) -> tuple[NodeId, ...]:
    """The `k` IDs with the smallest XOR distance to the key, nearest first."""
    point = point_of(key)
    return tuple(sorted(node_ids, key=lambda node_id: int.from_bytes(node_id) ^ point)[:k])


def k_set(roster: Roster, key: str) -> tuple[NodeId, ...]:
    """The keepers that answer for `key`, nearest first: `min(K, keepers)` of them."""
    return nearest((card.node_id for card in roster.keepers()), key)


def kset_hash(members: Iterable[NodeId]) -> Digest:
    """Names a k-set whatever its order."""
    return Digest(hashlib.sha256(b"beemesh/1/kset\0" + b"".join(sorted(members))).digest())


def majority(size: int) -> int:
    """Grants that no two disjoint groups of a set of `size` can both have."""
    return size // 2 + 1
