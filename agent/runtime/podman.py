"""The podman engine: pods in a memory-backed store of our own, images on disk, nothing readable left behind.

A pod is one `podman kube play -` with the document on its standard input. Who lives is known from the processes
themselves (pidfd); podman is asked only when one of them ended, and at a slow pace beside that.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from agent.lasting import start_lasting
from agent.locks import LockTimeout
from agent.runtime.command import CallResult, call, end_orphans
from agent.runtime.contract import (
    DEFAULT_GRACE_S,
    LABEL_POD,
    MAX_EXEC_OUTPUT_BYTES,
    ContainerState,
    ContainerStatus,
    EventKind,
    ExecResult,
    FailureReason,
    Finding,
    PodPhase,
    PodSpec,
    PodStats,
    PodStatus,
    PortStatus,
    Problems,
    Progress,
    RuntimeEvent,
    RuntimeFailure,
    StorageState,
)
from agent.runtime.health import podman_findings
from agent.runtime.hub import EventHub, PidWatch, differences
from agent.runtime.images import ImageStore
from agent.runtime.logfile import read_log
from agent.runtime.podman_exec import run_inside
from agent.runtime.podman_removal import PodmanRemoval
from agent.runtime.podman_setup import NETWORK_NAME, PodmanSettings, PodmanSetup
from agent.runtime.podman_state import (
    LABEL_ENGINE,
    RESTARTING,
    EngineNote,
    PodmanContainer,
    lost_a_race,
    note_of,
    parse_pods,
    start_failure,
)
from agent.runtime.podman_table import PodmanTable
from agent.runtime.podspec import decided, empty_dirs, kube_document, problems, published_ports
from agent.runtime.ports import PortPicker
from agent.runtime.usage import usage_of
from agent.runtime.volumes import write_files

FRESH_S = 0.5  # how old an answer of `list` may be
START_WORDS = ("kube", "play")
SLOW_LOOK_S = 30.0  # how often podman is asked when no process ended; some 30 ms of a core each time
DEBOUNCE_S = 0.05  # the containers of a pod that is stopped end together
RECHECK_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # after a failure, or an end whose restart is still to come
LOCK_TIMEOUT_S = 120.0  # a load of a large image comes first
START_ATTEMPTS = 5  # where somebody else took a port of our choosing meanwhile, or came first at the firewall


class PodmanRuntime:
    """`Runtime` on podman (4.3 or later), as root."""

    name = "podman"

    def __init__(self, settings: PodmanSettings) -> None:
        """Does nothing on the host yet; `prepare` does."""
        self.settings = settings
        self.setup = PodmanSetup(settings)
        self.images = ImageStore(settings)
        self._ports = PortPicker(settings.port_range)
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self._hub = EventHub()
        self._pids = PidWatch(self._process_ended)
        self._wake = asyncio.Event()
        self._refreshing = asyncio.Lock()
        self._removal = PodmanRemoval(self.setup, self._podman, settings.call_timeout_s)
        self._table = PodmanTable(
            self._podman, settings.call_timeout_s, self.setup.root / "restarts", self._removal.ends_are_over
        )
        self._pods: dict[str, PodStatus] = {}
        self._looked_at_s = -FRESH_S
        self._ended_since_look = True
        self._starting: set[str] = set()
        self._touched: set[str] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._removing: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def prepare(self) -> None:
        """Mounts, configuration, network and pause image; then sweeps away what a killed agent left half-started.

        Its calls are ended first: a start that ends after the sweep would run a pod that nobody knows of.
        """
        await asyncio.to_thread(end_orphans, START_WORDS, self.setup.mark)
        infra = await self.images.prepare()
        await self.setup.make(infra)
        self._table.read_restarts()
        await self._refresh()
        await self._sweep()
        self._begin_watch()

    def validate(self, spec: PodSpec) -> Problems:
        """See `Runtime.validate`."""
        found = problems(spec)
        if spec.state is StorageState.DISK and self.settings.state is StorageState.MEMORY:
            found.append("state: disk is not offered by this node, whose store is memory-backed")
        return found

    async def deploy(
        self, spec: PodSpec, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> PodStatus:
        """See `Runtime.deploy`. `timeout_s` bounds the start itself; a pull has its own deadline."""
        if found := self.validate(spec):
            raise RuntimeFailure(FailureReason.INVALID_SPEC, f"pod {spec.pod_id}: " + "; ".join(found))
        is_here = spec.pod_id in self._pods and spec.pod_id not in self._removal.dirty
        if is_here or spec.pod_id in self._starting:
            raise RuntimeFailure(FailureReason.POD_EXISTS, f"pod {spec.pod_id} is already here")
        self._starting.add(spec.pod_id)
        self._touched.add(spec.pod_id)
        try:
            async with self._slots:
                if spec.pod_id in self._removal.dirty:  # or its removal, tried again, would end the new pod
                    await self.remove(spec.pod_id)
                images = await self.images.obtain(spec, progress)
                return await self._start(spec, images, progress, timeout_s or self.settings.start_timeout_s)
        finally:
            self._starting.discard(spec.pod_id)

    async def status(self, pod_id: str) -> PodStatus:
        """See `Runtime.status`."""
        await self._look()
        if pod_id not in self._pods:
            raise _not_found(pod_id)
        return self._pods[pod_id]

    async def list(self) -> Sequence[PodStatus]:
        """See `Runtime.list`."""
        await self._look()
        return tuple(self._pods.values())

    async def logs(
        self,
        pod_id: str,
        container: str = "",
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since_ms: int | None = None,
        timestamps: bool = False,
    ) -> AsyncIterator[bytes]:
        """See `Runtime.logs`. Read from conmon's file; no process runs while a log is followed."""
        status = await self.status(pod_id)
        found = await self._container(status, container)
        path = self.setup.userdata(found.container_id) / "ctr.log"

        def ended() -> bool:
            now = self._pods.get(pod_id)
            return now is None or now.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED)

        async for line in read_log(
            path, follow=follow, tail_lines=tail_lines, since_ms=since_ms, timestamps=timestamps, ended=ended
        ):
            yield line

    async def exec(
        self, pod_id: str, container: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
    ) -> ExecResult:
        """See `Runtime.exec`."""
        found = await self._container(await self.status(pod_id), container)
        place = self.setup.userdata(found.container_id)
        result = await run_inside(
            self._podman, found.container_id, argv, userdata=place, stdin=stdin, timeout_s=timeout_s
        )
        return ExecResult(
            result.exit_code, result.stdout[:MAX_EXEC_OUTPUT_BYTES], result.stderr[:MAX_EXEC_OUTPUT_BYTES]
        )

    async def stop(self, pod_id: str, grace_s: float | None = None) -> None:
        """See `Runtime.stop`."""
        await self.status(pod_id)
        grace = int(DEFAULT_GRACE_S if grace_s is None else max(grace_s, 0))
        self.setup.stopped_marks.mkdir(mode=0o700, exist_ok=True)
        (self.setup.stopped_marks / pod_id).touch()
        # `podman pod stop` would end the pod's network at the same moment, under requests that are still answered.
        members = [item.container_id for item in self._table.members(pod_id).values()]
        for words in (["stop", "-t", str(grace), *members], ["pod", "stop", "-t", "0", pod_id])[0 if members else 1 :]:
            result = await self._podman(words, timeout_s=grace + self.settings.call_timeout_s)
            if result.exit_code and "no such pod" not in result.error_text:
                raise start_failure(pod_id, result.error_text)
        await self._refresh()

    async def end_container(self, pod_id: str, container: str, grace_s: float) -> None:
        """See `Runtime.end_container`."""
        found = await self._container(await self.status(pod_id), container)
        grace = int(max(grace_s, 0))
        words = ["stop", "-t", str(grace), found.container_id]
        try:
            with self._table.being_ended(found.container_id):
                result = await self._podman(words, timeout_s=grace + self.settings.call_timeout_s)
        finally:
            self._ended_since_look = True
            self._wake.set()
        if result.exit_code and "no such container" not in result.error_text:
            raise start_failure(pod_id, result.error_text)

    async def remove(self, pod_id: str) -> None:
        """See `Runtime.remove`."""
        await self._removal.remove(pod_id)
        self._touched.add(pod_id)
        gone = self._pods.pop(pod_id, None)
        self._table.drop(pod_id)
        if gone is not None:
            self._hub.publish(RuntimeEvent(EventKind.REMOVED, pod_id, gone))

    async def stats(self, pod_id: str) -> PodStats:
        """See `Runtime.stats`. Read from the cgroups; podman is not asked."""
        await self._container(await self.status(pod_id), "")
        return usage_of(pod_id, [item.pid for item in self._table.members(pod_id).values() if item.pid])

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """See `Runtime.events`."""
        return self._hub.listen()

    async def check(self) -> Sequence[Finding]:
        """See `Runtime.check`."""
        return await podman_findings(self.setup, self._podman)

    async def close(self) -> None:
        """See `Runtime.close`."""
        tasks = [task for task in (self._watcher, *self._background) if task is not None]
        self._watcher = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pids.close()
        self._hub.close()

    async def teardown(self) -> None:
        """See `Runtime.teardown`. Works after a crash, too, and without `prepare`."""
        await self.close()
        if self.setup.graph.exists():
            await self._removal.remove_pods("-a")
        await self.setup.destroy()

    # starting

    async def _start(
        self, spec: PodSpec, images: Mapping[str, str], progress: Progress | None, timeout_s: float
    ) -> PodStatus:
        wishes = published_ports(spec)
        for attempt in range(START_ATTEMPTS):
            ports: list[PortStatus] = []
            try:
                for wish in wishes:
                    port = self._ports.take(wish.host_port, wish.protocol, f"{spec.pod_id}/{attempt}")
                    ports.append(PortStatus(wish.container_port, port, wish.protocol, wish.name))
                if progress:
                    progress("starting containers")
                return await self._play(spec, images, decided(wishes, [port.host_port for port in ports]), timeout_s)
            except RuntimeFailure as failure:
                taken = failure.reason is FailureReason.PORT_IN_USE and any(wish.host_port == 0 for wish in wishes)
                if attempt + 1 == START_ATTEMPTS or not (taken or lost_a_race(failure)):
                    raise
            finally:
                for port_status in ports:
                    self._ports.release(port_status.protocol, port_status.host_port)
        raise AssertionError("the loop returns or raises")

    async def _play(
        self, spec: PodSpec, images: Mapping[str, str], ports: Sequence[PortStatus], timeout_s: float
    ) -> PodStatus:
        labels = {**spec.labels, LABEL_POD: spec.pod_id, LABEL_ENGINE: note_of(spec, ports).encode()}
        places = self.setup.places(spec.pod_id)
        done = False
        try:
            write_files(spec, places, empty_dirs(spec, places))
            document = kube_document(
                spec, labels=labels, images=images, host_ports=[port.host_port for port in ports], places=places
            )
            async with self.settings.host_lock.shared(LOCK_TIMEOUT_S):
                spec.require_right()  # only now: the wait for the lock may be long, and so may the tries before
                result = await self._podman(
                    [*START_WORDS, "--network", NETWORK_NAME, "-"],
                    timeout_s=timeout_s,
                    stdin=json.dumps(document).encode(),
                )
            if result.exit_code:
                raise start_failure(spec.pod_id, result.error_text)
            done = True
        except LockTimeout as error:
            raise RuntimeFailure(FailureReason.TIMEOUT, error.message, hint=error.hint) from error
        except OSError as error:
            raise RuntimeFailure(
                FailureReason.DISK_FULL if error.errno == 28 else FailureReason.ENGINE_ERROR,
                f"pod {spec.pod_id}: cannot write its volumes: {error.strerror}",
                hint="see df -h for the node's store and data directory",
            ) from error
        finally:
            if not done:
                await self._finish(self._removal.remove(spec.pod_id))
        status = self._started(spec, labels, ports)
        self._ended_since_look = True
        self._wake.set()
        return status

    def _started(self, spec: PodSpec, labels: Mapping[str, str], ports: Sequence[PortStatus]) -> PodStatus:
        """How the pod stands right after podman said that it runs, without asking podman again."""
        now_ms = int(time.time() * 1000)
        status = PodStatus(
            pod_id=spec.pod_id,
            labels={key: value for key, value in labels.items() if key != LABEL_ENGINE},
            phase=PodPhase.RUNNING,
            containers=tuple(
                ContainerStatus(str(item["name"]), str(item["image"]), ContainerState.RUNNING, started_at_ms=now_ms)
                for item in spec.pod["spec"]["containers"]
            ),
            ports=tuple(ports),
            started_at_ms=now_ms,
        )
        self._pods[spec.pod_id] = status
        self._touched.add(spec.pod_id)
        self._hub.publish(RuntimeEvent(EventKind.STARTED, spec.pod_id, status))
        return status

    async def _finish(self, cleaning: Any) -> None:
        """Clean up to the end even if whoever waits for it is cancelled; its own failure never hides the first one."""

        async def run() -> None:
            with suppress(RuntimeFailure):
                await cleaning

        await asyncio.shield(self._beside(run()))

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # watching

    async def _look(self) -> None:
        """Make sure that what we know is at most `FRESH_S` old, or that nothing can have happened since."""
        age_s = time.monotonic() - self._looked_at_s
        if age_s > SLOW_LOOK_S or (self._ended_since_look and age_s > FRESH_S):
            await self._refresh()

    def _process_ended(self, _pid: int) -> None:
        self._ended_since_look = True
        self._wake.set()

    async def _refresh(self) -> None:
        async with self._refreshing:
            self._ended_since_look = False
            before = time.monotonic()
            self._touched.clear()
            for item in self._table.containers.values():
                if item.state == "running" and item.pid:
                    self.setup.end_abandoned(item.container_id, item.pid)
            try:
                found = await self._table.look(self._left_alone())
            except RuntimeFailure:
                self._ended_since_look = True
                raise
            after = self._table.statuses(self._stopped())
            for pod_id in self._starting | self._touched:  # what changed during the look is not judged by it
                after.pop(pod_id, None)
                if pod_id in self._pods:
                    after[pod_id] = self._pods[pod_id]
            for event in differences(self._pods, after):
                self._hub.publish(event)
            self._pods = after
            self._looked_at_s = before
            self._pids.watch(item.pid for item in found if item.state == "running" and not item.infra)

    def _begin_watch(self) -> None:
        if self._watcher is None:
            self._watcher = start_lasting(self._watch, f"the watch of the {self.name} engine")

    async def _watch(self) -> None:
        rechecks: Sequence[float] = ()
        works = True
        while True:
            wait_s = rechecks[0] if rechecks else SLOW_LOOK_S
            if works:  # or what is due would ask a podman that fails again and again
                wait_s = min(wait_s, self._table.next_start_s())
            woken = False
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    woken = await self._wake.wait()
            self._wake.clear()
            if not woken and not self._pods and not self._removal.dirty:
                continue
            if woken:
                self._ended_since_look = True
                await asyncio.sleep(DEBOUNCE_S)
            rechecks = RECHECK_S if woken else rechecks[1:]
            works = await self._tend()
            self._remove_dirty()
            if not works:
                rechecks = rechecks or RECHECK_S
            elif not self._is_unsettled():
                rechecks = ()

    def _is_unsettled(self) -> bool:
        """Whether something is about to change of which no process will tell."""
        listed = (item for pod in self._pods.values() for item in pod.containers)
        return self._pids.has_gone or any(item.reason == RESTARTING for item in listed)

    async def _tend(self) -> bool:
        """Look, and start again what is due; False if podman or the machine failed."""
        try:
            await self._refresh()
            if await self._table.tend(self._left_alone):
                self._wake.set()
        except (RuntimeFailure, OSError):
            return False
        return True

    def _remove_dirty(self) -> None:
        """Try again what could not be removed, beside the watch: it may take a minute, and nothing waits for it."""
        if self._removal.dirty and (self._removing is None or self._removing.done()):
            self._removing = self._beside(self._try_removals())

    async def _try_removals(self) -> None:
        before = set(self._removal.dirty)
        await self._removal.remove_dirty(lambda: self._starting)
        if before - self._removal.dirty:  # they are listed until somebody looks
            self._ended_since_look = True
            self._wake.set()

    async def _sweep(self) -> None:
        """Remove pods that never came to run whole because their agent was killed while it started them."""
        result = await self._podman(["pod", "ps", "--format", "json"], timeout_s=self.settings.call_timeout_s)
        for name in parse_pods(result.stdout) if not result.exit_code else []:
            if name not in self._pods or not self._is_whole(name):
                await self._removal.remove(name)
        for leftover in self.setup.files.iterdir():
            if leftover.name not in self._pods:
                await self._removal.remove(leftover.name)
        await self._refresh()

    # helpers

    async def _podman(self, words: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CallResult:
        return await call([self.settings.podman, *words], timeout_s=timeout_s, stdin=stdin, env=self.setup.environment)

    async def _container(self, status: PodStatus, name: str) -> PodmanContainer:
        members = self._table.members(status.pod_id)
        if not members:  # it has only just been started
            await self._refresh()
            members = self._table.members(status.pod_id)
        wanted = name or next(iter(sorted(members)), "")
        if wanted not in members:
            raise RuntimeFailure(
                FailureReason.POD_NOT_FOUND,
                f"pod {status.pod_id} has no container {name!r}",
                hint=f"it has: {', '.join(sorted(members))}",
            )
        return members[wanted]

    def _is_whole(self, pod_id: str) -> bool:
        """Whether every container of the pod was made and started."""
        members = self._table.members(pod_id)
        note = EngineNote.decode(next((item.labels.get(LABEL_ENGINE, "") for item in members.values()), ""))
        created = any(item.reason == "Created" for item in self._pods[pod_id].containers)
        return not created and len(members) >= len(note.images)

    def _left_alone(self) -> set[str]:
        return self._stopped() | self._starting | self._removal.dirty

    def _stopped(self) -> set[str]:
        marks = self.setup.stopped_marks
        return {mark.name for mark in marks.iterdir()} if marks.is_dir() else set()


def _not_found(pod_id: str) -> RuntimeFailure:
    return RuntimeFailure(FailureReason.POD_NOT_FOUND, f"pod {pod_id} is not on this node")
