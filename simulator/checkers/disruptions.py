"""Nobody stops a ready replica on purpose where too few others are: a drain keeps to the budgets, a rollout to
`maxUnavailable`.

A steward acts by what nodes told it: what was ready a moment ago counts as ready, unless its own orders ended it. What
makes room for something more important may go in any case: budgets only say who goes first.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from beemesh.composition import Composition
from beemesh.events import IntentChanged, StopPod
from beemesh.intents.record import Cordon, body_of, workload_id_of, workload_key
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.execution.pods import name_of
from beemesh.scheduling.messages import Task
from beemesh.scheduling.stewardship.polling import POLL_BUSY_S, POLL_SETTLED_S
from beemesh.workloads.record import Workload
from simulator.checkers import Blame
from simulator.checkers.doubles import GONE_S, is_troubled
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime
from simulator.world import World

KNOWN_S = POLL_SETTLED_S + 4.0
"""So old may be what a steward knows of a replica: its pause between two questions, and the way of its order."""

NEW_S = 2 * POLL_BUSY_S + 1.0
"""So long after a replica got ready its steward may not know yet: it asks while there is something to do."""

ORDERS = frozenset({"drained", "outdated", "surplus", "duplicate", "failed"})
"""What a steward knows at once has ended: it gave the order."""

LEASTS_MAX = 256
"""Words of changes of one workload that are remembered: each machine tells of each."""

Pod = tuple[int, str, str]
"""(machine, `<namespace>/<pod>`, task id)"""


class DisruptionChecker:
    """Looks at each order to end a replica that moves or is outdated."""

    name = "disruptions"
    sees: tuple[type, ...] = (StopPod, IntentChanged)

    def __init__(self, runtime: MockRuntime) -> None:
        self._runtime = runtime
        self._troubled_s = 0.0
        self._ready_s: dict[Pod, float] = {}
        """When a pod was last seen ready."""
        self._new_s: dict[Pod, float] = {}
        """When it was first."""
        self._ended: set[Pod] = set()
        """Those that a steward's order has ended."""
        self._changed_s: dict[str, float] = {}
        """When a workload, or what budgets say (at the empty name), last changed at any node."""
        self._leasts: dict[str, deque[tuple[float, int]]] = {}
        """How many replicas of a workload must stay ready by the records of late, and when each of them came."""
        self.counts: Counter[str] = Counter()
        """Orders that were judged, by their reason."""

    def look(self, world: World, blame: Blame) -> None:
        """Remember what is ready."""
        if is_troubled(world):
            self._troubled_s = world.now_s
        self._ready_s = {pod: when_s for pod, when_s in self._ready_s.items() if world.now_s - when_s <= KNOWN_S}
        self._new_s = {pod: when_s for pod, when_s in self._new_s.items() if pod in self._ready_s}
        self._remember(world.now_s)

    def _remember(self, now_s: float) -> None:
        for machine, report, task in self._runtime.running():
            if report.ready:
                pod = (machine.index, name_of(report), task.task_id)
                self._ready_s[pod] = now_s
                self._new_s.setdefault(pod, now_s)

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A record changed, or a pod is asked to end."""
        if isinstance(event, IntentChanged):
            self._note(event, at_s)
            return
        machine, name = world.machines[index], f"{event.namespace}/{event.pod}"
        report, task = machine.pods.get(event.pod), self._runtime.tasks.get((index, name))
        if report is None or task is None or event.reason not in ORDERS:
            return
        self._remember(at_s)
        pod = (index, name, report.task_id)
        first = pod not in self._ended
        self._ended.add(pod)
        is_known = report.phase == "Running" and report.ready and at_s - self._new_s.get(pod, at_s) > NEW_S
        if first and is_known and at_s - self._troubled_s > GONE_S:
            others = [
                self._runtime.tasks[where, called]
                for (where, called, task_id), when_s in self._ready_s.items()
                if at_s - when_s <= KNOWN_S
                and (where, called, task_id) not in self._ended
                and self._runtime.tasks[where, called].task_id == task_id
            ]
            others = [each for each in others if each.workload_id == task.workload_id]
            self._judge(event.reason, machine, task, others, at_s, blame)

    def _note(self, event: IntentChanged, at_s: float) -> None:
        intent = event.intent
        if intent.key.startswith("budget/"):
            self._changed_s[""] = at_s
        name = workload_id_of(intent.key)
        if name:
            self._changed_s[name] = at_s
            least = _least_available(body_of(intent, "workload", Workload))
            self._leasts.setdefault(name, deque(maxlen=LEASTS_MAX)).append((at_s, least))

    def _judge(self, reason: str, machine: Machine, task: Task, others: list[Task], at_s: float, blame: Blame) -> None:
        what = f"{task.workload_id}/{task.replica} on n{machine.index} is stopped ({reason})"
        if reason == "drained":
            changed_s = max(self._changed_s.get("", 0.0), self._changed_s.get(task.workload_id, 0.0))
            knows = [each.composition for each in self._runtime.world.machines if each.composition is not None]
            leasts = (_budgeted(composition, task) for composition in knows)
            least = min(leasts, default=0) if at_s - changed_s > KNOWN_S else 0
            self.counts[reason] += 1
            ready = {each.replica for each in others}
            if task.replica not in ready and len(ready) < least:
                blame(f"{what}, and {sorted(ready)} are ready without it: budgets want {least}")
        elif reason == "outdated" and all(each.replica != task.replica for each in others):
            least = self._least(task.workload_id, at_s)
            bounded = any(map(_has_quota, self._runtime.world.machines))
            self.counts[reason] += 1
            ready = {each.replica for each in others}
            if len(ready) < least and not bounded:
                blame(f"{what}, and {sorted(ready)} are ready without it: its strategy wants {least}")

    def _least(self, workload_id: str, at_s: float) -> int:
        """The least that any record asks for that is known anywhere, or was of late; 0 where one promises nothing."""
        leasts = list(self._leasts.get(workload_id, ()))
        recent = [least for when_s, least in leasts if at_s - when_s <= KNOWN_S]
        before = [least for when_s, least in leasts if at_s - when_s > KNOWN_S]
        stand = [
            _least_available(_record(each.composition, workload_id))
            for each in self._runtime.world.machines
            if each.composition is not None
        ]
        return min([*recent, *before[-1:], *stand], default=0)

    def at_end(self, world: World, blame: Blame) -> None:
        """Each order was judged when it came."""


def _least_available(workload: Workload | None) -> int:
    """How many ordinals a rolling update leaves ready: what must not be doubled has to go before it comes."""
    if workload is None or workload.kind != "Deployment" or workload.strategy.type != "RollingUpdate":
        return 0
    missing = workload.strategy.max_unavailable
    missing = missing if workload.duplicate_tolerant else max(1, missing)
    return max(0, workload.replicas - missing)


def _record(composition: Composition, workload_id: str) -> Workload | None:
    """A workload as one agent knows it."""
    found = composition.intents.get(workload_key(workload_id))
    return body_of(found[0] if found else None, "workload", Workload)


def _budgeted(composition: Composition, task: Task) -> int:
    """How many replicas of a workload must stay ready, by the records of one agent: any may be the steward."""
    workload = _record(composition, task.workload_id)
    if workload is None:
        return 0
    orders = (body_of(intent, "cordon", Cordon) for intent, _ in composition.intents.items("cordon/"))
    forced = any(cordon is not None and cordon.drain is not None and cordon.drain.force for cordon in orders)
    disruption = Disruption(composition.intents.items)
    disruption.load()
    return disruption.allowance(workload, force=forced).healthy_least


def _has_quota(machine: Machine) -> bool:
    """Whether a quota may hold some replicas back: a rollout does not wait for these."""
    return machine.composition is not None and any(True for _ in machine.composition.intents.items("quota/"))
