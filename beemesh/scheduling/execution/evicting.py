"""Making room for a more important replica: its victims are asked to end, and it waits until they are gone.

The steward of each victim hears that it was preempted, and places it again elsewhere.
"""

from __future__ import annotations

from beemesh.effects import Effects, Notify, Now
from beemesh.events import Observed
from beemesh.scheduling.execution.pod_keeper import PodKeeper
from beemesh.scheduling.execution.pods import Deploying, PodTable
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.preemption import Candidate


class Evictor:
    """One node's evictions. Part of the deployer, which asks it before it begins."""

    def __init__(self, pods: PodTable, local: LocalWork, keeper: PodKeeper) -> None:
        self._pods = pods
        self._local = local
        self._keeper = keeper

    def begin(self, deploying: Deploying, victims: tuple[Candidate, ...], now: Now) -> Effects:
        """End those that have to go for a deployment, which waits for them; nothing when nobody has.

        They were chosen as if what goes for others were gone already, so it waits for that as well."""
        if not victims:
            return []
        by, names = deploying.placement.task, [each.name for each in victims]
        deploying.step, deploying.why = "evicting", f"evicting {', '.join(names)}"
        deploying.awaited = self._local.leaving | frozenset(names)
        effects: Effects = []
        for name in names:
            report = self._pods.seen.get(name)
            if report is None:
                continue
            reason = f"{by.workload_id} is more important (priority {by.qos.priority})"
            details = {"by": by.workload_id, "by_task": by.task_id}
            told = self._keeper.about(report, "Preempted", now, reason, details)
            stop = self._keeper.stop(name, f"preempted: {reason}", now)
            self._local.leave(name)
            effects += [told, *stop, Notify(Observed("scheduler_preemptions_total", {}))]
        return effects

    def room_made(self) -> None:
        """Deployments that wait for nobody any more are put in line again."""
        for each in self._pods.deploying.values():
            if each.step == "evicting" and not any(self._is_here(name) for name in each.awaited):
                each.step, each.why = "queued", ""

    def _is_here(self, name: str) -> bool:
        return name in self._pods.stopping or self._pods.active(name)
