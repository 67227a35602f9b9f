"""The kept inputs: one small file each, `corpus/<target>/<first of its SHA-256>.bin`; replayed by `make check`."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
SLOW = "slow-"
"""In front of the name of an input that takes long to read, as it may: `make test` alone replays it."""
FILE_BYTES_MAX = 100 * 1024


def kept(target: str, *, slow: bool = False) -> list[tuple[str, bytes]]:
    """(name, input) of a target's kept inputs, in order; with `slow` those alone that take long."""
    files = sorted((FOLDER / target).glob("*.bin"))
    return [(file.name, file.read_bytes()) for file in files if file.name.startswith(SLOW) == slow]


def keep(target: str, data: bytes) -> Path:
    """Keep an input; the same one twice is one file."""
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes are more than a kept input may have ({FILE_BYTES_MAX}): make it smaller")
    place = FOLDER / target / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place
