"""What a node has heard of tasks: each with its bids, and with why this node kept silent. Bounded; oldest go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.scheduling.messages import Bid, Event, Task
from beemesh.scheduling.score import better

TASKS_MAX = 2_000
"""Tasks remembered for explanations: some megabytes, and hours of an ordinary mesh."""

BODIES_BYTES_MAX = 8 * 1024 * 1024
"""Of all bodies together: eight times what so many tasks take that honest nodes publish. One may be far larger."""

BIDS_PER_TASK_MAX = 64
"""Bids kept of one task: many more than ever speak, since nodes that heard enough better ones keep silent."""

LOOK_AT_OLDEST_MAX = 64
"""How many of the oldest are looked at for one that can go."""

EARLY_BIDS_MAX = 512
"""Bids kept that came before their task."""

EARLY_EVENTS_MAX = 512
"""Tasks of which an event is kept that came before them: a repair may bring a task when all is over."""

State = Literal["waiting", "silent", "due", "spoken", "offered", "claiming", "watching", "won", "over"]
"""`waiting` for its record; `silent` (not eligible); `due` to speak; `spoken` and in the lead or not; `offered` to the
steward that asked; `claiming` the lease; `watching` another do it; `won` here; `over` for good."""

OPEN: frozenset[State] = frozenset({"waiting", "silent", "due", "spoken", "offered", "claiming", "watching"})


@dataclass(slots=True)
class Entry:
    """One task as this node knows it. `heard_s` and `ends_s` are on our boot clock."""

    task: Task
    signed: Signed
    heard_s: float
    heard_ms: int
    ends_s: float
    state: State = "waiting"
    bids: dict[NodeId, Bid] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    speak_s: float = 0.0
    retries: int = 0
    outcome: str = ""
    caller: NodeId | None = None
    """The steward that asked this node alone; None for a task that everybody heard, or that this node calls for."""
    is_announced: bool = False
    """Whether it came as one that everybody heard: others may bid for it as well."""
    refusals: dict[NodeId, tuple[str, ...]] = field(default_factory=dict)
    """On the steward's node: those who were asked and do not bid, with their reasons."""

    def best(self) -> Bid | None:
        """The best bid heard."""
        leader: Bid | None = None
        for bid in self.bids.values():
            if leader is None or better(bid, leader):
                leader = bid
        return leader

    def better_than(self, bid: Bid) -> int:
        """How many bids beat `bid`."""
        return sum(1 for other in self.bids.values() if better(other, bid))


class TaskBook:
    """Entries by task id; a read model for explanations, written by bidding alone."""

    def __init__(self, tasks_max: int = TASKS_MAX) -> None:
        self._tasks_max = tasks_max
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._body_bytes = 0
        self._early: OrderedDict[tuple[str, NodeId], Bid] = OrderedDict()
        self._told: OrderedDict[str, Event] = OrderedDict()
        self._open: dict[str, set[str]] = {}
        """Workload id → the tasks of it that may still lead to something here, and some that may not any more."""

    def get(self, task_id: str) -> Entry | None:
        """The entry of a task."""
        return self._entries.get(task_id)

    def entries(self) -> Iterator[Entry]:
        """All entries, oldest first."""
        return iter(tuple(self._entries.values()))

    def open(self) -> list[Entry]:
        """Those that may still lead to something here, oldest first."""
        found = (entry for workload_id in tuple(self._open) for entry in self.open_of(workload_id))
        return sorted(found, key=lambda entry: entry.task.task_id)

    def open_of(self, workload_id: str) -> list[Entry]:
        """Those of one workload that may still lead to something here, oldest first. Costs nothing for all others: most
        that is heard is about one workload of many."""
        known = (self._entries.get(task_id) for task_id in sorted(self._open.get(workload_id, ())))
        found = [entry for entry in known if entry is not None and entry.state in OPEN]
        if found:
            self._open[workload_id] = {entry.task.task_id for entry in found}
        else:
            self._open.pop(workload_id, None)
        return found

    def add(self, entry: Entry) -> list[Entry]:
        """Take a new task, with the bids that came before it. Returns those that had to go for it and may still lead to
        something here: whoever writes the book has to end them."""
        task_id = entry.task.task_id
        self._entries[task_id] = entry
        self._body_bytes += len(entry.signed.body)
        self.reopen(entry)
        for key in [key for key in self._early if key[0] == task_id]:
            bid = self._early.pop(key)
            entry.bids.setdefault(bid.node_id, bid)
        dropped: list[Entry] = []
        while len(self._entries) > self._tasks_max or self._body_bytes > BODIES_BYTES_MAX:
            oldest = self._most_dispensable()
            del self._entries[oldest.task.task_id]
            self._body_bytes -= len(oldest.signed.body)
            self.open_of(oldest.task.workload_id)  # forgets it there as well
            if oldest.state in OPEN:
                dropped.append(oldest)
        return dropped

    def _most_dispensable(self) -> Entry:
        """The oldest of those that lead to nothing any more, if one is near the end; a burst of new ones takes the
        place of what is over, not of what is under way."""
        oldest = list(islice(self._entries.values(), LOOK_AT_OLDEST_MAX))
        return next((entry for entry in oldest if entry.state not in OPEN), oldest[0])

    def reopen(self, entry: Entry) -> None:
        """A task that was only kept may lead to something here after all."""
        self._open.setdefault(entry.task.workload_id, set()).add(entry.task.task_id)

    def tell_early(self, event: Event) -> None:
        """Keep the latest event of a task that has not come yet."""
        if event.task_id and event.task_id not in self._entries:
            self._told[event.task_id] = event
            while len(self._told) > EARLY_EVENTS_MAX:
                self._told.popitem(last=False)

    def told_early(self, task_id: str) -> Event | None:
        """Hand out the event that came before its task, once."""
        return self._told.pop(task_id, None)

    def add_bid(self, bid: Bid) -> bool:
        """Keep a bid; False when this node has one of its author already, or no room."""
        entry = self._entries.get(bid.task_id)
        if entry is None:
            self._early[bid.task_id, bid.node_id] = bid
            while len(self._early) > EARLY_BIDS_MAX:
                self._early.popitem(last=False)
            return False
        if bid.node_id in entry.bids or len(entry.bids) >= BIDS_PER_TASK_MAX:
            return False
        entry.bids[bid.node_id] = bid
        return True
