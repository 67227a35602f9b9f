"""What the podman engine knows of its containers, how it learns it with few calls, and how it tends those that fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from agent.runtime.brake import Brake
from agent.runtime.command import CallResult
from agent.runtime.contract import PodStatus
from agent.runtime.podman_state import (
    LABEL_ENGINE,
    EngineNote,
    PodmanContainer,
    parse_inspect,
    parse_ps,
    pod_statuses,
    restarts_of,
    start_failure,
    will_restart,
    with_details,
)

NEVER_S = float("inf")
STOP_ATTEMPTS = 6  # each works two times out of three, so one in some 700 is left to the next look
RESTART_S = 0.4  # within which podman starts a container again if it does so at all


class PodmanCall(Protocol):
    """Runs podman with these words."""

    def __call__(self, words: Sequence[str], *, timeout_s: float) -> Awaitable[CallResult]:
        """See `PodmanRuntime`."""
        ...


class PodmanTable:
    """The containers of one store as they were seen last."""

    def __init__(self, podman: PodmanCall, timeout_s: float) -> None:
        """`timeout_s` is the deadline of each call."""
        self.containers: dict[str, PodmanContainer] = {}
        self._podman = podman
        self._timeout_s = timeout_s
        self._brake = Brake()

    async def look(self) -> Sequence[PodmanContainer]:
        """Ask podman for all containers."""
        result = await self._podman(["ps", "-a", "--format", "json"], timeout_s=self._timeout_s)
        if result.exit_code:
            raise start_failure("list", result.error_text)
        found = await self._with_details(parse_ps(result.stdout))
        self.containers = {item.container_id: item for item in found}
        self._brake.keep(set(self.containers))
        return found

    def statuses(self, stopped: Iterable[str]) -> dict[str, PodStatus]:
        """The pods as of the last look; `stopped` names those that were asked to stop."""
        counted = (
            replace(item, restarts=item.restarts + self._brake.earlier_restarts(item.container_id))
            for item in self.containers.values()
        )
        resting = {key for key in self.containers if self._brake.is_paused(key)}
        return pod_statuses(counted, stopped, resting)

    def members(self, pod_id: str) -> dict[str, PodmanContainer]:
        """The containers of a pod by their own names."""
        mine = (item for item in self.containers.values() if item.pod_id == pod_id)
        return {item.name.removeprefix(f"{pod_id}-"): item for item in mine}

    def drop(self, pod_id: str) -> None:
        """Forget a pod that was removed."""
        self.containers = {key: item for key, item in self.containers.items() if item.pod_id != pod_id}

    def next_start_s(self) -> float:
        """Seconds until a resting container is to be started."""
        at = self._brake.next_s()
        return NEVER_S if at is None else max(at - time.monotonic(), 0.0)

    async def tend(self, stopped: Iterable[str], starting: Iterable[str]) -> bool:
        """Rest containers that end again and again, start those that should run and do not; True if it did anything."""
        did = False
        left_alone = {*stopped, *starting}
        for item in list(self.containers.values()):
            if item.infra or not item.pod_id or item.pod_id in left_alone:
                continue
            policy = EngineNote.decode(item.labels.get(LABEL_ENGINE, "")).restart_policy
            key, now_s = item.container_id, time.monotonic()
            if self._brake.counts(key, item.restarts, now_s):
                await self._rest(item)
                did = True
            elif item.state == "running":
                self._brake.runs(key)
            elif item.state in ("exited", "stopped") and will_restart(policy, item.exit_code):
                did |= await self._start_when_due(item, now_s)
        return did

    async def _start_when_due(self, item: PodmanContainer, now_s: float) -> bool:
        if not self._brake.ended(item.container_id, now_s):
            return False
        self._brake.started(item.container_id, item.restarts, now_s)
        await self._podman(["start", item.container_id], timeout_s=self._timeout_s)
        return True

    async def _rest(self, item: PodmanContainer) -> None:
        """Stop a container in a way that podman does not start it again.

        Podman notes a wish to stop only in the moments in which the container runs, so it is looked whether it took.
        """
        for _ in range(STOP_ATTEMPTS):
            await self._podman(["stop", "-t", "0", item.container_id], timeout_s=self._timeout_s)
            before = await self._restarts(item.container_id)
            await asyncio.sleep(RESTART_S)
            if before == await self._restarts(item.container_id):
                self._brake.paused(item.container_id, time.monotonic())
                return

    async def _restarts(self, container_id: str) -> int:
        result = await self._podman(["container", "inspect", container_id], timeout_s=self._timeout_s)
        return restarts_of(parse_inspect(result.stdout).get(container_id, {}))

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
