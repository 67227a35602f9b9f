"""What the podman engine knows of its containers, how it learns it with few calls, and how it restarts those that end.

Podman is told never to restart anything: this table is the one owner of restarts, by `beemesh.workloads.backoff`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from agent.runtime.command import CallResult
from agent.runtime.contract import PodStatus
from agent.runtime.podman_state import (
    LABEL_ENGINE,
    EngineNote,
    PodmanContainer,
    parse_inspect,
    parse_ps,
    pod_statuses,
    start_failure,
    will_restart,
    with_details,
)
from agent.runtime.restarts import RestartBook

NEVER_S = float("inf")


class PodmanCall(Protocol):
    """Runs podman with these words."""

    def __call__(self, words: Sequence[str], *, timeout_s: float) -> Awaitable[CallResult]:
        """See `PodmanRuntime`."""
        ...


class PodmanTable:
    """The containers of one store as they were seen last."""

    def __init__(
        self, podman: PodmanCall, timeout_s: float, restarts: Path, ends_are_over: Callable[[], Awaitable[None]]
    ) -> None:
        """`timeout_s` is the deadline of each call; `restarts` the folder, in memory, that counts them.

        `ends_are_over` waits, with a bound, until podman has cleaned up after what ended.
        """
        self.containers: dict[str, PodmanContainer] = {}
        self._podman = podman
        self._ends_are_over = ends_are_over
        self._being_ended: Counter[str] = Counter()
        self._timeout_s = timeout_s
        self._book = RestartBook(restarts)

    async def look(self, left_alone: Set[str] = frozenset()) -> Sequence[PodmanContainer]:
        """Ask podman for all containers. Those of the pods `left_alone` (stopped, being started) are not restarted."""
        result = await self._podman(["ps", "-a", "--format", "json"], timeout_s=self._timeout_s)
        if result.exit_code:
            raise start_failure("list", result.error_text)
        found = await self._with_details(parse_ps(result.stdout))
        self.containers = {item.container_id: item for item in found}
        self._book.keep(self.containers.keys())
        for item in found:
            if not self._is_left_alone(item, left_alone) and _is_to_run_again(item):
                self._book.ended(item.container_id)
            else:
                self._book.runs(item.container_id)
        return found

    def statuses(self, stopped: Iterable[str]) -> dict[str, PodStatus]:
        """The pods as of the last look; `stopped` names those that were asked to stop."""
        counted = (
            replace(item, restarts=item.restarts + sheet.restarts, last_exit_code=sheet.exit_code)
            for item in self.containers.values()
            for sheet in (self._book.sheet(item.container_id),)
        )
        resting = {key for key in self.containers if self._book.is_resting(key)}
        return pod_statuses(counted, stopped, resting)

    def members(self, pod_id: str) -> dict[str, PodmanContainer]:
        """The containers of a pod by their own names."""
        mine = (item for item in self.containers.values() if item.pod_id == pod_id)
        return {item.name.removeprefix(f"{pod_id}-"): item for item in mine}

    def drop(self, pod_id: str) -> None:
        """Forget a pod that was removed."""
        self.containers = {key: item for key, item in self.containers.items() if item.pod_id != pod_id}

    def read_restarts(self) -> None:
        """Take back what an earlier agent counted."""
        self._book.read()

    def next_start_s(self) -> float:
        """Seconds until an ended container is to be started."""
        at = self._book.next_s()
        return NEVER_S if at is None else at

    @contextmanager
    def being_ended(self, container_id: str) -> Iterator[None]:
        """Do not start the container again before this is left: a `podman stop` that still runs would end it anew.

        It stops the whole pod once the container is gone, by the exit policy that `podman kube play` sets.
        """
        self._being_ended[container_id] += 1
        try:
            yield
        finally:
            self._being_ended[container_id] -= 1
            self._being_ended += Counter()  # forgets the zeros

    async def tend(self, left_alone: Callable[[], Set[str]]) -> bool:
        """Start again what ended and is due; True if it did anything. `left_alone` as for `look`."""
        did = False
        for item in list(self.containers.values()):
            if not self._book.is_due(item.container_id):
                continue
            await self._ends_are_over()
            if self._is_left_alone(item, left_alone()):  # it may have been stopped meanwhile
                continue
            self._book.restarted(item.container_id, item.exit_code)
            await self._podman(["start", item.container_id], timeout_s=self._timeout_s)
            did = True
        return did

    def _is_left_alone(self, item: PodmanContainer, pods: Set[str]) -> bool:
        return item.pod_id in pods or item.container_id in self._being_ended

    async def _with_details(self, found: Sequence[PodmanContainer]) -> Sequence[PodmanContainer]:
        """Ask more about those that are new or changed: that is one call for all of them, and seldom."""
        asked: list[str] = []
        merged: dict[str, PodmanContainer] = {}
        for item in found:
            known = self.containers.get(item.container_id)
            if known is not None and (known.state, known.pid, known.exit_code) == (
                item.state,
                item.pid,
                item.exit_code,
            ):
                merged[item.container_id] = replace(
                    item, started_at_ms=known.started_at_ms, restarts=known.restarts, oom=known.oom, ip=known.ip
                )
            else:
                merged[item.container_id] = item
                asked.append(item.container_id)
        if asked:
            result = await self._podman(["container", "inspect", *asked], timeout_s=self._timeout_s)
            for container_id, details in parse_inspect(result.stdout).items():
                if container_id in merged:
                    merged[container_id] = with_details(merged[container_id], details)
        return tuple(merged.values())


def _is_to_run_again(item: PodmanContainer) -> bool:
    if item.infra or not item.pod_id or item.state not in ("exited", "stopped"):
        return False
    policy = EngineNote.decode(item.labels.get(LABEL_ENGINE, "")).restart_policy
    return will_restart(policy, item.exit_code)
