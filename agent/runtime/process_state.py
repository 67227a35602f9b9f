"""What the kernel and a pod's monitor tell about the processes of the `process` engine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.runtime.contract import ContainerState, ContainerStatus
from agent.runtime.podman_state import RESTARTING, RESTING, EngineNote, exit_reason

NOBODY = 65534


def container_status(item: Mapping[str, Any], note: EngineNote, *, monitored: bool, stopped: bool) -> ContainerStatus:
    """One container as its monitor last wrote it down, checked against what runs."""
    name, code = str(item["name"]), item["exit_code"]
    running = bool(item["pid"]) and is_alive(int(item["pid"]), int(item["ticks"]))
    if running:
        state, reason = ContainerState.RUNNING, ""
    elif monitored and not stopped and (item["waiting"] or item["pid"]):
        state, reason = ContainerState.WAITING, RESTING if item.get("resting") else RESTARTING
    else:
        code = 137 if code is None else int(code)
        state, reason = ContainerState.EXITED, exit_reason(code, oom=False, stopped=stopped)
    return ContainerStatus(
        name=name,
        image=note.images.get(name, ""),
        state=state,
        exit_code=code,
        restarts=int(item["restarts"]),
        started_at_ms=int(item["started_at_ms"]),
        finished_at_ms=int(item["finished_at_ms"]),
        reason=reason,
        pid=int(item["pid"]) if running else 0,
    )


def is_alive(pid: int, ticks: int) -> bool:
    """Whether the process still is the one that started at that tick, and is no zombie."""
    if not pid:
        return False
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[19]) == ticks and fields[0] != "Z"


def user_of(item: Mapping[str, Any], pod: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, int]:
    """The user that the pod or its image asks for by number; nobody for none and for root."""
    outer = (pod.get("spec") or {}).get("securityContext") or {}
    context = {**outer, **(item.get("securityContext") or {})}
    image_user, _, image_group = str(config.get("User") or "").partition(":")
    uid = context.get("runAsUser") or (int(image_user) if image_user.isdigit() else 0) or NOBODY
    gid = context.get("runAsGroup") or (int(image_group) if image_group.isdigit() else 0) or NOBODY
    return int(uid), int(gid)


def owner_of(pid: int) -> os.stat_result:
    """Whose process it is."""
    return Path(f"/proc/{pid}").stat()


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode("utf-8", "replace").split("=", 1) for pair in pairs if b"=" in pair)


def give_to(folder: Path, uid: int, gid: int) -> None:
    """Let the pod's user read its files whatever their mode."""
    if os.geteuid() == 0:
        for path in folder.rglob("*"):
            os.chown(path, uid, gid, follow_symlinks=False)


def read_json(path: Path, *, must_tell: bool = False) -> dict[str, Any]:
    """A JSON object from a file; an empty one when there is none, or it is not whole. With `must_tell` it raises
    `OSError` where nobody can tell, such as when no descriptor is left."""
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        if must_tell and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        return {}
    return body if isinstance(body, dict) else {}
