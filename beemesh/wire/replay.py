"""Protection against datagrams that come again: a sliding window of counters for each boot of each sender (RFC 4303,
appendix A2, with Python's big integers as the bitmap).

Looking up and entering are two steps: a counter is entered only once its signature held, so a forger who knows the
gossip key cannot use up an honest sender's counters. A window says what was heard; a *floor* says that the boot lives
now, because it echoed a ping of our own present life. One boot of a sender has the floor: the one that echoed last, so
what an earlier boot sent, and somebody held back, is not believed any more. Two agents with one key take it in turns.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from beemesh.ids import BootId, NodeId

WINDOW = 1_024
"""Datagrams that may overtake each other; older ones are refused unseen."""

BOOTS_PER_SENDER_MAX = 4
"""Boots of one sender with a window: its life, and those of before whose datagrams may still be under way."""

RETIRED_BOOTS_MAX = 32
"""Earlier boots of one sender of which nothing more is taken: more than any agent starts, and falls over, while its
datagrams are fresh (30 s)."""

SENDERS_MAX = 16_384
"""Senders with a window: more than any roster; only members ever get one."""

_ALL_SEEN = (1 << WINDOW) - 1


@dataclass(slots=True)
class _Window:
    highest: int
    seen: int
    """Bit i: the counter `highest - i` was entered."""


@dataclass(slots=True)
class _Sender:
    windows: OrderedDict[BootId, _Window] = field(default_factory=OrderedDict)
    floored: BootId | None = None
    retired: OrderedDict[BootId, None] = field(default_factory=OrderedDict)

    def add(self, boot_id: BootId, window: _Window) -> None:
        self.windows[boot_id] = window
        if len(self.windows) > BOOTS_PER_SENDER_MAX:
            oldest = next(boot for boot in self.windows if boot not in (boot_id, self.floored))
            del self.windows[oldest]
            self.retired[oldest] = None  # without a window nobody could tell its repeats from what is new
            if len(self.retired) > RETIRED_BOOTS_MAX:
                self.retired.popitem(last=False)


class ReplayGuard:
    """Which (sender, boot, counter) were already taken, and which boot of a sender is known to live now."""

    def __init__(self) -> None:
        self._senders: OrderedDict[NodeId, _Sender] = OrderedDict()

    def has_floor(self, sender: NodeId, boot_id: BootId) -> bool:
        """Whether this is the boot that last echoed a ping of our own present life."""
        known = self._senders.get(sender)
        return known is not None and known.floored == boot_id

    def set_floor(self, sender: NodeId, boot_id: BootId, counter: int) -> None:
        """Believe this boot from after `counter` on, and no other boot of the sender any more."""
        known = self._sender(sender)
        if known.floored == boot_id:
            return
        known.floored = boot_id
        window = known.windows.get(boot_id)
        if window is None:
            known.retired.pop(boot_id, None)  # it answered us just now: it lives
            known.add(boot_id, _Window(counter, _ALL_SEEN))
        else:
            window.highest, window.seen = max(window.highest, counter), _ALL_SEEN

    def is_fresh(self, sender: NodeId, boot_id: BootId, counter: int) -> bool:
        """Whether this counter was not entered yet and is not too old. Changes nothing."""
        known = self._senders.get(sender)
        window = known.windows.get(boot_id) if known else None
        if window is None:
            return known is None or boot_id not in known.retired
        behind = window.highest - counter
        return behind < 0 or (behind < WINDOW and not window.seen >> behind & 1)

    def enter(self, sender: NodeId, boot_id: BootId, counter: int) -> None:
        """Take the counter: it is not fresh any more."""
        known = self._sender(sender)
        window = known.windows.get(boot_id)
        if window is None:
            known.add(boot_id, _Window(counter, 1))
            return
        ahead = counter - window.highest
        if ahead > 0:
            window.seen = 1 if ahead >= WINDOW else (window.seen << ahead | 1) & _ALL_SEEN
            window.highest = counter
        elif -ahead < WINDOW:
            window.seen |= 1 << -ahead

    def forget(self, sender: NodeId) -> None:
        """Drop all that is known of a sender that left the roster."""
        self._senders.pop(sender, None)

    def _sender(self, sender: NodeId) -> _Sender:
        known = self._senders.get(sender)
        if known is None:
            known = self._senders[sender] = _Sender()
            if len(self._senders) > SENDERS_MAX:
                self._senders.popitem(last=False)
        return known
