"""Podman on the host, as the harness calls it: with its own `containers.conf`, a deadline on every call, no shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PODMAN_DEADLINE_S = 60.0
"""Longest that an ordinary podman call may take; importing an image has its own deadline."""

HOST_CONTAINERS_CONF = """\
# Made by the test machines' harness for its own podman calls; /etc/containers is not touched.
[containers]
# podman asks for the kernel's limits otherwise, and fails where the host's own are lower
default_ulimits = ["nofile=16384:16384", "nproc=32768:32768"]
log_driver = "k8s-file"
[engine]
runtime = "{runtime}"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""


class HarnessError(RuntimeError):
    """The harness could not do what a test asked; the message carries the command and what it printed."""


def cache_dir() -> Path:
    """The harness' own folder below the user's cache; made where missing, private to the user."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "beemesh" / "test-machines"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def environment() -> dict[str, str]:
    """The environment for podman: our `containers.conf` instead of whatever the host has."""
    runtime = "runc" if shutil.which("runc") else "crun"
    text = HOST_CONTAINERS_CONF.format(runtime=runtime)
    file = cache_dir() / "containers.conf"
    if not file.exists() or file.read_text() != text:
        draft = file.with_suffix(f".{os.getpid()}")
        draft.write_text(text)
        draft.replace(file)
    return {**os.environ, "CONTAINERS_CONF": str(file)}


def run(
    argv: list[str], *, deadline_s: float = PODMAN_DEADLINE_S, check: bool = True, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it with its output as text.

    Raises `HarnessError` when it outlives `deadline_s` (it is killed then), or fails while `check` is set.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline_s,
            env=environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise HarnessError(f"no end within {deadline_s:.0f} s: {' '.join(argv)}") from error
    if check and done.returncode != 0:
        raise HarnessError(f"exit code {done.returncode}: {' '.join(argv)}\n{done.stdout}{done.stderr}")
    return done


def podman(*arguments: str, deadline_s: float = PODMAN_DEADLINE_S, check: bool = True) -> str:
    """Run `podman ARGUMENTS` and return what it printed, without surrounding blanks."""
    return run(["podman", *arguments], deadline_s=deadline_s, check=check).stdout.strip()


def why_unavailable() -> str:
    """Why test machines cannot be had here, or an empty string where they can."""
    if os.geteuid() != 0:
        return "test machines need root"
    for program, package in (("podman", "podman"), ("mmdebstrap", "mmdebstrap"), ("ssh", "openssh-client")):
        if not shutil.which(program):
            return f"test machines need {program} (apt-get install {package})"
    if not shutil.which("apt-get"):
        return "test machines are built from the distribution's packages, and there is no apt here"
    return ""
