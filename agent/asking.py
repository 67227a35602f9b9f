"""Carrying out one probe or hook: an HTTP request, a connection, a command in the container, a pause.

Answers say what came back, never what was asked: paths, headers and commands are sealed.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from agent.runtime.contract import PodStatus, Runtime, RuntimeFailure
from beemesh import __version__
from beemesh.workloads.care import Action, Exec, HttpGet, Sleep, TcpSocket

CONNECTIONS_MAX = 64
"""Probes by network under way at once, and as many hooks: those of hundreds of pods, most answered within
milliseconds."""

COMMANDS_MAX = 4
"""Commands of probes under way at once: each is a process start of a tenth of a second of a core."""

HOOK_COMMANDS_MAX = 16
"""Commands of hooks under way at once: most of them only wait, as long as their pods' graces, each beside a process of
the engine with some tens of megabytes."""

HEADERS_BYTES_MAX = 64 * 1024
REDIRECTS_MAX = 10
"""As a kubelet, which follows redirects to the same host only; one to another host is good by itself."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How it went; `why` tells of a failure, for people."""

    ok: bool
    why: str = ""


GOOD = Answer(True)


class _Turns:
    """How many actions may be under way at once, by what each costs the machine."""

    def __init__(self, connections: int, commands: int) -> None:
        self._connections = asyncio.Semaphore(connections)
        self._commands = asyncio.Semaphore(commands)

    def of(self, action: Action) -> asyncio.Semaphore:
        """Held while the action is carried out."""
        return self._commands if isinstance(action, Exec) else self._connections


class Asker:
    """Asks the containers of this machine."""

    def __init__(self, runtime: Runtime, address: str) -> None:
        """`address` is where published ports answer."""
        self._runtime = runtime
        self._address = address
        self._probes = _Turns(CONNECTIONS_MAX, COMMANDS_MAX)
        # Of their own: hooks may take minutes, and probes may not wait for them.
        self._hooks = _Turns(CONNECTIONS_MAX, HOOK_COMMANDS_MAX)
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE  # as a kubelet: a probe asks whether somebody answers, not who

    async def ask(self, pod: PodStatus, container: str, action: Action, timeout_s: float) -> Answer:
        """Carry a probe's `action` out on a container, within `timeout_s` from the moment it begins. Never raises for
        what goes wrong outside."""
        async with self._probes.of(action):
            return await self._carry_out(pod, container, action, timeout_s)

    async def run_hook(self, pod: PodStatus, container: str, hook: Action, grace_s: float) -> Answer:
        """Carry a hook out within `grace_s` from now: the wait for its turn is part of its pod's grace. Never raises
        for what goes wrong outside."""
        if isinstance(hook, Sleep):  # costs nothing, and ends with the grace by itself
            return await self._carry_out(pod, container, hook, grace_s)
        why = f"no turn within {grace_s:g} s: other hooks of this machine were still under way"
        try:
            async with asyncio.timeout(grace_s), self._hooks.of(hook):
                why = f"not done within {grace_s:g} s"
                return await self._carry_out(pod, container, hook, grace_s)
        except TimeoutError:
            return Answer(False, why)

    async def _carry_out(self, pod: PodStatus, container: str, action: Action, timeout_s: float) -> Answer:
        if isinstance(action, Sleep):
            await asyncio.sleep(min(action.seconds, timeout_s))
            return GOOD
        if isinstance(action, Exec):
            return await self._run(pod, container, action, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                host, port = await self._place(pod, action.port)
                if isinstance(action, TcpSocket):
                    return await _connect(host, port)
                return await self._get(host, port, action)
        except TimeoutError:
            return Answer(False, f"no answer within {timeout_s:g} s")
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            return Answer(False, _told(error))
        except RuntimeFailure as failure:
            return Answer(False, f"the engine says {failure.reason}")

    async def _run(self, pod: PodStatus, container: str, action: Exec, timeout_s: float) -> Answer:
        try:
            result = await self._runtime.exec(pod.pod_id, container, action.command, timeout_s=timeout_s)
        except RuntimeFailure as failure:
            return Answer(False, f"the command did not end within {timeout_s:g} s or could not run: {failure.reason}")
        return GOOD if result.exit_code == 0 else Answer(False, f"exit code {result.exit_code}")

    async def _place(self, pod: PodStatus, port: int) -> tuple[str, int]:
        """Where a container's port is reached from this machine: at the pod's own address, else where it is published,
        else (for processes of this host) here."""
        ip = pod.ip or (await self._runtime.status(pod.pod_id)).ip
        if ip:
            return ip, port
        published = (each.host_port for each in pod.ports if each.container_port == port and each.host_port)
        found = next(published, None)
        return (self._address, found) if found else ("127.0.0.1", port)

    async def _get(self, host: str, port: int, action: HttpGet) -> Answer:
        path, scheme = action.path if action.path.startswith("/") else f"/{action.path}", action.scheme.lower()
        for _ in range(REDIRECTS_MAX):
            status, location = await self._request(host, port, scheme, path, action.headers)
            if not 200 <= status < 400:
                return Answer(False, f"HTTP status {status}")
            if status < 300 or not location:
                return GOOD
            before = f"{scheme}://{host}:{port}{path}"
            after = urlsplit(urljoin(before, location))
            if after.hostname != host or after.scheme not in ("http", "https"):
                return GOOD
            scheme, port = after.scheme, after.port or (443 if after.scheme == "https" else 80)
            path = (after.path or "/") + (f"?{after.query}" if after.query else "")
        return Answer(False, f"more than {REDIRECTS_MAX} redirects")

    async def _request(
        self, host: str, port: int, scheme: str, path: str, headers: tuple[tuple[str, str], ...]
    ) -> tuple[int, str]:
        """The status and the `Location` of the answer to a GET."""
        tls = self._tls if scheme == "https" else None
        reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=HEADERS_BYTES_MAX)
        try:
            own = {"Host": f"{host}:{port}", "User-Agent": f"beemesh-probe/{__version__}", "Accept": "*/*"}
            given = {name.lower() for name, _ in headers}
            lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
            lines += [f"{name}: {value}" for name, value in own.items() if name.lower() not in given]
            writer.write(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("utf-8", "replace"))
            head = await reader.readuntil(b"\r\n\r\n")
        finally:
            with suppress(OSError):
                writer.transport.abort()
        first, *fields = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
            raise ValueError("the answer is no HTTP")
        found = (field.partition(":")[2].strip() for field in fields if field.lower().startswith("location:"))
        return int(words[1][:4]), next(found, "")


async def _connect(host: str, port: int) -> Answer:
    _, writer = await asyncio.open_connection(host, port)
    writer.transport.abort()
    return GOOD


def _told(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, asyncio.IncompleteReadError):
        return "the connection ended before the answer"
    if isinstance(error, asyncio.LimitOverrunError):
        return "the answer's head is too long"
    if isinstance(error, ssl.SSLError):
        return "no TLS there"
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
