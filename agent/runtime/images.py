"""Beemesh's own image store on disk: what it holds is read from its index; loads and pulls go through podman.

Podman reads this store beside the memory-backed one of each agent. A load or a removal beside a creation can make
podman wait for itself for ever, hence the host's lock: shared by creations, taken alone here. Downloads happen outside.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from agent.locks import LockTimeout
from agent.runtime.archive import build, check_digest, look_into
from agent.runtime.command import CallResult, call
from agent.runtime.contract import FailureReason, PodSpec, Progress, PullPolicy, RuntimeFailure
from agent.runtime.odd import ODD_SHAPE
from agent.runtime.podman_setup import PodmanSettings, engine_section, images_in_use, write_small
from agent.runtime.podspec import containers

LOCK_TIMEOUT_S = 120.0  # a load of a large image by another agent comes first
LOAD_TIMEOUT_S = 600.0  # some gigabytes to a slow disk
CATATONIT_PLACES = ("/usr/libexec/podman/catatonit", "/usr/bin/catatonit", "/usr/libexec/catatonit/catatonit")
_UNREACHABLE = re.compile(
    r"no such host|connection refused|i/o timeout|network is unreachable|no route to host|TLS handshake|"
    r"Temporary failure|server misbehaving|deadline exceeded|connection reset|EOF$",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"manifest unknown|not found|name unknown|unauthorized|denied|invalid reference|did not resolve to an alias|"
    r"image not known",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image of the store."""

    image_id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]


class ImageStore:
    """The image store of one host, which its agents may share."""

    def __init__(self, settings: PodmanSettings) -> None:
        self._settings = settings
        self.path = settings.image_store
        self._index = self.path / "overlay-images" / "images.json"
        self._seen: tuple[tuple[int, int, int], tuple[StoredImage, ...]] | None = None
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One pull of a reference at a time: they share the place to which it is pulled."""

    async def prepare(self) -> str:
        """Make the store if there is none, and put the pause image into it. Returns the pause image's name."""
        self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = _catatonit()
        name = f"localhost/beemesh-pause:{hashlib.sha256(content).hexdigest()[:12]}"
        if self.find(name) is None:
            archive = self._work / f"pause-{os.getpid()}.tar"
            image_id = build(
                archive, name=name, files={"catatonit": content}, config={"Entrypoint": ["/catatonit", "-P"]}
            )
            await self._load(archive, name, image_id)
            archive.unlink(missing_ok=True)
        return name

    def images(self) -> tuple[StoredImage, ...]:
        """What the store holds; read again only when its index changed."""
        try:
            stat = self._index.stat()
            mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if self._seen is None or self._seen[0] != mark:
                self._seen = (mark, tuple(_stored(entry) for entry in json.loads(self._index.read_bytes() or b"[]")))
        except FileNotFoundError:
            return ()
        except ODD_SHAPE as error:
            raise RuntimeFailure(
                FailureReason.ENGINE_ERROR,
                f"{self._index}: the image store's index cannot be read: {error}",
                hint="move the directory of the store away and load the images again",
            ) from error
        return self._seen[1]

    def find(self, reference: str) -> str | None:
        """The name (or id) by which podman knows `reference` in this store; None when it is not there."""
        wanted = candidates(reference)
        name, _, digest = reference.partition("@")
        for image in self.images():
            if image.image_id == reference.removeprefix("sha256:"):
                return image.image_id
            if digest and digest in image.digests and any(_repository(n) in candidates(name) for n in image.names):
                return image.image_id
            for known in image.names:
                if known in wanted:
                    return known
        return None

    def has_id(self, image_id: str) -> bool:
        """Whether an image with this id is in the store."""
        return any(image.image_id == image_id for image in self.images())

    async def load(self, archive: Path, *, digest: str = "") -> tuple[str, bool]:
        """Load an archive once, after checking its digest. Returns the image's name and whether anything changed."""
        if digest:
            check_digest(archive, digest)
        image = look_into(archive)
        name = image.names[0] if image.names else image.image_id
        if self.has_id(image.image_id) and all(self.find(known) for known in image.names):
            return name, False
        await self._load(archive, name, image.image_id)
        return name, True

    async def obtain(self, spec: PodSpec, progress: Progress | None) -> dict[str, str]:
        """Have the images of a pod here, pulled by policy; returns each container's image as podman knows it."""
        found: dict[str, str] = {}
        for item in containers(spec):
            reference, policy = str(item["image"]), PullPolicy(item.get("imagePullPolicy") or spec.pull_policy)
            known = self.find(reference)
            if policy is PullPolicy.ALWAYS or (known is None and policy is not PullPolicy.NEVER):
                async with self._turns.setdefault(reference, asyncio.Lock()):
                    known = self.find(reference) if policy is not PullPolicy.ALWAYS else None
                    known = known or await self.pull(reference, progress=progress)
            if known is None:
                raise RuntimeFailure(
                    FailureReason.IMAGE_NOT_FOUND,
                    f"image {reference!r} is not on this node, and its pull policy is Never",
                    hint="load it (beemesh_images), or set imagePullPolicy: IfNotPresent",
                )
            found[str(item["name"])] = known
        return found

    async def pull(self, reference: str, *, progress: Progress | None, timeout_s: float | None = None) -> str:
        """Fetch an image from its registry and return its name in the store."""
        limit_s = timeout_s if timeout_s is not None else self._settings.pull_timeout_s
        staging = self._work / ("pull-" + hashlib.sha256(reference.encode()).hexdigest()[:16])
        if progress:
            progress(f"pulling {reference}")
        try:
            result = await self._podman(staging, ["pull", "-q", reference], limit_s)
            if result.exit_code:
                raise pull_failure(reference, result.error_text)
            archive = staging.with_suffix(".tar")
            archive.unlink(missing_ok=True)
            image_id = result.stdout.decode().split()[-1]
            saved = await self._podman(staging, ["save", "-q", "-o", str(archive), reference], LOAD_TIMEOUT_S)
            if saved.exit_code:
                raise failure_of(saved.error_text, f"cannot save the pulled image {reference!r}")
            if progress:
                progress(f"storing {reference}")
            await self._load(archive, reference, "")
            return self.find(reference) or image_id
        finally:
            await self._podman(staging, ["rmi", "-a", "-f"], self._settings.call_timeout_s)
            shutil.rmtree(staging, ignore_errors=True)
            staging.with_suffix(".tar").unlink(missing_ok=True)

    async def remove(self, reference: str) -> bool:
        """Remove an image that no container of any store of this host uses; False when it was not there."""
        known = self.find(reference)
        if known is None:
            return False
        async with self._settings.host_lock.exclusive(LOCK_TIMEOUT_S):
            ids = {image.image_id for image in self.images() if known in (*image.names, image.image_id)}
            if ids & images_in_use(self._settings.lock_dir):
                raise RuntimeFailure(
                    FailureReason.INVALID_SPEC,
                    f"image {reference!r} is in use by a container",
                    hint="delete the workloads that use it first",
                )
            result = await self._podman(self.path, ["rmi", known], self._settings.call_timeout_s)
        if result.exit_code:
            raise failure_of(result.error_text, f"cannot remove image {reference!r}")
        return True

    @property
    def _work(self) -> Path:
        return self.path / "work"

    async def _load(self, archive: Path, name: str, image_id: str) -> None:
        """Load under the host's exclusive lock, unless another agent has loaded the same image meanwhile."""
        try:
            async with self._settings.host_lock.exclusive(LOCK_TIMEOUT_S):
                if image_id and self.has_id(image_id) and self.find(name):
                    return
                result = await self._podman(self.path, ["load", "-q", "-i", str(archive)], LOAD_TIMEOUT_S)
        except LockTimeout as error:
            raise RuntimeFailure(FailureReason.TIMEOUT, error.message, hint=error.hint) from error
        if result.exit_code:
            raise failure_of(result.error_text, f"cannot load image {name!r} from {archive}")
        self._seen = None

    async def _podman(self, root: Path, arguments: list[str], timeout_s: float) -> CallResult:
        """Podman on one store alone. Its paths follow from the store's, so that every agent gives the same ones.

        They are handed over in files: as a flag, podman takes no path of more than 50 characters.
        """
        environment: Mapping[str, str] = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            **_configuration(root),
        }
        return await call([self._settings.podman, *arguments], timeout_s=timeout_s, env=environment)


def _configuration(root: Path) -> dict[str, str]:
    """Write the configuration of a store that stands alone, and return what points podman at it."""
    work = root / "work"
    (work / "tmp").mkdir(mode=0o700, parents=True, exist_ok=True)
    write_small(
        work / "containers.conf", "[containers]\n" + engine_section(static_dir=root / "libpod", tmp_dir=work / "tmp")
    )
    write_small(
        work / "storage.conf",
        f'[storage]\ndriver = "overlay"\ngraphroot = "{root}"\nrunroot = "{work / "run"}"\n',
    )
    return {
        "CONTAINERS_CONF": str(work / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(work / "storage.conf"),
        "TMPDIR": str(work / "tmp"),
    }


def _catatonit() -> bytes:
    """The program that holds a pod's namespaces open, from the host."""
    for place in map(Path, CATATONIT_PLACES):
        if place.is_file():
            return place.read_bytes()
    raise RuntimeFailure(
        FailureReason.ENGINE_MISSING,
        f"no catatonit at {', '.join(CATATONIT_PLACES)}: podman needs it to hold a pod's network",
        hint="apt-get install catatonit",
    )


def candidates(reference: str) -> tuple[str, ...]:
    """The full names that a short one may stand for: `hello` is `localhost/hello:latest`, or Docker Hub's."""
    name, at, digest = reference.partition("@")
    if ":" not in name.rpartition("/")[2] and not at:
        name += ":latest"
    first = name.partition("/")[0]
    if "/" in name and ("." in first or ":" in first or first == "localhost"):
        names: tuple[str, ...] = (name,)
    elif "/" in name:
        names = (f"docker.io/{name}", f"localhost/{name}")
    else:
        names = (f"localhost/{name}", f"docker.io/library/{name}")
    return tuple(f"{known}{at}{digest}" for known in names)


def pull_failure(reference: str, text: str) -> RuntimeFailure:
    """Tells a registry that does not know the image from one that cannot be reached."""
    last = _last_line(text)
    if _UNREACHABLE.search(text):
        return RuntimeFailure(
            FailureReason.IMAGE_PULL_FAILED,
            f"image {reference!r}: its registry cannot be reached: {last}",
            hint="check the machine's network, or give it the image as an archive (beemesh_images)",
        )
    if _UNKNOWN.search(text):
        return RuntimeFailure(
            FailureReason.IMAGE_NOT_FOUND,
            f"image {reference!r} does not exist, or needs a login: {last}",
            hint="check its name and tag",
        )
    failure = failure_of(text, f"cannot pull image {reference!r}")
    if failure.reason is FailureReason.ENGINE_ERROR:
        failure.reason = FailureReason.IMAGE_PULL_FAILED
    return failure


def failure_of(text: str, what: str) -> RuntimeFailure:
    """The typed failure behind what podman said; `what` says in plain words what was being done."""
    last = _last_line(text)
    if "no space left on device" in text:
        return RuntimeFailure(
            FailureReason.DISK_FULL, f"{what}: no space left: {last}", hint="see df -h; remove pods or unused images"
        )
    if "not supported over overlayfs" in text or "backing file system is unsupported" in text:
        return RuntimeFailure(
            FailureReason.ENGINE_ERROR,
            f"{what}: the image store lies on a file system that overlay cannot use: {last}",
            hint="put paths.data on ext4, xfs, btrfs or tmpfs (inside a container: on a volume)",
        )
    return RuntimeFailure(FailureReason.ENGINE_ERROR, f"{what}: {last}", hint="see beemeshctl doctor")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error:")]
    causes = [line for line in lines if line.startswith("starting container ")]
    if causes and errors and "failed to start" in errors[-1]:
        # `kube play` counts the failures last, and tells why before; a dependant only repeats that its pod has none.
        first = next((line for line in causes if "dependency" not in line), causes[0])
        return first.partition(": ")[2][:500]
    return (errors or lines or ["podman gave no reason"])[-1].removeprefix("Error:").strip()[:500]


def _repository(name: str) -> str:
    base = name.partition("@")[0]
    head, slash, last = base.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def _stored(entry: Mapping[str, object]) -> StoredImage:
    names, digest = entry.get("names"), entry.get("digest")
    more = entry.get("big-data-digests")
    digests = {str(digest)} if digest else set()
    if isinstance(more, Mapping):
        digests |= {str(value) for key, value in more.items() if str(key).startswith("manifest")}
    return StoredImage(
        image_id=str(entry["id"]),
        names=tuple(str(name) for name in names) if isinstance(names, list) else (),
        digests=tuple(sorted(digests)),
    )
