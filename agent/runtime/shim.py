"""The monitor of one pod of the `process` engine: a small program of its own that outlives the agent.

It is run as a file by a bare Python (standard library alone), reads one JSON document from its standard input, starts
the containers' processes, reports by its exit code that they run, and stays behind as a daemon: it keeps their logs,
restarts them by policy, forwards their ports, and ends them in good order on SIGTERM. `state.json` in the pod's
directory tells how they stand; environment values are in nobody's memory but its own and the processes'.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
MAX_FILES = 16384
RESTART_S = 0.05  # even a restart "at once" leaves others a moment
PIPE_BYTES = 65536
EXIT_PORT_IN_USE, EXIT_START_FAILED = 98, 97

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = kind.encode() if kind else None
    _check(_libc.mount(source.encode(), target.encode(), encoded, flags, data.encode()), f"mount {target}")


def _boot_ticks(pid: int) -> int:
    """When a process started, in ticks since boot: with the pid it names a process for good."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


class Container:
    """One supervised process with its log."""

    def __init__(self, document: dict[str, Any], home: Path) -> None:
        self.document = document
        self.name = str(document["name"])
        self.home = home
        self.log = Log(home / f"{self.name}.log", int(document["log_max_bytes"]))
        self.pid = 0
        self.exit_code: int | None = None
        self.restarts = 0
        self.started_at_ms = 0
        self.finished_at_ms = 0
        self.started_s = 0.0
        self.pause_s = 0.0
        self.waiting = False
        self.resting = False

    def start(self) -> None:
        """Fork and execute; raises `OSError` with an explanation when it cannot be executed."""
        error_out, error_in = os.pipe2(os.O_CLOEXEC)
        out_out, out_in = os.pipe2(os.O_CLOEXEC)
        err_out, err_in = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _become(self.document, self.home, out_in, err_in, error_in)
        for descriptor in (error_in, out_in, err_in):
            os.close(descriptor)
        with os.fdopen(error_out, "rb") as pipe:
            problem = pipe.read()
        if problem:
            os.waitpid(pid, 0)
            os.close(out_out)
            os.close(err_out)
            raise OSError(problem.decode("utf-8", "replace"))
        self.pid, self.waiting, self.resting = pid, False, False
        self.started_s, self.started_at_ms = time.monotonic(), int(time.time() * 1000)
        self.log.attach(out_out, "stdout")
        self.log.attach(err_out, "stderr")

    def state(self) -> dict[str, Any]:
        """What `state.json` says of it."""
        return {
            "name": self.name,
            "pid": self.pid,
            "ticks": _boot_ticks(self.pid) if self.pid else 0,
            "exit_code": self.exit_code,
            "restarts": self.restarts,
            "started_at_ms": self.started_at_ms,
            "finished_at_ms": self.finished_at_ms,
            "waiting": self.waiting,
            "resting": self.resting,
        }


class Log:
    """Writes what comes out of pipes in conmon's k8s-file format; starts over when it is full."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.file = path.open("ab", buffering=0)

    def attach(self, descriptor: int, stream: str) -> None:
        """Copy from a pipe until it ends."""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._ready, descriptor, stream)

    def _ready(self, descriptor: int, stream: str) -> None:
        try:
            data = os.read(descriptor, PIPE_BYTES)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
            return
        stamp = datetime.now(timezone.utc).isoformat(timespec="microseconds")  # noqa: UP017 - runs on any Python 3
        lines = data.split(b"\n")
        text = [f"{stamp} {stream} F ".encode() + line + b"\n" for line in lines[:-1]]
        if lines[-1]:
            text.append(f"{stamp} {stream} P ".encode() + lines[-1] + b"\n")
        with suppress(OSError):  # a full store must not end the pod
            if self.file.tell() + len(data) > self.max_bytes:
                self.file.close()
                draft = self.path.with_name(self.path.name + ".new")
                self.file = draft.open("wb", buffering=0)
                draft.replace(self.path)
            self.file.write(b"".join(text))


def _become(document: dict[str, Any], home: Path, out: int, err: int, problem: int) -> NoReturn:
    """In the child: confine, then execute. Whatever fails is written to the pipe `problem`."""
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        _limit(int(document["memory_bytes"]))
        if document["rootfs"]:
            _enter_image(document, home)
        os.chdir(document["cwd"])
        _drop(document["uid"], document["gid"])
        os.umask(0o022)
        os.execvpe(document["argv"][0], document["argv"], document["env"])  # noqa: S606 - that is what it is for
    except BaseException as error:
        text = f"cannot run {document['argv'][0]!r}: {error}" if isinstance(error, OSError) else traceback.format_exc()
        os.write(problem, text.encode())
        os._exit(127)


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _enter_image(document: dict[str, Any], home: Path) -> None:
    """A mount namespace whose root is the image under a writable layer in memory, then into it."""
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC), "unshare")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    place = home / f"root-{document['name']}"
    for name in ("upper", "work", "merged"):
        (place / name).mkdir(parents=True, exist_ok=True)
    root = place / "merged"
    options = f"lowerdir={document['rootfs']},upperdir={place / 'upper'},workdir={place / 'work'}"
    _mount("overlay", str(root), "overlay", MS_NODEV, options)
    (root / "dev").mkdir(exist_ok=True)
    for name in DEVICES:
        _bind(Path("/dev") / name, root, f"/dev/{name}", read_only=False)
    (root / "proc").mkdir(exist_ok=True)
    with suppress(OSError):
        _mount("proc", str(root / "proc"), "proc", MS_NOSUID | MS_NODEV, "hidepid=2")
    if not document["private_network"]:
        for name in ("/etc/resolv.conf", "/etc/hosts"):
            if Path(name).exists():
                _bind(Path(name).resolve(), root, name, read_only=True)
    for source, target, read_only in document["mounts"]:
        _bind(Path(source), root, target, read_only=read_only)
    socket.sethostname(document["hostname"])
    os.chroot(root)
    os.chdir("/")


def _bind(source: Path, root: Path, target: str, *, read_only: bool) -> None:
    """Bind a path into the image's root; links on the way are resolved inside that root, never outside of it."""
    place = root
    for part in Path(target).parts[1:]:
        if part == ".." or (place / part).is_symlink():
            raise OSError(0, f"mount path {target!r} leads through a link of the image")
        place = place / part
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(str(source), str(place), None, MS_BIND | MS_REC)
    if read_only:
        _mount("none", str(place), None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _drop(uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after the change of user, which clears it


class Monitor:
    """All containers of one pod, until they end or are told to."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.home = Path(document["dir"])
        self.restart = str(document["restart"])
        self.first_s, self.longest_s, self.steady_s = (float(each) for each in document["backoff_s"])
        self.containers = [Container(item, self.home) for item in document["containers"]]
        self.listeners = [(_listener(int(outside)), int(inside)) for outside, inside in document["forward"]]
        if document["private_network"]:
            _check(_libc.unshare(CLONE_NEWNET), "unshare network")
            _loopback_up()
        self.stopping = False
        self.done = asyncio.Event()

    async def run(self, report: int) -> None:
        """Start everything, say so through the pipe `report`, and watch until the end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        servers = []
        try:
            for container in self.containers:
                container.start()
            for listener, inside in self.listeners:
                servers.append(await asyncio.start_server(_forwarder(inside), sock=listener))
            self._write()
        except OSError as error:
            self._kill(signal.SIGKILL)
            _report(report, EXIT_START_FAILED, str(error.args[0] if len(error.args) == 1 else error))
            return
        _report(report, 0, "")
        self._reap()
        await self.done.wait()
        for server in servers:
            server.close()
        await asyncio.sleep(0.05)  # the last lines are still in the pipes
        self._save(ended=True)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            for container in self.containers:
                if container.pid == pid:
                    self._ended(container, os.waitstatus_to_exitcode(status))
        if not any(container.pid or container.waiting for container in self.containers):
            self.done.set()

    def _ended(self, container: Container, code: int) -> None:
        container.pid = 0
        container.exit_code = code if code >= 0 else 128 - code
        container.finished_at_ms = int(time.time() * 1000)
        again = self.restart == "Always" or (self.restart == "OnFailure" and container.exit_code != 0)
        if again and not self.stopping:
            if time.monotonic() - container.started_s > self.steady_s:
                container.pause_s = 0.0
            container.waiting, container.resting = True, container.pause_s > 0
            asyncio.get_running_loop().call_later(max(container.pause_s, RESTART_S), self._again, container)
            container.pause_s = min(max(2 * container.pause_s, self.first_s), self.longest_s)
        self._save()

    def _again(self, container: Container) -> None:
        if self.stopping:
            return
        container.restarts += 1
        try:
            container.start()
        except OSError:
            self._ended(container, 127)
        self._save()

    def _stop(self) -> None:
        try:
            grace_s = float((self.home / "grace").read_text())
        except (OSError, ValueError):
            grace_s = 0.0
        self.stopping = True
        for container in self.containers:
            container.waiting = False
        self._kill(signal.SIGTERM if grace_s > 0 else signal.SIGKILL)
        asyncio.get_running_loop().call_later(grace_s, self._kill, signal.SIGKILL)
        self._reap()

    def _kill(self, number: int) -> None:
        for container in self.containers:
            if container.pid:
                with suppress(ProcessLookupError):
                    os.killpg(container.pid, number)
        if number == signal.SIGKILL:
            for pid in _descendants():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _save(self, *, ended: bool = False) -> None:
        with suppress(OSError):
            self._write(ended=ended)

    def _write(self, *, ended: bool = False) -> None:
        states = [container.state() for container in self.containers]
        _write_state(self.home, states, ended=ended, stopped=self.stopping)


def _write_state(home: Path, containers: list[dict[str, Any]], *, ended: bool = False, stopped: bool = False) -> None:
    body = {
        "pid": os.getpid(),
        "ticks": _boot_ticks(os.getpid()),
        "ended": ended,
        "stopped": stopped,
        "containers": containers,
    }
    draft = home / ".state.draft"
    draft.write_text(json.dumps(body))
    draft.replace(home / "state.json")


def _descendants() -> list[int]:
    """Every process below this one: as its subreaper it also gets those whose parents ended."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: list[int] = []
    layer = {os.getpid()}
    while layer:
        layer = {pid for pid, parent in parents.items() if parent in layer}
        found += layer
    return found


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))  # noqa: S104 - a published port
    listener.listen()
    return listener


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def _forwarder(port: int) -> Any:
    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(PIPE_BYTES):
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        for one in (writer, inner_writer):
            one.close()

    return forward


def _report(pipe: int, code: int, text: str) -> None:
    with suppress(OSError):
        os.write(pipe, bytes([code]) + text.encode())
        os.close(pipe)


def main() -> int:
    """Read the document, leave a daemon behind, and answer with how its start went."""
    document = json.loads(sys.stdin.buffer.read())
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    if os.fork() > 0:
        os.close(sending)
        with os.fdopen(receiving, "rb") as pipe:
            answer = pipe.read()
        sys.stderr.write(answer[1:].decode("utf-8", "replace") or ("" if answer else "the monitor died"))
        return answer[0] if answer else EXIT_START_FAILED
    try:  # until its own session begins it dies with the agent's call; from then on this file tells whom to end
        _write_state(Path(document["dir"]), [])
    except OSError as error:
        _report(sending, EXIT_START_FAILED, str(error))
        return 1
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        monitor = Monitor(document)
    except OSError as error:
        in_use = error.errno == 98
        _report(sending, EXIT_PORT_IN_USE if in_use else EXIT_START_FAILED, str(error))
        return 1
    document.clear()
    asyncio.run(monitor.run(sending))
    return 0


if __name__ == "__main__":
    sys.exit(main())
