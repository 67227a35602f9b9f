"""Frames: whole again however they were cut, and bounded whatever is announced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.custody.messages import SEALED_BYTES_MAX
from beemesh.errors import InvalidInput
from beemesh.wire.framing import FRAME_BYTES_MAX, Frame, FrameDecoder, FrameKind, encode_frame

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "frame.json").read_text())
frames = st.builds(
    Frame,
    kind=st.sampled_from(FrameKind),
    id=st.integers(0, 2**63),
    type_code=st.integers(0, 255),
    deadline_ms=st.integers(0, 100_000),
    body=st.binary(max_size=300),
)


@given(sent=st.lists(frames, max_size=8), data=st.data())
def test_frames_come_out_as_they_went_in(sent: list[Frame], data: st.DataObject) -> None:
    """Cut anywhere, joined anyhow: the same frames in the same order."""
    stream = b"".join(encode_frame(frame) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder = FrameDecoder()
    got: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += decoder.feed(stream[start:end])
    assert got == sent


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["kind"])
def test_the_bytes_are_pinned(vector: dict[str, str | int]) -> None:
    """A known frame has known bytes."""
    frame = Frame(
        FrameKind[str(vector["kind"])],
        int(vector["id"]),
        int(vector["type"]),
        int(vector["deadline_ms"]),
        bytes.fromhex(str(vector["body"])),
    )
    assert encode_frame(frame).hex() == vector["frame"]


def test_the_largest_sealed_manifest_fits() -> None:
    """A ciphertext of the largest size travels in one frame, with its record beside it."""
    encode_frame(Frame(FrameKind.REQUEST, 1, 60, 1_000, bytes(SEALED_BYTES_MAX + 200 * 1024)))


def test_a_frame_too_large_is_refused_on_both_sides() -> None:
    """The sender refuses before it sends, the receiver as soon as the length is announced."""
    with pytest.raises(InvalidInput, match="larger than a stream carries"):
        encode_frame(Frame(FrameKind.TELL, 0, 1, 0, bytes(FRAME_BYTES_MAX)))
    with pytest.raises(InvalidInput, match="a frame announces"):
        list(FrameDecoder().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big")))
    with pytest.raises(InvalidInput, match="a frame announces 101 bytes, more than 100"):
        list(FrameDecoder(100).feed((101).to_bytes(4, "big")))


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_no_bytes_break_the_decoder(chunks: list[bytes]) -> None:
    """Frames or `InvalidInput`: nothing else comes of any bytes, and no more is kept than one frame may have."""
    decoder = FrameDecoder(500)
    try:
        for chunk in chunks:
            assert all(isinstance(frame, Frame) for frame in decoder.feed(chunk))
            assert len(decoder._buffer) <= 504
    except InvalidInput:
        pass


@given(st.binary(max_size=100))
def test_no_content_breaks_the_decoder(content: bytes) -> None:
    """A frame of the announced length whose content is something else is refused with `InvalidInput`."""
    try:
        list(FrameDecoder().feed(len(content).to_bytes(4, "big") + content))
    except InvalidInput as error:
        assert "does not decode" in error.message
