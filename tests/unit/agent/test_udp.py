"""The socket of an agent: what is likely honest comes first, and what waits is bounded."""

from __future__ import annotations

import asyncio
import socket

import pytest

from agent.transport import udp
from agent.transport.udp import UdpSocket

HONEST = b"honest"
BURST = 100
"""Datagrams that every kernel's queue holds."""


def is_honest(data: bytes, _source: tuple[str, int]) -> bool:
    """A glance that knows."""
    return data == HONEST


class Ear:
    """A listening socket on loopback, and what it heard."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.sources: list[tuple[str, int]] = []
        self.breaks_at = b""
        self._wanted = 0
        self._enough = asyncio.Event()
        self.socket = UdpSocket("127.0.0.1", 0, self._hear, is_honest)

    def _hear(self, data: bytes, source: tuple[str, int]) -> None:
        self.heard.append(data)
        self.sources.append(source)
        if len(self.heard) >= self._wanted:
            self._enough.set()
        if self.breaks_at and data == self.breaks_at:
            raise RuntimeError("a fault of ours")

    def send(self, *sent: bytes) -> tuple[str, int]:
        """Send it all; returns where it came from."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outgoing:
            outgoing.bind(("127.0.0.1", 0))
            for data in sent:
                outgoing.sendto(data, ("127.0.0.1", self.socket.port))
            name: tuple[str, int] = outgoing.getsockname()
            return name

    async def hears(self, count: int) -> None:
        """Wait until that many were heard."""
        self._wanted = count
        if len(self.heard) < count:
            self._enough.clear()
            await asyncio.wait_for(self._enough.wait(), 20)


def test_the_honest_do_not_wait_for_the_doubtful() -> None:
    """A likely datagram behind a hundred doubtful ones in the kernel's queue is handled before them."""
    sent = [b"%d" % number for number in range(BURST)]

    async def listen() -> list[bytes]:
        ear = Ear()
        ear.send(*sent, HONEST)
        ear.socket.start()
        await ear.hears(BURST + 1)
        ear.socket.close()
        return ear.heard

    assert asyncio.run(listen()) == [HONEST, *sent]


def test_the_doubtful_wait_in_a_short_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than may wait, those that waited longest are lost and counted; the others are all handled."""
    monkeypatch.setattr(udp, "DOUBTFUL_TURN_S", -1.0)  # one in each turn, as if each took long
    bursts = udp.DOUBTFUL_MAX // BURST + 10
    sent = [b"%d" % number for number in range(bursts * BURST)]

    async def listen() -> tuple[list[bytes], int]:
        ear = Ear()
        ear.socket.start()
        for number in range(bursts):
            ear.send(*sent[number * BURST : (number + 1) * BURST])
            ear.socket._drain()  # the loop gets no turn in between
        await ear.hears(len(sent) - ear.socket.overrun)
        ear.socket.close()
        return ear.heard, ear.socket.overrun

    heard, overrun = asyncio.run(listen())

    assert 0 < overrun < len(sent)
    assert len(heard) + overrun == len(sent)
    assert heard[-udp.DOUBTFUL_MAX :] == sent[-udp.DOUBTFUL_MAX :]


def test_a_datagram_that_breaks_on_a_fault_of_ours_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """The fault is told with its trace, and those behind it in the short queue are looked at, now and later."""

    async def listen() -> list[bytes]:
        ear = Ear()
        ear.breaks_at = b"bad"
        ear.socket.start()
        for sent in ((b"1", b"bad", b"2"), (b"3",)):
            ear.send(*sent)
            await ear.hears(len(ear.heard) + len(sent))
        ear.socket.close()
        return ear.heard

    assert asyncio.run(listen()) == [b"1", b"bad", b"2", b"3"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].exc_info is not None


def test_source_and_oversize_are_seen() -> None:
    """The receiver is told who sent, and gets one byte more than fits of what is too large."""

    async def listen() -> tuple[Ear, tuple[str, int]]:
        ear = Ear()
        source = ear.send(bytes(5_000))
        ear.socket.start()
        await ear.hears(1)
        ear.socket.close()
        return ear, source

    ear, source = asyncio.run(listen())

    assert [len(data) for data in ear.heard] == [udp.DATAGRAM_BYTES_MAX + 1]
    assert ear.sources == [source]
