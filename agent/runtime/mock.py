"""The `mock` engine: pods that are nothing but a state, behaving as a script says. For tests and benchmarks.

It is deterministic: its randomness and its clock are handed in. Its pods live in a `MockHost`, so that a second runtime
on the same host finds them again, as after a restart of an agent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.runtime.archive import check_digest, look_into
from agent.runtime.contract import (
    LABEL_POD,
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
    Severity,
)
from agent.runtime.hub import EventHub
from agent.runtime.images import candidates
from agent.runtime.podman_state import exit_reason, phase_of, will_restart
from agent.runtime.podspec import containers, decided, env_of, problems, published_ports

FIRST_AUTOMATIC_PORT = 20000


@dataclass(slots=True)
class Script:
    """How the mock behaves. Change it at any time."""

    success_rate: float = 1.0
    """Part of the deployments that work, by the injected randomness."""
    deploy_delay_s: float = 0.0
    failures: list[FailureReason] = field(default_factory=list)
    """Taken one by one by the next deployments, before `success_rate` counts."""
    hang: bool = False
    """Deployments never end by themselves; they run into their deadline."""
    any_image: bool = True
    """Whether every image is there; otherwise only those of the host's `images`."""


@dataclass(slots=True)
class MockPod:
    """A pod of the mock: its spec, how it stands, and what it printed."""

    spec: PodSpec
    status: PodStatus
    log: dict[str, list[bytes]]


@dataclass(slots=True)
class MockHost:
    """What survives an agent: the pods, the images and the taken ports of one machine."""

    pods: dict[str, MockPod] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)


class MockImages:
    """The mock's images: names."""

    def __init__(self, host: MockHost, script: Script) -> None:
        self._host, self._script = host, script

    def find(self, reference: str) -> str | None:
        """See `contract.Images.find`."""
        names = candidates(reference)
        known = next((name for name in names if name in self._host.images), None)
        return known or (names[0] if self._script.any_image else None)

    async def load(self, archive: Path, *, digest: str = "") -> tuple[str, bool]:
        """See `contract.Images.load`."""
        if digest:
            check_digest(archive, digest)
        name = look_into(archive).names[0]
        changed = name not in self._host.images
        self._host.images.add(name)
        return name, changed


class MockRuntime:
    """`Runtime` without anything that runs."""

    name = "mock"

    def __init__(
        self,
        *,
        host: MockHost | None = None,
        script: Script | None = None,
        rng: random.Random | None = None,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`rng`, `wall_ms` and `sleep` are the mock's only sources of chance and time."""
        self.host = host if host is not None else MockHost()
        self.script = script if script is not None else Script()
        self.images = MockImages(self.host, self.script)
        self._rng = rng if rng is not None else random.Random(0)  # noqa: S311 - chance for tests
        self._wall_ms = wall_ms
        self._sleep = sleep
        self._hub = EventHub()
        self._starting: set[str] = set()

    async def prepare(self) -> None:
        """See `Runtime.prepare`."""

    def validate(self, spec: PodSpec) -> Problems:
        """See `Runtime.validate`."""
        return problems(spec)

    async def deploy(
        self, spec: PodSpec, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> PodStatus:
        """See `Runtime.deploy`; the script decides how it goes."""
        if found := self.validate(spec):
            raise RuntimeFailure(FailureReason.INVALID_SPEC, f"pod {spec.pod_id}: " + "; ".join(found))
        if spec.pod_id in self.host.pods or spec.pod_id in self._starting:
            raise RuntimeFailure(FailureReason.POD_EXISTS, f"pod {spec.pod_id} is already here")
        for item in containers(spec):
            if self.images.find(str(item["image"])) is None:
                raise RuntimeFailure(FailureReason.IMAGE_NOT_FOUND, f"image {item['image']!r} does not exist")
        self._starting.add(spec.pod_id)
        try:
            if progress:
                progress("starting containers")
            await self._wait(spec.pod_id, timeout_s)
            spec.require_right()
            if self.script.failures:
                reason = self.script.failures.pop(0)
                raise RuntimeFailure(reason, f"pod {spec.pod_id}: {reason}, as the script says")
            if self._rng.random() >= self.script.success_rate:
                raise RuntimeFailure(FailureReason.START_FAILED, f"pod {spec.pod_id} did not start, by chance")
            return self._run(spec)
        finally:
            self._starting.discard(spec.pod_id)

    async def status(self, pod_id: str) -> PodStatus:
        """See `Runtime.status`."""
        return self._pod(pod_id).status

    async def list(self) -> Sequence[PodStatus]:
        """See `Runtime.list`."""
        return tuple(pod.status for pod in self.host.pods.values())

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
        """See `Runtime.logs`."""
        log = self._pod(pod_id).log
        name = container or next(iter(log))
        if name not in log:
            raise RuntimeFailure(FailureReason.POD_NOT_FOUND, f"pod {pod_id} has no container {name!r}")
        lines = log[name]
        for line in lines[max(len(lines) - tail_lines, 0) :] if tail_lines is not None else lines:
            yield line

    async def exec(
        self, pod_id: str, container: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
    ) -> ExecResult:
        """See `Runtime.exec`: knows `cat` (of standard input or a file) and `env`; anything else just works."""
        pod = self._pod(pod_id)
        words = [argv[0].rpartition("/")[2], *argv[1:]]
        item = next(item for item in containers(pod.spec) if item["name"] == container or not container)
        if words == ["env"]:
            return ExecResult(0, "".join(f"{key}={value}\n" for key, value in env_of(item).items()).encode(), b"")
        if words and words[0] == "cat" and len(words) > 1:
            for mount in item.get("volumeMounts") or []:
                for volume in pod.spec.files:
                    for name, content in volume.files.items():
                        if volume.volume == mount["name"] and words[1] == f"{mount['mountPath']}/{name}":
                            return ExecResult(0, content.reveal(), b"")
            return ExecResult(1, b"", f"cat: {words[1]}: No such file or directory\n".encode())
        return ExecResult(0, stdin, b"")

    async def stop(self, pod_id: str, grace_s: float | None = None) -> None:
        """See `Runtime.stop`."""
        self._pod(pod_id)
        self.finish(pod_id, exit_code=0, stopped=True)

    async def end_container(self, pod_id: str, container: str, grace_s: float) -> None:
        """See `Runtime.end_container`."""
        found = next((item for item in self._pod(pod_id).status.containers if item.name == container), None)
        if found is None:
            raise RuntimeFailure(FailureReason.POD_NOT_FOUND, f"pod {pod_id} has no container {container!r}")
        if found.state is ContainerState.RUNNING:  # what has ended already is not ended again
            self.finish(pod_id, exit_code=143, container=container)

    async def remove(self, pod_id: str) -> None:
        """See `Runtime.remove`."""
        gone = self.host.pods.pop(pod_id, None)
        if gone is not None:
            self._hub.publish(RuntimeEvent(EventKind.REMOVED, pod_id, gone.status))

    async def stats(self, pod_id: str) -> PodStats:
        """See `Runtime.stats`."""
        self._pod(pod_id)
        return PodStats(pod_id, 0.0, 0)

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """See `Runtime.events`."""
        return self._hub.listen()

    async def check(self) -> Sequence[Finding]:
        """See `Runtime.check`."""
        return [
            Finding(
                "engine", Severity.WARNING, "the mock engine runs nothing", "set runtime.engine: podman in node.yaml"
            )
        ]

    async def close(self) -> None:
        """See `Runtime.close`."""
        self._hub.close()

    async def teardown(self) -> None:
        """See `Runtime.teardown`."""
        await self.close()
        self.host.pods.clear()

    def finish(self, pod_id: str, *, exit_code: int, stopped: bool = False, container: str = "") -> None:
        """Let a container of a pod (or all) end, as if its process had; the restart policy counts, without pauses."""
        pod = self._pod(pod_id)
        again = will_restart(pod.spec.restart_policy, exit_code) and not stopped
        now_ms = self._wall_ms()
        made = tuple(
            replace(
                item,
                state=ContainerState.RUNNING if again else ContainerState.EXITED,
                exit_code=exit_code,
                restarts=item.restarts + int(again),
                started_at_ms=now_ms if again else item.started_at_ms,
                finished_at_ms=now_ms,
                reason="" if again else exit_reason(exit_code, oom=False, stopped=stopped),
            )
            if container in ("", item.name)
            else item
            for item in pod.status.containers
        )
        reason = next((item.reason for item in made if item.reason), "")
        pod.status = replace(pod.status, containers=made, phase=phase_of(made), reason=reason)
        kind = EventKind.RESTARTED if again else EventKind.EXITED
        for item in made if not container else [item for item in made if item.name == container]:
            self._hub.publish(RuntimeEvent(kind, pod_id, pod.status, item.name))

    def print_line(self, pod_id: str, line: bytes, container: str = "") -> None:
        """Let a container print a line."""
        log = self._pod(pod_id).log
        log[container or next(iter(log))].append(line.rstrip(b"\n") + b"\n")

    async def _wait(self, pod_id: str, timeout_s: float | None) -> None:
        delay_s = self.script.deploy_delay_s
        if self.script.hang or (timeout_s is not None and delay_s > timeout_s):
            await self._sleep(timeout_s or 0.0)
            raise RuntimeFailure(FailureReason.TIMEOUT, f"pod {pod_id} did not start within {timeout_s or 0:g} s")
        if delay_s:
            await self._sleep(delay_s)

    def _run(self, spec: PodSpec) -> PodStatus:
        wishes = published_ports(spec)
        taken = {port.host_port for pod in self.host.pods.values() for port in pod.status.ports}
        chosen: list[int] = []
        for wish in wishes:
            port = wish.host_port
            if port in taken:
                raise RuntimeFailure(FailureReason.PORT_IN_USE, f"port {port} of this host is taken")
            if not port:
                port = next(p for p in range(FIRST_AUTOMATIC_PORT, 65536) if p not in taken)
            taken.add(port)
            chosen.append(port)
        now_ms = self._wall_ms()
        ports: tuple[PortStatus, ...] = tuple(decided(wishes, chosen))
        status = PodStatus(
            pod_id=spec.pod_id,
            labels={**spec.labels, LABEL_POD: spec.pod_id},
            phase=PodPhase.RUNNING,
            containers=tuple(
                ContainerStatus(str(item["name"]), str(item["image"]), ContainerState.RUNNING, started_at_ms=now_ms)
                for item in containers(spec)
            ),
            ports=ports,
            started_at_ms=now_ms,
        )
        log = {str(item["name"]): [b"started\n"] for item in containers(spec)}
        self.host.pods[spec.pod_id] = MockPod(spec, status, log)
        self._hub.publish(RuntimeEvent(EventKind.STARTED, spec.pod_id, status))
        return status

    def _pod(self, pod_id: str) -> MockPod:
        if pod_id not in self.host.pods:
            raise RuntimeFailure(FailureReason.POD_NOT_FOUND, f"pod {pod_id} is not on this node")
        return self.host.pods[pod_id]
