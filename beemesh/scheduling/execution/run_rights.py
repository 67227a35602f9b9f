"""The right to run, as leases give it and take it: a pod that must not be doubled waits for its run lease, and stops
before it ends."""

from __future__ import annotations

from beemesh.effects import Effects, Now, Schedule
from beemesh.events import LeaseDenied, LeaseGranted, LeaseLost
from beemesh.scheduling.execution.deploying import Deployer
from beemesh.scheduling.execution.pod_keeper import PodKeeper
from beemesh.scheduling.execution.pods import PodTable
from beemesh.scheduling.execution.run_leases import RunLeases
from beemesh.scheduling.leases import RUN_LEASE_MARGIN_S


class RunRights:
    """Routes news of leases. Part of the executor; timers stand under `room`."""

    def __init__(self, room: str, pods: PodTable, run_leases: RunLeases, keeper: PodKeeper, deployer: Deployer) -> None:
        self._room = room
        self._pods = pods
        self._run_leases = run_leases
        self._keeper = keeper
        self._deployer = deployer

    def lease(self, event: LeaseGranted | LeaseDenied | LeaseLost, now: Now) -> Effects:
        """A lease was granted, renewed, denied or lost."""
        name = self._run_leases.pod(event.key)
        if name is None:
            return self._deployer.lease(event, now)
        deploying = self._pods.deploying.get(name)
        match event:
            case LeaseGranted(expires_boot_s=expires_s, fence=fence):
                if deploying is None and self._run_leases.is_overtaken(event.key, fence):
                    return self.lost(event.key, "somebody else held it since this pod was started", now)
                effects = self._run_leases.granted(event.key, expires_s, fence)
                if deploying is not None:
                    deploying.right.until(event.key, expires_s - RUN_LEASE_MARGIN_S)
                go_on = deploying is not None and deploying.step == "leasing"
                return effects + (self._deployer.open_manifest(deploying, now) if deploying and go_on else [])
            case LeaseDenied(retry_after_s=retry_s):
                return [Schedule((self._room, "run-again", event.key), now.boot_s + max(0.5, retry_s))]
            case _:
                return self.lost(event.key, event.reason, now)

    def lost(self, key: str, reason: str, now: Now) -> Effects:
        """The right to run ends: stop at once, also what has some time left to end. The lease is given up only once the
        pod is gone."""
        name = self._run_leases.pod(key) or ""
        deploying = self._pods.deploying.get(name)
        if deploying is None:
            return self._end(name, f"its run lease was lost: {reason}", now)
        deploying.grace_s = 0
        hurried = self._keeper.hurry(name, 0)
        if deploying.step == "cancelled":
            return hurried
        return [*hurried, *self._deployer.cancel(deploying, f"its run lease was lost: {reason}", now)]

    def _end(self, name: str, why: str, now: Now) -> Effects:
        """A pod that was placed here ends at once, also one that the runtime has not listed yet."""
        if name in self._pods.seen or name in self._pods.stopping or name not in self._pods.placed:
            return self._keeper.stop(name, why, now, grace_s=0)
        return [*self._keeper.stop_job(name, why, 0), *self._keeper.ending(name)]

    def outlasted(self, key: str) -> Effects:
        """The start of an earlier agent, of which nothing was seen, cannot come any more. Where something of the pod is
        here, its end gives up the lease."""
        name = self._run_leases.outlasted(key)
        if name is None or any(name in each for each in (self._pods.seen, self._pods.stopping, self._pods.deploying)):
            return []
        return self._run_leases.release(name)

    def claim_again(self, key: str) -> Effects:
        """A claim that was denied is made again."""
        name = self._run_leases.pod(key) or ""
        deploying = self._pods.deploying.get(name)
        placement = deploying.placement if deploying else self._pods.placed.get(name)
        return [self._run_leases.claim(placement)] if placement else []
