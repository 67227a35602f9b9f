"""A member of a mesh that is no agent: a socket, a node's keys, and only what a measurement wants to say.

It answers pings, so that agents hold it for alive and believe its present boot, and it can ping and be timed.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import msgspec

from agent.files import NodeFiles
from beemesh.ids import BOOT_ID_BYTES, BootId, NodeId
from beemesh.membership.messages import NONCE_BYTES, Ack, Ping
from beemesh.wire.datagram import DATAGRAM_BYTES_MAX, DatagramSealer, cipher_of, open_envelope, read_header
from beemesh.wire.registry import decode_message, encode_message

LOOPBACK = "127.0.0.1"


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def sealer_of(files: NodeFiles, crypto: Any = None) -> DatagramSealer:
    """What seals as this node, in a boot of its own."""
    return DatagramSealer(
        crypto or files.crypto, files.membership.node_id, BootId(os.urandom(BOOT_ID_BYTES)), files.ring
    )


class HandMadePeer:
    """One member on loopback, at the address that its card names. Not thread-safe but for `run` beside `ping`."""

    def __init__(self, files: NodeFiles) -> None:
        self.files = files
        self.node_id: NodeId = files.membership.node_id
        self._sealer = sealer_of(files)
        self._keys = {key.epoch: key.key for key in files.ring.keys}
        self._lock = threading.Lock()
        self._waiting: dict[bytes, threading.Event] = {}
        self._stopped = False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((LOOPBACK, files.membership.gossip_port))
        self.echoed: set[tuple[str, int]] = set()
        """Addresses whose pings were answered: agents there know this boot."""

    def say(self, message: msgspec.Struct) -> bytes:
        """The datagram of a message."""
        with self._lock:
            return self._sealer.seal(*encode_message(message), wall_ms())

    def send(self, message: msgspec.Struct, port: int) -> None:
        """Send one message."""
        self.socket.sendto(self.say(message), (LOOPBACK, port))

    def serve(self, patience_s: float) -> bool:
        """Take one datagram and answer it if it is a ping; False when none came."""
        self.socket.settimeout(patience_s)
        try:
            data, source = self.socket.recvfrom(DATAGRAM_BYTES_MAX)
        except (TimeoutError, OSError):
            return False
        message = self._read(data)
        if isinstance(message, Ping):
            self.socket.sendto(self.say(Ack(message.nonce)), source)
            self.echoed.add(source)
        elif isinstance(message, Ack) and (waiting := self._waiting.pop(message.nonce, None)) is not None:
            waiting.set()
        return True

    def _read(self, data: bytes) -> msgspec.Struct | None:
        header = read_header(data)
        if header is None or header.epoch not in self._keys:
            return None
        envelope = open_envelope(cipher_of(self.files.crypto, self._keys[header.epoch], header), header, data)
        return decode_message(envelope.type_code, envelope.body) if envelope is not None else None

    def ping(self, port: int, patience_s: float) -> float | None:
        """Seconds until the agent at `port` answered one ping; None when it did not in time. Needs `run` elsewhere."""
        nonce, heard = os.urandom(NONCE_BYTES), threading.Event()
        self._waiting[nonce] = heard
        started_s = time.perf_counter()
        self.send(Ping(nonce), port)
        if heard.wait(patience_s):
            return time.perf_counter() - started_s
        self._waiting.pop(nonce, None)
        return None

    def run(self) -> threading.Thread:
        """Serve in a thread until `close`."""

        def loop() -> None:
            while not self._stopped:
                self.serve(0.2)

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stop serving."""
        self._stopped = True
        self.socket.close()
