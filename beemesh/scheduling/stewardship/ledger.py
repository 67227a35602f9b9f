"""Which tasks are outstanding, as far as one node has heard: the memory by which no replica ever has two of them.

Fed by what everybody publishes, so a steward that takes over knows what its predecessor had begun. Anybody may publish
a task: each signer has a place of its own here, and takes nobody else's.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.scheduling.messages import Event, Task

OUTSTANDING_MAX = 4_000
"""Outstanding tasks remembered: those of a whole mesh that starts at once."""

MARGIN_S = 1.0
"""A task counts for a little longer than its own lifetime: others heard it later than we."""

Key = tuple[str, int, int, bytes]
"""(workload id, revision, replica, signer)"""


@dataclass(slots=True)
class Outstanding:
    """One task that may still lead to a pod."""

    task: Task
    signed: Signed
    heard_s: float
    ends_s: float
    bids: int = 0
    holder: NodeId | None = None
    held_s: float = 0.0
    asked: bool = False


class TaskLedger:
    """Outstanding tasks by replica and signer; a signer's newer task of a replica takes its older one's place."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[Key, Outstanding] = OrderedDict()
        self._by_id: dict[str, Key] = {}
        self._of: dict[str, dict[Key, Outstanding]] = {}
        """Workload id → its own, oldest first: a steward asks for them several times in each of its steps."""

    def heard(self, task: Task, signed: Signed, boot_s: float) -> None:
        """A task was published."""
        key = (task.workload_id, task.revision, task.replica, signed.signer)
        known = self._tasks.get(key)
        if task.task_id in self._by_id or (known is not None and known.task.task_id >= task.task_id):
            return
        ends_s = boot_s + (task.expires_ms - task.issued_ms) / 1000 + MARGIN_S
        if known is not None:
            self.drop(known.task)
        outstanding = Outstanding(task, signed, boot_s, ends_s)
        self._tasks[key] = outstanding
        self._of.setdefault(task.workload_id, {})[key] = outstanding
        self._by_id[task.task_id] = key
        while len(self._tasks) > OUTSTANDING_MAX:
            self._make_room()

    def _make_room(self) -> None:
        """Whoever has the most goes without its oldest: a flood costs nobody but its author."""
        (most, _), *_ = Counter(signer for *_, signer in self._tasks).most_common(1)
        self.drop(next(each.task for key, each in self._tasks.items() if key[3] == most))

    def bid(self, task_id: str) -> None:
        """Somebody bid for it."""
        found = self.find(task_id)
        if found is not None:
            found.bids += 1

    def told(self, event: Event, boot_s: float) -> None:
        """Something happened to a task."""
        found = self.find(event.task_id) if event.task_id else None
        if found is None:
            return
        if event.status == "Scheduled":
            found.holder, found.held_s = event.node_id, boot_s
        elif event.status == "Deployed" or (
            event.status in ("Failed", "Cancelled") and found.holder in (None, event.node_id)
        ):
            self.drop(found.task)

    def drop_all(self, workload_id: str) -> None:
        """Forget the tasks of a workload."""
        for each in self.of(workload_id):
            self.drop(each.task)

    def drop_untaken(self, workload_id: str) -> None:
        """Forget those that nobody has taken."""
        for each in self.of(workload_id):
            if each.holder is None:
                self.drop(each.task)

    def drop(self, task: Task) -> None:
        """It is over."""
        key = self._by_id.pop(task.task_id, None)
        if key is None:
            return
        del self._tasks[key]
        mine = self._of[key[0]]
        del mine[key]
        if not mine:
            del self._of[key[0]]

    def find(self, task_id: str) -> Outstanding | None:
        """The outstanding task of that id."""
        key = self._by_id.get(task_id)
        return self._tasks[key] if key else None

    def of(self, workload_id: str) -> Iterator[Outstanding]:
        """The outstanding tasks of a workload, oldest first. Costs nothing for those of all others."""
        return iter(tuple(self._of.get(workload_id, {}).values()))
