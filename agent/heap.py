"""Keeps the agent's heap small: it shares its machine with what people want to run there."""

from __future__ import annotations

import contextlib
import ctypes
import gc

M_ARENA_MAX = -8
"""mallopt(3): glibc gives each thread an arena of its own unless told otherwise; ours do little but wait for a disk."""


def use_one_arena() -> None:
    """Let all threads allocate from one arena. Without glibc there is nothing to do."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def settle() -> None:
    """After the start: what lives now lives for long, so collections need not look at it again."""
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Hand free pages back to the system; takes about a millisecond."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
