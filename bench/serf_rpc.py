"""As much of serf's RPC protocol (MessagePack over TCP) as `bench.membership` needs: stats, join, event, stream."""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgspec


class Cut(Exception):
    """The bytes end in the middle of an object."""


def decode_one(data: bytes, at: int = 0) -> tuple[Any, int]:
    """(an object, where it ends) of a row of MessagePack objects; raises `Cut` when it is not all there."""
    head = _take(data, at, 1)[0]
    at += 1
    if head < 0x80 or head >= 0xE0:
        return (head if head < 0x80 else head - 256), at
    if head < 0xC0:
        if head >= 0xA0:
            return _take(data, at, head & 0x1F), at + (head & 0x1F)
        return _many(data, at, head & 0x0F, is_map=head < 0x90)
    if head in _FIXED:
        code = _FIXED[head]
        size = struct.calcsize(code)
        return struct.unpack(code, _take(data, at, size))[0], at + size
    if head in _SIZED:
        code, kind = _SIZED[head]
        width = struct.calcsize(code)
        size = struct.unpack(code, _take(data, at, width))[0]
        if kind == "raw":
            return _take(data, at + width, size), at + width + size
        return _many(data, at + width, size, is_map=kind == "map")
    return {0xC0: None, 0xC2: False, 0xC3: True}[head], at


_FIXED = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i"}
_FIXED[0xD3] = ">q"
_SIZED = {0xC4: (">B", "raw"), 0xC5: (">H", "raw"), 0xC6: (">I", "raw"), 0xD9: (">B", "raw"), 0xDA: (">H", "raw")}
_SIZED |= {0xDB: (">I", "raw"), 0xDC: (">H", "list"), 0xDD: (">I", "list"), 0xDE: (">H", "map"), 0xDF: (">I", "map")}


def _take(data: bytes, at: int, size: int) -> bytes:
    if len(data) < at + size:
        raise Cut
    return data[at : at + size]


def _many(data: bytes, at: int, count: int, *, is_map: bool) -> tuple[Any, int]:
    items = []
    for _ in range(count * 2 if is_map else count):
        item, at = decode_one(data, at)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if is_map else items), at


class SerfRpc:
    """One connection to one serf agent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sequence = 0
        self._read = b""
        self.send("handshake", Version=1)
        self.receive()

    def send(self, command: str, **body: Any) -> None:
        """Ask for something, without waiting."""
        self._sequence += 1
        content = msgspec.msgpack.encode({"Command": command, "Seq": self._sequence})
        self.socket.sendall(content + (msgspec.msgpack.encode(body) if body else b""))

    def receive(self) -> Any:
        """The next object that the agent sends."""
        while True:
            try:
                item, end = decode_one(self._read)
            except Cut:
                part = self.socket.recv(65_536)
                if not part:
                    raise ConnectionError("the serf agent closed its RPC connection") from None
                self._read += part
                continue
            self._read = self._read[end:]
            return item

    def present(self) -> int:
        """How many members this agent holds for alive, itself included."""
        self.send("stats")
        self.receive()
        serf = self.receive()[b"serf"]
        return int(serf[b"members"]) - int(serf[b"failed"]) - int(serf[b"left"])
