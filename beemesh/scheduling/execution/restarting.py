"""Bringing back what ran here before the machine was off: such pods as it may start again by itself."""

from __future__ import annotations

from beemesh.custody.local_copies import LocalCopies
from beemesh.effects import Answered, Effects, Now
from beemesh.ids import NodeId
from beemesh.intents.record import workload_key
from beemesh.scheduling.counting import count
from beemesh.scheduling.execution.deploying import Deployer
from beemesh.scheduling.execution.pod_keeper import PodKeeper
from beemesh.scheduling.execution.pods import Deploying, PodTable, restarts_alone
from beemesh.scheduling.execution.recovery import Recovery
from beemesh.scheduling.tasks import IntentLookup, workload_of
from beemesh.workloads.daemons import may_have


class Restarts:
    """What comes back after a boot. Part of the executor, which routes events to it."""

    def __init__(
        self,
        self_id: NodeId,
        pods: PodTable,
        intent_for: IntentLookup,
        copies: LocalCopies,
        recovery: Recovery,
        keeper: PodKeeper,
        deployer: Deployer,
    ) -> None:
        self._self_id = self_id
        self._pods = pods
        self._intent_for = intent_for
        self._copies = copies
        self._recovery = recovery
        self._keeper = keeper
        self._deployer = deployer

    def begin(self, now: Now) -> Effects:
        """The runtime has said what runs: what does not, and may come back, waits until the others were heard."""
        effects: Effects = []
        for name, placement in list(self._pods.placed.items()):
            if name in self._pods.seen or name in self._pods.deploying:
                continue
            if restarts_alone(placement.task) and not placement.ending:
                self._pods.recovering[name] = placement
                effects += self._keeper.promise(name, placement.task, started=False)
            else:
                effects += self._keeper.never_came(name)
        return effects + (self._recovery.begin(now) if self._pods.recovering else [])

    def ask(self, now: Now) -> Effects:
        """Ask the others what they run; where there are none, go on at once."""
        return self._recovery.ask(now) or self._recover(now)

    def answered(self, answer: Answered, now: Now) -> Effects:
        """Take an answer; the last one decides."""
        known = self._recovery.answered(answer.request_id, answer.message)
        return self._recover(now) if known and self._recovery.is_over else []

    def _recover(self, now: Now) -> Effects:
        """Everybody who is there has been heard: start what is still ours."""
        effects: Effects = []
        for name, placement in list(self._pods.recovering.items()):
            del self._pods.recovering[name]
            if name in self._pods.seen or name in self._pods.deploying:
                continue  # it is here: what an earlier agent had begun was finished meanwhile
            workload = workload_of(self._intent_for(workload_key(placement.task.workload_id)))
            revision, replica = placement.task.revision, placement.task.replica
            kept = workload.covering(revision) if workload is not None else None
            wanted = workload is not None and kept is not None and may_have(workload, replica, self._self_id)
            plaintext = self._copies.open(name) if wanted and not self._recovery.overtaken(placement) else None
            if plaintext is None:
                effects += self._keeper.forget(name) + self._keeper.withdraw(name)
                continue
            deploying = Deploying(placement, "", None, "deploying", now.boot_s)
            self._pods.deploying[name] = deploying
            effects += [count("restarts_alone"), *self._deployer.deploy(deploying, plaintext)]
        self._recovery.running = False
        return effects
