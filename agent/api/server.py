"""Serving the app: HTTPS on the network, with the peer checked before its first request, and HTTP on a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.transport.tls import TlsIdentity
from beemesh.errors import BeemeshError, Untrusted

log = logging.getLogger("beemesh.api")

CONNECTIONS_MAX = 512
"""Open API connections: watchers and followers of a whole team, and a bound on memory."""

CONNECTIONS_PER_PEER_MAX = 32
"""Of one certificate's owner: each watch and each followed log of a person is one; no owner can take them all."""

PATIENCE_S = {"head": 10.0, "body": 60.0}
"""From when a connection is made, or a request begins, until its head has come; from then until its body has. A body of
5 MiB takes that long at 0.7 Mbit/s."""

KEEP_ALIVE_S = 75
BACKLOG = 128
START_PATIENCE_S = 10.0


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers: the agent decides when to stop, and until then nothing wakes it: uvicorn
    itself looks ten times a second, on each listener of each agent, whether it should."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Stop listening; open requests are waited for, for a while."""
        self.should_exit = True
        self._ended.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)  # sets the headers of all answers; without a date in them they never change
        await self._ended.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class _PatientProtocol(H11Protocol):
    """Ends a connection whose peer begins a request and does not bring it to its end; uvicorn bounds only the time
    between two requests. An answer may take as long as it takes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._awaited = ""
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._await("")
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.their_state is h11.SEND_BODY:
            self._await("body")
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._await("head")
        else:
            self._await("")

    def _await(self, part: str) -> None:
        """Expect a part of a request, whose time runs from when it was first expected; empty: it is not their turn."""
        if part == self._awaited:
            return
        self._awaited = part
        if self._deadline is not None:
            self._deadline.cancel()
        # Aborted: an orderly end would wait for the peer again.
        self._deadline = self.loop.call_later(PATIENCE_S[part], self.transport.abort) if part else None


def _peer_checked(tls: TlsIdentity) -> type[H11Protocol]:
    open_by_peer: Counter[bytes] = Counter()

    class PeerCheckedProtocol(_PatientProtocol):
        """Closes a connection whose certificate verifies but whose issuer is not who it names, or has too many."""

        peer_id: bytes | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
            try:
                peer = tls.peer(connection)
                if open_by_peer[peer.id] >= CONNECTIONS_PER_PEER_MAX:
                    raise Untrusted(f"{peer.kind} {peer.name} has {CONNECTIONS_PER_PEER_MAX} connections already")
            except Untrusted as error:
                log.info("refused an API connection: %s", error.message)
                transport.abort()
                return
            self.peer_id = peer.id
            open_by_peer[peer.id] += 1

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.peer_id is not None:
                open_by_peer[self.peer_id] -= 1
                if not open_by_peer[self.peer_id]:
                    del open_by_peer[self.peer_id]

    return PeerCheckedProtocol


def _notice_the_vanished(listener: socket.socket) -> None:
    """Have the kernel ask those who are silent whether they are there: a watcher whose machine was cut off would keep
    its place until something is told. Accepted sockets inherit it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def tcp_listener(host: str, port: int) -> socket.socket:
    """A bound socket for the API; raises `BeemeshError` when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small answers at once only on sockets that say that they are TCP, and accepted ones inherit it:
    # without, each answer on a connection that is kept waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _notice_the_vanished(listener)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BeemeshError(
            f"cannot listen on tcp {host}:{port}: {error.strerror}",
            hint="another program holds the port, or the address is not this machine's; see listen in node.yaml",
        ) from error
    return listener


class ApiServer:
    """Both listeners over one app."""

    def __init__(self, app: ASGIApp, tls: TlsIdentity) -> None:
        self._app = app
        self._tls = tls
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []
        self._unix_path: Path | None = None

    async def start_plain(self, app: ASGIApp, host: str, port: int) -> None:
        """Serve another app by plain HTTP; raises `BeemeshError` when the port is taken."""
        await self._serve(tcp_listener(host, port), with_tls=False, app=app)

    async def start(self, host: str, port: int, unix_path: Path) -> None:
        """Listen on both; raises `BeemeshError` when the port is taken."""
        await self._serve(tcp_listener(host, port), with_tls=True)
        self._unix_path = unix_path
        await self._serve(self._unix_socket(unix_path), with_tls=False)

    @staticmethod
    def _unix_socket(path: Path) -> socket.socket:
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        return listener

    async def _serve(self, listener: socket.socket, *, with_tls: bool, app: ASGIApp | None = None) -> None:
        listener.setblocking(False)
        config = uvicorn.Config(
            _Rooted(app or self._app),
            http=_peer_checked(self._tls) if with_tls else _PatientProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=2,
            backlog=BACKLOG,
        )
        config.load()
        if with_tls:
            config.ssl = self._tls.api_server
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        async with asyncio.timeout(START_PATIENCE_S):
            while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn tells of its start only so
                await asyncio.sleep(0.005)
        self._servers.append((server, task))

    async def close(self) -> None:
        """Stop listening; open requests get two seconds."""
        for server, _ in self._servers:
            server.end()
        for _, task in self._servers:
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(task, 4)
        if self._unix_path is not None:
            os.unlink(self._unix_path)  # noqa: PTH108 - one system call on a local path


class _Rooted:
    """Keeps uvicorn's lifespan and websocket scopes away from the app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._app(scope, receive, send)
