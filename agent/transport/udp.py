"""The UDP socket of an agent, drained in batches into one small buffer.

asyncio's stock datagram transport allocates 256 KiB per packet and costs several times as much CPU, which makes it an
easy target for a flood; here the loop only says that the socket is readable.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from beemesh.errors import BeemeshError

DATAGRAM_BYTES_MAX = 1_200
"""DESIGN section 4; one byte more is read so that an oversized datagram shows itself."""

DRAIN_DATAGRAMS_MAX = 128
"""Datagrams handled before the loop may turn to timers and streams again."""

RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
"""What the kernel may hold for us while the loop is busy: some 3,000 full datagrams."""

Address = tuple[str, int]
Receiver = Callable[[memoryview, Address], None]


class UdpSocket:
    """One bound UDP socket; `receiver` gets each datagram with its source, on the event loop."""

    def __init__(self, host: str, port: int, receiver: Receiver) -> None:
        self._receiver = receiver
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
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
        for _ in range(DRAIN_DATAGRAMS_MAX):
            try:
                size, address = self._socket.recvfrom_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error of an earlier send surfaces here and concerns nobody
            self._receiver(self._buffer[:size], (address[0], address[1]))

    def close(self) -> None:
        """Stop receiving and free the port."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
