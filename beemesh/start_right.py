"""How long something may still be started."""

from __future__ import annotations


class StartRight:
    """Until when (our boot clock) the leases let a replica be started. The executor moves it with every renewal; the
    runtime looks right before it starts anything, however long that took to prepare. Shared by both, never copied."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}

    def until(self, key: str, ends_s: float) -> None:
        """The lease `key` lasts so long."""
        self._ends[key] = ends_s

    def revoke(self) -> None:
        """Nothing may be started by it any more, whatever is renewed."""
        self._ends[""] = float("-inf")

    @property
    def is_revoked(self) -> bool:
        """Whether nothing will ever be started by it: what prepares a start had better end."""
        return "" in self._ends

    def has_ended(self, boot_s: float) -> bool:
        """Whether one of the leases is over, or the right was revoked."""
        return any(boot_s >= ends_s for ends_s in self._ends.values())
