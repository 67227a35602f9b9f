"""Ends the pods that must not be doubled where their agent is not there to do it: killed, crashing, stopped or paused.

A run lease gives the right to run such a pod for some seconds, and the agent renews it or ends the pod in time. This
small process sees to the end where the agent does not: it reads until when each pod may run (`agent.rights`) and runs
`beemesh-agent end-pods` for those that are overdue. It has a session of its own, outlives the agent, and ends by itself
when nothing is left to guard. Standard library alone.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

from agent import rights as files
from agent.rights import FILE_MODE, GuardPaths, Overdue, Rights, RightsRefused

LOOK_S = 1.0
"""The file is read so often at least: deadlines move, and new ones may come before those that are known."""
LOOK_FIRST_S = 0.02
"""Nor more often than this, however near the next deadline is."""

IDLE_S = 60.0
"""It ends after so long without a pod to guard; the next one starts it again."""

ENDING_S_MAX = 90.0
"""Longer than one that works takes for its tries: it hangs, and another one is started."""

LOCK_PATIENCE_S = 1.0
STOP_PATIENCE_S = 1.0
POLL_S = 0.02


class Child(Protocol):
    """A process that ends pods."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


class Guard:
    """Looks at deadlines, and has ended what is overdue."""

    def __init__(self, read: Callable[[], Rights | None], start: Callable[[], Child]) -> None:
        """`start` begins to end what is overdue, by a look of its own at the deadlines."""
        self._read = read
        self._start = start
        self._overdue = Overdue()
        self._child: Child | None = None
        self._started_s = 0.0
        self._idle_since_s: float | None = None
        self._told = ""

    def look(self, now_s: float, awake_s: float) -> float | None:
        """Do what is to be done at this moment, by the boot clock and the monotonic one; seconds until the next look,
        None when nothing is left to guard."""
        rights = self._rights()
        if rights is None:
            return None
        due = self._overdue.look(rights, now_s, awake_s)
        self._tend(bool(due), awake_s)
        next_s = files.next_over_s(rights, now_s)
        if due or next_s < float("inf"):
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = awake_s
        elif awake_s - self._idle_since_s >= IDLE_S:
            return None
        return max(LOOK_FIRST_S, min(LOOK_S, next_s))

    def is_needed(self, now_s: float) -> bool:
        """Whether there is a pod to guard: told after `look` said no, since the agent may have written meanwhile."""
        return any(not files.is_past(until_s, now_s) for until_s in (self._rights() or {}).values())

    def close(self) -> None:
        """End what was begun."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _rights(self) -> Rights | None:
        try:
            return self._read()
        except RightsRefused as error:
            self._tell(f"pods that must not be doubled are not guarded: {error}")
            return None
        except OSError as error:  # such as no memory: nobody acts on what was not read, and the next look comes
            self._tell(f"cannot read until when pods may run: {error}")
            return {}

    def _tend(self, is_due: bool, awake_s: float) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        age_s = awake_s - self._started_s
        if self._child is not None and age_s >= ENDING_S_MAX:
            self._tell("the process that ends overdue pods hangs; another one is started")
            self.close()
        if is_due and self._child is None and (age_s >= files.AGAIN_S or not self._started_s):
            self._started_s = awake_s
            try:
                self._child = self._start()
            except OSError as error:
                self._tell(f"cannot start the process that ends overdue pods, it is tried again: {error}")

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            with suppress(OSError):  # whoever read it is gone
                print(f"guard: {text}", file=sys.stderr, flush=True)


def start(paths: GuardPaths, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a guard, which ends at once where one runs already; `command` is what ends overdue pods. Raises `OSError`
    when there is no process to be had."""
    return subprocess.Popen(
        [sys.executable, "-sSP", "-m", "agent.guard", str(paths.rights), str(paths.lock), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def is_running(paths: GuardPaths) -> bool:
    """Whether a guard runs: the lock decides, so a stale file never lies."""
    return _holder(paths) is not None


def stop_others(paths: GuardPaths, *, all_of_them: bool = False) -> None:
    """End a guard that runs from another release than ours, whose files may be deleted one day; or any."""
    holder = _holder(paths)
    pid, _, program = (holder or "").partition(" ")
    if not pid.isdecimal() or (program == __file__ and not all_of_them):
        return
    with suppress(OSError):
        if b"agent.guard" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.kill(int(pid), number)
            deadline_s = time.monotonic() + STOP_PATIENCE_S
            while time.monotonic() < deadline_s:
                if _holder(paths) != holder:
                    return
                time.sleep(POLL_S)


def _holder(paths: GuardPaths) -> str | None:
    """What the holder of the lock wrote into it; None when nobody holds it."""
    try:
        with paths.lock.open("r") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: nobody who looks is taken for a guard
            except BlockingIOError:
                return file.read(4096)
    except OSError:
        return None
    return None


def _hold(path: Path) -> int | None:
    """A descriptor that holds the lock; None when another guard does."""
    deadline_s = time.monotonic() + LOCK_PATIENCE_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(descriptor)
            if path.stat().st_ino == found.st_ino and found.st_uid == os.geteuid():  # else it is no more, or not ours
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} {__file__}".encode())
                return descriptor
        os.close(descriptor)
        if time.monotonic() >= deadline_s:
            return None
        time.sleep(POLL_S)


def _end(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def main(arguments: Sequence[str]) -> int:
    """`python -m agent.guard RIGHTS LOCK COMMAND…`: guard until nothing is left to guard, or until told to end."""
    paths, command = GuardPaths(Path(arguments[0]), Path(arguments[1])), list(arguments[2:])
    signal.signal(signal.SIGTERM, _end)
    boot = files.boot_id()
    guard = Guard(
        lambda: files.read(paths.rights, boot),
        lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True),
    )
    while (descriptor := _hold(paths.lock)) is not None:
        try:
            while (pause_s := guard.look(files.boot_s(), time.monotonic())) is not None:
                time.sleep(pause_s)
        finally:
            guard.close()
            paths.lock.unlink(missing_ok=True)
            os.close(descriptor)
        # Whoever wrote before the lock was let go of took this guard for the one that sees to it.
        if not guard.is_needed(files.boot_s()):
            break
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
