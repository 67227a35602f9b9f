"""Scripts that run on the hosts: piped to their Python, standard library only, one JSON object on standard output."""

from __future__ import annotations

from pathlib import Path


def source(name: str) -> bytes:
    """The text of one script, ready to be piped to `python3 -I - ARGUMENTS`."""
    return (Path(__file__).parent / f"{name}.py").read_bytes()
