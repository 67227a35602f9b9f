"""What waits for a disk comes in order, once, and nothing that the disk refused is forgotten."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh import write_queue
from beemesh.effects import Erase, Save
from beemesh.write_queue import ATTEMPT_WRITES_MAX, Write, WriteQueue

ROWS = [("leases", bytes([number])) for number in range(4)]


@dataclass
class Twin:
    """A disk and a memory, kept by hand: every write, and for each row the last one on either."""

    queue: WriteQueue[int] = field(default_factory=WriteQueue)
    memory: dict[tuple[str, bytes], Write] = field(default_factory=dict)
    disk: dict[tuple[str, bytes], Write] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    groups: int = 0
    is_busy: bool = False
    attempt: list[Write] = field(default_factory=list)

    def add(self, writes: list[Write]) -> None:
        """A node saves some rows, or only waits."""
        self.groups += 1
        self.memory.update(((write.table, write.key), write) for write in writes)
        self.waiting.append(self.groups)
        assert self.queue.add(writes, self.groups) == []

    def begin(self) -> None:
        """The disk is given the next attempt, if it is free."""
        if not self.is_busy and self.queue.is_waited_for:
            self.is_busy, self.attempt = True, self.queue.begin()

    def end(self, *, is_durable: bool) -> None:
        """The attempt ends in one way or the other."""
        if not self.is_busy:
            return
        self.is_busy = False
        if is_durable:
            self.disk.update(((write.table, write.key), write) for write in self.attempt)
        self.told += self.queue.end(is_durable=is_durable)
        if is_durable and self.told:
            self._check_promise()

    def _check_promise(self) -> None:
        """Whoever was told last that its writes are there finds them, and nothing older in their place."""
        owed = {row for row in ROWS if self.queue.owes(*row)}
        assert all(self.disk.get(row) == self.memory.get(row) for row in ROWS if row not in owed)


writes = st.lists(
    st.builds(
        lambda row, value: Save(*row, value) if value else Erase(*row), st.sampled_from(ROWS), st.binary(max_size=2)
    ),
    max_size=5,
)
steps = st.lists(st.one_of(writes, st.sampled_from(["begin", "durable", "refused"])), max_size=60)


@given(steps)
def test_the_disk_ends_with_what_memory_has(script: list[list[Write] | str]) -> None:
    """Whatever is refused in between: groups are told in order and once, a row is owed as long as its newest write is
    not there, and once the disk takes writes again it has the last of each row."""
    twin = Twin()
    for step in script:
        match step:
            case "begin":
                twin.begin()
            case "durable" | "refused":
                twin.end(is_durable=step == "durable")
            case list():
                twin.add(step)
        for row in ROWS:
            if not twin.queue.owes(*row):
                assert twin.disk.get(row) == twin.memory.get(row)
    twin.end(is_durable=False)
    twin.add([])
    while twin.queue.is_waited_for:
        twin.begin()
        twin.end(is_durable=True)
    assert twin.told == twin.waiting
    assert twin.disk == twin.memory
    assert not any(twin.queue.owes(*row) for row in ROWS)
    assert twin.queue.failed_rows == 0


def test_an_attempt_is_bounded_and_splits_no_group() -> None:
    """Small groups share one up to the bound; one that is larger than it goes alone."""
    queue: WriteQueue[str] = WriteQueue()
    half = [Save("t", number.to_bytes(4, "big"), b"") for number in range(ATTEMPT_WRITES_MAX // 2)]
    for token in ("a", "b", "c"):
        queue.add(half, token)
    queue.add([*half, *half, *half], "d")
    sizes, told = [], []
    while queue.is_waited_for:
        sizes.append(len(queue.begin()))
        told.append(queue.end(is_durable=True))
    assert sizes == [ATTEMPT_WRITES_MAX, ATTEMPT_WRITES_MAX // 2, 3 * (ATTEMPT_WRITES_MAX // 2)]
    assert told == [["a", "b"], ["c"], ["d"]]


def test_a_disk_that_is_stuck_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past so many waiting writes whoever waits hears so; the writes come with the next attempt all the same."""
    monkeypatch.setattr(write_queue, "QUEUE_WRITES_MAX", 10)
    queue: WriteQueue[str] = WriteQueue()
    stuck = [Save("t", b"first", b"1")]
    queue.add(stuck, "stuck")
    queue.begin()
    many = [Save("t", bytes([number]), b"2") for number in range(10)]
    assert queue.add(many, "in time") == []
    late = [Save("t", b"\0", b"3"), Save("t", b"first", b"3")]
    assert queue.add(late, "one too many") == ["in time", "one too many"]
    assert not queue.is_waited_for
    assert queue.owes("t", b"\0")
    assert queue.end(is_durable=False) == ["stuck"]
    queue.add([], "later")
    assert {(write.key, write.value) for write in queue.begin() if isinstance(write, Save)} == {
        (b"first", b"3"),
        (b"\0", b"3"),
        *((bytes([number]), b"2") for number in range(1, 10)),
    }
    assert queue.end(is_durable=True) == ["later"]
    assert not queue.owes("t", b"\0")


def test_removals_that_fail_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of them are forgotten past it, and are not owed any more; no save ever is."""
    monkeypatch.setattr(write_queue, "ERASES_OWED_MAX", 3)
    queue: WriteQueue[int] = WriteQueue()
    queue.add([Save("t", b"saved", b""), *(Erase("t", bytes([number])) for number in range(5))], 1)
    queue.begin()
    queue.end(is_durable=False)
    assert queue.failed_rows == 4
    assert [queue.owes("t", bytes([number])) for number in range(5)] == [False, False, True, True, True]
    assert queue.owes("t", b"saved")
