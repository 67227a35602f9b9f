"""Makes the engine that `node.yaml` asks for. Only that one is imported: an agent's memory is counted."""

from __future__ import annotations

from pathlib import Path

from agent.runtime.contract import Runtime, StorageState
from beemesh.settings import NodeSettings

MEBIBYTE = 1024 * 1024


def runtime_for(settings: NodeSettings, *, image_store: Path | None = None) -> Runtime:
    """The engine of a node, not prepared yet. `image_store` overrides `<paths.data>/images`, to share one on a host."""
    data, storage = Path(settings.paths.data), Path(settings.paths.state)
    size = settings.runtime.state_size_mb * MEBIBYTE
    if settings.runtime.engine == "mock":
        from agent.runtime.mock import MockRuntime

        return MockRuntime()
    if settings.runtime.engine == "process":
        from agent.runtime.process import ProcessRuntime, ProcessSettings

        return ProcessRuntime(
            ProcessSettings(
                storage_dir=storage,
                data_dir=data,
                storage_bytes=size,
                max_concurrent=settings.runtime.max_concurrent_deployments,
            )
        )
    from agent.runtime.podman import PodmanRuntime
    from agent.runtime.podman_setup import PodmanSettings

    return PodmanRuntime(
        PodmanSettings(
            storage_dir=storage,
            data_dir=data,
            image_store=image_store or data / "images",
            lock_dir=Path(settings.paths.locks),
            state=StorageState(settings.runtime.state),
            storage_bytes=size,
            max_concurrent=settings.runtime.max_concurrent_deployments,
            containers_conf=settings.runtime.containers_conf,
        )
    )
