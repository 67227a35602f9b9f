"""What is fuzzed: one `Target` per decoder, and the promise that each of them keeps.

Whatever the bytes: an answer, or one of the documented errors; never another exception, never more than
`SECONDS_MAX` of CPU (more for large ones) or `MEMORY_MAX_BYTES` of memory for one input.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

SECONDS_MAX = 2.0
"""CPU for one input: the slowest honest one (an inventory of templates) takes a tenth of it on a slow machine."""

BYTES_PER_SECOND = 32 * 1024
"""A large input may take longer, in proportion: so much of nested YAML is read in a second on a slow machine."""

MEMORY_MAX_BYTES = 64 * 1024 * 1024
"""How far the process may grow while it reads one input; inputs here are at most some 100 KiB."""

CHORE_S = 0.06
"""What `_chore` takes where the bounds above hold. A machine whose cache others use up may need three times as long."""

SLOWNESS_MAX = 8.0

HANG_S = 20.0
"""CPU after which an input counts as never ending."""

Form = Literal["bytes", "msgpack", "json", "text"]
Call = Callable[[bytes], Any]


@dataclass(frozen=True)
class Target:
    """A decoder: `make` sets up what it needs and returns the call; `seeds` gives valid inputs to start from."""

    name: str
    form: Form
    make: Callable[[], Call]
    seeds_of: Callable[[], Sequence[bytes]]
    allowed: tuple[type[Exception], ...] = ()
    slow: bool = False
    """One call takes milliseconds: fewer of them in the quick run."""
    head: int = 0
    """Bytes in front that are no part of the form: the number of a message, the place of a table."""
    _kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def call(self) -> Call:
        """The decoder, set up once."""
        if "call" not in self._kept:
            self._kept["call"] = self.make()
        made: Call = self._kept["call"]
        return made

    @cached_property
    def seeds(self) -> tuple[bytes, ...]:
        """Valid inputs."""
        return tuple(self.seeds_of())


class Finding(AssertionError):
    """A broken promise, with what it takes to see it again."""

    def __init__(self, target: Target, data: bytes, what: str) -> None:
        super().__init__(f"{target.name}: {what}\ninput ({len(data)} bytes): {data[:400]!r}")
        self.target = target
        self.data = data
        self.what = what


class _Overdue(BaseException):
    """Raised by the timer into a call that does not end; no decoder catches it."""


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    def overdue(_number: int, _frame: Any) -> None:
        raise _Overdue

    before = signal.signal(signal.SIGPROF, overdue)
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class _Memory:
    """The peak of this process's memory (VmHWM of proc(5)), from a mark on."""

    def __init__(self) -> None:
        self.works = True
        self.mark()

    def mark(self) -> None:
        """Forget the peak up to here."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.works = False

    def grown_bytes(self, before: int) -> int:
        """How far the peak lies above `before`."""
        if not self.works:
            return 0
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split(None, 1)[0]) * 1024 - before


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


_memory = _Memory()


def check(target: Target, data: bytes) -> None:
    """Feed one input to a target; raises `Finding` when it breaks its promise."""
    call = target.call
    for attempt in (1, 2):
        _memory.mark()
        before, started_s = _rss_bytes(), time.process_time()
        _feed(target, call, data)
        cpu_s, grown = time.process_time() - started_s, _memory.grown_bytes(before)
        bound_s = SECONDS_MAX + len(data) / BYTES_PER_SECOND
        if cpu_s <= bound_s and grown <= MEMORY_MAX_BYTES:
            return
        if attempt == 2 and (cpu_s > bound_s * _slowness() or grown > MEMORY_MAX_BYTES):
            raise Finding(target, data, f"took {cpu_s:.1f} s of CPU and {grown / 2**20:.0f} MiB of memory")


def _slowness() -> float:
    """How much slower this machine is, at this moment, than the one that the bounds are made for."""
    started_s = time.process_time()
    _chore()
    return min(max(1.0, (time.process_time() - started_s) / CHORE_S), SLOWNESS_MAX)


def _chore() -> int:
    """Some work of the kind that decoders do: many small objects."""
    held = {str(number): (number, [number]) for number in range(100_000)}
    return len(sorted(held))


def _feed(target: Target, call: Call, data: bytes) -> None:
    try:
        with _bounded():
            call(data)
    except target.allowed:
        pass
    except _Overdue:
        raise Finding(target, data, f"did not end within {HANG_S:g} s of CPU") from None
    except Exception as error:
        places = traceback.extract_tb(error.__traceback__)[2:][-6:]
        where = " > ".join(f"{Path(place.filename).name}:{place.lineno}" for place in places)
        raise Finding(target, data, f"{type(error).__name__}: {error} ({where})"[:2_000]) from error
