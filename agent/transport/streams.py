"""Mutual-TLS streams between agents: requests with answers, one-way messages, and answers in many pieces.

Connections are opened when first needed, carry any number of requests at once, are kept while they are used and are
bounded in number; a new one costs some 5 ms of CPU on each side.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from agent.lasting import start_lasting
from agent.transport.connection import AnswerHandler, Connection
from agent.transport.load import Load
from agent.transport.tls import TlsIdentity
from beemesh.errors import BeemeshError, Unreachable, Untrusted
from beemesh.identity.certificates import NotYetValid, Peer
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId, short
from beemesh.membership.messages import Introduction
from beemesh.membership.roster import Roster
from beemesh.wire.framing import Frame, FrameDecoder, FrameKind
from beemesh.wire.registry import decode_message, encode_message

log = logging.getLogger("beemesh.streams")

CONNECT_PATIENCE_S = 3.0
"""TCP and TLS together: longer than a slow link needs, shorter than most requests' deadlines."""

IDLE_S = 120.0
"""An unused connection is closed after this; push-pull every 30 s keeps the busy ones."""

OUTGOING_MAX = 512
INCOMING_MAX = 1_024
"""Connections: a mesh of 1,000 nodes talks to some at a time; past it new ones are refused, never the old ones."""

INCOMING_PER_PEER_MAX = 16
"""Connections that one peer may open: one for requests, and some more while it opens others. Those on which it follows
logs or calls through us are counted apart (`FOLLOWED_MAX`): they must leave it a place for everything else."""

STRANGERS_MAX = 64
"""Streams of peers whose cards are not known yet, waiting for their introduction: a site that joins at once."""

INTRODUCTION_BYTES_MAX = 16 * 1024
"""A card with many labels; more than this is not read from a stranger."""

RequestHandler = Callable[[NodeId, int, msgspec.Struct, float], None]
TellHandler = Callable[[NodeId, msgspec.Struct], None]
PieceHandler = Callable[[NodeId, msgspec.Struct], AsyncIterator[msgspec.Struct]]
CardHandler = Callable[[Signed], None]
LaterHandler = Callable[[NodeId, int], None]


async def _introduction(reader: asyncio.StreamReader) -> tuple[Introduction, bytes]:
    """(a stranger's introduction, all that was read); raises `Untrusted` when it says anything else first."""
    decoder, early = FrameDecoder(INTRODUCTION_BYTES_MAX), b""
    while data := await reader.read(INTRODUCTION_BYTES_MAX):
        early += data
        for frame in decoder.feed(data):
            message = decode_message(frame.type_code, frame.body)
            if frame.kind == FrameKind.TELL and isinstance(message, Introduction):
                return message, early
            raise Untrusted("a stranger's first word was no introduction")
    raise Untrusted("a stranger said nothing")


class Streams:
    """The agent's end of all streams: a server, and connections to peers."""

    def __init__(
        self,
        tls: TlsIdentity,
        roster: Roster,
        on_request: RequestHandler,
        on_tell: TellHandler,
        *,
        card: Signed | None = None,
        on_card: CardHandler | None = None,
        on_later: LaterHandler | None = None,
    ) -> None:
        """`card` is this node's own, shown first on every stream that it opens; `on_card` gets that of a stranger, who
        is let in if the roster knows it then; `on_later` hears of a member whose certificate was issued at a wall time
        (ms) that is still to come here."""
        self._tls = tls
        self._roster = roster
        self.on_request = on_request
        self.on_tell = on_tell
        self._card = card
        self._on_card = on_card
        self._on_later = on_later
        self._strangers = 0
        self.piece_handlers: dict[type, PieceHandler] = {}
        """Requests whose answer comes in pieces (logs, relayed API calls), by message type."""
        self._server: asyncio.Server | None = None
        self._outgoing: dict[NodeId, Connection] = {}
        self._opening: dict[NodeId, asyncio.Task[Connection]] = {}
        self._incoming: set[Connection] = set()
        self._alone: set[Connection] = set()
        """Opened for one answer in pieces, and used for nothing else by us; by the peer for whatever it asks."""
        self._tokens: dict[int, tuple[Connection, int]] = {}
        self._next_token = 1
        self._loads: weakref.WeakValueDictionary[NodeId, Load] = weakref.WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; raises `BeemeshError` when the port is taken."""
        try:
            self._server = await asyncio.start_server(
                self._accept, host, port, ssl=self._tls.streams_server, ssl_handshake_timeout=CONNECT_PATIENCE_S
            )
        except OSError as error:
            raise BeemeshError(
                f"cannot listen on tcp {host}:{port}: {error.strerror}",
                hint="another program holds the port, or the address is not this machine's; see listen.gossip",
            ) from error
        self._sweeper = start_lasting(self._sweep, "the closing of idle streams")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer, early = await self._who(reader, writer)
            if peer.kind != "node" or self._is_crowded(peer.id):
                raise Untrusted(f"{peer.kind} {peer.name} may not open a stream, or no further one")
        except Untrusted as error:
            log.info("refused a stream from %s: %s", writer.get_extra_info("peername"), error.message)
            writer.close()
            return
        connection = Connection(NodeId(peer.id), reader, writer, self)
        connection.early = early
        self._incoming.add(connection)
        await connection.run()

    async def _who(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Peer, bytes]:
        """(whose stream this is, what was read of it to find out); raises `Untrusted`.

        A stranger whom the CA certified may introduce itself: its card decides, and the leaf is held against it."""
        connection = writer.get_extra_info("ssl_object")
        try:
            return self._peer(connection), b""
        except NotYetValid:
            raise
        except Untrusted:
            if self._on_card is None or self._strangers >= STRANGERS_MAX:
                raise
        self._strangers += 1
        try:
            introduction, early = await asyncio.wait_for(_introduction(reader), CONNECT_PATIENCE_S)
        except (OSError, TimeoutError, ssl.SSLError, BeemeshError) as error:
            raise Untrusted("it is unknown here, and did not introduce itself") from error
        finally:
            self._strangers -= 1
        self._on_card(introduction.card)
        return self._peer(connection), early

    def _peer(self, connection: ssl.SSLObject) -> Peer:
        """Who is at the other end; raises `Untrusted`, and tells of a certificate from a later time."""
        try:
            return self._tls.peer(connection)
        except NotYetValid as early:
            if self._on_later is not None and early.peer is not None and early.peer.kind == "node":
                self._on_later(NodeId(early.peer.id), early.begins_ms)
            raise

    def _is_crowded(self, peer: bytes) -> bool:
        own = sum(connection.peer == peer and not connection.follows for connection in self._incoming)
        return len(self._incoming) >= INCOMING_MAX or own >= INCOMING_PER_PEER_MAX

    def is_open(self, peer: NodeId) -> bool:
        """Whether a small request to a peer would leave at once."""
        connection = self._outgoing.get(peer)
        return connection is not None and connection.takes_at_once

    async def connection(self, peer: NodeId, address: tuple[str, int]) -> Connection:
        """The open connection to a peer, or a new one; raises `Unreachable`, also for one whose certificate is bad."""
        existing = self._outgoing.get(peer)
        if existing is not None and existing.is_open:
            return existing
        opening = self._opening.get(peer)
        if opening is None:
            opening = asyncio.create_task(self._open_kept(peer, address))
            self._opening[peer] = opening
            opening.add_done_callback(lambda done: self._opened(peer, done))
        return await asyncio.shield(opening)

    def _opened(self, peer: NodeId, done: asyncio.Task[Connection]) -> None:
        self._opening.pop(peer, None)
        if not done.cancelled():
            done.exception()  # seen: whoever awaited it got it, and a lone failure is no news

    async def _open(self, peer: NodeId, address: tuple[str, int]) -> Connection:
        member = self._roster.member(peer)
        if member is None:
            raise Unreachable(f"{short(peer)} is not a member of this mesh")
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(
                    *address, ssl=self._tls.client, server_hostname=self._tls.dns_name(member.name)
                ),
                CONNECT_PATIENCE_S,
            )
        except (OSError, ValueError, TimeoutError, ssl.SSLError) as error:  # ValueError: no resolver takes such a host
            text = str(error) or "no answer in time"
            raise Unreachable(f"cannot reach {member.name} at {address[0]}:{address[1]}: {text}") from error
        try:
            found = self._peer(writer.get_extra_info("ssl_object"))
            if found.id != peer:
                raise Untrusted(f"{address[0]}:{address[1]} is {found.name}, not {member.name}")
        except Untrusted as error:
            writer.close()
            text = f"{member.name} at {address[0]}:{address[1]} did not show that it is who it is: {error.message}"
            raise Unreachable(text, hint=error.hint) from error  # for whoever asks it is as good as away
        if self._roster.member(peer) is None:  # it was shut out meanwhile
            writer.close()
            raise Unreachable(f"{short(peer)} is not a member of this mesh any more")
        connection = Connection(peer, reader, writer, self)
        self.spawn(connection.run())
        if self._card is not None:
            code, body = encode_message(Introduction(self._card))
            await connection.send(Frame(FrameKind.TELL, 0, code, 0, body))
        return connection

    async def _open_kept(self, peer: NodeId, address: tuple[str, int]) -> Connection:
        if len(self._outgoing) >= OUTGOING_MAX:
            self._close_longest_idle()
        connection = await self._open(peer, address)
        self._outgoing[peer] = connection
        return connection

    async def ask(
        self, peer: NodeId, address: tuple[str, int], message: msgspec.Struct, deadline_s: float
    ) -> msgspec.Struct:
        """Send a request and wait for its answer; raises `Unreachable` at the latest after `deadline_s` seconds."""
        try:
            async with asyncio.timeout(deadline_s):
                connection = await self.connection(peer, address)
                async with connection.exchange(message, deadline_s) as answers:
                    return self.answer_in(peer, await answers.get())
        except TimeoutError:
            raise Unreachable(f"{self.name(peer)} did not answer within {deadline_s:g} s") from None

    def post(
        self, peer: NodeId, address: tuple[str, int], message: msgspec.Struct, deadline_s: float, done: AnswerHandler
    ) -> None:
        """The same for somebody who does not wait: `done` is called once, with the answer or why there is none."""
        connection = self._outgoing.get(peer)
        if connection is not None and connection.takes_at_once:
            connection.post(message, deadline_s, done)
        else:
            self.spawn(self._ask_for(peer, address, message, deadline_s, done))

    async def _ask_for(
        self, peer: NodeId, address: tuple[str, int], message: msgspec.Struct, deadline_s: float, done: AnswerHandler
    ) -> None:
        try:
            answer = await self.ask(peer, address, message, deadline_s)
        except BeemeshError as error:
            done(None, error.message)
        except Exception as error:  # a bug of ours must not leave whoever asked waiting for ever
            log.exception("a question to %s broke", self.name(peer))
            done(None, f"the question broke: {error!r}")
        else:
            done(answer, "")

    async def pieces(
        self, peer: NodeId, address: tuple[str, int], message: msgspec.Struct, deadline_s: float
    ) -> AsyncIterator[msgspec.Struct]:
        """Send a request and yield the pieces of its answer; each must come within `deadline_s` of the one before
        (0: however long it takes)."""
        connection = await self._open(peer, address)  # its own: a slow reader must not hold up anything else
        self._alone.add(connection)
        try:
            async with connection.exchange(message, deadline_s) as answers:
                while True:
                    try:
                        frame = await asyncio.wait_for(answers.get(), deadline_s or None)
                    except TimeoutError:
                        raise Unreachable(f"{self.name(peer)} sent nothing for {deadline_s:g} s") from None
                    if frame is not None and frame.kind == FrameKind.END:
                        return
                    yield self.answer_in(peer, frame)
        finally:
            connection.close()

    def answer_in(self, peer: NodeId, frame: Frame | None) -> msgspec.Struct:
        """What a peer answered; raises `Unreachable` where that is no answer."""
        if frame is None:
            raise Unreachable(f"the stream to {self.name(peer)} ended before it answered")
        if frame.kind == FrameKind.ERROR:
            raise Unreachable(f"{self.name(peer)} refused: {frame.body.decode(errors='replace')}")
        message = decode_message(frame.type_code, frame.body)
        if message is None:
            raise Unreachable(f"{self.name(peer)} answered with something this agent does not know")
        return message

    def name(self, peer: NodeId) -> str:
        """What to call a peer in a message to people."""
        member = self._roster.member(peer)
        return member.name if member else short(peer)

    async def tell(self, peer: NodeId, address: tuple[str, int], message: msgspec.Struct) -> None:
        """Send a one-way message; raises `Unreachable` when it cannot even leave."""
        connection = await self.connection(peer, address)
        code, body = encode_message(message)
        await connection.send(Frame(FrameKind.TELL, 0, code, 0, body))

    def close_strangers(self) -> None:
        """End every connection with a peer that is no member any more: it was revoked, or has new keys."""
        for connection in self._all():
            if self._roster.member(connection.peer) is None:
                log.info("closed the stream with %s: it is no member any more", short(connection.peer))
                connection.close()

    def _all(self) -> list[Connection]:
        return [*self._outgoing.values(), *self._incoming, *self._alone]

    def load(self, peer: NodeId) -> Load:
        """What a peer makes this agent hold: one for all its connections, kept as long as any of them is."""
        return self._loads.setdefault(peer, Load())

    def new_token(self, connection: Connection, frame_id: int) -> int:
        """A number by which the node answers a request of a peer."""
        token, self._next_token = self._next_token, self._next_token + 1
        self._tokens[token] = (connection, frame_id)
        return token

    def reply(self, token: int, message: msgspec.Struct) -> None:
        """Answer a request; a token that is unknown (the peer is gone) is nobody's loss."""
        place = self._tokens.pop(token, None)
        if place is not None and place[0].is_open:
            place[0].answer(place[1], message)

    def refuse(self, token: int, why: str) -> None:
        """Tell the asker that its request is not answered here; its place is free for the next one."""
        place = self._tokens.pop(token, None)
        if place is not None and place[0].is_open:
            place[0].refuse(place[1], why)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self._incoming.discard(connection)
        self._alone.discard(connection)
        if self._outgoing.get(connection.peer) is connection:
            del self._outgoing[connection.peer]
        for token in [token for token, place in self._tokens.items() if place[0] is connection]:
            del self._tokens[token]

    def close_peer(self, peer: NodeId) -> None:
        """Cut a peer off at once, in both directions (its membership was revoked)."""
        for connection in [*self._outgoing.values(), *self._incoming]:
            if connection.peer == peer:
                connection.close()

    def _close_longest_idle(self) -> None:
        connection = min(self._outgoing.values(), key=lambda each: each.last_used_s)
        connection.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(IDLE_S / 4)
            oldest_s = asyncio.get_running_loop().time() - IDLE_S
            for connection in [*self._outgoing.values(), *self._incoming]:
                if connection.is_idle(oldest_s):
                    connection.close()

    def spawn(self, work: Awaitable[Any]) -> None:
        """Do something beside all else, until it ends or all streams are closed."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not isinstance(task.exception(), BeemeshError):
            log.error("a stream task failed", exc_info=task.exception())

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        for connection in self._all():
            connection.close()
        for task in list(self._tasks):
            task.cancel()
