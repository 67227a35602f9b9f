"""Who is told of an event: everybody in a small mesh; in a large one its steward, the next in line, and who watches. A
mesh may become large between a task and its end: whoever was told of the task is told how it ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from beemesh.effects import Now
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.line import stewards_in_line
from beemesh.scheduling.messages import Event, EventWatch
from beemesh.scheduling.taskbook import Entry

WATCHERS_MAX = 32
"""Nodes that are told of every event of a large mesh; past it the one that asked first goes."""

WATCH_MS_MAX = 120_000
"""The longest watch; it is asked for again while somebody looks."""

BIDDERS_WANT = frozenset({"Scheduled", "Deployed", "Failed", "Cancelled"})
"""What everybody goes by who bids for an announced task: without it they would all take it, one after the other."""


class Audience:
    """One node's list of those who want to know."""

    def __init__(self, self_id: NodeId, roster: Roster, view: View, entry_of: Callable[[str], Entry | None]) -> None:
        """`entry_of` finds what this node knows of a task: its signer is the steward."""
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._entry_of = entry_of
        self._watchers: OrderedDict[NodeId, tuple[float, str]] = OrderedDict()

    def is_everybody(self, event: Event) -> bool:
        """Whether this event is published to the whole mesh."""
        if not self._view.is_large:
            return True
        entry = self._entry_of(event.task_id) if event.status in BIDDERS_WANT and event.task_id else None
        return entry is not None and entry.is_announced

    def hears_all(self) -> bool:
        """Whether every event comes to this node by itself."""
        return not self._view.is_large

    def watch(self, watch: EventWatch, now: Now) -> None:
        """Somebody watches at a node, for a while."""
        self._watchers.pop(watch.node_id, None)
        for_s = min(max(0, watch.for_ms), WATCH_MS_MAX) / 1000
        self._watchers[watch.node_id] = (now.boot_s + for_s, watch.namespace)
        while len(self._watchers) > WATCHERS_MAX:
            self._watchers.popitem(last=False)

    def steward_of(self, event: Event) -> NodeId | None:
        """Who has to know: the steward that called for the task."""
        entry = self._entry_of(event.task_id) if event.task_id else None
        return NodeId(entry.signed.signer) if entry is not None else None

    def others(self, event: Event, now: Now) -> list[NodeId]:
        """Who should know besides: the keepers that would follow the steward, and those who watch."""
        told: dict[NodeId, None] = {}
        if event.workload_id:
            told |= dict.fromkeys(stewards_in_line(event.workload_id, self._roster, self._view))
        for node_id, (until_s, namespace) in tuple(self._watchers.items()):
            if until_s <= now.boot_s:
                del self._watchers[node_id]
            elif not namespace or namespace == event.namespace:
                told[node_id] = None
        without = (self._self_id, self.steward_of(event))
        return [node_id for node_id in told if node_id not in without and self._view.is_alive(node_id)]
