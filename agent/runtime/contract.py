"""What every container runtime promises, whichever engine is behind it.

The agent hands over a `PodSpec` whose ConfigMaps and Secrets are already resolved, and gets `PodStatus` back. Nothing
of a spec is ever written to a disk in readable form, nor shown in an error, a log line or the arguments of a process.
A runtime kills nothing by ending: `close()` leaves every pod running, and a new runtime on the same directories finds
them again by their labels.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from beemesh.errors import BeemeshError
from beemesh.secret import SecretBytes

LABEL_PREFIX = "beemesh.io/"
LABEL_MESH = "beemesh.io/mesh"
LABEL_NODE = "beemesh.io/node"
LABEL_WORKLOAD = "beemesh.io/workload"
LABEL_TASK = "beemesh.io/task"
LABEL_REVISION = "beemesh.io/revision"
LABEL_REPLICA = "beemesh.io/replica"
LABEL_FENCE = "beemesh.io/fence"
LABEL_NAMESPACE = "beemesh.io/namespace"
LABEL_NAME = "beemesh.io/name"
LABEL_POD = "beemesh.io/pod"  # set by the engine itself: the pod_id, on the pod and on each of its containers

MAX_POD_ID_CHARS = 100  # podman names containers "<pod>-<container>"; a hostname is cut from it
DEFAULT_GRACE_S = 30.0  # what Kubernetes grants by default


class FailureReason(StrEnum):
    """Why a runtime could not do what it was asked; stable words that tasks, events and the API repeat."""

    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    TIMEOUT = "Timeout"
    PORT_IN_USE = "PortInUse"
    DISK_FULL = "DiskFull"
    ENGINE_MISSING = "EngineMissing"
    INVALID_SPEC = "InvalidSpec"
    OUT_OF_MEMORY = "OutOfMemory"
    START_FAILED = "StartFailed"
    POD_EXISTS = "PodExists"
    POD_NOT_FOUND = "PodNotFound"
    ENGINE_ERROR = "EngineError"
    NOT_PERMITTED = "NotPermitted"


class RuntimeFailure(BeemeshError):
    """A runtime could not do it. `reason` is for programs, the message and hint for people; neither holds a secret."""

    http_status = 502

    def __init__(self, reason: FailureReason, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class PodPhase(StrEnum):
    """Where a pod is in its life, in Kubernetes' words."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class ContainerState(StrEnum):
    """What one container is doing."""

    WAITING = "waiting"
    RUNNING = "running"
    EXITED = "exited"


class StorageState(StrEnum):
    """Where the container's writable layer and configuration live."""

    MEMORY = "memory"
    DISK = "disk"


class PullPolicy(StrEnum):
    """When to ask a registry for an image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


@dataclass(frozen=True, slots=True)
class FileVolume:
    """The files of one ConfigMap or Secret, resolved.

    `volume` is the name that the containers' `volumeMounts` use (each mount's `mountPath` and `subPath` count; the
    mount is always read-only). Keys of `files` are plain relative paths without `..`. `mode` is each file's permission
    bits; files belong to the container's root, so a value such as 0o444 lets other users of the container read them.
    """

    volume: str
    files: Mapping[str, SecretBytes]
    mode: int = 0o444


@dataclass(frozen=True, slots=True)
class PodSpec:
    """One pod, ready to run.

    `pod` is a Kubernetes Pod as plain data (`spec.containers[]` with image, command, args, workingDir, env as plain
    name/value, resources, ports, volumeMounts, imagePullPolicy, securityContext; `spec.volumes` of kind emptyDir
    or hostPath, and one entry of any kind (or none) per `FileVolume`). An env value may be a `str` or a `SecretText`.
    A port with `hostPort` 0 gets a free port of the host; one without `hostPort` is not published. `metadata` and
    `spec.restartPolicy` are ignored: `pod_id`, `labels` and `restart_policy` count.
    """

    pod_id: str
    labels: Mapping[str, str]
    pod: Mapping[str, Any] = field(repr=False)
    files: tuple[FileVolume, ...] = ()
    restart_policy: str = "Always"
    termination_grace_s: float = DEFAULT_GRACE_S
    pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    """For containers that do not say `imagePullPolicy` themselves."""
    state: StorageState = StorageState.MEMORY
    """In `memory` the cap of each container's writable layer is added to that container's memory limit, because the
    layer is memory."""
    may_start: Callable[[], bool] = field(default=lambda: True, repr=False, compare=False)
    """Asked once images are there and before anything starts: the right to start may end while they come."""

    def require_right(self) -> None:
        """Raise `RuntimeFailure` (NotPermitted) when the pod must not be started any more."""
        if not self.may_start():
            raise RuntimeFailure(FailureReason.NOT_PERMITTED, f"pod {self.pod_id}: its right to start has ended")


@dataclass(frozen=True, slots=True)
class PortStatus:
    """One published port of a pod."""

    container_port: int
    host_port: int
    protocol: str = "TCP"
    name: str = ""


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """One container of a pod. `exit_code` and `finished_at_ms` tell of the last exit, if there was one."""

    name: str
    image: str
    state: ContainerState
    exit_code: int | None = None
    restarts: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    reason: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class PodStatus:
    """What is known of one pod at this moment; times are wall-clock milliseconds, 0 for unknown."""

    pod_id: str
    labels: Mapping[str, str]
    phase: PodPhase
    containers: tuple[ContainerStatus, ...] = ()
    ports: tuple[PortStatus, ...] = ()
    started_at_ms: int = 0
    reason: str = ""
    ip: str = ""


class EventKind(StrEnum):
    """What happened to a pod."""

    STARTED = "Started"
    EXITED = "Exited"
    RESTARTED = "Restarted"
    REMOVED = "Removed"


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """Something that happened to a pod; `status` is how it stands after it (for `Removed`: how it stood last)."""

    kind: EventKind
    pod_id: str
    status: PodStatus
    container: str = ""


@dataclass(frozen=True, slots=True)
class PodStats:
    """What a pod uses: CPU seconds since its start, memory now."""

    pod_id: str
    cpu_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command that ran inside a container ended; output is cut at `MAX_EXEC_OUTPUT_BYTES`."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Severity(StrEnum):
    """How much a finding matters: `error` stops pods from running (well), `warning` is worth a look."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `doctor` tells about the runtime, and how to mend it. `check` is a stable short name."""

    check: str
    severity: Severity
    message: str
    hint: str = ""


Progress = Callable[[str], None]
"""Called with a short plain text ("pulling docker.io/library/nginx:1") whenever a deployment gets on."""


Problems = list[str]


class Images(Protocol):
    """The images that an engine can run without asking a registry."""

    def find(self, reference: str) -> str | None:
        """The full name or id behind `reference`; None when it is not here."""
        ...

    async def load(self, archive: Path, *, digest: str = "") -> tuple[str, bool]:
        """Load an image archive (docker-archive, oci-archive) once; returns its name and whether anything changed.

        With `digest` (`sha256:…` of the file) a different archive is refused before any of it is read as an image.
        """
        ...


class Runtime(Protocol):
    """A container engine. All methods raise `RuntimeFailure` and nothing else for what goes wrong outside."""

    @property
    def name(self) -> str:
        """The engine's word in node.yaml."""
        ...

    @property
    def images(self) -> Images:
        """The images at hand."""
        ...

    async def prepare(self) -> None:
        """Make the engine ready (mounts, configuration, network); idempotent, touches no running pod."""
        ...

    def validate(self, spec: PodSpec) -> Problems:
        """What this engine cannot do of `spec`, in plain words; empty when it can run it. Fast, no I/O."""
        ...

    async def deploy(
        self, spec: PodSpec, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> PodStatus:
        """Start a pod and answer once its containers run. On failure nothing of it is left, and the reason is typed."""
        ...

    async def status(self, pod_id: str) -> PodStatus:
        """How the pod stands; a container that waits for its restart has the reason `Restarting` or, in a pause of its
        backoff, `CrashLoopBackOff`. Fails with `PodNotFound`."""
        ...

    async def list(self) -> Sequence[PodStatus]:
        """Every pod of this engine, also those that an earlier process started. At most half a second old."""
        ...

    def logs(
        self,
        pod_id: str,
        container: str = "",
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since_ms: int | None = None,
        timestamps: bool = False,
    ) -> AsyncIterator[bytes]:
        """The container's output, line by line with newlines; `follow` goes on until the pod is gone or ended."""
        ...

    async def exec(
        self, pod_id: str, container: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
    ) -> ExecResult:
        """Run a command inside a running container and answer with its output."""
        ...

    async def stop(self, pod_id: str, grace_s: float | None = None) -> None:
        """Ask the pod's processes to end, end them after `grace_s`; the pod stays listed until `remove`."""
        ...

    async def end_container(self, pod_id: str, container: str, grace_s: float) -> None:
        """End one container as if it had failed, first asking it, after `grace_s` by force; returns when it has ended.

        The engine is the one owner of restarts: whether and when the container runs again follows from its restart
        policy and from `beemesh.workloads.backoff`, as after an end of its own."""
        ...

    async def remove(self, pod_id: str) -> None:
        """End the pod at once if it runs, and forget it with its files. Removing what is not there is fine."""
        ...

    async def stats(self, pod_id: str) -> PodStats:
        """What the pod uses now; fails with `PodNotFound`."""
        ...

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """What happens to pods from now on, until `close`. A slow reader loses the oldest events, blocks nobody."""
        ...

    async def check(self) -> Sequence[Finding]:
        """The engine's health, for `doctor`."""
        ...

    async def close(self) -> None:
        """Stop watching. Leaves every pod running."""
        ...

    async def teardown(self) -> None:
        """Remove every pod of this engine, its network, mounts and files; for `remove` and `demo-down`."""
        ...


MAX_EXEC_OUTPUT_BYTES = 1024 * 1024  # per stream: what fits one stream message
