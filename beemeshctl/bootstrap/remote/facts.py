"""Looks at a host and changes nothing. The argument is JSON (see `FactsQuestion`); the answer is one JSON object.

It has to run, and tell its version, on Pythons that are too old for the agent: no syntax newer than 3.7.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from typing import Any


def run(command: list[str]) -> str | None:
    """Output of a command, or None when it fails, hangs or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def read(path: str) -> str:
    """Text of a small file, or an empty string."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(65536).strip()
    except OSError:
        return ""


def libc() -> list[Any]:
    """(kind, major, minor) of the C library."""
    name, version = platform.libc_ver()
    if name == "glibc":
        numbers = re.findall(r"\d+", version)
        return ["glibc", int(numbers[0]), int(numbers[1])]
    for loader in glob.glob("/lib/ld-musl-*.so.1"):
        try:
            shown = subprocess.run([loader], capture_output=True, timeout=5, check=False).stderr.decode()
        except (OSError, subprocess.SubprocessError):
            continue
        found = re.search(r"Version (\d+)\.(\d+)", shown)
        if found:
            return ["musl", int(found.group(1)), int(found.group(2))]
    return ["musl" if "musl" in str(sysconfig.get_config_var("SOABI")) else "unknown", 0, 0]


def existing_parent(path: str) -> str:
    """The nearest folder on the way to a path that exists."""
    while not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    return path


def disk(path: str) -> dict[str, Any]:
    """Room and rights where a path is, or would be."""
    base = existing_parent(path)
    try:
        info = os.statvfs(base)
    except OSError as error:
        return {"free_bytes": 0, "total_bytes": 0, "writable": False, "error": str(error)}
    return {
        "free_bytes": info.f_bavail * info.f_frsize,
        "total_bytes": info.f_blocks * info.f_frsize,
        "writable": os.access(base, os.W_OK | os.X_OK) and not info.f_flag & os.ST_RDONLY,
    }


def memory_bytes() -> int:
    """All of the memory."""
    found = re.search(r"MemTotal:\s+(\d+) kB", read("/proc/meminfo"))
    return int(found.group(1)) * 1024 if found else 0


def swap() -> list[dict[str, str]]:
    """Swap areas: each zram, encrypted or plain."""
    areas = []
    for line in read("/proc/swaps").splitlines()[1:]:
        device = line.split()[0]
        base = os.path.basename(os.path.realpath(device))
        if base.startswith("zram"):
            kind = "zram"
        elif read(f"/sys/class/block/{base}/dm/uuid").startswith("CRYPT-"):
            kind = "encrypted"
        else:
            kind = "plain"
        areas.append({"device": device, "kind": kind})
    return areas


def owner(port: int, udp: bool) -> tuple[int, str]:
    """(pid, command line) of whoever holds a port, or (0, '') when that cannot be seen."""
    wanted = set()
    for table in ("udp", "udp6") if udp else ("tcp", "tcp6"):
        for line in read("/proc/net/" + table).splitlines()[1:]:
            columns = line.split()
            if columns[1].endswith(f":{port:04X}") and (udp or columns[3] == "0A"):
                wanted.add(f"socket:[{columns[9]}]")
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        for link in glob.glob(f"/proc/{process}/fd/*"):
            try:
                if os.readlink(link) in wanted:
                    with open(f"/proc/{process}/cmdline", "rb") as stream:
                        return int(process), stream.read(4096).replace(b"\0", b" ").decode("utf-8", "replace").strip()
            except OSError:
                continue
    return 0, ""


def port(address: str, number: int, udp: bool) -> dict[str, Any]:
    """Whether a port can be had, and who has it if not."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
        if not udp:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
            return {"free": True}
        except OSError as error:
            pid, command = owner(number, udp)
            return {"free": False, "error": error.strerror or str(error), "pid": pid, "command": command}


def own_address() -> str:
    """The address of the interface that leads outside; nothing is sent."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return ""


def state_of(path: str) -> dict[str, Any] | None:
    """SHA-256 and mode of a file, or None."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(64 * 1024 * 1024)
            return {"sha256": hashlib.sha256(content).hexdigest(), "mode": os.fstat(stream.fileno()).st_mode & 0o7777}
    except OSError:
        return None


def podman() -> dict[str, str]:
    """Version of podman, and whether a runtime for it is there."""
    path = shutil.which("podman")
    if not path:
        return {"path": "", "version": "", "runtime": ""}
    version = re.search(r"(\d+\.\d+\.\d+)", run([path, "--version"]) or "")
    return {
        "path": path,
        "version": version.group(1) if version else "",
        "runtime": shutil.which("crun") or shutil.which("runc") or "",
    }


def service(unit: str) -> dict[str, bool]:
    """What systemd says about our unit."""
    shown = run(["systemctl", "show", unit, "--property=ActiveState,UnitFileState,NeedDaemonReload"]) or ""
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return {
        "active": values.get("ActiveState") == "active",
        "enabled": values.get("UnitFileState") == "enabled",
        "reload": values.get("NeedDaemonReload") == "yes",
    }


def locked(path: str) -> bool:
    """Whether a process holds the lock on a file: our own supervisor's sign of life."""
    try:
        with open(path, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def facts(asked: dict[str, Any]) -> dict[str, Any]:
    """Everything at once: one round trip per host."""
    systemd = os.path.isdir("/run/systemd/system")
    return {
        "python": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "gil_disabled": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "uid": os.geteuid(),
        "arch": platform.machine(),
        "libc": libc(),
        "hostname": socket.gethostname(),
        "machine_id": read("/etc/machine-id") or read("/var/lib/dbus/machine-id"),
        "kernel": platform.release(),
        "systemd": systemd,
        "cpus": os.cpu_count() or 0,
        "memory_bytes": memory_bytes(),
        "swap": swap(),
        "address": own_address(),
        "podman": podman(),
        "disks": {path: disk(path) for path in asked["paths"]},
        "ports": {name: port(*where) for name, where in asked["ports"].items()},
        "files": {path: state_of(path) for path in asked["files"]},
        "release": os.path.basename(os.path.realpath(asked["release_link"])),
        "keys": os.path.exists(asked["key_file"]),
        "service": service(asked["unit"]) if systemd else {"active": False, "enabled": False, "reload": False},
        "supervised": locked(asked["lock_file"]),
        "wall_ms": int(time.time() * 1000),
    }


if __name__ == "__main__":
    print(json.dumps(facts(json.loads(sys.argv[1]))))
