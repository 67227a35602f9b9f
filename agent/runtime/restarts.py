"""The restarts of a store's containers, remembered beside it: counts and pauses outlive the agent, not the machine."""

from __future__ import annotations

import time
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

import msgspec

from beemesh.undecodable import UNDECODABLE
from beemesh.workloads.backoff import RestartSheet


class RestartBook:
    """One `RestartSheet` per container, each in a file of its own in memory.

    Times are `time.monotonic()`, which goes on over restarts of the agent and ends with the machine, as the files do.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sheets: dict[str, RestartSheet] = {}
        self._ended_s: dict[str, float] = {}

    def read(self) -> None:
        """Take back what an earlier agent wrote; a damaged sheet counts as a clean one."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            with suppress(OSError, *UNDECODABLE):
                self._sheets[path.name] = msgspec.json.decode(path.read_bytes(), type=RestartSheet)

    def sheet(self, container: str) -> RestartSheet:
        """What is known of the container's restarts."""
        return self._sheets.get(container, RestartSheet())

    def ended(self, container: str) -> None:
        """The container was seen ended; the first time counts."""
        self._ended_s.setdefault(container, time.monotonic())

    def due_s(self, container: str) -> float:
        """Seconds until the ended container is to be started again; 0 when it is time."""
        now_s = time.monotonic()
        sheet = self._sheets.get(container, RestartSheet())
        return max(sheet.due_s(self._ended_s.get(container, now_s)) - now_s, 0.0)

    def is_due(self, container: str) -> bool:
        """Whether the container ended, and it is time to start it again."""
        return container in self._ended_s and self.due_s(container) == 0.0

    def is_resting(self, container: str) -> bool:
        """Whether an ended container waits for its next start."""
        return container in self._ended_s and self.due_s(container) > 0.0

    def next_s(self) -> float | None:
        """Seconds until the first of the ended containers is to be started; None when there is none."""
        return min((self.due_s(container) for container in self._ended_s), default=None)

    def restarted(self, container: str, exit_code: int) -> None:
        """The container, which had ended with `exit_code`, was started again."""
        now_s = time.monotonic()
        sheet = self._sheets.get(container, RestartSheet())
        self._sheets[container] = sheet.restarted(self._ended_s.pop(container, now_s), now_s, exit_code)
        with suppress(OSError):  # a full store must not keep a container from running
            self._folder.mkdir(mode=0o700, exist_ok=True)
            (self._folder / container).write_bytes(msgspec.json.encode(self._sheets[container]))

    def runs(self, container: str) -> None:
        """The container was seen running, or is not to be started again."""
        self._ended_s.pop(container, None)

    def keep(self, containers: Set[str]) -> None:
        """Forget every other container."""
        for gone in self._sheets.keys() - containers:
            del self._sheets[gone]
            (self._folder / gone).unlink(missing_ok=True)
        for gone in self._ended_s.keys() - containers:
            del self._ended_s[gone]
