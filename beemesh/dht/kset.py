"""Which nodes answer for a key: the k nearest keepers, counted over the roster and never over the live view.

A partition changes the view and not the roster, so it cannot vote itself a majority.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from beemesh.ids import Digest, NodeId
from beemesh.membership.roster import Roster

K = 8
"""Replicas of a key: seven may be lost before it is gone, and three before nobody gets a majority."""

KSETS_KEPT = 512
"""K-sets and their names that are kept, some 400 bytes each: every vote and every renewal of a lease asks for its own
again. With them stay the rosters that they were counted over, nearly always the same one."""


def point_of(key: str) -> int:
    """Where a key lies among the node IDs."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest())


@lru_cache(KSETS_KEPT)
def nearest(node_ids: tuple[NodeId, ...], key: str, k: int = K) -> tuple[NodeId, ...]:
    """The `k` IDs with the smallest XOR distance to the key, nearest first."""
    point = point_of(key)
    return tuple(sorted(node_ids, key=lambda node_id: int.from_bytes(node_id) ^ point)[:k])


def k_set(roster: Roster, key: str) -> tuple[NodeId, ...]:
    """The keepers that answer for `key`, nearest first: `min(K, keepers)` of them."""
    return nearest(roster.keeper_ids(), key)


@lru_cache(KSETS_KEPT)
def kset_hash(members: tuple[NodeId, ...]) -> Digest:
    """Names a k-set whatever its order."""
    return Digest(hashlib.sha256(b"beemesh/1/kset\0" + b"".join(sorted(members))).digest())


def majority(size: int) -> int:
    """Grants that no two disjoint groups of a set of `size` can both have."""
    return size // 2 + 1
