"""No replica beyond a standing quota is won by a node: what ran before it stands may run on, and nothing is added.

A quota bounds what is accepted. One that was lowered, or came late, keeps stewards from starting more than it leaves to
each workload, the oldest first; an order to start that was published before is good for its own lifetime. While
something is wrong a steward may know nothing of a quota.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from beemesh.events import TaskWon
from beemesh.intents.map import IntentMap
from beemesh.intents.record import body_of
from beemesh.scheduling.tasks import TASK_LIFETIME_MS
from beemesh.workloads.policies import Quota, replicas_allowed
from beemesh.workloads.record import Workload
from simulator.checkers import Blame
from simulator.checkers.doubles import GONE_S, is_troubled
from simulator.world import World

LOOK_EVERY_S = 1.0

KNOWN_S = TASK_LIFETIME_MS / 1000 + 6.0
"""So long after a record a task may be won that was published by the one before: its lifetime, and the way of a record
to the steward and of the task to its winner."""


class QuotaChecker:
    """Compares the ordinal of each task that is won with what quotas left to its workload of late."""

    name = "quotas"
    sees: tuple[type, ...] = (TaskWon,)

    def __init__(self) -> None:
        self._troubled_s = 0.0
        self._looked_s = float("-inf")
        self._allowed: deque[tuple[float, dict[str, int]]] = deque()
        """What quotas left to each workload that they bound, in the last seconds."""
        self.counts: Counter[str] = Counter()
        """Tasks that were judged, and those of them whose workload a quota bounded all along."""

    def look(self, world: World, blame: Blame) -> None:
        """Remember what quotas leave to each workload."""
        if is_troubled(world):
            self._troubled_s = world.now_s
        if world.now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = world.now_s
        self._allowed.append((world.now_s, _allowed(world)))
        while self._allowed[0][0] < world.now_s - KNOWN_S:
            self._allowed.popleft()

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A node is to run a replica."""
        task = event.task
        whole = bool(self._allowed) and at_s - self._allowed[0][0] > KNOWN_S - 2 * LOOK_EVERY_S
        if not whole or at_s - self._troubled_s < GONE_S or task.kind == "DaemonSet":
            return
        self.counts["judged"] += 1
        bounds = [allowed.get(task.workload_id) for _, allowed in self._allowed]
        left = [bound for bound in bounds if bound is not None]
        if len(left) < len(bounds):
            return
        self.counts["bounded"] += 1
        if task.replica < max(left):
            return
        just_now = _allowed(world).get(task.workload_id)  # a record may have changed since the last look
        if just_now is not None and task.replica >= just_now:
            text = f"quotas have left it {max(left)} at most for {KNOWN_S:.0f} s"
            blame(f"{task.workload_id}/{task.replica} is won by n{index}, and {text}")

    def at_end(self, world: World, blame: Blame) -> None:
        """Each task was judged when it was won."""


def _allowed(world: World) -> dict[str, int]:
    """What quotas leave to each workload that wants more, whichever agent is its steward: by the most generous records.
    One comes to all some time after it came to the first."""
    intents = [each.composition.intents for each in world.machines if each.composition is not None]
    if not intents or not all(any(True for _ in each.items("quota/")) for each in intents):
        return {}
    found = [_bounds(each) for each in intents]
    bounded = found[0].keys() & frozenset.intersection(*(frozenset(each) for each in found))
    return {name: max(each[name] for each in found) for name in bounded}


def _bounds(intents: IntentMap) -> dict[str, int]:
    """The same by the records of one agent."""
    bodies = (body_of(intent, "quota", Quota) for intent, _ in intents.items("quota/"))
    quotas = [quota for quota in bodies if quota is not None]
    records = (body_of(intent, "workload", Workload) for intent, _ in intents.items("workload/"))
    workloads = [workload for workload in records if workload is not None]
    found = {}
    for each in workloads:
        others = [other for other in workloads if other is not each and other.namespace == each.namespace]
        allowed, why = replicas_allowed(each, others, quotas)
        if why:
            found[each.workload_id] = allowed
    return found
