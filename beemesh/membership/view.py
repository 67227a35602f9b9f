"""Who is there, as this node sees it: written by `swim` alone, read by every protocol.

The view holds only members of the roster; whoever leaves the roster is unknown at once. It is this node's own opinion
and no vote: two nodes may differ for as long as a partition lasts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Literal

from beemesh.ids import NodeId
from beemesh.membership.coordinates import Coordinates
from beemesh.membership.roster import Roster
from beemesh.membership.summaries import Summary

Status = Literal["alive", "suspect", "dead", "left", "unknown"]
Address = tuple[str, int]

PRESENT: frozenset[str] = frozenset({"alive", "suspect"})
"""A suspect is still taken for alive: suspicion is a question, death is the answer."""

ABSENT: frozenset[str] = frozenset({"dead", "unknown"})
"""Whom a healed partition may bring back; who left is not called."""

LARGE_ABOVE = 200
"""Live members above which tasks and bids go between a steward and its candidates, unless told otherwise; up to it
everybody hears all."""

RTT_WEIGHT = 0.125
"""Weight of a new round-trip sample in the moving average (as in TCP)."""


class View:
    """The live view of one node. This node itself is always alive in it."""

    def __init__(self, self_id: NodeId, roster: Roster, large_above: int = LARGE_ABOVE) -> None:
        self.self_id = self_id
        self._large_above = large_above
        self.version = 0
        """Grows whenever `alive()` may have changed."""
        self._roster = roster
        self._status: dict[NodeId, Status] = {}
        self._summaries: dict[NodeId, Summary] = {}
        self._rtt_s: dict[NodeId, float] = {}
        self.coordinates = Coordinates(self_id)
        """Where this node stands by its round trips."""
        self._addresses: dict[NodeId, Address] = {}
        self._alive: tuple[NodeId, ...] = (self_id,)
        self._removals = roster.removals
        self._absent: dict[NodeId, None] = {}
        self._suspects: set[NodeId] = set()
        self._begun: Mapping[NodeId, Status] = {}
        self._unknown: dict[NodeId, None] = {}
        """Members that were never heard of, as of `_unknown_at`: a version of the roster."""
        self._unknown_at = -1

    def is_alive(self, node_id: bytes) -> bool:
        """Whether the node counts as alive here (a suspect does)."""
        return self.status(node_id) in PRESENT

    def alive(self) -> tuple[NodeId, ...]:
        """All that count as alive, this node included, sorted."""
        if self._removals != self._roster.removals:
            self._removals = self._roster.removals
            known = {node_id for node_id in (*self._begun, *self._status) if self._roster.member(node_id)}
            self._alive = tuple(sorted({node_id for node_id in known if self.is_alive(node_id)} | {self.self_id}))
        return self._alive

    @property
    def is_large(self) -> bool:
        """Whether there are so many that tasks go to candidates alone."""
        return len(self.alive()) > self._large_above

    def absent(self) -> list[NodeId]:
        """Members that are dead, or were never heard of: whom a healed partition may bring back."""
        self.alive()  # follows the roster
        if self._unknown_at != self._roster.version:
            self._unknown_at = self._roster.version
            others = (card.node_id for card in self._roster.members() if card.node_id not in self._absent)
            self._unknown = dict.fromkeys(node_id for node_id in others if self.status(node_id) == "unknown")
        return [*(node_id for node_id in self._absent if self._roster.member(node_id) is not None), *self._unknown]

    @property
    def has_suspects(self) -> bool:
        """Whether somebody may be suspected; False says that all of `alive()` have the status of that name."""
        return bool(self._suspects)

    def status(self, node_id: bytes) -> Status:
        """`unknown` for whoever is not in the roster, or was never heard of."""
        known = NodeId(node_id)
        if known == self.self_id:
            return "alive"
        if self._roster.member(known) is None:
            return "unknown"
        return self._status.get(known) or self._begun.get(known, "unknown")

    def summary(self, node_id: bytes) -> Summary | None:
        """The newest summary that the node wrote of itself; also of a dead node, for people to look at."""
        return self._summaries.get(NodeId(node_id))

    def rtt_s(self, node_id: bytes) -> float | None:
        """Smoothed round trip of direct probes, in seconds."""
        return self._rtt_s.get(NodeId(node_id))

    def expected_rtt_s(self, node_id: bytes) -> float | None:
        """The round trip to a node in seconds: as measured, else as its coordinate and ours let expect; None when
        neither is known."""
        measured_s = self.rtt_s(node_id)
        summary = self.summary(node_id)
        if measured_s is not None or summary is None:
            return measured_s
        return self.coordinates.rtt_s(summary.place)

    def address(self, node_id: bytes) -> Address | None:
        """Where datagrams and streams reach the node: what it last said itself, else what its card says."""
        told = self._addresses.get(NodeId(node_id))
        if told is not None:
            return told
        card = self._roster.member(node_id)
        return (card.addresses[0], card.gossip_port) if card and card.addresses else None

    # --- for swim alone -------------------------------------------------------------------------------------------

    def begin_with(
        self, statuses: Mapping[NodeId, Status], alive: tuple[NodeId, ...], unknown: tuple[NodeId, ...]
    ) -> None:
        """Start from statuses that many views of one process share, `alive` (sorted) being those that are present and
        `unknown` those without a status, and nobody a suspect: what this view learns itself is its own."""
        self._begun, self._alive = statuses, alive
        self._unknown, self._unknown_at = dict.fromkeys(unknown), self._roster.version
        self.version += 1

    def set_status(self, node_id: NodeId, status: Status) -> None:
        """Record what swim concluded."""
        if self._roster.member(node_id) is not None:
            self._place(node_id, present=status in PRESENT)
        if status in ABSENT:
            self._absent[node_id] = None
        else:
            self._absent.pop(node_id, None)
        if status == "suspect":
            self._suspects.add(node_id)
        else:
            self._suspects.discard(node_id)
        if status != "unknown":
            self._unknown.pop(node_id, None)
        if (self._status.get(node_id) or self._begun.get(node_id)) != status:
            self._status[node_id] = status
            self.version += 1

    def _place(self, node_id: NodeId, *, present: bool) -> None:
        """Put a node into the sorted tuple of those that live, or take it out."""
        alive = self.alive()
        place = bisect_left(alive, node_id)
        found = place < len(alive) and alive[place] == node_id
        if present and not found:
            self._alive = (*alive[:place], node_id, *alive[place:])
        elif found and not present and node_id != self.self_id:
            self._alive = (*alive[:place], *alive[place + 1 :])

    def set_address(self, node_id: NodeId, address: Address) -> None:
        """Record the address of a signed Alive."""
        self._addresses[node_id] = address

    def set_summary(self, summary: Summary) -> None:
        """Record a verified summary."""
        self._summaries[summary.node_id] = summary

    def add_rtt(self, node_id: NodeId, sample_s: float) -> None:
        """Mix one round trip into the average, and find out from it where this node stands."""
        summary = self._summaries.get(node_id)
        if summary is not None:
            self.coordinates.heard(node_id, summary.place, sample_s)
        known = self._rtt_s.get(node_id, sample_s)
        self._rtt_s[node_id] = known + RTT_WEIGHT * (sample_s - known)

    def forget(self, node_id: NodeId) -> None:
        """Drop everything about a node that left the roster."""
        self._place(node_id, present=False)
        for table in (self._status, self._summaries, self._rtt_s, self._addresses, self._absent):
            table.pop(node_id, None)
        self._suspects.discard(node_id)
        self.version += 1
