"""`beemesh-agent end-pods`, which the guard runs: ends the pods of this agent whose right to run is over.

It goes by the file of rights alone and reads it anew before each step: a pod whose deadline was moved on in the
meantime is left alone. It looks for each one a while longer than it takes, since an engine may have been starting it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from agent import rights as files
from agent.clock import boot_s
from agent.files import read_settings
from agent.guarding import paths_of
from agent.logs import set_up_logging
from agent.pods import runtime_pod_id
from agent.rights import AGAIN_S, Overdue, Rights, RightsRefused
from agent.runtime.contract import Runtime, RuntimeFailure
from agent.runtime.factory import runtime_for

log = logging.getLogger("beemesh.guard")

LOOK_S = 0.25
LIST_S = 5.0
"""An engine that cannot list its pods in this time is told to remove them unseen."""

REMOVE_S = 20.0
AT_ONCE = 4
"""Removals at the same time: an engine that is asked for more is no faster."""


def end_overdue_pods(config_directory: Path) -> int:
    """Until no pod is overdue any more, or each has had its tries; 0 when none is left over."""
    settings = read_settings(config_directory)
    set_up_logging(settings.log)
    boot, path = files.boot_id(), paths_of(settings).rights
    ending = Endings(lambda: files.read(path, boot), lambda: runtime_for(settings))
    return asyncio.run(ending.run())


class Endings:
    """The pods that are being ended."""

    def __init__(
        self,
        read: Callable[[], Rights | None],
        runtime: Callable[[], Runtime],
        now_s: Callable[[], float] = boot_s,
        awake_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`runtime` makes an engine that knows nothing yet: what one has seen may be old a moment later."""
        self._read = read
        self._runtime = runtime
        self._now_s = now_s
        self._awake_s = awake_s
        self._overdue = Overdue()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tried: set[str] = set()
        self._failed: set[str] = set()
        self._looked_s = -AGAIN_S
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> int:
        """Until nothing is overdue any more; 1 where a pod could not be ended."""
        while self._due():
            await self.step()
            await asyncio.sleep(LOOK_S)
        await asyncio.gather(*self._tasks.values())
        left = [pod for pod in sorted(self._failed) if self._is_over(pod)]
        for pod in left:
            log.error("gave up on pod %s, which must not run any more: end it by hand, or start its agent", pod)
        return 1 if left else 0

    async def step(self) -> None:
        """Begin with what has become overdue since the last step, and from time to time look at the others again."""
        due = self._due()
        again = self._awake_s() >= self._looked_s + AGAIN_S
        if not again and self._tried.issuperset(due):
            return
        self._looked_s = self._awake_s()
        listed = await self._listed()
        for pod in due:
            is_here = listed is None or _id(pod) in listed
            is_done = pod in self._tried and pod not in self._failed and not is_here
            is_busy = pod in self._tasks and not self._tasks[pod].done()
            if not is_done and not is_busy:
                self._tasks[pod] = asyncio.create_task(self._end(pod, is_here))
        self._tried.update(due)

    async def _end(self, pod: str, is_here: bool) -> None:
        """Also what is not listed: a start that its agent did not live to see may have left something that runs."""
        async with self._slots:
            if not self._is_over(pod):
                return
            runtime = self._runtime()
            try:
                async with asyncio.timeout(REMOVE_S):
                    await runtime.remove(_id(pod))
            except Exception as error:  # a fault of ours must not keep the next try from being made
                if pod not in self._failed:
                    log.warning("cannot end pod %s, it is tried again: %s: %s", pod, type(error).__name__, error)
                self._failed.add(pod)
            else:
                self._failed.discard(pod)
                if is_here:
                    log.warning("ended pod %s: its right to run was over, and its agent had not ended it", pod)
            finally:
                await runtime.close()

    async def _listed(self) -> set[str] | None:
        """The pods that the engine has; None where it cannot tell."""
        runtime = self._runtime()
        try:
            async with asyncio.timeout(LIST_S):
                return {status.pod_id for status in await runtime.list()}
        except (RuntimeFailure, OSError, TimeoutError):
            return None
        finally:
            await runtime.close()

    def _rights(self) -> Rights:
        try:
            return self._read() or {}
        except (RightsRefused, OSError):
            return {}

    def _due(self) -> list[str]:
        return self._overdue.look(self._rights(), self._now_s(), self._awake_s())

    def _is_over(self, pod: str) -> bool:
        until_s = self._rights().get(pod)
        return until_s is not None and files.is_over(until_s, self._now_s())


def _id(pod: str) -> str:
    namespace, _, name = pod.partition("/")
    return runtime_pod_id(namespace, name)
