"""Connections to the API over real sockets: who begins and does not end is cut off, and nobody takes all places."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agent.api import server
from agent.api.server import ApiServer
from bench.bare_mesh import free_ports
from tests.contract.test_streams import Side

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PATIENCE_S = {"head": 0.4, "body": 0.4}
LONG_S = 1.2
"""Longer than the server waits for a peer, and than a peer needs to trickle a few bytes."""

GET = b"GET /ok HTTP/1.1\r\nhost: a\r\n\r\n"


async def _ok(_request: Request) -> Response:
    return Response("fine")


async def _taken(request: Request) -> Response:
    return Response(str(len(await request.body())))


async def _quiet(_request: Request) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        yield b"first\n"
        await asyncio.sleep(LONG_S)
        yield b"last\n"

    return StreamingResponse(lines())


POSTED = {"/taken": _taken, "/early": _ok}
APP = Starlette(
    routes=[
        Route("/ok", _ok),
        Route("/quiet", _quiet),
        *(Route(path, handler, methods=["POST"]) for path, handler in POSTED.items()),
    ]
)


@contextlib.asynccontextmanager
async def served(tls_of: Side, tmp_path: Path) -> AsyncIterator[int]:
    """The API of a node; its port."""
    api, port = ApiServer(APP, tls_of.streams._tls), free_ports(1)[0]
    await api.start("127.0.0.1", port, tmp_path / "socket")
    try:
        yield port
    finally:
        await api.close()


async def connected(client: Side, port: int) -> End:
    """A connection of a member's to the API of n1."""
    tls = client.streams._tls
    return await asyncio.open_connection("127.0.0.1", port, ssl=tls.client, server_hostname=tls.dns_name("n1"))


async def trickled(end: End, first: bytes, rest: bytes) -> bytes:
    """What comes back when bytes go out one by one, each well in time; all that was read when the connection ended."""
    reader, writer = end
    writer.write(first)
    with contextlib.suppress(OSError):
        for byte in rest:
            await asyncio.sleep(PATIENCE_S["head"] / 8)
            writer.write(bytes([byte]))
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(reader.read(), LONG_S)
        return b"it is open still"
    return b""


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"", b""),
        (b"", GET[:20]),
        (GET, b""),
        (GET, GET[:20]),
        (b"POST /taken HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n", b"x" * 20),
        (b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n", b"x" * 20),
        (GET + b"POST /taken HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n", b""),
    ],
    ids=["nothing", "a head", "nothing more", "a second head", "a body", "a body that nobody reads", "a second body"],
)
def test_a_request_that_never_comes_to_its_end_ends_the_connection(
    first: bytes, rest: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever is said of it byte by byte, and whatever was asked on the connection before."""
    monkeypatch.setattr(server, "PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 1)

    async def run() -> None:
        side = Side("n1", "n1", "n2")
        async with served(side, tmp_path) as port:
            answer = await trickled(await connected(Side("n2", "n1", "n2"), port), first, rest)
            assert answer == b"" or answer.count(b"HTTP/1.1 200 OK") == 1

    asyncio.run(run())


def test_a_quiet_answer_and_an_idle_connection_are_not_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A watch or a followed log may be silent for longer than a peer may be, and so may who asks again later."""
    monkeypatch.setattr(server, "PATIENCE_S", PATIENCE_S)

    async def run() -> None:
        side = Side("n1", "n1", "n2")
        async with served(side, tmp_path) as port:
            reader, writer = await connected(Side("n2", "n1", "n2"), port)
            writer.write(GET.replace(b"/ok", b"/quiet"))
            assert b"first" in await reader.readuntil(b"first\n")
            assert b"last" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
            await asyncio.sleep(LONG_S)
            writer.write(GET)
            assert await asyncio.wait_for(reader.readuntil(b"fine"), 10)
            writer.close()

    asyncio.run(run())


def test_no_owner_of_a_certificate_takes_all_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Past its share a peer is turned away, others are served, and a place that it gives back is its own again."""
    monkeypatch.setattr(server, "CONNECTIONS_PER_PEER_MAX", 3)

    async def answer(client: Side, port: int) -> bytes:
        reader, writer = await connected(client, port)
        try:
            writer.write(GET)
            return await asyncio.wait_for(reader.read(8), 10)
        except OSError:
            return b""
        finally:
            writer.transport.abort()

    async def run() -> None:
        side, greedy, other = (Side(name, "n1", "n2", "n3") for name in ("n1", "n2", "n3"))
        async with served(side, tmp_path) as port:
            held = [await connected(greedy, port) for _ in range(3)]
            assert await answer(greedy, port) == b""
            assert await answer(other, port) == b"HTTP/1.1"
            held[0][1].transport.abort()
            async with asyncio.timeout(10):
                while not await answer(greedy, port):
                    await asyncio.sleep(0.05)
            for _, writer in held:
                writer.transport.abort()

    asyncio.run(run())
