"""Image archives (docker-archive and oci-archive): made, looked into, checked and unpacked without any engine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from agent.runtime.contract import FailureReason, RuntimeFailure
from agent.runtime.odd import ODD_SHAPE

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024  # manifests and configurations; real ones have some kilobytes
MAX_UNPACKED_BYTES = 8 * 1024 * 1024 * 1024  # against archives that are far larger than they look
MAX_ENTRIES = 500_000
READ_BYTES = 1024 * 1024
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error, *ODD_SHAPE)
"""What an archive of any bytes may make tarfile, gzip and json raise."""


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """What an archive holds: the image's id (the SHA-256 of its configuration), its names and how it is run."""

    image_id: str
    names: tuple[str, ...]
    layers: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)


def digest_of(path: Path) -> str:
    """`sha256:…` of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, expected: str) -> None:
    """Raise `ImagePullFailed` unless the file is byte for byte the expected one."""
    try:
        actual = digest_of(path)
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from error
    wanted = expected if expected.startswith("sha256:") else f"sha256:{expected}"
    if actual != wanted:
        raise RuntimeFailure(
            FailureReason.IMAGE_PULL_FAILED,
            f"{path}: the archive's digest is {actual}, expected {wanted}",
            hint="copy the archive again, or correct its digest in beemesh_images",
        )


def look_into(path: Path) -> ArchivedImage:
    """The one image of an archive. Raises `ImagePullFailed` for what is no such archive."""
    try:
        with tarfile.open(path) as archive:
            names = set(archive.getnames())
            if "manifest.json" in names:
                return _docker_image(archive)
            if "index.json" in names:
                return _oci_image(archive)
    except BROKEN as error:
        raise _broken(path, str(error)) from error
    raise _broken(path, "it has neither manifest.json nor index.json")


def unpack(path: Path, target: Path) -> ArchivedImage:
    """Unpack an image's layers, one over the other, into an empty directory `target`; nothing is written outside it."""
    image = look_into(path)
    budget = _Budget()
    try:
        with tarfile.open(path) as archive:
            for layer in image.layers:
                stream = archive.extractfile(layer)
                if stream is None:
                    raise _broken(path, f"layer {layer!r} is no file")
                with tarfile.open(fileobj=io.BufferedReader(_unzipped(stream))) as entries:
                    _unpack_layer(entries, target, budget)
    except BROKEN as error:
        raise _broken(path, str(error)) from error
    return image


def build(path: Path, *, name: str, files: Mapping[str, bytes], config: Mapping[str, Any]) -> str:
    """Write a docker-archive of a one-layer image; the same input gives the same bytes. Returns the image's id."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.USTAR_FORMAT) as entries:
        for folder in sorted({str(parent) for item in files for parent in PurePosixPath(item).parents} - {"."}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            entries.addfile(entry)
        for item, content in sorted(files.items()):
            _add(entries, item, content, 0o755)
    layer_digest = hashlib.sha256(layer.getvalue()).hexdigest()
    document = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z"}],
    }
    body = json.dumps(document, sort_keys=True).encode()
    image_id = hashlib.sha256(body).hexdigest()
    manifest = [{"Config": f"{image_id}.json", "RepoTags": [name], "Layers": [f"{layer_digest}.tar"]}]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, f"{image_id}.json", body, 0o644)
        _add(archive, f"{layer_digest}.tar", layer.getvalue(), 0o644)
        _add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)
    return image_id


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _docker_image(archive: tarfile.TarFile) -> ArchivedImage:
    entry = json.loads(_document(archive, "manifest.json"))[0]
    body = _document(archive, entry["Config"])
    return ArchivedImage(
        image_id=hashlib.sha256(body).hexdigest(),
        names=tuple(entry.get("RepoTags") or ()),
        layers=tuple(entry["Layers"]),
        config=json.loads(body).get("config") or {},
    )


def _oci_image(archive: tarfile.TarFile) -> ArchivedImage:
    listed = json.loads(_document(archive, "index.json"))["manifests"][0]
    manifest = json.loads(_document(archive, _blob(listed["digest"])))
    body = _document(archive, _blob(manifest["config"]["digest"]))
    name = (listed.get("annotations") or {}).get("org.opencontainers.image.ref.name", "")
    return ArchivedImage(
        image_id=hashlib.sha256(body).hexdigest(),
        names=(name,) if name else (),
        layers=tuple(_blob(layer["digest"]) for layer in manifest["layers"]),
        config=json.loads(body).get("config") or {},
    )


def _blob(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value}"


def _document(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise KeyError(f"{name} is no file")
    body = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(body) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"{name} has more than {MAX_DOCUMENT_BYTES} bytes")
    return body


def _unzipped(stream: Any) -> Any:
    magic = stream.read(2)
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if magic == b"\x1f\x8b" else stream


@dataclass(slots=True)
class _Budget:
    entries_left: int = MAX_ENTRIES
    bytes_left: int = MAX_UNPACKED_BYTES

    def spend(self, size: int) -> None:
        self.entries_left -= 1
        self.bytes_left -= size
        if self.entries_left < 0 or self.bytes_left < 0:
            raise RuntimeFailure(
                FailureReason.IMAGE_PULL_FAILED,
                f"the image has more than {MAX_ENTRIES} entries or {MAX_UNPACKED_BYTES} bytes",
            )


def _unpack_layer(entries: tarfile.TarFile, target: Path, budget: _Budget) -> None:
    for entry in entries:
        budget.spend(entry.size)
        path = PurePosixPath(entry.name)
        if path.name.startswith(WHITEOUT):
            _white_out(target, path)
        elif str(path) != ".":
            _unpack_entry(entries, entry, target, path)


def _unpack_entry(entries: tarfile.TarFile, entry: tarfile.TarInfo, target: Path, path: PurePosixPath) -> None:
    """Make one file, directory or link. Devices are left out: they are the host's business.

    Links are kept as they are and never followed outside of `target`: absolute ones are meant inside the image's root.
    """
    place = _must_be_inside(target, path)
    if place.is_symlink() or (place.exists() and not (entry.isdir() and place.is_dir())):
        _delete(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    if entry.isdir():
        place.mkdir(exist_ok=True)
    elif entry.issym():
        place.symlink_to(entry.linkname)
    elif entry.islnk():
        source = _must_be_inside(target, PurePosixPath(entry.linkname))
        place.hardlink_to(source)
        return
    elif entry.isreg():
        content = entries.extractfile(entry)
        if content is not None:
            with place.open("xb") as file:
                shutil.copyfileobj(content, file, READ_BYTES)
    else:
        return
    if os.geteuid() == 0:
        os.chown(place, entry.uid, entry.gid, follow_symlinks=False)
    if not entry.issym():
        place.chmod(entry.mode & 0o7777)


def _must_be_inside(target: Path, path: PurePosixPath) -> Path:
    place = _inside(target, path)
    if place is None:
        raise RuntimeFailure(
            FailureReason.IMAGE_PULL_FAILED, f"the image's entry {str(path)!r} would lie outside of its root"
        )
    return place


def _inside(target: Path, path: PurePosixPath) -> Path | None:
    """The place of `path` below `target`, unless it would lie outside by `..` or by a link on the way."""
    if path.is_absolute() or ".." in path.parts:
        return None
    place = target / path
    return place if place.parent.resolve().is_relative_to(target.resolve()) else None


def _white_out(target: Path, path: PurePosixPath) -> None:
    parent = _inside(target, path)
    if parent is None:
        return
    if path.name == OPAQUE:
        for child in parent.parent.iterdir():
            _delete(child)
        return
    _delete(parent.with_name(path.name.removeprefix(WHITEOUT)))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _broken(path: Path, why: str) -> RuntimeFailure:
    return RuntimeFailure(
        FailureReason.IMAGE_PULL_FAILED,
        f"{path}: cannot read the image archive: {why}",
        hint="make it with: podman save -o FILE IMAGE (docker-archive or oci-archive)",
    )
