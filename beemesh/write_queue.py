"""What waits for a node's disk, in order, and what the disk still owes.

Writes that the disk refused are not forgotten: memory went on as if they had been made, and whoever asks again is told
what stands in memory. So the newest of each row is kept and goes in front of the next attempt, which writes it or fails
with it. Whoever relies on a row asks with `owes` whether it still has to wait (see `beemesh.effects.Flush`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from beemesh.effects import Erase, Save

QUEUE_WRITES_MAX = 100_000
"""Writes waiting for the disk: past it the disk is stuck, and holding more would only hide that."""

ATTEMPT_WRITES_MAX = 2_000
"""Writes of one attempt, besides those that failed before: keeps a commit well under a probe timeout on a slow disk."""

ERASES_OWED_MAX = 20_000
"""Failed removals that are kept; past it the oldest are forgotten, and a restart finds what was to go once more. Failed
saves are as many as the rows that protocols keep in memory, each of a bounded number."""

Write = Save | Erase
Row = tuple[str, bytes]
Token = TypeVar("Token")


class WriteQueue(Generic[Token]):
    """Groups of writes, each with a token for whoever waits for it. One attempt is under way at a time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[tuple[Write, ...], Token]] = []
        self._waiting_writes = 0
        self._attempt: list[Write] = []
        self._tokens: list[Token] = []
        self._failed: dict[Row, Write] = {}
        self._owed: dict[Row, Write] = {}
        """The newest write of each row that is not on the disk: it waits, is under way or has failed."""

    def owes(self, table: str, key: bytes) -> bool:
        """Whether the disk does not have yet what was written last there."""
        return (table, key) in self._owed

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for an attempt that has not begun."""
        return bool(self._waiting)

    @property
    def failed_rows(self) -> int:
        """Rows that the disk refused, and that the next attempt writes."""
        return len(self._failed)

    def add(self, writes: Iterable[Write], token: Token) -> list[Token]:
        """Queue a group, which may be empty: then it waits for all before it. Returns the tokens of groups that are
        given up, since more wait than may; their writes are kept like any that failed."""
        group = tuple(writes)
        self._owed.update(((write.table, write.key), write) for write in group)
        self._waiting.append((group, token))
        self._waiting_writes += len(group)
        if self._waiting_writes <= QUEUE_WRITES_MAX:
            return []
        given_up, self._waiting, self._waiting_writes = self._waiting, [], 0
        for late, _ in given_up:
            self._failed.update(((write.table, write.key), write) for write in late)
        self._bound_erases()
        return [each for _, each in given_up]

    def begin(self) -> list[Write]:
        """The writes of the next attempt; `end` tells what became of it. No group is split."""
        count, size = 0, 0
        for group, _ in self._waiting:
            if count and size + len(group) > ATTEMPT_WRITES_MAX:
                break
            count, size = count + 1, size + len(group)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_writes -= size
        self._attempt = [*self._failed.values(), *(write for group, _ in taken for write in group)]
        self._tokens = [token for _, token in taken]
        self._failed = {}
        return self._attempt

    def end(self, *, is_durable: bool) -> list[Token]:
        """The attempt is over. Returns the tokens of its groups."""
        newest = {(write.table, write.key): write for write in self._attempt}
        if is_durable:
            for row, write in newest.items():
                if self._owed.get(row) is write:
                    del self._owed[row]
        else:
            self._failed = newest | self._failed  # what was given up meanwhile is newer
            self._bound_erases()
        tokens, self._attempt, self._tokens = self._tokens, [], []
        return tokens

    def _bound_erases(self) -> None:
        if len(self._failed) <= ERASES_OWED_MAX:
            return
        erased = [row for row, write in self._failed.items() if type(write) is Erase]
        for row in erased[: max(0, len(erased) - ERASES_OWED_MAX)]:
            write = self._failed.pop(row)
            if self._owed.get(row) is write:
                del self._owed[row]
