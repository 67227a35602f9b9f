"""Protection against datagrams that come again: a sliding window of counters for each boot of each sender (RFC 4303,
appendix A2, with Python's big integers as the bitmap).

Looking up and entering are two steps: a counter is entered only once its signature held, so a forger who knows the
gossip key cannot use up an honest sender's counters.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from beemesh.ids import BootId, NodeId

WINDOW = 1_024
"""Datagrams that may overtake each other; older ones are refused unseen."""

BOOTS_PER_SENDER_MAX = 4
"""Boots of one sender that are remembered: its present one and a few retired ones, which stay refused."""

SENDERS_MAX = 16_384
"""Senders with a window: more than any roster; only members ever get one."""


@dataclass(slots=True)
class _Window:
    highest: int
    seen: int
    """Bit i: the counter `highest - i` was entered."""


class ReplayGuard:
    """Which (sender, boot, counter) were already taken, and from which counter on a boot is believed at all."""

    def __init__(self) -> None:
        self._boots: OrderedDict[NodeId, OrderedDict[BootId, _Window]] = OrderedDict()

    def has_floor(self, sender: NodeId, boot_id: BootId) -> bool:
        """Whether this boot's counters have a floor: set by an echo of a ping of our own present life."""
        boots = self._boots.get(sender)
        return boots is not None and boot_id in boots

    def set_floor(self, sender: NodeId, boot_id: BootId, counter: int) -> None:
        """Believe this boot from after `counter` on; a boot that already has a window keeps it."""
        boots = self._boots.setdefault(sender, OrderedDict())
        if boot_id not in boots:
            boots[boot_id] = _Window(highest=counter, seen=(1 << WINDOW) - 1)
            while len(boots) > BOOTS_PER_SENDER_MAX:
                boots.popitem(last=False)
        while len(self._boots) > SENDERS_MAX:
            self._boots.popitem(last=False)

    def is_fresh(self, sender: NodeId, boot_id: BootId, counter: int) -> bool:
        """Whether this counter was not entered yet and is not too old. Changes nothing."""
        boots = self._boots.get(sender)
        window = boots.get(boot_id) if boots else None
        if window is None:
            return False
        behind = window.highest - counter
        return behind < 0 or (behind < WINDOW and not window.seen >> behind & 1)

    def enter(self, sender: NodeId, boot_id: BootId, counter: int) -> None:
        """Take the counter: it is not fresh any more."""
        window = self._boots[sender][boot_id]
        ahead = counter - window.highest
        if ahead > 0:
            window.seen = 1 if ahead >= WINDOW else (window.seen << ahead | 1) & ((1 << WINDOW) - 1)
            window.highest = counter
        else:
            window.seen |= 1 << -ahead

    def forget(self, sender: NodeId) -> None:
        """Drop all that is known of a sender that left the roster."""
        self._boots.pop(sender, None)
