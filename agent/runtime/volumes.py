"""Writes the volumes of a pod: resolved files into memory, empty directories where the spec wants them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.runtime.contract import PodSpec
from agent.runtime.podspec import VolumePlaces

EMPTY_DIR_MODE = 0o777  # as Kubernetes makes them: the container's user is not known here


def write_files(spec: PodSpec, places: VolumePlaces, empty: Mapping[str, Path]) -> None:
    """Make every volume of the pod. `places.files` must lie in memory: the files hold secrets in the clear."""
    for volume in spec.files:
        root = places.files / volume.volume
        root.mkdir(parents=True, exist_ok=True)
        for name, content in volume.files.items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.reveal())
            target.chmod(volume.mode)
    for folder in empty.values():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(EMPTY_DIR_MODE)
