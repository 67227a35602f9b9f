"""Ending pods: because an operator deleted the workload, or a steward proves its right and the record supports it."""

from __future__ import annotations

from beemesh.effects import Effects, Now, Reply, Schedule
from beemesh.ids import NodeId
from beemesh.intents.record import workload_key
from beemesh.scheduling.counting import count
from beemesh.scheduling.execution.deploying import Deployer
from beemesh.scheduling.execution.orders import ProofCheck, objection_to
from beemesh.scheduling.execution.pod_keeper import PodKeeper
from beemesh.scheduling.execution.pods import Deploying, PodTable, name_of
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.tasks import IntentLookup, workload_of
from beemesh.workloads.observation import ReplicaReport, StopAnswer, StopReplica

STOP_AGAIN_S = 5.0
"""A stop that the runtime could not carry out is tried again."""


class Stopper:
    """One node's stops. Part of the executor, which routes events to it; timers stand under `room`."""

    def __init__(
        self,
        room: str,
        pods: PodTable,
        intent_for: IntentLookup,
        check_proof: ProofCheck,
        judge: Judge,
        keeper: PodKeeper,
        deployer: Deployer,
    ) -> None:
        self._room = room
        self._pods = pods
        self._intent_for = intent_for
        self._check_proof = check_proof
        self._judge = judge
        self._keeper = keeper
        self._deployer = deployer

    def deleted(self, workload_id: str, now: Now) -> Effects:
        """The operator's tombstone is here, signed: no steward is needed to obey it."""
        effects: Effects = []
        for deploying in tuple(self._pods.deploying.values()):
            if deploying.placement.task.workload_id == workload_id and deploying.step != "cancelled":
                effects += self._deployer.cancel(deploying, "the workload was deleted", now)
        for name, report in tuple(self._pods.seen.items()):
            if report.workload_id == workload_id:
                effects += self._keeper.stop(name, "deleted", now)
        return effects

    def ordered(self, order: StopReplica, sender: NodeId, token: int, now: Now) -> Effects:
        """A steward orders one replica to be stopped."""
        report = next((each for each in self._pods.listed() if _is_meant(order, each)), None)
        if report is None:
            return [Reply(token, StopAnswer(True, "there is no such replica here"))]
        workload = workload_of(self._intent_for(workload_key(order.workload_id)))
        cordon = self._judge.own_orders()
        facts = (order, sender, report, workload)
        target = order.rollback_to or (workload.current.number if workload is not None else 0)
        suits = workload is None or self._judge.suits(workload, target)
        against = objection_to(*facts, self._check_proof, now.wall_ms, cordon, suits=suits)
        if against:
            return [Reply(token, StopAnswer(False, against)), count("stops", result="refused")]
        name = name_of(report)
        deploying = self._pods.deploying.get(name)
        if deploying is not None and name not in self._pods.stopping:
            return [Reply(token, StopAnswer(accepted=True)), *self._give_up(deploying, order.reason, now)]
        is_ending = name in self._pods.stopping  # then it is hurried at most, and was counted already
        stop = self._keeper.stop(name, order.reason, now, grace_s=max(0, min(order.grace_s, 600)))
        kills = [count("reconcile_kills", reason=order.reason)] if stop and not is_ending else []
        return [Reply(token, StopAnswer(accepted=True)), *stop, *kills]

    def _give_up(self, deploying: Deploying, why: str, now: Now) -> Effects:
        """End what is on its way. What restarts alone, after a power cut, ran before and stands in nobody's way: it is
        stopped like any other, within its budget, when it runs."""
        if not deploying.lease or deploying.step == "cancelled":
            return []
        return self._deployer.cancel(deploying, why, now)

    def stopped(self, name: str, error: str, now: Now) -> Effects:
        """The runtime has ended a pod, or could not. Of several jobs that were to end it the last one counts: until
        then one of them could still end a successor of the same name."""
        deploying = self._pods.deploying.get(name)
        stopping = self._pods.stopping.get(name)
        if stopping is not None:
            stopping.jobs -= 1
            if stopping.jobs > 0:
                return []
        if error:
            return [Schedule((self._room, "stop-again", name), now.boot_s + STOP_AGAIN_S)]
        self._pods.stopping.pop(name, None)
        reason = stopping.reason if stopping is not None else ""
        report = self._pods.seen.get(name)
        if deploying is not None:
            self._pods.seen.pop(name, None)
            if deploying.step == "cancelled":
                return self._deployer.drop(deploying, now)
            if deploying.step == "clearing":
                return self._deployer.begin(deploying, now)
            return self._deployer.room_made(now)  # it comes after others
        told = [self._keeper.about(report, "Stopped", now, reason)] if report else []
        return [*self._keeper.gone(name), *told, *self._deployer.room_made(now)]

    def again(self, name: str) -> Effects:
        """A stop that failed is tried once more, unless somebody does so already."""
        stopping = self._pods.stopping.get(name)
        return self._keeper.stop_job(name, stopping.reason, 0) if stopping is not None and stopping.jobs <= 0 else []


def _is_meant(order: StopReplica, report: ReplicaReport) -> bool:
    if (report.workload_id, report.replica) != (order.workload_id, order.replica):
        return False
    return order.task_id == report.task_id if order.task_id else order.revision == report.revision
