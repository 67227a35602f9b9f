"""How podman's pods go: with their containers, their files and their marks, and again later where it does not work."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

from agent.runtime.command import CallResult
from agent.runtime.contract import RuntimeFailure
from agent.runtime.podman_setup import PodmanSetup
from agent.runtime.podman_state import start_failure
from agent.runtime.podman_table import PodmanCall

CONMON_END_S = 2.0  # for conmon's own clean-up after a container's end, which takes some 100 ms
CONMON_POLL_S = 0.02
STOP_TIMEOUT_S = 10.0  # of what only makes the removal faster
CLEAN_AGAIN_S = (0.2, 1.0)  # a start that was killed half-way may hold a container for a moment longer


class PodmanRemoval:
    """Removes pods of one store, whatever there is of them."""

    def __init__(self, setup: PodmanSetup, podman: PodmanCall, timeout_s: float) -> None:
        """`timeout_s` is the deadline of each call of podman."""
        self.dirty: set[str] = set()
        """The pods that are to go and could not be removed yet."""
        self._setup = setup
        self._podman = podman
        self._timeout_s = timeout_s
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def remove(self, pod_id: str) -> None:
        """Remove a pod and its files, whatever there is of it; what cannot be removed now is tried again later."""
        self.dirty.add(pod_id)
        async with self._turn(pod_id):
            await self._remove(pod_id)

    async def remove_dirty(self, left_alone: Callable[[], Set[str]]) -> None:
        """Try again what could not be removed, without the pods `left_alone`, which are being started.

        One that still cannot be removed keeps no other from going.
        """
        for pod_id in sorted(self.dirty):
            async with self._turn(pod_id):
                if pod_id in self.dirty and pod_id not in left_alone():
                    with suppress(RuntimeFailure, OSError):
                        await self._remove(pod_id)

    def _turn(self, pod_id: str) -> asyncio.Lock:
        """One removal of a pod at a time: a second one that went on for longer would end the pod's successor."""
        return self._turns.setdefault(pod_id, asyncio.Lock())

    async def _remove(self, pod_id: str) -> None:
        for pause_s in (*CLEAN_AGAIN_S, None):
            result = await self.remove_pods(pod_id)
            if not result.exit_code or "no such pod" in result.error_text:
                break
            if pause_s is None:
                raise start_failure(pod_id, result.error_text)
            await asyncio.sleep(pause_s)
        places = self._setup.places(pod_id)
        await asyncio.to_thread(_delete, places.files, places.memory, places.disk)
        (self._setup.stopped_marks / pod_id).unlink(missing_ok=True)
        self.dirty.discard(pod_id)

    async def remove_pods(self, which: str) -> CallResult:
        """Kill and remove one pod, or all with `-a`. Stopped first, because that is three seconds faster."""
        timeout_s = min(STOP_TIMEOUT_S, self._timeout_s)
        with suppress(RuntimeFailure):  # it never ends where a conmon died before its container; the next call does
            stopped = await self._podman(["pod", "stop", "-t", "0", which], timeout_s=timeout_s)
            if "no such pod" in stopped.error_text:
                return stopped
        await self.ends_are_over()
        return await self._podman(["pod", "rm", "-f", "-t", "0", which], timeout_s=self._timeout_s)

    async def ends_are_over(self) -> None:
        """Wait, with a bound, until every conmon has cleaned up after its container."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONMON_END_S):
                while self._setup.is_finishing():  # noqa: ASYNC110 - files of other programs raise no event
                    await asyncio.sleep(CONMON_POLL_S)


def _delete(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
