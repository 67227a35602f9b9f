"""Which nodes answer for a key: the k nearest keepers, counted over the roster and never over the live view.

A partition changes the view and not the roster, so it cannot vote itself a majority.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from functools import lru_cache

from beemesh.ids import NODE_ID_BYTES, Digest, NodeId
from beemesh.membership.roster import Roster

K = 8
"""Replicas of a key: seven may be lost before it is gone, and three before nobody gets a majority."""

KSETS_KEPT = 512
"""Names of k-sets that are kept, some 400 bytes each: every vote and every renewal of a lease asks for its own."""

BITS = 8 * NODE_ID_BYTES


def point_of(key: str) -> int:
    """Where a key lies among the node IDs."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest())


def nearest(node_ids: tuple[NodeId, ...], key: str, k: int = K) -> tuple[NodeId, ...]:
    """The `k` IDs with the smallest XOR distance to the key, nearest first; `node_ids` are sorted.

    All that share a longer prefix with the key are nearer than all that share a shorter one. So the list is halved at
    the key's bits, one after the other, for as long as enough are left: it costs the logarithm of their number."""
    point = point_of(key)
    low, high, prefix = 0, len(node_ids), 0
    for bit in range(BITS - 1, -1, -1):
        if high - low <= k:
            break
        half = prefix | (1 << bit)
        middle = bisect_left(node_ids, half.to_bytes(NODE_ID_BYTES), low, high)
        ones = bool(point >> bit & 1)
        if (high - middle if ones else middle - low) < k:
            break
        if ones:
            low, prefix = middle, half
        else:
            high = middle
    return tuple(sorted(node_ids[low:high], key=lambda node_id: int.from_bytes(node_id) ^ point)[:k])


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
