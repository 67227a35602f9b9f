"""Puts a release in place: verify, unpack beside, rename, switch the link. Cut off anywhere, it starts again cleanly.

The argument is JSON: archive, sha256, digest, prefix.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
from typing import Any, NoReturn

KEPT_RELEASES = 3


def fail(message: str) -> NoReturn:
    """Say why on standard error and end."""
    sys.stderr.write(message + "\n")
    sys.exit(1)


def sha256_of(path: str) -> str:
    """Digest of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def unpack(archive: str, into: str) -> None:
    """Only plain files below `into`: a release holds nothing else."""
    with tarfile.open(archive, "r:gz") as bundle:
        for entry in bundle:
            parts = entry.name.split("/")
            content = bundle.extractfile(entry) if entry.isfile() else None
            if content is None or entry.name.startswith("/") or ".." in parts:
                fail(f"the bundle holds {entry.name!r}, which does not belong there")
            target = os.path.join(into, *parts)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as stream:
                shutil.copyfileobj(content, stream)
            os.chmod(target, entry.mode & 0o755)


def switch(prefix: str, digest: str) -> None:
    """Point `current` at a release in one step."""
    fresh = os.path.join(prefix, f".current-{os.getpid()}")
    os.symlink(os.path.join("releases", digest), fresh)
    os.replace(fresh, os.path.join(prefix, "current"))


def forget_old(releases: str, digest: str) -> None:
    """Keep the newest few: an agent that still runs from an older one may need a module of it."""
    names = [name for name in os.listdir(releases) if not name.startswith(".") and name != digest]
    names.sort(key=lambda name: os.stat(os.path.join(releases, name)).st_mtime, reverse=True)
    for name in names[KEPT_RELEASES - 1 :]:
        shutil.rmtree(os.path.join(releases, name), ignore_errors=True)


def main(asked: dict[str, Any]) -> None:
    """Install one release; doing it again changes nothing."""
    prefix, digest = asked["prefix"], asked["digest"]
    releases = os.path.join(prefix, "releases")
    final = os.path.join(releases, digest)
    os.umask(0o022)
    os.makedirs(releases, exist_ok=True)
    if not os.path.isdir(final):
        if sha256_of(asked["archive"]) != asked["sha256"]:
            fail("the bundle arrived damaged: its SHA-256 is not the one announced")
        partial = tempfile.mkdtemp(dir=releases, prefix=".unpacking-")
        try:
            unpack(asked["archive"], partial)
            os.chmod(partial, 0o755)
            os.sync()
            os.rename(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    switch(prefix, digest)
    forget_old(releases, digest)
    if os.path.exists(asked["archive"]):
        os.unlink(asked["archive"])
    print(json.dumps({"release": final}))


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except (OSError, tarfile.TarError, EOFError) as error:
        fail(f"the release cannot be unpacked: {error}")
