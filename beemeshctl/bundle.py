"""The agent as one archive that a machine without any network can run: our two packages and the wheels they need.

A bundle fits one target: Python minor version, architecture and C library. It is named by its content, so a machine
that has it needs nothing, and the same sources and wheels give the same bytes on every control machine.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from beemesh.errors import BeemeshError

PACKAGES = ("beemesh", "agent")
"""Ours that run on a machine; the command line stays where it is."""

DISTRIBUTION = "beemesh"

PIP_TIMEOUT_S = 600
"""The wheels are some 15 MiB: a slow line gets there in this time, a dead one is given up."""

# pip works out environment markers for the Python that runs it, not for the target: what only older Pythons need has to
# be named here, or a newer control machine leaves it out.
ALWAYS_NEEDED = ("typing-extensions>=4.10",)

MIN_PYTHON = (3, 11)
_OLDEST_MANYLINUX_MINOR = 5
_LEGACY_MANYLINUX = {"x86_64": ("2014", "2010", "1"), "i686": ("2014", "2010", "1")}

_LEFT_OUT_FOLDERS = {"__pycache__", "bin", "SelfTest"}
_LEFT_OUT_SUFFIXES = {".pyc", ".pyi", ".c", ".h", ".pyx", ".pxd"}

_LAUNCHER = '''"""Starts the agent from the release that lies beside this file."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from agent.main import main

if __name__ == "__main__":
    sys.exit(main())
'''


class BundleFailed(BeemeshError):
    """The agent's bundle for a target could not be made; nothing was changed on any machine."""


@dataclass(frozen=True, slots=True)
class Target:
    """What wheels have to fit. `libc` is `glibc` or `musl`; `libc_version` is (major, minor)."""

    python: tuple[int, int]
    arch: str
    libc: str
    libc_version: tuple[int, int]

    def __str__(self) -> str:
        version = ".".join(map(str, self.libc_version))
        return f"python{self.python[0]}.{self.python[1]}-{self.arch}-{self.libc}{version}"

    def platforms(self) -> list[str]:
        """The platform tags of wheels that run there, best first."""
        major, minor = self.libc_version
        if self.libc == "musl":
            return [f"musllinux_{major}_{step}_{self.arch}" for step in range(minor, -1, -1)]
        tags = [f"manylinux_{major}_{step}_{self.arch}" for step in range(minor, _OLDEST_MANYLINUX_MINOR - 1, -1)]
        return tags + [f"manylinux{name}_{self.arch}" for name in _LEGACY_MANYLINUX.get(self.arch, ("2014",))]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A finished archive. `digest` names its content; `sha256` is that of the archive file."""

    archive: Path
    digest: str
    sha256: str
    size_bytes: int


class BundleStore:
    """Makes bundles and keeps them in a folder; what is there is used again without any network."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[Target, asyncio.Lock] = {}

    async def get(self, target: Target) -> Bundle:
        """The bundle for a target, made at most once however many hosts ask; raises `BundleFailed`."""
        async with self._locks.setdefault(target, asyncio.Lock()):
            wheels = await self._wheels(target)
            return await asyncio.to_thread(self._pack, wheels)

    async def _wheels(self, target: Target) -> Path:
        """The unpacked wheels for a target, fetched when their list has changed."""
        wanted = [*requirements(), *ALWAYS_NEEDED]
        key = hashlib.sha256("\n".join([str(target), *sorted(wanted)]).encode()).hexdigest()[:16]
        place = self._folder / f"wheels-{target}-{key}"
        if place.is_dir():
            return place
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".wheels-") as temporary:
            into = Path(temporary) / "wheels"
            await _pip_install(target, wanted, into)
            into.rename(place)
        return place

    def _pack(self, wheels: Path) -> Bundle:
        files = {f"lib/{name}": path for name, path in _tree(wheels).items()}
        for package, folder in own_packages().items():
            files |= {f"lib/{package}/{name}": path for name, path in _tree(folder).items()}
        content = {name: path.read_bytes() for name, path in files.items()}
        content["launch.py"] = _LAUNCHER.encode()
        listing = "".join(f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in sorted(content))
        digest = hashlib.sha256(listing.encode()).hexdigest()[:32]
        content["CONTENT.sha256"] = listing.encode()
        archive = self._folder / f"bundle-{digest}.tar.gz"
        note = archive.with_suffix(".json")
        if not (archive.is_file() and note.is_file()):
            packed = pack(content)
            _write_atomically(archive, packed)
            _write_atomically(note, json.dumps({"sha256": hashlib.sha256(packed).hexdigest()}).encode())
            self._forget_others(archive)
        return Bundle(archive, digest, str(json.loads(note.read_bytes())["sha256"]), archive.stat().st_size)

    def _forget_others(self, kept: Path) -> None:
        """Keep the newest few archives: every change of our sources makes one."""
        others = sorted(self._folder.glob("bundle-*.tar.gz"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in others[8:]:
            if path != kept:
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)


def pack(content: dict[str, bytes]) -> bytes:
    """A gzipped tar of files; the same content gives the same bytes: no times, owners or order of a disk in it."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(content):
            entry = tarfile.TarInfo(name)
            entry.size = len(content[name])
            entry.mode = 0o755 if name.endswith(".so") or ".so." in name else 0o644
            archive.addfile(entry, io.BytesIO(content[name]))
    return buffer.getvalue()


def requirements() -> list[str]:
    """What an agent needs besides ourselves: the `agent` extra, of the checkout or of the installed distribution."""
    project = own_packages()["beemesh"].parent / "pyproject.toml"
    if project.is_file():
        listed = tomllib.loads(project.read_text(encoding="utf-8"))
        if listed.get("project", {}).get("name") == DISTRIBUTION:
            return list(listed["project"]["optional-dependencies"]["agent"])
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        raise BundleFailed(
            "the installation of beemesh is incomplete: its list of requirements is missing", hint="install it again"
        ) from None
    wanted = [re.match(r"([^;]+);.*\bextra\s*==\s*['\"]agent['\"]", line) for line in declared]
    return [match[1].strip().replace(" ", "") for match in wanted if match]


def own_packages() -> dict[str, Path]:
    """The folders of our packages that run on a machine."""
    found: dict[str, Path] = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        locations = list(spec.submodule_search_locations or []) if spec else []
        if not locations:
            raise BundleFailed(f"the package {name} is not installed beside beemeshctl", hint="install beemesh again")
        found[name] = Path(locations[0])
    return found


async def _pip_install(target: Target, wanted: list[str], into: Path) -> None:
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("--target", str(into), "--no-compile", "--only-binary=:all:"),
        *("--implementation", "cp", "--python-version", f"{target.python[0]}.{target.python[1]}"),
        *(word for platform in target.platforms() for word in ("--platform", platform)),
        *wanted,
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(PIP_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        raise BundleFailed(
            f"fetching the agent's wheels for {target} took more than {PIP_TIMEOUT_S} s",
            hint="check this machine's network, or pip's index in pip.conf",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _pip_error(target, output.decode("utf-8", "replace"))


def _pip_error(target: Target, output: str) -> BundleFailed:
    if "No module named pip" in output:
        return BundleFailed(
            f"{sys.executable} has no pip, which fetches the agent's wheels",
            hint="install pip into the environment of beemeshctl (python -m ensurepip)",
        )
    missing = re.search(r"No matching distribution found for (\S+)", output)
    offline = any(
        word in output for word in ("NewConnectionError", "Temporary failure", "ConnectTimeout", "ProxyError")
    )
    if missing and not offline:
        return BundleFailed(
            f"there is no wheel of {missing[1]} for {target}",
            hint="is this Python, architecture and C library one that the library still builds for? "
            "Another ansible_python_interpreter may help",
        )
    lines = [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines()[-3:]
    return BundleFailed(
        f"the agent's wheels for {target} could not be fetched: {' '.join(lines)[:600]}",
        hint="the first bootstrap of a kind of machine needs a package index; later ones use the cache",
    )


def _tree(folder: Path) -> dict[str, Path]:
    """The files worth shipping below a folder, by their path in it."""
    found: dict[str, Path] = {}
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT_FOLDERS]
        for name in names:
            path = Path(base) / name
            if path.suffix not in _LEFT_OUT_SUFFIXES:
                found[path.relative_to(folder).as_posix()] = path
    return found


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as stream:
        temporary = Path(stream.name)
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    shutil.move(temporary, path)
