"""What a node says of itself in one small signed record, so that any agent answers for the whole mesh.

Only its owner may write a summary; the highest `seq` of a node wins. It describes, and decides nothing: eligibility is
judged by each node for itself, and pod lists come by stream.
"""

from __future__ import annotations

import msgspec

from beemesh.ids import NodeId
from beemesh.membership.coordinates import has_moved

SUMMARY_KIND = "summary"

SUMMARY_BODY_BYTES_MAX = 400
"""An encoded summary: three of them, signed, still share one datagram."""


NEWS_CPU, NEWS_MEMORY, NEWS_STORAGE = 0.2, 0.1, 0.05
"""By how much of the whole a resource must change for the mesh to hear of it at once: a machine's load never stands
still, and nothing is decided by it."""

MEASURED = ("seq", "taken_ms", "cpu_load", "cpu_m_free", "mem_mb_free", "storage_mb_free", "place")
"""Fields that change all the time."""


class Summary(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Capacity, load and state of one node. Positional on the wire: fields are only ever added at the end, and more
    fields than a reader knows are ignored. CPU in thousandths of a core, memory and storage in MiB.

    `total` is what the mesh may use, `reserved` what placed work holds, `free` what the machine measured as unused."""

    node_id: NodeId
    seq: int
    taken_ms: int
    cpu_m_total: int = 0
    cpu_m_free: int = 0
    cpu_m_reserved: int = 0
    mem_mb_total: int = 0
    mem_mb_free: int = 0
    mem_mb_reserved: int = 0
    storage_mb_total: int = 0
    storage_mb_free: int = 0
    storage_mb_reserved: int = 0
    cpu_load: float = 0.0
    """0…1 of all cores, averaged over some seconds."""
    pods_running: int = 0
    pods_total: int = 0
    cordoned: bool = False
    engine: str = ""
    agent_version: str = ""
    protocol_version: int = 1
    labels_digest: bytes = b""
    """First 8 bytes of the SHA-256 of the node's sorted labels: tells who still follows an older card."""
    api_port: int = 0
    started_ms: int = 0
    """Wall time at which the agent started."""
    ring_epoch: int = 0
    """The gossip key that the node sends with."""
    place: bytes = b""
    """Where it stands by its round trips (`beemesh.membership.coordinates`)."""


def is_news(summary: Summary, before: Summary | None) -> bool:
    """Whether a summary says anything that people would want to know at once, beside the owner's one `before`."""
    if before is None:
        return True
    if msgspec.structs.replace(summary, **{field: getattr(before, field) for field in MEASURED}) != before:
        return True
    return (
        abs(summary.cpu_m_free - before.cpu_m_free) > NEWS_CPU * summary.cpu_m_total
        or abs(summary.mem_mb_free - before.mem_mb_free) > NEWS_MEMORY * summary.mem_mb_total
        or abs(summary.storage_mb_free - before.storage_mb_free) > NEWS_STORAGE * summary.storage_mb_total
        or has_moved(summary.place, before.place)
        or (summary.storage_mb_free == 0) != (before.storage_mb_free == 0)
    )
