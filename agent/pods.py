"""This node's pods between two languages: the scheduler's replicas and the runtime's pods.

`PodJobs` carries out `DeployPod` and `StopPod`; `PodWatch` tells the node what runs, at start and whenever something
changed, and which of it is ready: by its probes, and where a container has no readiness probe by whether its published
ports answer. Plaintext lives here only while a pod is being handed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from agent.caretaker import LABEL_CARE, Caretaker
from agent.clock import boot_s
from agent.lasting import start_lasting
from agent.runtime.contract import (
    DEFAULT_GRACE_S,
    LABEL_FENCE,
    LABEL_MESH,
    LABEL_NAME,
    LABEL_NAMESPACE,
    LABEL_NODE,
    LABEL_PREFIX,
    LABEL_REPLICA,
    LABEL_REVISION,
    LABEL_TASK,
    LABEL_WORKLOAD,
    ContainerState,
    ContainerStatus,
    FailureReason,
    FileVolume,
    PodSpec,
    PodStatus,
    Runtime,
    RuntimeFailure,
    StorageState,
)
from beemesh.custody.sealing import decode_content
from beemesh.effects import JobFinished, Run
from beemesh.errors import BeemeshError
from beemesh.events import DeployPod, Observed, PodsObserved, StopPod
from beemesh.ids import NodeId
from beemesh.workloads.care import care_of
from beemesh.workloads.observation import MANIFEST_MARK_BYTES, ContainerReport, Endpoint, ReplicaReport
from beemesh.workloads.podspec import ReplicaIdentity, open_template, plan_pod
from beemesh.workloads.redaction import redact

log = logging.getLogger("beemesh.pods")

LABEL_POD_NAME = "beemesh.io/pod-name"
LABEL_KIND = "beemesh.io/kind"
LABEL_MANIFEST = "beemesh.io/manifest"
POD_LABEL_PREFIX = "pod.beemesh.io/"
"""The pod's own Kubernetes labels, as the runtime keeps them beside ours."""

READY_CHECK_S = 0.25
READY_CONNECT_S = 1.0
READY_CHECK_SLOW_S = 5.0
READY_FAST_CHECKS = 120
"""A port that does not answer is tried four times a second for half a minute, then every five seconds."""

ENDPOINT_GRACE_S = 2.0
"""Between a pod's end as an endpoint and the end of its processes: those who watch endpoints hear of it within some
tens of milliseconds (`tests/e2e/test_serving.py` measures it), those who ask from time to time within this."""

LOOK_AGAIN_S = 1.0
"""After the runtime's list could not be read."""

REVOKED_CHECK_S = 0.5
"""How often it is looked whether a start is still wanted."""

Feed = Callable[[Any], None]


def runtime_pod_id(namespace: str, pod: str) -> str:
    """The pod's name inside the runtime; a namespace has no dots, so two pods never share one."""
    return f"{namespace}.{pod}"


class PodJobs:
    """Runs the node's jobs on its runtime."""

    def __init__(self, runtime: Runtime, mesh: str, node_name: str, feed: Feed, watch: PodWatch) -> None:
        self._runtime = runtime
        self._mesh = mesh
        self._node_name = node_name
        self._feed = feed
        self._watch = watch
        self._tasks: set[asyncio.Task[None]] = set()
        self._endings: dict[str, Ending] = {}

    def start(self, effect: Run) -> None:
        """Begin a job; `JobFinished` always follows."""
        task = asyncio.create_task(self._run(effect))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, effect: Run) -> None:
        result: Any = None
        error = ""
        try:
            if isinstance(effect.job, DeployPod):
                result = await self._deploy(effect.job)
            elif isinstance(effect.job, StopPod):
                await self._stop(effect.job)
            else:
                error = f"InvalidSpec: this agent has no job {type(effect.job).__name__}"
        except RuntimeFailure as failure:
            error = f"{failure.reason}: {failure}"
        except BeemeshError as failure:
            error = f"InvalidSpec: {failure}"
        except Exception as failure:  # a bug of ours must not leave a replica waiting for ever
            # Its place without its message: that may quote what is sealed.
            where = "".join(traceback.format_tb(failure.__traceback__))
            log.error("job %s failed with %s at\n%s", effect.job_id, type(failure).__name__, where)
            error = f"EngineError: internal error of the agent: {type(failure).__name__}"
        self._feed(JobFinished(effect.job_id, result, error))

    async def _deploy(self, job: DeployPod) -> ReplicaReport:
        task = job.task
        identity = ReplicaIdentity(pod_name=job.pod, namespace=task.namespace, node_name=self._node_name)
        template = open_template(decode_content(job.plaintext).manifest)
        plan = plan_pod(template, identity)
        spec = PodSpec(
            pod_id=runtime_pod_id(task.namespace, job.pod),
            labels={
                **self._labels(job),
                LABEL_CARE: care_of(plan.pod["spec"]).encode(),
                **_pod_labels(plan.pod["metadata"]["labels"]),
            },
            pod=plan.pod,
            files=tuple(FileVolume(volume=each.volume, files=each.files, mode=each.mode) for each in plan.files),
            restart_policy=plan.restart_policy,
            termination_grace_s=plan.grace_s,
            state=StorageState(plan.state),
            may_start=lambda: not job.right.has_ended(boot_s()),
        )
        try:
            status = await self._unless_revoked(job, self._runtime.deploy(spec))
        except RuntimeFailure as failure:
            raise RuntimeFailure(failure.reason, redact(failure.message, template), hint=failure.hint) from None
        return self._watch.deployed(status)

    @staticmethod
    async def _unless_revoked(job: DeployPod, start: Coroutine[Any, Any, PodStatus]) -> PodStatus:
        """Give a start up that nobody wants any more: its image may take a quarter of an hour to come."""
        starting = asyncio.create_task(start)
        try:
            while not starting.done():
                await asyncio.wait([starting], timeout=REVOKED_CHECK_S)
                if job.right.is_revoked and not starting.done():
                    starting.cancel()
                    await asyncio.wait([starting])
        finally:
            starting.cancel()  # where it is this that was cancelled
        if starting.cancelled():
            raise RuntimeFailure(FailureReason.NOT_PERMITTED, "its start was given up meanwhile")
        return starting.result()

    def _labels(self, job: DeployPod) -> dict[str, str]:
        task = job.task
        return {
            LABEL_MESH: self._mesh,
            LABEL_NODE: self._node_name,
            LABEL_WORKLOAD: task.workload_id,
            LABEL_TASK: task.task_id,
            LABEL_REVISION: str(task.revision),
            LABEL_REPLICA: str(task.replica),
            LABEL_FENCE: str(job.fence),
            LABEL_MANIFEST: task.manifest_ref[:MANIFEST_MARK_BYTES].hex(),
            LABEL_NAMESPACE: task.namespace,
            LABEL_NAME: task.workload_id.rpartition("/")[2],
            LABEL_KIND: task.kind,
            LABEL_POD_NAME: job.pod,
        }

    async def _stop(self, job: StopPod) -> None:
        """Also what was never listed: a start that failed may have left something that runs."""
        pod_id = runtime_pod_id(job.namespace, job.pod)
        ending = self._endings.get(pod_id)
        if ending is None:
            ending = self._endings[pod_id] = Ending(self._runtime, self._watch, pod_id, job.grace_s)
        else:
            ending.hurry(job.grace_s)
        try:
            await ending.gone()
        finally:
            if self._endings.get(pod_id) is ending:
                del self._endings[pod_id]
        await self._watch.look()

    async def close(self) -> None:
        """Wait for nothing: what runs goes on, what was being started is swept up at the next start."""
        for task in list(self._tasks):
            task.cancel()
        for ending in self._endings.values():
            ending.close()


class Ending:
    """A pod that is being ended; a later order with less time cuts an earlier one short."""

    def __init__(self, runtime: Runtime, watch: PodWatch, pod_id: str, grace_s: float) -> None:
        """Begins at once: ask its processes to end, end them after the grace, remove it."""
        self._runtime = runtime
        self._watch = watch
        self._pod_id = pod_id
        self._grace_s = grace_s
        self._asking: asyncio.Task[None] | None = None
        self._whole = asyncio.create_task(self._carry_out())

    def hurry(self, grace_s: float) -> None:
        """Give it no more time than this from now on."""
        if grace_s < self._grace_s:
            self._grace_s = grace_s
            if self._asking is not None:
                self._asking.cancel()

    async def gone(self) -> None:
        """Returns when the pod is gone. Raises `RuntimeFailure` when the runtime could not remove it."""
        await asyncio.shield(self._whole)

    def close(self) -> None:
        """Wait for nothing."""
        self._whole.cancel()

    async def _carry_out(self) -> None:
        asked_s = math.inf
        while self._grace_s < asked_s:
            asked_s = self._grace_s
            asking = self._asking = asyncio.create_task(self._ask(asked_s))
            try:
                await asyncio.wait([asking])
            finally:
                asking.cancel()  # where it is this that was cancelled
            if not asking.cancelled():
                asking.result()
        await self._runtime.remove(self._pod_id)

    async def _ask(self, grace_s: float) -> None:
        left_s = await self._watch.leave(self._pod_id, grace_s)
        with contextlib.suppress(RuntimeFailure):  # `remove` ends what `stop` could not
            await self._runtime.stop(self._pod_id, left_s)


class PodWatch:
    """Keeps the node informed about its pods."""

    def __init__(
        self, runtime: Runtime, node_id: NodeId, address: str, feed: Feed, count: Callable[[Observed], None]
    ) -> None:
        self._runtime = runtime
        self._care = Caretaker(runtime, address, secrets.SystemRandom().random, self._tell, count)
        self._node_id = node_id
        self._address = address
        self._feed = feed
        self._pods: dict[str, PodStatus] = {}
        self._is_listed = False
        """Whether the runtime's list was read: before that nobody may take the pods that we know for all there are."""
        self._ready: set[tuple[str, int]] = set()
        self._checks: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Report what runs already, then keep watching."""
        await self.look()
        self._tasks = [
            start_lasting(self._follow, "the watch of the pods"),
            start_lasting(self._check_ready, "the check of the pods' ports"),
        ]

    async def look(self) -> None:
        """Read the runtime's list and tell the node."""
        pods = {pod.pod_id: pod for pod in await self._runtime.list() if LABEL_WORKLOAD in pod.labels}
        for pod_id, before in self._pods.items():
            if pod_id not in pods or _starts(pods[pod_id]) != _starts(before):
                self._forget_ready(pod_id)
        self._pods, self._is_listed = pods, True
        self._care.follow(pods)
        if any(_is_running(pod) and not self._all_ready(pod) for pod in pods.values()):
            self._changed.set()
        self._tell()

    def deployed(self, status: PodStatus) -> ReplicaReport:
        """Note a pod that was just started, and its report."""
        self._forget_ready(status.pod_id)
        self._pods[status.pod_id] = status
        self._care.follow(self._pods)
        self._changed.set()
        return self._report(status)

    async def leave(self, pod_id: str, grace_s: float) -> float:
        """Take a pod out of the endpoints before it is stopped, let those who send requests see it, and run its hooks,
        unless an earlier order has begun them.

        The grace for its processes: what is left of the pod's own, unless another one than the usual was asked for.
        Asked for none at all, the pod is not waited for."""
        pod = self._pods.get(pod_id)
        served = pod is not None and _is_running(pod) and bool(pod.ports) and self._is_ready(pod)
        self._care.leave(pod_id)
        self._tell()
        if grace_s <= 0 or pod is None:
            self._care.skip_hooks(pod_id)
            return 0.0
        if served:
            await asyncio.sleep(ENDPOINT_GRACE_S)
        own_s = self._care.care(pod_id).grace_s
        return await self._care.before_stop(pod_id, own_s if grace_s == DEFAULT_GRACE_S else grace_s)

    def find(self, namespace: str, pod: str) -> PodStatus | None:
        """One pod by its Kubernetes name."""
        return self._pods.get(runtime_pod_id(namespace, pod))

    def _tell(self) -> None:
        if self._is_listed:
            self._feed(PodsObserved(tuple(self._report(pod) for pod in self._pods.values())))

    async def _follow(self) -> None:
        events = self._runtime.events()
        await self._look_surely()  # what was told while nobody listened
        async for _ in events:
            await self._look_surely()

    async def _look_surely(self) -> None:
        """An event comes once: what could not be read then, of an engine or a machine that fails, is read later."""
        while True:
            with contextlib.suppress(RuntimeFailure, OSError):
                return await self.look()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _check_ready(self) -> None:
        while True:
            pause_s = READY_CHECK_S if any(count < READY_FAST_CHECKS for count in self._checks.values()) else 0.0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause_s or READY_CHECK_SLOW_S)
            self._changed.clear()
            waiting = [pod for pod in self._pods.values() if _is_running(pod) and not self._all_ready(pod)]
            self._checks = {pod.pod_id: self._checks.get(pod.pod_id, 0) + 1 for pod in waiting}
            news = [await self._try_ports(pod) for pod in waiting]
            if any(news):
                self._tell()

    async def _try_ports(self, pod: PodStatus) -> bool:
        found = False
        for port in self._closed_ports(pod):
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(self._address, port), READY_CONNECT_S)
            except (OSError, TimeoutError):
                continue
            writer.close()
            self._ready.add((pod.pod_id, port))
            found = True
        return found

    def _closed_ports(self, pod: PodStatus) -> list[int]:
        ports = [
            port.host_port
            for port in pod.ports
            if port.protocol == "TCP" and port.host_port and not self._care.covers(pod.pod_id, port.container_port)
        ]
        return [port for port in ports if (pod.pod_id, port) not in self._ready]

    def _is_ready(self, pod: PodStatus) -> bool:
        return self._all_ready(pod) and all(self._care.is_ready(pod.pod_id, each.name) for each in pod.containers)

    def _all_ready(self, pod: PodStatus) -> bool:
        return not self._closed_ports(pod)

    def _forget_ready(self, pod_id: str) -> None:
        self._ready = {entry for entry in self._ready if entry[0] != pod_id}
        self._checks.pop(pod_id, None)

    def _report(self, pod: PodStatus) -> ReplicaReport:
        labels = pod.labels
        running = _is_running(pod)
        ready = running and self._is_ready(pod)
        return ReplicaReport(
            pod=labels.get(LABEL_POD_NAME, pod.pod_id),
            workload_id=labels[LABEL_WORKLOAD],
            namespace=labels.get(LABEL_NAMESPACE, ""),
            kind=labels.get(LABEL_KIND, ""),
            revision=_number(labels, LABEL_REVISION),
            replica=_number(labels, LABEL_REPLICA),
            node_id=self._node_id,
            phase=pod.phase.value,
            ready=ready,
            task_id=labels.get(LABEL_TASK, ""),
            fence=_number(labels, LABEL_FENCE),
            started_ms=pod.started_at_ms,
            reason=pod.reason,
            manifest=_mark(labels),
            containers=tuple(self._container(pod, each) for each in pod.containers),
            endpoints=tuple(self._endpoints(pod, ready)),
            labels={
                key.removeprefix(POD_LABEL_PREFIX): value
                for key, value in labels.items()
                if key.startswith(POD_LABEL_PREFIX)
            },
        )

    def _container(self, pod: PodStatus, container: ContainerStatus) -> ContainerReport:
        running = container.state is ContainerState.RUNNING
        return ContainerReport(
            name=container.name,
            image=container.image,
            state=container.state.value,
            ready=running and self._all_ready(pod) and self._care.is_ready(pod.pod_id, container.name),
            restarts=container.restarts,
            exit_code=container.exit_code,
            started_ms=container.started_at_ms,
            reason=container.reason,
            message=self._care.why(pod.pod_id, container.name),
        )

    def _endpoints(self, pod: PodStatus, ready: bool) -> Iterable[Endpoint]:
        for port in pod.ports:
            if port.host_port:
                yield Endpoint(
                    address=self._address,
                    port=port.host_port,
                    container_port=port.container_port,
                    protocol=port.protocol,
                    name=port.name,
                    ready=ready,
                )

    async def close(self) -> None:
        """Stop watching; the pods go on."""
        self._care.close()
        for task in self._tasks:
            task.cancel()


def _pod_labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {POD_LABEL_PREFIX + key: value for key, value in labels.items() if not key.startswith(LABEL_PREFIX)}


def _number(labels: Mapping[str, str], name: str) -> int:
    try:
        return int(labels.get(name, "0"))
    except ValueError:
        return 0


def _mark(labels: Mapping[str, str]) -> bytes:
    try:
        return bytes.fromhex(labels.get(LABEL_MANIFEST, ""))
    except ValueError:
        return b""


def _is_running(pod: PodStatus) -> bool:
    return pod.phase.value == "Running" and all(each.state is ContainerState.RUNNING for each in pod.containers)


def _starts(pod: PodStatus) -> tuple[tuple[str, int, int], ...]:
    return tuple((each.name, each.started_at_ms, each.restarts) for each in pod.containers)
