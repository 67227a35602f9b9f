"""The UDP socket of an agent, drained in batches into one small buffer.

asyncio's stock datagram transport allocates 256 KiB per packet and costs several times as much CPU, which makes it an
easy target for a flood; here the loop only says that the socket is readable.

A flood must not fill the kernel's queue, where honest datagrams would be lost with the others. So the queue is emptied
with no more than a glance at each: what is likely an honest member's is handled at once, all else waits in a short
queue of our own, of which every turn of the loop handles a few.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable

from beemesh.errors import BeemeshError

log = logging.getLogger("beemesh.udp")

DATAGRAM_BYTES_MAX = 1_200
"""DESIGN section 4; one byte more is read so that an oversized datagram shows itself."""

DRAIN_DATAGRAMS_MAX = 1_024
"""Datagrams taken from the kernel before the loop may turn to timers and streams again: some 4 ms of glances."""

HANDLE_DATAGRAMS_MAX = 128
"""Likely ones handled in the same time: some 10 ms of verifications."""

DOUBTFUL_PER_TURN = 256
DOUBTFUL_TURN_S = 0.003
DOUBTFUL_MAX = 2_048
"""Datagrams that may wait, at most 2.5 MiB of them; when more come, those that waited longest are lost."""

RECEIVE_BUFFER_BYTES = 16 * 1024 * 1024
"""What the kernel may hold for us while the loop is busy or waits for a core: some 20,000 datagrams, which a flood at
wire speed sends in a few tenths of a second. Only root gets that much; others get what net.core.rmem_max allows."""
SO_RCVBUFFORCE = 33
"""socket(7); Python does not name it."""

Address = tuple[str, int]
Receiver = Callable[[bytes, Address], None]
Glance = Callable[[bytes, Address], bool]


class UdpSocket:
    """One bound UDP socket; `receiver` gets each datagram with its source, on the event loop, and those first that
    `is_likely` holds for an honest member's."""

    def __init__(self, host: str, port: int, receiver: Receiver, is_likely: Glance) -> None:
        self._receiver = receiver
        self._is_likely = is_likely
        self._doubtful: deque[tuple[bytes, Address]] = deque()
        self._waits = False
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER_BYTES)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise BeemeshError(
                f"cannot listen on udp {host}:{port}: {error.strerror}",
                hint="another program holds the port, or the address is not this machine's; see listen.gossip",
            ) from error
        self._buffer = memoryview(bytearray(DATAGRAM_BYTES_MAX + 1))
        self._loop: asyncio.AbstractEventLoop | None = None
        self.unsent = 0
        """Datagrams that the kernel would not take (buffer full, no route): lost, as datagrams may be."""
        self.overrun = 0
        """Doubtful datagrams that were lost unread, since more came than could be looked at."""

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Begin to receive."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._drain)

    def send(self, address: Address, data: bytes) -> None:
        """Send without waiting; what the kernel does not take is counted and lost."""
        try:
            self._socket.sendto(data, address)
        except OSError:
            self.unsent += 1

    def _drain(self) -> None:
        receive, buffer, is_likely, doubtful = self._socket.recvfrom_into, self._buffer, self._is_likely, self._doubtful
        handled = 0
        for _ in range(DRAIN_DATAGRAMS_MAX):
            try:
                size, address = receive(buffer)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # an ICMP error of an earlier send surfaces here and concerns nobody
            data, source = bytes(buffer[:size]), address[:2]
            if not is_likely(data, source):
                doubtful.append((data, source))
                continue
            self._receiver(data, source)
            handled += 1
            if handled == HANDLE_DATAGRAMS_MAX:
                break
        if not self._waits:
            self._look()
        while len(doubtful) > DOUBTFUL_MAX:
            doubtful.popleft()
            self.overrun += 1

    def _look(self) -> None:
        """Handle a few of those that wait, and come back for the others in the next turn."""
        doubtful, loop = self._doubtful, self._loop
        if loop is None:
            return
        enough_s = loop.time() + DOUBTFUL_TURN_S
        for _ in range(min(len(doubtful), DOUBTFUL_PER_TURN)):
            try:
                self._receiver(*doubtful.popleft())
            except Exception:  # a fault of ours: those that wait behind it are still looked at
                log.exception("a datagram broke its handling; all others go on")
            if loop.time() > enough_s:
                break
        self._waits = bool(doubtful)
        if self._waits:
            loop.call_soon(self._look)

    def close(self) -> None:
        """Stop receiving and free the port."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._doubtful.clear()
        self._socket.close()
