"""What the engines share: who listens to events, which processes are watched, and what changed between two looks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

from agent.runtime.contract import ContainerState, EventKind, PodStatus, RuntimeEvent

MAX_WAITING_EVENTS = 1024  # per listener; beyond it the oldest are lost, and `list` tells the state anyway


class EventHub:
    """Hands each event to every listener, without ever waiting for one."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[RuntimeEvent | None]] = set()
        self._closed = False

    def publish(self, event: RuntimeEvent) -> None:
        """Tell every listener; those that are too slow lose their oldest event."""
        for queue in self._queues:
            _put(queue, event)

    def close(self) -> None:
        """End every listener's iteration."""
        self._closed = True
        for queue in self._queues:
            _put(queue, None)

    def listen(self) -> AsyncIterator[RuntimeEvent]:
        """Events from now on: from this call, not from the first look at them."""
        queue: asyncio.Queue[RuntimeEvent | None] = asyncio.Queue(MAX_WAITING_EVENTS)
        self._queues.add(queue)
        if self._closed:
            _put(queue, None)
        return self._drain(queue)

    async def _drain(self, queue: asyncio.Queue[RuntimeEvent | None]) -> AsyncIterator[RuntimeEvent]:
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.discard(queue)


def _put(queue: asyncio.Queue[RuntimeEvent | None], event: RuntimeEvent | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)


class PidWatch:
    """Calls back when one of the watched processes ends; costs nothing while they live."""

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        """`on_exit` is called in the event loop, once for each process that ended."""
        self._on_exit = on_exit
        self._descriptors: dict[int, int] = {}
        self._gone: set[int] = set()

    @property
    def has_gone(self) -> bool:
        """Whether a process was gone already when it was to be watched: whoever lists it is not up to date."""
        return bool(self._gone)

    def watch(self, pids: Iterable[int]) -> None:
        """Watch exactly these processes from now on; one that is gone already is reported once."""
        wanted = {pid for pid in pids if pid > 0}
        for pid in self._descriptors.keys() - wanted:
            self._forget(pid)
        self._gone &= wanted
        for pid in wanted - self._descriptors.keys() - self._gone:
            self._add(pid)

    def close(self) -> None:
        """Watch nothing any more."""
        self.watch(())

    def _add(self, pid: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._gone.add(pid)
            loop.call_soon(self._on_exit, pid)
            return
        except OSError:  # no descriptor is left: the next call of `watch` tries again
            return
        self._descriptors[pid] = descriptor
        loop.add_reader(descriptor, self._ended, pid)

    def _ended(self, pid: int) -> None:
        self._forget(pid)
        self._on_exit(pid)

    def _forget(self, pid: int) -> None:
        descriptor = self._descriptors.pop(pid, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)


def differences(before: Mapping[str, PodStatus], after: Mapping[str, PodStatus]) -> Iterator[RuntimeEvent]:
    """What happened between two looks at the same engine."""
    for pod_id, old in before.items():
        if pod_id not in after:
            yield RuntimeEvent(EventKind.REMOVED, pod_id, old)
    for pod_id, new in after.items():
        known = before.get(pod_id)
        if known is None:
            yield RuntimeEvent(EventKind.STARTED, pod_id, new)
            continue
        earlier = {container.name: container for container in known.containers}
        for container in new.containers:
            was = earlier.get(container.name)
            if was is None:
                continue
            if container.restarts > was.restarts:
                yield RuntimeEvent(EventKind.RESTARTED, pod_id, new, container.name)
            elif was.state is ContainerState.RUNNING and container.state is not ContainerState.RUNNING:
                yield RuntimeEvent(EventKind.EXITED, pod_id, new, container.name)
            elif was.state is ContainerState.WAITING and container.state is ContainerState.RUNNING:
                yield RuntimeEvent(EventKind.STARTED, pod_id, new, container.name)  # its restart was told before it ran
