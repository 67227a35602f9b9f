"""A machine's disk while something is wrong with it: it is slow, or refuses what is written.

A simulated disk that is well has everything at once. This one goes by the rules of `agent/shell.py`, and uses the same
queue: what leaves a node after a `Save` waits until the disk has it, and never happens if the disk refuses.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from beemesh.effects import Cancel, Erase, Flush, Notify, Reply, Run, Save, Schedule
from beemesh.events import Submitted
from beemesh.outward import Ask
from beemesh.write_queue import Write, WriteQueue

TRY_EVERY_S = 5.0
"""How often an agent whose disk refused something tries whether it takes it now."""

COMMITTED_PART = 0.5
"""Attempts that a crash interrupts, and that are on the disk all the same: nobody was told."""

REFUSED_S = 0.01
"""A disk that refuses does so soon."""


class AilingDisk:
    """From the first fault on until the disk is well and has all that its node wrote. Faults may overlap."""

    def __init__(
        self,
        leave: Callable[[Any], None],
        withdraw: Callable[[Any], None],
        later: Callable[[float, Callable[[], None]], None],
        chance: random.Random,
    ) -> None:
        """`leave` carries one effect out; `withdraw` tells whoever waits for an `Ask`, a `Run` or a `Reply` that it
        never happens; `later` does something after so many seconds, once the machine is awake."""
        self._leave = leave
        self._withdraw = withdraw
        self._later = later
        self._chance = chance
        self._slow: list[float] = []
        self._refusals = 0
        self._life = 0
        self._queue: WriteQueue[list[Any]] = WriteQueue()
        self._attempt: list[Write] | None = None

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong with it, and nothing left to write."""
        return not self._is_ill and self._attempt is None and not self._queue.is_waited_for and self._owes_nothing

    @property
    def _is_ill(self) -> bool:
        return bool(self._slow) or self._refusals > 0

    @property
    def _owes_nothing(self) -> bool:
        return not self._queue.failed_rows

    def slow_down(self, longest_s: float, lasts_s: float) -> None:
        """Each attempt takes up to `longest_s`, for so long."""
        self._slow.append(longest_s)
        self._later(lasts_s, partial(self._quicken, longest_s))

    def refuse(self, lasts_s: float) -> None:
        """It takes nothing, for so long."""
        self._refusals += 1
        self._later(lasts_s, self._relent)

    def mend(self) -> None:
        """All is well with it; what it refused before is written at the next try."""
        self._slow.clear()
        self._refusals = 0
        self._later(self._chance.uniform(0.0, TRY_EVERY_S), self._try)

    def _quicken(self, longest_s: float) -> None:
        if longest_s in self._slow:
            self._slow.remove(longest_s)

    def _relent(self) -> None:
        if self._refusals:
            self._refusals -= 1
            self._later(self._chance.uniform(0.0, TRY_EVERY_S), self._try)

    def _try(self) -> None:
        """The agent's look whether there is room again."""
        if not self._refusals and not self._owes_nothing:
            self._queue.add((), [])
            self._begin()

    def crash(self) -> None:
        """The agent is gone, and what waited with it; what was being written may be there."""
        attempt, self._attempt = self._attempt, None
        self._life += 1
        self._queue = WriteQueue()
        if attempt is not None and not self._refusals and self._chance.random() < COMMITTED_PART:
            self._commit(attempt)

    def carry(self, effects: list[Any]) -> None:
        """Carry out what the node decided. A notification is of what the node believes, whatever its disk has; one that
        promises something waits like all that leaves."""
        writes: list[Write] = []
        after: list[Any] = []
        waits = False
        for effect in effects:
            if isinstance(effect, Save | Erase):
                writes.append(effect)
                waits = True
            elif isinstance(effect, Flush):
                waits = waits or self._queue.owes(effect.table, effect.key)
            elif waits and not _is_inward(effect):
                after.append(effect)
            else:
                self._leave(effect)
        if waits:
            given_up = self._queue.add(writes, after)
            assert not given_up, "a trial has no hundred thousand writes"
            self._begin()

    def _begin(self) -> None:
        if self._attempt is not None or not self._queue.is_waited_for:
            return
        self._attempt = self._queue.begin()
        takes_s = self._chance.uniform(0.0, max(self._slow, default=0.0))
        self._later(max(takes_s, REFUSED_S * self._refusals), partial(self._end, self._life))

    def _end(self, life: int) -> None:
        if life != self._life or self._attempt is None:
            return
        is_durable = not self._refusals
        if is_durable:
            self._commit(self._attempt)
        self._attempt = None
        groups = self._queue.end(is_durable=is_durable)
        for effect in (effect for group in groups for effect in group):
            if life != self._life:
                return
            if is_durable:
                self._leave(effect)
            elif isinstance(effect, Ask | Run | Reply):
                self._withdraw(effect)
        self._begin()

    def _commit(self, writes: list[Write]) -> None:
        for write in writes:
            self._leave(write)


def _is_inward(effect: Any) -> bool:
    """Whether an effect stays within the agent."""
    if isinstance(effect, Notify):
        return not isinstance(effect.event, Submitted)
    return isinstance(effect, Schedule | Cancel)
