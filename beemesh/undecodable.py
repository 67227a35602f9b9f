"""What decoding foreign bytes may raise, named once, since each of the three has been forgotten somewhere before; and
rows of a disk that may have been garbled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Another shape than expected; text that is no UTF-8, which msgspec does not wrap; deeper nesting than there is stack,
in fields that nobody asked for, too."""

Row = TypeVar("Row")


def decoded_rows(rows: Iterable[tuple[bytes, bytes]], kind: type[Row]) -> Iterator[tuple[bytes, Row | None]]:
    """Key and content of each saved row; None for what a broken disk, or another version, made of it."""
    for key, value in rows:
        try:
            yield key, msgspec.msgpack.decode(value, type=kind)
        except UNDECODABLE:
            yield key, None
