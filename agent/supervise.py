"""Keeps an agent running where there is no systemd: the same promises for start, stop, restart and status.

`start` leaves a small process that holds a lock, runs the agent, and runs it again when it ends by itself (with a
growing pause, like `Restart=always`). `stop` ends both and waits for it. Pods are not children of either and live on.
Nothing starts this at boot; whoever needs that has an init system, and should let it run `beemesh-agent service start`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from beemesh.errors import BeemeshError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
"""An agent that ends soon after each start is back before a run lease (15 s) ends, where it can: it renews the lease or
ends the pod itself."""
HEALTHY_AFTER_S = 60.0
"""An agent that ran for so long starts again at once: whatever ended it is not what ended it before."""

STOP_PATIENCE_S = 20.0
"""An agent has so long to end by itself before it is killed."""

START_PATIENCE_S = 10.0
LOCK_PATIENCE_S = 1.0
"""Whoever looks whether a supervisor runs holds its lock for a moment; one that runs holds it for ever."""

LOG_BYTES_MAX = 8 * 1024 * 1024
"""Past it the log is moved aside once (`agent.log.1`) at the next start: two files at the most."""


@dataclass(frozen=True, slots=True)
class ServicePaths:
    """The supervisor's own files, all under the agent's data directory."""

    data: Path

    @property
    def lock(self) -> Path:
        """Locked by the running supervisor; holds its process ID."""
        return self.data / "service.lock"

    @property
    def log(self) -> Path:
        """What the agent and its supervisor print."""
        return self.data / "agent.log"


def running_pid(paths: ServicePaths) -> int | None:
    """The supervisor's process ID while it runs. The lock decides, so a stale file never lies."""
    try:
        with paths.lock.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: nobody who looks is taken for it
            except BlockingIOError:
                return int(file.read().strip() or 0) or None
    except FileNotFoundError:
        return None
    return None


def start(paths: ServicePaths, command: Sequence[str]) -> bool:
    """Run `command` for ever in the background; False when it runs already. Returns once the supervisor holds."""
    if running_pid(paths) is not None:
        return False
    paths.data.mkdir(parents=True, exist_ok=True)
    if paths.log.exists() and paths.log.stat().st_size > LOG_BYTES_MAX:
        paths.log.replace(paths.log.with_name("agent.log.1"))
    with paths.log.open("ab") as log:
        paths.log.chmod(0o600)
        subprocess.Popen(
            [sys.executable, "-m", "agent.supervise", str(paths.data), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    if not _wait_until(lambda: running_pid(paths) is not None, START_PATIENCE_S):
        raise BeemeshError(f"the agent's supervisor did not start in {START_PATIENCE_S:g} s", hint=f"see {paths.log}")
    return True


def stop(paths: ServicePaths) -> bool:
    """End supervisor and agent and wait for it; False when nothing ran. Pods are left alone."""
    pid = running_pid(paths)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not _wait_until(lambda: running_pid(paths) is None, STOP_PATIENCE_S + 5.0):
        raise BeemeshError(f"the agent's supervisor (process {pid}) did not end", hint=f"see {paths.log}")
    return True


def _wait_until(condition: Callable[[], bool], patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


class Supervisor:
    """The process that stays: starts the agent, waits, starts it again."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        """Until told to stop; returns the exit code of the process."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_patience_over)
        pause_s = FIRST_PAUSE_S
        while not self._stopping:
            started = time.monotonic()
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            code = self._child.wait()
            if self._stopping:
                break
            pause_s = FIRST_PAUSE_S if time.monotonic() - started > HEALTHY_AFTER_S else pause_s
            print(f"the agent ended with {code}; starting it again in {pause_s:g} s", flush=True)
            self._rest(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        return 0

    def _rest(self, pause_s: float) -> None:
        deadline = time.monotonic() + pause_s
        while not self._stopping and time.monotonic() < deadline:
            time.sleep(0.1)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            signal.alarm(int(STOP_PATIENCE_S))

    def _on_patience_over(self, _number: int, _frame: object) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(arguments: Sequence[str]) -> int:
    """`python -m agent.supervise DATA_DIR COMMAND…`: take the lock, then supervise."""
    paths = ServicePaths(Path(arguments[0]))
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _wait_until(lambda: _locks(descriptor), LOCK_PATIENCE_S):
        return 0
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode("ascii"))
    return Supervisor(arguments[1:]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
