"""A mesh's state in short: a hash for each part of the ID space, so that members that agree exchange no lines.

Anti-entropy with digests first (Demers et al., "Epidemic algorithms for replicated database maintenance", 1987, section
1.3): the hashes are those of one level of a Merkle tree, since 2 KiB cost less than the round trips of more levels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from beemesh.ids import NodeId
from beemesh.membership.messages import Known

PARTS = 256
"""The part of a node is the first byte of its ID: 40 lines each in a mesh of 10,000."""

HASH_BYTES = 8
"""Two states that differ look the same once in 2^64; the next comparison is with somebody else."""

LISTED_MAX = 64
"""Members up to which all lines are sent at once: they are not much longer than the hashes, and save a round trip."""

ALL_PARTS = bytes(range(PARTS))


def part_of(node_id: NodeId) -> int:
    """The number of the part to which a node belongs."""
    return node_id[0]


def parts_of(lines: Iterable[Known], *, without: NodeId) -> bytes:
    """The hashes of all parts, one behind the other. `lines` come in the order of their IDs, and leave out whoever
    computes this; `without` is the other end, so that both count the same nodes."""
    hashes = [hashlib.blake2b(digest_size=HASH_BYTES) for _ in range(PARTS)]
    for line in lines:
        if line.incarnation and line.node_id != without:
            numbers = line.incarnation.to_bytes(8, "big") + line.summary_seq.to_bytes(8, "big")
            hashes[part_of(line.node_id)].update(line.node_id + numbers)
    return b"".join(each.digest() for each in hashes)


def differing(ours: bytes, theirs: bytes) -> bytes:
    """The numbers of the parts that are not the same there, one byte each; all where theirs cannot be compared."""
    if len(theirs) != len(ours):
        return ALL_PARTS
    return bytes(
        part
        for part in range(PARTS)
        if ours[part * HASH_BYTES : (part + 1) * HASH_BYTES] != theirs[part * HASH_BYTES : (part + 1) * HASH_BYTES]
    )
