"""Has the pods that must not be doubled guarded while the agent is away: writes down until when each may run.

The core says so before such a pod starts and with each renewal of its run lease (`RunRight`). It is written at once, in
memory, and a process of its own (`agent.guard`) goes by it.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from agent import guard, rights
from agent.clock import boot_s
from agent.files import NodeFiles
from agent.rights import GuardPaths, Rights, RightsRefused
from beemesh.events import RunRight
from beemesh.settings import NodeSettings

log = logging.getLogger("beemesh.guard")

START_AGAIN_S = 5.0
"""A guard that ends at once is not started more often than this."""

Start = Callable[[GuardPaths, Sequence[str]], "subprocess.Popen[bytes]"]


def paths_of(settings: NodeSettings) -> GuardPaths:
    """Where an agent and its guard keep what they share."""
    return GuardPaths.of(Path(settings.paths.locks), settings.node.name, Path(settings.paths.data))


def ending_command(config_directory: Path) -> list[str]:
    """What ends the overdue pods of the agent with this configuration."""
    words = ["-s", "-P", "-m", "agent.main", "end-pods", "--config-dir", str(config_directory)]
    return [sys.executable, *words]


def guarding_for(loaded: NodeFiles) -> Guarding | None:
    """The guarding of an agent's pods; None where they end with it, or where boots cannot be told apart."""
    settings = loaded.settings
    if settings.runtime.engine == "mock":
        return None
    try:
        boot = rights.boot_id()
    except OSError as error:
        log.error("pods that must not be doubled are not guarded while this agent is away: %s", error)
        return None
    return Guarding(paths_of(settings), ending_command(loaded.directory), boot=boot)


class Guarding:
    """The agent's side: the rights of its pods as they stand, in their file, and a guard that looks at it."""

    def __init__(self, paths: GuardPaths, command: Sequence[str], *, boot: str, start: Start = guard.start) -> None:
        """`command` ends overdue pods; `boot` is the kernel's word for this boot."""
        self._paths = paths
        self._command = command
        self._boot = boot
        self._start = start
        self._rights: Rights = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = -START_AGAIN_S
        self._is_told = False

    def take_over(self) -> None:
        """As the agent starts: what an earlier one wrote stands, until the core says otherwise."""
        try:
            self._rights = rights.read(self._paths.rights, self._boot) or {}
        except (RightsRefused, OSError) as error:
            self._withdraw(error)
        guard.stop_others(self._paths)
        if self._rights:
            self._write()

    def hear(self, right: RunRight) -> None:
        """A pod may run until then; or it is gone."""
        if right.until_boot_s is None:
            if self._rights.pop(right.pod, None) is None:
                return
        elif rights.is_name(right.pod):
            self._rights[right.pod] = right.until_boot_s
        else:
            log.warning("pod %s cannot be guarded: its name is no name of Kubernetes'", right.pod)
            return
        self._write()

    def _write(self) -> None:
        now_s = boot_s()
        # What nobody looks after any more may have gone while no agent was there to say so.
        self._rights = {pod: until_s for pod, until_s in self._rights.items() if not rights.is_past(until_s, now_s)}
        try:
            rights.write(self._paths.rights, rights.encode(self._boot, self._rights))
        except (RightsRefused, OSError) as error:
            self._withdraw(error)
            return
        self._is_told = False
        if self._rights:
            self._ensure_guard(now_s)

    def _withdraw(self, error: Exception) -> None:
        """By deadlines that are not the last ones, pods would be ended that may run: no guard is better than that."""
        if not self._is_told:
            self._is_told = True
            log.error("pods that must not be doubled are not guarded while this agent is away: %s", error)
        try:
            self._paths.rights.unlink(missing_ok=True)
        except OSError:
            guard.stop_others(self._paths, all_of_them=True)

    def _ensure_guard(self, now_s: float) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        if now_s < self._started_s + START_AGAIN_S or guard.is_running(self._paths):
            return
        self._started_s = now_s
        try:
            self._process = self._start(self._paths, self._command)
        except OSError as error:
            log.error("the guard of pods that must not be doubled cannot be started, it is tried again: %s", error)


def forget(paths: GuardPaths) -> None:
    """Leave nothing of an agent's guard behind."""
    with suppress(OSError):
        paths.rights.unlink(missing_ok=True)
    guard.stop_others(paths, all_of_them=True)
    with suppress(OSError):
        paths.lock.unlink(missing_ok=True)
