"""The `process` engine: a container's command as a confined process of this host, where no podman is to be had.

It confines much less than a container: an own session and root directory, an unprivileged user, limits, a clean
environment and, where ports are remapped, an own network; no cgroup and no user namespace. It says so in `check`.
Each pod has a monitor of its own (`shim`), so an agent may come and go.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.lasting import start_lasting
from agent.runtime import shim
from agent.runtime.command import call
from agent.runtime.contract import (
    DEFAULT_GRACE_S,
    LABEL_POD,
    MAX_EXEC_OUTPUT_BYTES,
    ContainerStatus,
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
from agent.runtime.health import swap_findings
from agent.runtime.hub import EventHub, PidWatch, differences
from agent.runtime.logfile import read_log
from agent.runtime.mounts import ensure_tmpfs, filesystem_of, unmount_all
from agent.runtime.podman_state import LABEL_ENGINE, RESTARTING, RESTING, EngineNote, note_of, phase_of
from agent.runtime.podspec import (
    PortWish,
    VolumePlaces,
    containers,
    decided,
    empty_dirs,
    env_of,
    memory_limit_bytes,
    mounts,
    problems,
    published_ports,
)
from agent.runtime.ports import DEFAULT_PORT_RANGE, PortPicker
from agent.runtime.process_state import (
    container_status,
    environment_of,
    give_to,
    is_alive,
    owner_of,
    read_json,
    user_of,
)
from agent.runtime.rootfs import RootfsStore, UnpackedImage
from agent.runtime.usage import usage_of_processes
from agent.runtime.volumes import write_files
from beemesh.workloads.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RECHECK_S = 0.25  # while a container waits for its restart; reads some small files in memory
SLOW_LOOK_S = 30.0
STOP_MARGIN_S = 5.0
POLL_S = 0.02
SHIM = str(Path(shim.__file__).resolve())


Ports = list[PortStatus]


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """All that the process engine has to know."""

    storage_dir: Path
    """Memory-backed (`paths.state`): logs, files of Secrets, writable layers."""
    data_dir: Path
    """For unpacked images and volumes on disk (`paths.data`)."""
    storage_bytes: int = 512 * 1024 * 1024
    port_range: tuple[int, int] = DEFAULT_PORT_RANGE
    max_concurrent: int = 10
    start_timeout_s: float = 30.0
    log_max_bytes: int = 8 * 1024 * 1024


class ProcessRuntime:
    """`Runtime` without containers."""

    name = "process"

    def __init__(self, settings: ProcessSettings) -> None:
        """Does nothing on the host yet; `prepare` does."""
        self.settings = settings
        self.images = RootfsStore(settings.data_dir / "rootfs")
        self._pods_dir = settings.storage_dir / "process"
        self._ports = PortPicker(settings.port_range)
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self._hub = EventHub()
        self._wake = asyncio.Event()
        self._pids = PidWatch(lambda _pid: self._wake.set())
        self._pods: dict[str, PodStatus] = {}
        self._starting: set[str] = set()
        self._watcher: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """See `Runtime.prepare`. Removes what a killed agent left half-started."""
        if os.geteuid() == 0:
            await ensure_tmpfs(self.settings.storage_dir, self.settings.storage_bytes)
        self._pods_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.images.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        for place in self._pods_dir.iterdir():
            if not read_json(place / "state.json", must_tell=True).get("containers"):
                await self.remove(place.name)
        self._refresh()
        if self._watcher is None:
            self._watcher = start_lasting(self._watch, f"the watch of the {self.name} engine")

    def validate(self, spec: PodSpec) -> Problems:
        """See `Runtime.validate`."""
        found = problems(spec)
        if found:
            return found
        for wish in published_ports(spec):
            if wish.protocol != "TCP" and wish.host_port != wish.container_port:
                found.append(f"port {wish.container_port}/{wish.protocol}: the process engine remaps only TCP ports")
        if os.geteuid() != 0:
            found += [
                f"container {item['name']!r}: volumes need an agent that runs as root"
                for item in containers(spec)
                if item.get("volumeMounts")
            ]
        return found

    async def deploy(
        self, spec: PodSpec, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> PodStatus:
        """See `Runtime.deploy`."""
        if found := self.validate(spec):
            raise RuntimeFailure(FailureReason.INVALID_SPEC, f"pod {spec.pod_id}: " + "; ".join(found))
        if spec.pod_id in self._starting or (self._pods_dir / spec.pod_id).exists():
            raise RuntimeFailure(FailureReason.POD_EXISTS, f"pod {spec.pod_id} is already here")
        self._starting.add(spec.pod_id)
        taken: list[PortStatus] = []
        done = False
        try:
            async with self._slots:
                images = {str(item["name"]): self.images.get(str(item["image"])) for item in containers(spec)}
                spec.require_right()
                taken = self._take_ports(spec, published_ports(spec))
                if progress:
                    progress("starting processes of this host, which are no containers")
                await self._start(spec, images, taken, timeout_s or self.settings.start_timeout_s)
                done = True
        finally:
            for port in taken:
                self._ports.release(port.protocol, port.host_port)
            self._starting.discard(spec.pod_id)
            if not done:
                await asyncio.shield(self._end(spec.pod_id))
        self._refresh()
        return self._pods[spec.pod_id]

    async def status(self, pod_id: str) -> PodStatus:
        """See `Runtime.status`."""
        self._refresh()
        if pod_id not in self._pods:
            raise RuntimeFailure(FailureReason.POD_NOT_FOUND, f"pod {pod_id} is not on this node")
        return self._pods[pod_id]

    async def list(self) -> Sequence[PodStatus]:
        """See `Runtime.list`."""
        self._refresh()
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
        """See `Runtime.logs`."""
        found = _one(await self.status(pod_id), container)

        def ended() -> bool:
            now = self._pods.get(pod_id)
            return now is None or now.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED)

        path = self._pods_dir / pod_id / f"{found.name}.log"
        async for line in read_log(
            path, follow=follow, tail_lines=tail_lines, since_ms=since_ms, timestamps=timestamps, ended=ended
        ):
            yield line

    async def exec(
        self, pod_id: str, container: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
    ) -> ExecResult:
        """See `Runtime.exec`. Runs in the process's root, network and environment, as its user."""
        found = _one(await self.status(pod_id), container)
        if not found.pid:
            raise RuntimeFailure(FailureReason.START_FAILED, f"container {found.name!r} of pod {pod_id} does not run")
        words, env = list(argv), environment_of(found.pid)
        if os.geteuid() == 0:
            owner = owner_of(found.pid)
            words = ["nsenter", "-t", str(found.pid), "-m", "-n", "-u", "-i", "-r", "-w"]
            words += ["-S", str(owner.st_uid), "-G", str(owner.st_gid), "--", *argv]
        result = await call(words, timeout_s=timeout_s, stdin=stdin, env=env)
        return ExecResult(
            result.exit_code, result.stdout[:MAX_EXEC_OUTPUT_BYTES], result.stderr[:MAX_EXEC_OUTPUT_BYTES]
        )

    async def stop(self, pod_id: str, grace_s: float | None = None) -> None:
        """See `Runtime.stop`."""
        await self.status(pod_id)
        await self._signal_monitor(pod_id, DEFAULT_GRACE_S if grace_s is None else max(grace_s, 0.0))
        self._refresh()

    async def end_container(self, pod_id: str, container: str, grace_s: float) -> None:
        """See `Runtime.end_container`. The pod's monitor sees the end, and restarts by policy."""
        found = _one(await self.status(pod_id), container)
        deadline = asyncio.get_running_loop().time() + grace_s
        while (now := _one(await self.status(pod_id), container)).pid == found.pid and now.pid:
            late = asyncio.get_running_loop().time() >= deadline
            with suppress(ProcessLookupError):
                os.killpg(found.pid, signal.SIGKILL if late else signal.SIGTERM)
            await asyncio.sleep(POLL_S if late else max(POLL_S, min(RECHECK_S, grace_s)))

    async def remove(self, pod_id: str) -> None:
        """See `Runtime.remove`."""
        await self._end(pod_id)
        self._refresh()

    async def stats(self, pod_id: str) -> PodStats:
        """See `Runtime.stats`."""
        status = await self.status(pod_id)
        return usage_of_processes(pod_id, [container.pid for container in status.containers if container.pid])

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """See `Runtime.events`."""
        return self._hub.listen()

    async def check(self) -> Sequence[Finding]:
        """See `Runtime.check`."""
        found = [
            Finding(
                "engine",
                Severity.WARNING,
                "pods run as plain processes of this host, confined far less than containers",
                "install podman and set runtime.engine: podman",
            )
        ]
        if os.geteuid() != 0:
            hint = "run the agent as root: then pods get a user, a root directory and a network of their own"
            found.append(Finding("user", Severity.WARNING, "pods run as the agent's own user", hint))
        if self._pods_dir.exists() and filesystem_of(self._pods_dir) not in ("tmpfs", "ramfs"):
            found.append(
                Finding(
                    "store",
                    Severity.ERROR,
                    f"{self.settings.storage_dir}: expected a tmpfs: files of Secrets would reach a disk",
                    "set paths.state to a directory in memory, such as one below /dev/shm",
                )
            )
        return [*found, *swap_findings()]

    async def close(self) -> None:
        """See `Runtime.close`."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        self._pids.close()
        self._hub.close()

    async def teardown(self) -> None:
        """See `Runtime.teardown`."""
        await self.close()
        if self._pods_dir.is_dir():
            await asyncio.gather(*(self._end(place.name) for place in self._pods_dir.iterdir()))
        if os.geteuid() == 0:
            await unmount_all(self.settings.storage_dir)
        for folder in (self.settings.storage_dir, self.images.path):
            shutil.rmtree(folder, ignore_errors=True)

    # starting and ending

    def _take_ports(self, spec: PodSpec, wishes: Sequence[PortWish]) -> Ports:
        remap = os.geteuid() == 0
        taken: list[PortStatus] = []
        try:
            for wish in wishes:
                wanted = wish.host_port if remap or wish.host_port else wish.container_port
                if not remap and wanted != wish.container_port:
                    raise RuntimeFailure(
                        FailureReason.INVALID_SPEC,
                        f"pod {spec.pod_id}: port {wish.container_port} cannot appear as {wanted}",
                        hint="run the agent as root, or let hostPort be the containerPort",
                    )
                port = self._ports.take(wanted, wish.protocol, spec.pod_id)
                taken += decided([wish], [port])
        except RuntimeFailure:
            for one in taken:
                self._ports.release(one.protocol, one.host_port)
            raise
        return taken

    async def _start(
        self, spec: PodSpec, images: Mapping[str, UnpackedImage | None], ports: Sequence[PortStatus], timeout_s: float
    ) -> None:
        home = self._pods_dir / spec.pod_id
        places = self._places(spec.pod_id)
        private = any(port.host_port != port.container_port for port in ports)
        items = [
            self._item(spec, item, images[str(item["name"])], places, private=private) for item in containers(spec)
        ]
        home.mkdir(mode=0o711)
        labels = {**spec.labels, LABEL_POD: spec.pod_id, LABEL_ENGINE: note_of(spec, ports).encode()}
        (home / "pod.json").write_text(json.dumps(labels))
        write_files(spec, places, empty_dirs(spec, places))
        for item in items:
            give_to(places.files, item["uid"], item["gid"])
        document = {
            "dir": str(home),
            "restart": spec.restart_policy,
            "backoff_s": [FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S],
            "private_network": private,
            "forward": [[port.host_port, port.container_port] for port in ports] if private else [],
            "containers": items,
        }
        result = await call(
            [sys.executable, "-I", "-S", SHIM],
            timeout_s=timeout_s,
            stdin=json.dumps(document).encode(),
            env={"PATH": DEFAULT_PATH},
        )
        if result.exit_code:
            in_use = result.exit_code == shim.EXIT_PORT_IN_USE
            raise RuntimeFailure(
                FailureReason.PORT_IN_USE if in_use else FailureReason.START_FAILED,
                f"pod {spec.pod_id}: {result.error_text[-500:]}",
                hint="check the ports" if in_use else "check command, args and image of its containers",
            )

    def _item(
        self,
        spec: PodSpec,
        item: Mapping[str, Any],
        image: UnpackedImage | None,
        places: VolumePlaces,
        *,
        private: bool,
    ) -> dict[str, Any]:
        config: Mapping[str, Any] = image.config if image is not None else {}
        entry, rest = item.get("command") or config.get("Entrypoint") or [], item.get("args")
        if rest is None:
            rest = [] if item.get("command") else config.get("Cmd") or []
        argv = [str(word) for word in (*entry, *rest)]
        if image is None and (not item.get("command") or item.get("volumeMounts")):
            raise RuntimeFailure(
                FailureReason.IMAGE_NOT_FOUND,
                f"image {item['image']!r} is not unpacked on this node",
                hint="the process engine cannot pull: load the image as an archive (beemesh_images)",
            )
        if not argv:
            raise RuntimeFailure(FailureReason.INVALID_SPEC, f"container {item['name']!r} has nothing to run")
        rooted = image is not None and os.geteuid() == 0
        image_env = dict(str(pair).split("=", 1) for pair in config.get("Env") or [] if "=" in str(pair))
        uid, gid = user_of(item, spec.pod, config)
        return {
            "name": str(item["name"]),
            "argv": argv,
            "env": {"PATH": DEFAULT_PATH, "HOME": "/", **image_env, **env_of(item)},
            "cwd": str(item.get("workingDir") or config.get("WorkingDir") or "/") if rooted else "/",
            "uid": uid,
            "gid": gid,
            "rootfs": str(image.root) if image is not None and rooted else "",
            "mounts": [[str(one.source), one.target, one.read_only] for one in mounts(spec, item, places)],
            "memory_bytes": memory_limit_bytes(spec, item),
            "log_max_bytes": self.settings.log_max_bytes,
            "hostname": spec.pod_id[:63],
            "private_network": private,
        }

    async def _end(self, pod_id: str) -> None:
        """End the pod at once and delete what there is of it."""
        home = self._pods_dir / pod_id
        if home.is_dir():
            await self._signal_monitor(pod_id, 0.0)
        places = self._places(pod_id)
        await asyncio.to_thread(_delete, home, places.disk)

    async def _signal_monitor(self, pod_id: str, grace_s: float) -> None:
        """Tell the monitor to end the pod; if it does not within the grace and a margin, end everything."""
        home = self._pods_dir / pod_id
        state = read_json(home / "state.json")
        pid = int(state.get("pid", 0))
        if not is_alive(pid, int(state.get("ticks", 0))):
            return
        (home / "grace").unlink(missing_ok=True)  # the word of an earlier stop
        with suppress(OSError):  # a full store keeps nothing from ending: then the monitor ends it at once
            (home / "grace").write_text(str(grace_s))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + grace_s + STOP_MARGIN_S
        while is_alive(pid, int(state["ticks"])):
            if asyncio.get_running_loop().time() > deadline:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # its children die with it
            await asyncio.sleep(POLL_S)

    # looking

    def _refresh(self) -> None:
        """Read every pod's little files and publish what changed."""
        after = {}
        for place in self._pods_dir.iterdir() if self._pods_dir.is_dir() else ():
            status = self._read(place)
            if status is not None and place.name not in self._starting:
                after[place.name] = status
        for event in differences(self._pods, after):
            self._hub.publish(event)
        self._pods = after
        if self._watcher is not None:
            self._pids.watch(item.pid for pod in after.values() for item in pod.containers if item.pid)

    def _read(self, place: Path) -> PodStatus | None:
        labels, state = read_json(place / "pod.json"), read_json(place / "state.json")
        if not state:
            return None
        note = EngineNote.decode(labels.get(LABEL_ENGINE, ""))
        monitored = is_alive(int(state["pid"]), int(state["ticks"])) or bool(state["ended"])
        statuses = tuple(
            container_status(item, note, monitored=monitored, stopped=bool(state["stopped"]))
            for item in state["containers"]
        )
        return PodStatus(
            pod_id=place.name,
            labels={key: value for key, value in labels.items() if key != LABEL_ENGINE},
            phase=phase_of(statuses),
            containers=statuses,
            ports=note.ports,
            started_at_ms=min((item.started_at_ms for item in statuses if item.started_at_ms), default=0),
            reason=next((item.reason for item in statuses if item.reason), ""),
        )

    async def _watch(self) -> None:
        while True:
            reasons = {item.reason for pod in self._pods.values() for item in pod.containers}
            unsettled = not reasons.isdisjoint((RESTARTING, RESTING))
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S if unsettled or self._wake.is_set() else SLOW_LOOK_S):
                    await self._wake.wait()
                    await asyncio.sleep(POLL_S)  # the monitor writes down what it saw
            self._wake.clear()
            with suppress(OSError):  # no descriptor is left to read with: the next look comes
                self._refresh()

    def _places(self, pod_id: str) -> VolumePlaces:
        home = self._pods_dir / pod_id
        return VolumePlaces(home / "files", self.settings.data_dir / "volumes" / pod_id, home / "volumes")


def _one(status: PodStatus, name: str) -> ContainerStatus:
    for container in status.containers:
        if container.name == name or not name:
            return container
    known = ", ".join(container.name for container in status.containers)
    raise RuntimeFailure(
        FailureReason.POD_NOT_FOUND, f"pod {status.pod_id} has no container {name!r}", hint=f"it has: {known}"
    )


def _delete(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
