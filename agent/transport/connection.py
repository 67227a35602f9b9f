"""One connection between two agents: frames both ways, requests with answers, and answers in many pieces.

Most messages are small and fit what the kernel takes: they are written at once and their answers are handed on as they
are read, without a task of their own. Whoever waits for pieces, or writes to a peer that takes them slowly, awaits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent.transport.load import FOLLOWED_MAX
from beemesh.errors import BeemeshError, InvalidInput, Unreachable
from beemesh.ids import NodeId, short
from beemesh.wire.framing import Frame, FrameDecoder, FrameKind, encode_frame
from beemesh.wire.registry import decode_message, encode_message

if TYPE_CHECKING:
    from agent.transport.streams import Streams

log = logging.getLogger("beemesh.streams")

DEADLINE_MAX_S = 600.0
"""Whatever a peer says, nobody waits longer for one answer."""

OPEN_REQUESTS_MAX = 1_024
"""Requests on one connection that wait for our answer, or whose answer waits for the peer; past it the peer is told."""

ANSWER_FRAMES_MAX = 64
"""Pieces of an answer that wait for their reader; past it the connection stops reading, and the peer sending."""

READ_BYTES = 64 * 1024
WRITE_PATIENCE_S = 10.0
"""A peer that takes nothing for so long is cut off: what waits for it is memory. The kernel is told the same: by itself
it sends ever less often into a network that was cut, and notices up to two minutes late that it is back. Less would end
streams in short cuts, from which TCP recovers by itself."""

KEEPALIVE_S = 60
"""So long a stream may be silent before the kernel asks, and that is how often it asks."""

AnswerHandler = Callable[[msgspec.Struct | None, str], None]
"""Takes the answer to a question, or None and why there is none."""


def _bound_unacknowledged(writer: asyncio.StreamWriter) -> None:
    """Let the kernel end a connection whose other end acknowledges nothing any more (Linux alone can)."""
    connection = writer.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # it has ended already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(WRITE_PATIENCE_S * 1000))
            # A log that is followed may be silent for days: the kernel asks whether the other end is still there.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)


class _Posted(NamedTuple):
    """A question that was written, and nobody awaits."""

    done: AnswerHandler
    deadline: asyncio.TimerHandle


class Connection:
    """One TLS connection with a verified peer, from either side's doing."""

    def __init__(self, peer: NodeId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Streams) -> None:
        self.peer = peer
        self._reader = reader
        self._writer = writer
        self._hub = hub
        self._decoder = FrameDecoder()
        self.early = b""
        """What was read before it was known who the peer is."""
        self._next_id = 1
        self._load = hub.load(peer)
        self._waiting: dict[int, asyncio.Queue[Frame | None]] = {}
        self._posted: dict[int, _Posted] = {}
        self._serving: dict[int, asyncio.Task[None] | None] = {}
        self._write_lock = asyncio.Lock()
        self.last_used_s = asyncio.get_running_loop().time()
        self._serving_until_s = 0.0
        self.is_open = True
        _bound_unacknowledged(writer)

    async def send(self, frame: Frame) -> None:
        """Write one frame; raises `Unreachable` when the connection is gone or the peer takes nothing."""
        self.last_used_s = asyncio.get_running_loop().time()
        try:
            async with self._write_lock:
                if self._writer.is_closing():  # asyncio's TLS transport breaks when it is written to after its end
                    raise BrokenPipeError("its other end closed it")
                self._writer.write(encode_frame(frame))
                if self._writer.transport.get_write_buffer_size():  # else all of it went to the kernel at once
                    await asyncio.wait_for(self._writer.drain(), WRITE_PATIENCE_S)
        except (OSError, TimeoutError, RuntimeError) as error:
            self._cut()
            raise Unreachable(f"the stream to {short(self.peer)} broke: {error or 'it takes nothing'}") from error

    @property
    def follows(self) -> bool:
        """Whether the peer follows something through this connection, however long that is silent."""
        return any(task is not None for task in self._serving.values())

    def is_idle(self, since_s: float) -> bool:
        """Whether nothing came or went since then, and nobody waits for an answer."""
        is_asked = self._serving and self._serving_until_s >= since_s
        is_awaited = self.follows or is_asked or self._waiting or self._posted
        return self.last_used_s < since_s and not is_awaited

    @property
    def takes_at_once(self) -> bool:
        """Whether a small frame can be written without waiting for anybody."""
        writer = self._writer
        return (
            self.is_open
            and not self._write_lock.locked()
            and not writer.is_closing()
            and not writer.transport.get_write_buffer_size()
        )

    def _put(self, frame: bytes) -> bool:
        """Write a frame while the connection `takes_at_once`; False when something is left for `_drained` to see to."""
        self.last_used_s = asyncio.get_running_loop().time()
        try:
            self._writer.write(frame)
        except (OSError, RuntimeError):
            self._cut()
            return True
        return not self._writer.transport.get_write_buffer_size()

    async def _drained(self) -> None:
        """Hold later writers back until the peer took what was written; a peer that takes nothing is cut off."""
        try:
            async with self._write_lock:
                await asyncio.wait_for(self._writer.drain(), WRITE_PATIENCE_S)
        except (OSError, TimeoutError, RuntimeError):
            self._cut()

    def _cut(self) -> None:
        """End a connection that takes nothing, also when it is closed already: what is still to be sent is dropped."""
        self.close()
        self._writer.transport.abort()

    def post(self, message: msgspec.Struct, deadline_s: float, done: AnswerHandler) -> None:
        """Send a request while the connection `takes_at_once`; `done` is called once, later, never from in here."""
        loop = asyncio.get_running_loop()
        frame_id, self._next_id = self._next_id, self._next_id + 1
        code, body = encode_message(message)
        try:
            frame = encode_frame(Frame(FrameKind.REQUEST, frame_id, code, int(deadline_s * 1000), body))
        except InvalidInput as error:
            loop.call_soon(done, None, error.message)
            return
        self._posted[frame_id] = _Posted(done, loop.call_later(deadline_s, self._late, frame_id, deadline_s))
        if not self._put(frame):
            self._hub.spawn(self._drained())

    def _late(self, frame_id: int, deadline_s: float) -> None:
        self._posted.pop(frame_id).done(None, f"{self._hub.name(self.peer)} did not answer within {deadline_s:g} s")

    def _posted_answer(self, posted: _Posted, frame: Frame) -> None:
        posted.deadline.cancel()
        try:
            answer = self._hub.answer_in(self.peer, frame)
        except Unreachable as error:
            posted.done(None, error.message)
        else:
            posted.done(answer, "")

    @contextlib.asynccontextmanager
    async def exchange(self, message: msgspec.Struct, deadline_s: float) -> AsyncIterator[asyncio.Queue[Frame | None]]:
        """Send a request and yield the queue that its answer frames come to (None: the connection ended)."""
        frame_id, self._next_id = self._next_id, self._next_id + 1
        queue: asyncio.Queue[Frame | None] = asyncio.Queue(maxsize=ANSWER_FRAMES_MAX)
        self._waiting[frame_id] = queue
        code, body = encode_message(message)
        try:
            await self.send(Frame(FrameKind.REQUEST, frame_id, code, int(deadline_s * 1000), body))
            yield queue
        finally:
            self._waiting.pop(frame_id, None)
            while not queue.empty():  # the connection waits for room in a queue that nobody reads any more
                queue.get_nowait()

    async def run(self) -> None:
        """Read frames until the end; never raises."""
        try:
            data = self.early or await self._reader.read(READ_BYTES)
            while data and self.is_open:
                self.last_used_s = asyncio.get_running_loop().time()
                for frame in self._decoder.feed(data):
                    if not self.is_open:  # it was closed while we waited: a peer that was shut out is heard no more
                        break
                    await self._take(frame)
                data = await self._reader.read(READ_BYTES)
        except (OSError, ssl.SSLError, BeemeshError, asyncio.IncompleteReadError) as error:
            log.debug("the stream with %s ended: %s", short(self.peer), error)
        finally:
            self.close()

    async def _take(self, frame: Frame) -> None:
        if frame.kind in (FrameKind.RESPONSE, FrameKind.PIECE, FrameKind.END, FrameKind.ERROR):
            posted = self._posted.pop(frame.id, None)
            if posted is not None:
                self._posted_answer(posted, frame)
            elif (queue := self._waiting.get(frame.id)) is not None:
                await queue.put(frame)
            return
        if frame.kind == FrameKind.REQUEST:
            await self._room()
            if not self.is_open:
                return
        began_s = time.thread_time()
        refusal = self._handle(frame)
        pause_s = self._load.spend(time.thread_time() - began_s, asyncio.get_running_loop().time())
        if refusal:
            await self.send(Frame(FrameKind.ERROR, frame.id, 0, 0, refusal))
        if pause_s is not None:
            await asyncio.sleep(pause_s)

    def _handle(self, frame: Frame) -> bytes:
        """Hand on what the peer says or asks of its own accord; why not, where it is to hear that at once."""
        message = decode_message(frame.type_code, frame.body)
        if message is None:
            return b"this agent does not know such requests" if frame.kind == FrameKind.REQUEST else b""
        if frame.kind == FrameKind.TELL:
            self._hub.on_tell(self.peer, message)
        elif frame.id in self._serving:
            raise InvalidInput(f"request {frame.id} was sent twice")
        elif len(self._serving) >= OPEN_REQUESTS_MAX:
            return b"too many requests at once"
        else:
            self._serve(frame, message)
        return b""

    async def _room(self) -> None:
        """Wait until the peer has read what it asked for before: while it does not, it is not read either."""
        while self.is_open and self._load.is_full:
            await self._load.changed()

    def _serve(self, frame: Frame, message: msgspec.Struct) -> None:
        pieces = self._hub.piece_handlers.get(type(message))
        if pieces is not None:
            if self._load.followed >= FOLLOWED_MAX:
                self._serving[frame.id] = None
                self.refuse(frame.id, f"no more than {FOLLOWED_MAX} logs and calls are followed for one agent at once")
                return
            task = asyncio.create_task(self._serve_pieces(frame.id, pieces(self.peer, message)))
            self._serving[frame.id] = task
            self._load.followed += 1
            task.add_done_callback(self._followed_to_its_end)  # also of a task that never came to run
            return
        self._serving[frame.id] = None
        token = self._hub.new_token(self, frame.id)
        deadline_s = min(frame.deadline_ms / 1000, DEADLINE_MAX_S)
        self._serving_until_s = max(self._serving_until_s, asyncio.get_running_loop().time() + deadline_s)
        self._hub.on_request(self.peer, token, message, deadline_s)

    def _followed_to_its_end(self, _task: asyncio.Task[None]) -> None:
        self._load.followed -= 1

    async def _serve_pieces(self, frame_id: int, pieces: AsyncIterator[msgspec.Struct]) -> None:
        try:
            async for piece in pieces:
                code, body = encode_message(piece)
                await self.send(Frame(FrameKind.PIECE, frame_id, code, 0, body))
            await self.send(Frame(FrameKind.END, frame_id, 0, 0, b""))
        except BeemeshError as error:
            with contextlib.suppress(Unreachable):
                await self.send(Frame(FrameKind.ERROR, frame_id, 0, 0, error.message.encode()))
        finally:
            self._serving.pop(frame_id, None)

    def answer(self, frame_id: int, message: msgspec.Struct) -> None:
        """Send the answer to a peer's request, unless it no longer waits."""
        if frame_id in self._serving:
            code, body = encode_message(message)
            self._reply(Frame(FrameKind.RESPONSE, frame_id, code, 0, body))

    def refuse(self, frame_id: int, why: str) -> None:
        """Send an error instead of an answer."""
        if self._serving.get(frame_id, 0) is None:
            self._reply(Frame(FrameKind.ERROR, frame_id, 0, 0, why.encode()))

    def _reply(self, frame: Frame) -> None:
        """Write an answer. Until the peer has taken it, its request keeps its place, and its bytes are counted."""
        if self._load.is_overfull:
            frame = Frame(FrameKind.ERROR, frame.id, 0, 0, b"too many answers wait to be read")
        rest: Callable[[], Awaitable[None]] = partial(self.send, frame)
        if self.takes_at_once:
            try:
                is_written = self._put(encode_frame(frame))
            except InvalidInput as error:
                log.error("an answer to %s was lost: %s", short(self.peer), error.message)
                is_written = True
            if is_written:
                self._serving.pop(frame.id, None)
                return
            rest = self._drained
        self._load.add(len(frame.body))
        self._hub.spawn(self._finish(frame.id, len(frame.body), rest))

    async def _finish(self, frame_id: int, answer_bytes: int, rest: Callable[[], Awaitable[None]]) -> None:
        try:
            await rest()
        finally:
            self._load.remove(answer_bytes)
            self._serving.pop(frame_id, None)

    def close(self) -> None:
        """End the connection; whoever waits for an answer learns it."""
        if not self.is_open:
            return
        self.is_open = False
        self._writer.close()
        for queue in self._waiting.values():
            if queue.full():
                queue.get_nowait()  # whoever reads it will hear that something is missing: the end must have room
            queue.put_nowait(None)
        posted, self._posted = self._posted, {}
        for each in posted.values():
            each.deadline.cancel()
            why = f"the stream to {self._hub.name(self.peer)} ended before it answered"
            asyncio.get_running_loop().call_soon(partial(each.done, None, why))
        for task in self._serving.values():
            if task is not None:
                task.cancel()
        self._serving.clear()
        self._load.wake()
        # Whoever closes a stream and opens another does not begin anew: the load lives until it is made up for.
        asyncio.get_running_loop().call_later(self._load.busy_for_s, self._load.wake)
        self._hub.forget(self)
