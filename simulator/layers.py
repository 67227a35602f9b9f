"""Faults of one kind that lie over each other: what began last counts, until it ends."""

from __future__ import annotations


class Layers:
    """The values of such faults, by number."""

    def __init__(self) -> None:
        self._values: dict[int, float] = {}
        self._count = 0

    def begin(self, value: float = 0.0) -> int:
        """One more; the number is for `end`."""
        self._count += 1
        self._values[self._count] = value
        return self._count

    def end(self, number: int) -> bool:
        """Whether it lasted until now."""
        return self._values.pop(number, None) is not None

    def clear(self) -> None:
        """All of them end."""
        self._values.clear()

    @property
    def top(self) -> float | None:
        """The value of the last that lasts; None when none does."""
        return self._values[max(self._values)] if self._values else None
