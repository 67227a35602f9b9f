"""Run leases: the right to run one ordinal of a workload of which there must never be two."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from beemesh.effects import Cancel, Effects, Erase, Notify, Now, Save, Schedule
from beemesh.events import Claim, ReleaseLease, RunRight
from beemesh.scheduling.execution.pods import Placement
from beemesh.scheduling.leases import RUN_LEASE_MARGIN_S, run_key
from beemesh.undecodable import decoded_rows

TABLE = "run_leases"
"""Until when each pod may run, by this machine's boot clock: an agent that starts anew has to know."""

RUN_LEASE_TTL_MS = 15_000
RUN_LEASE_RENEW_MS = 5_000

RUN_LEASE_WAIT_S = 20.0
"""How long a new holder waits for the former run lease to end: its time to live, the margin, and some."""


UNKNOWN_S = 1.0
"""A pod that was found without a word about its lease may run for so much longer: a claim is answered sooner."""


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    """One row: until when a pod may run, and the fence of the lease that says so."""

    ends_s: float
    fence: int


class RunLeases:
    """The run leases that this node holds or claims, and the pods they are for."""

    def __init__(self, room: str) -> None:
        self._room = room
        self._pods: dict[str, str] = {}
        self._saved: dict[str, _Saved] = {}
        """Key → the lease by which an earlier agent of this machine ran the pod."""
        self._fences: dict[str, int] = {}
        """Key → the fence by which the pod runs."""
        self._inherited: dict[str, float] = {}
        """Key → until when an earlier agent of this machine might have started the pod, by our boot clock."""
        self._lasting: set[str] = set()
        """Keys that are not given up before that: such a start may still be under way."""

    def restore(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Take back until when what runs here may run."""
        self._saved = {
            key.decode(errors="replace"): saved for key, saved in decoded_rows(rows, _Saved) if saved is not None
        }

    def granted(self, key: str, ends_s: float, fence: int) -> Effects:
        """The lease lasts until `ends_s` (our boot clock): stop in time, also if this agent does not live to see it."""
        self._fences[key] = fence
        return [
            Save(TABLE, key.encode(), msgspec.msgpack.encode(_Saved(ends_s, fence))),
            *self._stop_before(key, ends_s),
        ]

    def is_overtaken(self, key: str, fence: int) -> bool:
        """Whether somebody may have been granted the key between the pod that runs here and this grant of ours: a claim
        anew takes the next fence however often it has to be made (`Claim.follows`), unless another node took that."""
        runs_by = self._fences.get(key, 0)
        return runs_by > 0 and fence > runs_by + 1

    def resume(self, placement: Placement, now: Now) -> Effects:
        """An agent starts where a pod may run by a lease: until the runtime has said whether it does, the lease is kept
        as if it did. One that is over, or of a former boot, keeps nobody away any more and is not claimed: the pod has
        to end, if it is there."""
        key = run_key(placement.task.workload_id, placement.task.replica)
        saved = self._saved.get(key)
        if saved is not None and 0 < saved.ends_s - RUN_LEASE_MARGIN_S - now.boot_s <= RUN_LEASE_TTL_MS / 1000:
            return self.adopt(placement, now)
        return []

    def adopt(self, placement: Placement, now: Now) -> Effects:
        """A pod of an earlier agent runs here: it stops in time like any other, unless its lease is granted again."""
        key = run_key(placement.task.workload_id, placement.task.replica)
        if self._pods.get(key) == placement.name:
            return []  # since this agent started
        latest_s = now.boot_s + RUN_LEASE_TTL_MS / 1000  # what a former boot's clock said means nothing now
        saved = self._saved.pop(key, _Saved(now.boot_s + RUN_LEASE_MARGIN_S + UNKNOWN_S, 0))
        self._fences[key] = saved.fence
        ends_s = min(saved.ends_s, latest_s)
        self._inherited[key] = ends_s - RUN_LEASE_MARGIN_S
        return [self.claim(placement), *self._stop_before(key, ends_s)]

    def _stop_before(self, key: str, ends_s: float) -> Effects:
        """Set the timer by which the pod stops, and say so to whoever sees to it should this agent not be there."""
        until_s = ends_s - RUN_LEASE_MARGIN_S
        return [
            Notify(RunRight(self._pods[key], until_s)),
            Schedule((self._room, "run-end", key), until_s),
        ]

    def outlast(self, name: str) -> Effects:
        """Nothing is seen of a pod that an earlier agent may have been starting: its lease is kept, whoever gives it
        up, for as long as that start had the right to come to its end."""
        keys = [key for key, pod in self._pods.items() if pod == name and key in self._inherited]
        self._lasting.update(keys)
        return [Schedule((self._room, "run-over", key), self._inherited[key]) for key in keys]

    def outlasted(self, key: str) -> str | None:
        """No start of an earlier agent can come any more; the pod that the lease is for."""
        self._lasting.discard(key)
        return self._pods.get(key)

    def pod(self, key: str) -> str | None:
        """The pod (`<namespace>/<pod name>`) that a run lease is for."""
        return self._pods.get(key)

    def guards(self, name: str) -> bool:
        """Whether a run lease is claimed or held for a pod."""
        return name in self._pods.values()

    def is_taken(self, placement: Placement) -> bool:
        """Whether another pod here runs by the right that this one needs: one of another revision of its replica."""
        held_by = self._pods.get(run_key(placement.task.workload_id, placement.task.replica))
        return held_by is not None and held_by != placement.name

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
                follows=self._fences.get(key, 0),
            )
        )

    def release(self, name: str) -> Effects:
        """Give up the run lease of a pod, if it has one that need not outlast a start."""
        keys = [key for key, pod in self._pods.items() if pod == name and key not in self._lasting]
        effects: Effects = []
        for key in keys:
            del self._pods[key]
            self._fences.pop(key, None)
            self._inherited.pop(key, None)
            effects += [
                Cancel((self._room, "run-end", key)),
                Cancel((self._room, "run-again", key)),
                Erase(TABLE, key.encode()),
                Notify(RunRight(name, None)),
                Notify(ReleaseLease(key)),
            ]
        return effects
