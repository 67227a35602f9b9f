"""DaemonSets: one replica on each node that its record fits. Pure.

The ordinal of a replica follows from its node, so that its lease, its fence and its reports are those of any other
replica, and no two nodes ever contend for one.
"""

from __future__ import annotations

from beemesh.ids import NodeId
from beemesh.workloads.record import Workload

DAEMON_SET = "DaemonSet"

ORDINAL_BYTES = 5
"""How much of a node's ID makes the ordinal. Among 10,000 nodes two share one with a chance of one in 20,000, and then
one of them runs none; and JSON carries it exactly."""


def ordinal_of(node_id: NodeId) -> int:
    """The ordinal of every daemon on that node."""
    return int.from_bytes(node_id[:ORDINAL_BYTES])


def may_have(workload: Workload, replica: int, node_id: NodeId, *, surge: int = 0) -> bool:
    """Whether the record wants a replica of that ordinal, or so many above them, and that node may be the one."""
    if workload.kind == DAEMON_SET:
        return replica == ordinal_of(node_id)
    return 0 <= replica < workload.replicas + surge
