"""A file system of its own in an image file, so that everything that ever reached the disk can be searched."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SIZE_BYTES = 768 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoopDisk:
    """`image` is None where there is no loop device: then the mount point is an ordinary folder."""

    mount: Path
    image: Path | None


@contextmanager
def loop_disk(folder: Path) -> Iterator[LoopDisk]:
    """Make it below `folder`, and unmount it afterwards."""
    image, mount = folder / "disk.img", folder / "m"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    made = subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True).returncode == 0
    mounted = (
        made and subprocess.run(["mount", "-o", "loop", str(image), str(mount)], capture_output=True).returncode == 0
    )
    try:
        yield LoopDisk(mount, image if mounted else None)
    finally:
        if mounted:
            subprocess.run(["umount", str(mount)], check=True)
