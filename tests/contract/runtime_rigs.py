"""One rig per engine: how the contract suite makes a runtime, restarts it, and what the engine can be asked."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.runtime.archive import build
from agent.runtime.contract import FileVolume, PodSpec, Runtime
from agent.runtime.mock import MockHost, MockRuntime, Script
from agent.runtime.podman import PodmanRuntime
from agent.runtime.podman_setup import PodmanSettings
from agent.runtime.process import ProcessRuntime, ProcessSettings

BUSYBOX = next((path for path in map(Path, ("/bin/busybox", "/usr/bin/busybox")) if path.is_file()), None)
IMAGE = "localhost/contract:1"
APPLETS = ("sh", "cat", "env", "httpd", "sleep", "echo", "kill")
_numbers = itertools.count()


def short_dir() -> Path:
    """A path short enough for podman's store, unique to this test."""
    return Path(f"/run/bmtest-{os.getpid()}-{next(_numbers)}")


def test_image(path: Path) -> Path:
    """An archive with busybox under its usual names."""
    if BUSYBOX is None:
        raise FileNotFoundError("no /bin/busybox: apt-get install busybox-static")
    content = BUSYBOX.read_bytes()
    files = {f"bin/{name}": content for name in ("busybox", *APPLETS)}
    build(path, name=IMAGE, files=files, config={"Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "1000"]})
    return path


@dataclass
class Rig:
    """An engine under test. `runtime` is the current one; `restart` replaces it as a restarted agent would."""

    engine: str
    make: Callable[[], Runtime]
    settings: Any = None
    runtime: Runtime = field(init=False)

    def __post_init__(self) -> None:
        self.runtime = self.make()

    @property
    def is_real(self) -> bool:
        """Whether something runs."""
        return self.engine != "mock"

    def beside(self) -> Runtime:
        """Another one on the same directories, not prepared: in another process, while the agent's own goes on."""
        return self.make()

    async def restart(self) -> Runtime:
        """End the runtime, as an agent's end does, and start another on the same directories."""
        await self.runtime.close()
        self.runtime = self.make()
        await self.runtime.prepare()
        return self.runtime


def podman_rig(images: Path, base: Path, **changes: Any) -> Rig:
    """Real podman with a store of its own."""
    storage = short_dir()
    settings = PodmanSettings(
        storage_dir=storage,
        data_dir=base / "data",
        image_store=images,
        lock_dir=base / "locks",
        storage_bytes=64 * 1024 * 1024,
        **changes,
    )
    return Rig("podman", lambda: PodmanRuntime(settings), settings)


def process_rig(base: Path) -> Rig:
    """Processes of this host."""
    settings = ProcessSettings(storage_dir=short_dir(), data_dir=base / "data", storage_bytes=64 * 1024 * 1024)
    return Rig("process", lambda: ProcessRuntime(settings), settings)


def mock_rig() -> Rig:
    """Nothing that runs."""
    host, script = MockHost(), Script(any_image=False)
    return Rig("mock", lambda: MockRuntime(host=host, script=script))


def pod(
    pod_id: str,
    *,
    command: tuple[str, ...] = ("/bin/sleep", "1000"),
    image: str = IMAGE,
    restart_policy: str = "Always",
    files: tuple[FileVolume, ...] = (),
    labels: Mapping[str, str] | None = None,
    **container: Any,
) -> PodSpec:
    """A pod of one container named `main`."""
    item = {"name": "main", "image": image, "command": list(command), **container}
    return PodSpec(
        pod_id=pod_id,
        labels=labels or {"beemesh.io/mesh": "test", "beemesh.io/workload": "deployment/default/hello"},
        pod={"spec": {"containers": [item]}},
        files=files,
        restart_policy=restart_policy,
        termination_grace_s=1.0,
    )
