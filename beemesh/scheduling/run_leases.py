"""Run leases: the right to run one ordinal of a workload of which there must never be two."""

from __future__ import annotations

from beemesh.effects import Cancel, Effects, Notify
from beemesh.events import Claim, ReleaseLease
from beemesh.scheduling.leases import run_key
from beemesh.scheduling.pods import Placement

RUN_LEASE_TTL_MS = 15_000
RUN_LEASE_RENEW_MS = 5_000
RUN_LEASE_MARGIN_S = 2.0
"""A replica that must not be doubled stops so long before its run lease ends, by this node's own clock."""

RUN_LEASE_WAIT_S = 20.0
"""How long a new holder waits for the former run lease to end: its time to live, the margin, and some."""


class RunLeases:
    """The run leases that this node holds or claims, and the pods they are for."""

    def __init__(self, room: str) -> None:
        self._room = room
        self._pods: dict[str, str] = {}

    def pod(self, key: str) -> str | None:
        """The pod (`<namespace>/<pod name>`) that a run lease is for."""
        return self._pods.get(key)

    def claim(self, placement: Placement) -> Notify:
        """Claim the run lease of a pod; a minority's grant is worth nothing."""
        task = placement.task
        key = run_key(task.workload_id, task.replica)
        self._pods[key] = placement.name
        return Notify(
            Claim(
                key=key,
                ttl_ms=RUN_LEASE_TTL_MS,
                renew_ms=RUN_LEASE_RENEW_MS,
                task_id=task.task_id,
                workload_id=task.workload_id,
                revision=task.revision,
                replica=task.replica,
            )
        )

    def release(self, name: str) -> Effects:
        """Give up the run lease of a pod, if it has one."""
        keys = [key for key, pod in self._pods.items() if pod == name]
        effects: Effects = []
        for key in keys:
            del self._pods[key]
            effects += [
                Cancel((self._room, "run-end", key)),
                Cancel((self._room, "run-again", key)),
                Notify(ReleaseLease(key)),
            ]
        return effects
