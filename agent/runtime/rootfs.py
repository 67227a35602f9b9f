"""Images for the `process` engine: archives unpacked into directories, without any container engine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.runtime.archive import ArchivedImage, check_digest, look_into, unpack
from agent.runtime.contract import FailureReason, RuntimeFailure
from agent.runtime.images import candidates


@dataclass(frozen=True, slots=True)
class UnpackedImage:
    """An image whose files lie in a directory."""

    image_id: str
    names: tuple[str, ...]
    root: Path
    config: Mapping[str, Any]


class RootfsStore:
    """Unpacked images below one directory: `<image id>/root` and `<image id>/image.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, reference: str) -> str | None:
        """The full name behind `reference`; None when no archive with it was loaded."""
        image = self.get(reference)
        if image is None:
            return None
        return next((name for name in image.names if name in candidates(reference)), image.image_id)

    def get(self, reference: str) -> UnpackedImage | None:
        """The image behind `reference`."""
        wanted = set(candidates(reference))
        for note in sorted(self.path.glob("*/image.json")):
            body = json.loads(note.read_text())
            if wanted & set(body["names"]) or note.parent.name == reference.removeprefix("sha256:"):
                return UnpackedImage(note.parent.name, tuple(body["names"]), note.parent / "root", body["config"])
        return None

    async def load(self, archive: Path, *, digest: str = "") -> tuple[str, bool]:
        """See `contract.Images.load`."""
        return await asyncio.to_thread(self._load, archive, digest)

    def _load(self, archive: Path, digest: str) -> tuple[str, bool]:
        if digest:
            check_digest(archive, digest)
        image = look_into(archive)
        name = image.names[0] if image.names else image.image_id
        place = self.path / image.image_id
        if place.is_dir():
            return name, False
        draft = self.path / f".{image.image_id}.{os.getpid()}"
        try:
            (draft / "root").mkdir(parents=True, mode=0o755)
            unpack(archive, draft / "root")
            self._take_names(image)
            note = {"names": list(image.names), "config": image.config}
            (draft / "image.json").write_text(json.dumps(note))
            draft.rename(place)
        except OSError as error:
            raise RuntimeFailure(
                FailureReason.DISK_FULL if error.errno == 28 else FailureReason.IMAGE_PULL_FAILED,
                f"cannot unpack {archive} below {self.path}: {error.strerror}",
                hint="see df -h",
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return name, True

    def _take_names(self, image: ArchivedImage) -> None:
        """A name belongs to the image that was loaded last."""
        for note in self.path.glob("*/image.json"):
            body = json.loads(note.read_text())
            kept = [name for name in body["names"] if name not in image.names]
            if kept != body["names"]:
                note.write_text(json.dumps({**body, "names": kept}))
