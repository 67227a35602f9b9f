"""Until when the pods that must not be doubled may run, in a small file that outlives the agent.

The agent writes it (`agent.guarding`), whole each time; the guard reads it (`agent.guard`) and has ended what the agent
is not there to end (`agent.end_pods`). Standard library alone, and little of it: the guard stays small.
"""

from __future__ import annotations

import math
import os
import re
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LATE_S = 1.0
"""An agent has this time to end a pod itself, out of the margin that both have before the run lease ends."""
AGAIN_S = 2.0
PATIENCE_S = 60.0
"""How often, and for how long it is looked whether the pod is there: an engine may have been starting it."""

FILE_BYTES_MAX = 256 * 1024
ENTRIES_MAX = 4096
"""Far more than pods fit on a machine."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FILE_MODE = 0o600
FOLDER_MODE = 0o755
PATH_MARK_CHARS = 8
"""Of the data directory's digest: two meshes may each have a node of the same name on one host."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9.-]{0,252}")
_ENTRY = re.compile(rf"(-?[0-9]{{1,12}}\.[0-9]{{3}}) ({_NAME.pattern})")

Rights = dict[str, float]
"""Pod (`<namespace>/<pod>`) → until when it may run, by this machine's boot clock."""


class RightsRefused(Exception):
    """A file that nobody may go by, or rights that do not fit into one."""


class GuardPaths(NamedTuple):
    """The files of one agent's guard, in memory (`paths.locks`), which agents of a host share."""

    rights: Path
    lock: Path
    """Locked by the running guard; holds its process ID and where its program lies."""

    @classmethod
    def of(cls, locks: Path, node: str, data: Path) -> GuardPaths:
        """The paths for the agent of that name and data directory."""
        import hashlib  # which the guard has no need of, and is a third of its memory

        mark = hashlib.sha256(str(data).encode()).hexdigest()[:PATH_MARK_CHARS]
        return cls(locks / f"guard-{node}-{mark}.rights", locks / f"guard-{node}-{mark}.lock")


def boot_s() -> float:
    """As `agent.clock.boot_s`, which is not imported here: it brings much along."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The kernel's word for this boot: deadlines of another one mean nothing."""
    return BOOT_ID.read_text().strip()


def is_name(pod: str) -> bool:
    """Whether a pod can stand in the file."""
    return _NAME.fullmatch(pod) is not None


def encode(boot: str, rights: Mapping[str, float]) -> bytes:
    """The file's content; raises `RightsRefused` where there is too much of it."""
    lines = [boot, *(f"{until_s:.3f} {pod}" for pod, until_s in rights.items())]
    content = ("\n".join(lines) + "\n").encode("ascii")
    if len(rights) > ENTRIES_MAX or len(content) > FILE_BYTES_MAX:
        raise RightsRefused(f"{len(rights)} pods that must not be doubled are more than can be guarded")
    return content


def decode(content: bytes, boot: str) -> Rights:
    """What the content says; nothing where it is of another boot. One odd line, and nobody goes by any of it."""
    try:
        first, *lines, end = content.decode("ascii").split("\n")
    except ValueError:
        raise RightsRefused("is no list of pods") from None
    if first != boot:
        return {}
    if len(lines) > ENTRIES_MAX or end:
        raise RightsRefused("is too long, or was cut off")
    rights: Rights = {}
    for number, line in enumerate(lines, start=2):
        found = _ENTRY.fullmatch(line)
        if found is None:
            raise RightsRefused(f"line {number} names no pod and deadline")
        rights[found[2]] = float(found[1])
    return rights


def read(path: Path, boot: str) -> Rights | None:
    """The rights in a file; None where there is none. Raises `RightsRefused` for one that others may have written, and
    `OSError` where it cannot be read now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise RightsRefused(f"{path}: others may write it, or it is no file of ours: remove it")
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise RightsRefused(f"{path}: larger than {FILE_BYTES_MAX} bytes: remove it")
    try:
        return decode(content, boot)
    except RightsRefused as error:
        raise RightsRefused(f"{path}: {error}: remove it") from error


def write(path: Path, content: bytes) -> None:
    """Put the whole content in place of what was there; raises `OSError` or `RightsRefused`."""
    _require_safe(path.parent)
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise


def _require_safe(folder: Path) -> None:
    """Whoever may write a folder may put another file of ours, with old deadlines, in the place of this one."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    found = folder.stat()
    is_open = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.geteuid()) or is_open:
        raise RightsRefused(f"{folder}: others may write it: let it belong to the agent's user, with mode 755")


def is_over(until_s: float, now_s: float) -> bool:
    """Whether a pod must not run any more, and its agent has had its time to end it."""
    return now_s >= until_s + LATE_S


def is_past(until_s: float, now_s: float) -> bool:
    """Whether nobody looks after the pod any more."""
    return now_s >= until_s + LATE_S + PATIENCE_S


class Overdue:
    """Which pods are to be ended now: those whose right is over, each for a while and no longer.

    That while is counted awake: a machine that slept past a deadline still has all of it.
    """

    def __init__(self) -> None:
        self._since_s: dict[tuple[str, float], float] = {}
        """(pod, until) → when it was first seen overdue, by the monotonic clock. A later deadline is another matter."""

    def look(self, rights: Rights, now_s: float, awake_s: float) -> list[str]:
        """The pods to end; `now_s` is the boot clock, `awake_s` the monotonic one."""
        over = {(pod, until_s) for pod, until_s in rights.items() if is_over(until_s, now_s)}
        self._since_s = {each: self._since_s.get(each, awake_s) for each in over}
        return sorted(each[0] for each in over if awake_s - self._since_s[each] < PATIENCE_S)


def next_over_s(rights: Rights, now_s: float) -> float:
    """Seconds until the next of the pods that may still run must not; infinite when there is none."""
    ahead = (until_s + LATE_S - now_s for until_s in rights.values() if not is_over(until_s, now_s))
    return min(ahead, default=math.inf)
