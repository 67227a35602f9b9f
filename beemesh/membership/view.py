"""Who is there, as this node sees it: written by `swim` alone, read by every protocol.

The view holds only members of the roster; whoever leaves the roster is unknown at once. It is this node's own opinion
and no vote: two nodes may differ for as long as a partition lasts.
"""

from __future__ import annotations

from typing import Literal

from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.membership.summaries import Summary

Status = Literal["alive", "suspect", "dead", "left", "unknown"]
Address = tuple[str, int]

PRESENT: frozenset[str] = frozenset({"alive", "suspect"})
"""A suspect is still taken for alive: suspicion is a question, death is the answer."""

RTT_WEIGHT = 0.125
"""Weight of a new round-trip sample in the moving average (as in TCP)."""


class View:
    """The live view of one node. This node itself is always alive in it."""

    def __init__(self, self_id: NodeId, roster: Roster) -> None:
        self.self_id = self_id
        self.version = 0
        """Grows whenever `alive()` may have changed."""
        self._roster = roster
        self._status: dict[NodeId, Status] = {}
        self._summaries: dict[NodeId, Summary] = {}
        self._rtt_s: dict[NodeId, float] = {}
        self._addresses: dict[NodeId, Address] = {}
        self._alive: tuple[NodeId, ...] = (self_id,)
        self._alive_of: tuple[int, int] = (-1, -1)

    def is_alive(self, node_id: bytes) -> bool:
        """Whether the node counts as alive here (a suspect does)."""
        return self.status(node_id) in PRESENT

    def alive(self) -> tuple[NodeId, ...]:
        """All that count as alive, this node included, sorted."""
        state = (self.version, self._roster.version)
        if state != self._alive_of:
            present = {node_id for node_id in self._status if self.is_alive(node_id)}
            self._alive = tuple(sorted(present | {self.self_id}))
            self._alive_of = state
        return self._alive

    def status(self, node_id: bytes) -> Status:
        """`unknown` for whoever is not in the roster, or was never heard of."""
        known = NodeId(node_id)
        if known == self.self_id:
            return "alive"
        return self._status.get(known, "unknown") if self._roster.member(known) else "unknown"

    def summary(self, node_id: bytes) -> Summary | None:
        """The newest summary that the node wrote of itself; also of a dead node, for people to look at."""
        return self._summaries.get(NodeId(node_id))

    def rtt_s(self, node_id: bytes) -> float | None:
        """Smoothed round trip of direct probes, in seconds."""
        return self._rtt_s.get(NodeId(node_id))

    def address(self, node_id: bytes) -> Address | None:
        """Where datagrams and streams reach the node: what it last said itself, else what its card says."""
        told = self._addresses.get(NodeId(node_id))
        if told is not None:
            return told
        card = self._roster.member(node_id)
        return (card.addresses[0], card.gossip_port) if card and card.addresses else None

    # --- for swim alone -------------------------------------------------------------------------------------------

    def set_status(self, node_id: NodeId, status: Status) -> None:
        """Record what swim concluded."""
        if self._status.get(node_id) != status:
            self._status[node_id] = status
            self.version += 1

    def set_address(self, node_id: NodeId, address: Address) -> None:
        """Record the address of a signed Alive."""
        self._addresses[node_id] = address

    def set_summary(self, summary: Summary) -> None:
        """Record a verified summary."""
        self._summaries[summary.node_id] = summary

    def add_rtt(self, node_id: NodeId, sample_s: float) -> None:
        """Mix one round trip into the average."""
        known = self._rtt_s.get(node_id, sample_s)
        self._rtt_s[node_id] = known + RTT_WEIGHT * (sample_s - known)

    def forget(self, node_id: NodeId) -> None:
        """Drop everything about a node that left the roster."""
        for table in (self._status, self._summaries, self._rtt_s, self._addresses):
            table.pop(node_id, None)
        self.version += 1
