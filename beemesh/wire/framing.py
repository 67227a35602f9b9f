"""Frames on a stream: a 4-byte length, then one msgpack frame. Many requests share a connection by their ids."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import msgspec

from beemesh.custody.messages import SEALED_BYTES_MAX
from beemesh.errors import InvalidInput
from beemesh.undecodable import UNDECODABLE

LENGTH_BYTES = 4

FRAME_BYTES_MAX = SEALED_BYTES_MAX + 256 * 1024
"""The largest message is a sealed manifest with its record; nothing else comes near a mebibyte."""


class FrameKind(IntEnum):
    """What a frame is: a request, its one answer, one of many pieces of an answer and their end, an error instead of
    an answer, or a one-way message."""

    REQUEST = 1
    RESPONSE = 2
    PIECE = 3
    END = 4
    ERROR = 5
    TELL = 6


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One frame. `id` belongs to a request of the connecting or the accepting side alone; `type_code` names the
    message in `body` (see `wire.registry`); `deadline_ms` is how long the asker waits, 0 in everything but requests."""

    kind: FrameKind
    id: int
    type_code: int
    deadline_ms: int
    body: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def encode_frame(frame: Frame) -> bytes:
    """The bytes of one frame, its length in front; raises `InvalidInput` when it is larger than any peer takes."""
    content = _encoder.encode(frame)
    if len(content) > FRAME_BYTES_MAX:
        raise InvalidInput(f"a message of {len(content)} bytes is larger than a stream carries ({FRAME_BYTES_MAX})")
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


class FrameDecoder:
    """Turns bytes, however they are cut, back into frames. Holds at most one unfinished frame."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete; raises `InvalidInput` for what no honest peer sends."""
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
            if length > self._frame_bytes_max:
                raise InvalidInput(f"a frame announces {length} bytes, more than {self._frame_bytes_max}")
            if len(self._buffer) < LENGTH_BYTES + length:
                return
            content = bytes(self._buffer[LENGTH_BYTES : LENGTH_BYTES + length])
            del self._buffer[: LENGTH_BYTES + length]
            try:
                yield _decoder.decode(content)
            except UNDECODABLE as error:
                raise InvalidInput(f"a frame does not decode: {error}") from error
