"""When a replica must not vote: it may have granted before and forgotten it, or others may have without it.

A replica **abstains for a key** while, within the last `ABSTAIN_S` seconds, it may not have been one of the key's
k-set: by then every lease that was granted without it has ended. Rosters that were in force are saved; a replica with
none saved has lost its disk or is new, and takes it that it was in no set until it started.

Time alone does not tell a new keeper that the others know of it: added on one side of a partition, one after the other,
new ones would make a majority of their own there, while the other side renews its leases under the roster of before. So
a keeper **votes first once a majority of those that were there before it has been in touch with it for `ABSTAIN_S`**;
from then on, and over restarts, it is one of them (ADR 0011). Keepers that are dead for good have to be removed.

Adding one keeper needs no waiting (majorities of a set and of its neighbour always meet), adding two at once does:
neither new one may help to outvote a lease that only the old ones know. Removing two of five at once does, too: the
two may have made a majority with one that stays, and the other two that stay are a majority now, and know nothing of
it. So **all abstain** while those that stay may outvote a former set's majority of which too few are left.

**A newborn mesh does not wait.** A replica without saved rosters grants at once while *every* keeper's card is the
first ever signed for its name (`serial` 1), all bear the very same moment, and that is no longer than ten minutes ago.
Such keepers were bootstrapped by one run, so no older set can have granted anything, and this replica cannot have lost
a disk that held grants, unless it lost it within those first ten minutes. Wrong clocks only make a newborn wait. What a
later run adds bears a later moment, however soon it comes: the set before it may have granted already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from beemesh.dht.kset import majority, nearest
from beemesh.effects import Effects, Now, Save
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.scheduling.leases import LEASE_TTL_MAX_MS
from beemesh.undecodable import decoded_rows

ABSTAIN_S = 2 * LEASE_TTL_MAX_MS / 1000
"""Twice the longest lease: one for the lease itself, one for a renewal that was on its way."""

FIRST_SERIAL = 1
NEWBORN_MS = 10 * 60_000
"""From signing to the agent's first start: copying the bundle to a slow machine included."""

ROSTERS_MAX = 32
"""Rosters remembered: more changes than that within `ABSTAIN_S` make the replica abstain from all."""

TABLE = "lease-rosters"
_KEY = b"keepers"
_ACCEPTED = b"accepted"
"""The row of a replica whom a majority of the keepers before it has known for long enough."""

LOOK_EVERY_S = 1.0
"""How often a replica that is not accepted yet counts whom it is in touch with, while nobody comes or goes."""


@dataclass(slots=True)
class _Former:
    """Keepers that were in force until `until_s` (boot clock)."""

    keepers: tuple[NodeId, ...]
    until_s: float


class KeeperHistory:
    """The rosters under which this replica answered, for as long as they matter."""

    tables: tuple[str, ...] = (TABLE,)

    def __init__(self, self_id: NodeId, roster: Roster, is_alive: Callable[[NodeId], bool]) -> None:
        """`is_alive` tells whether a keeper counts as alive here."""
        self._self_id = self_id
        self._roster = roster
        self._is_alive = is_alive
        self._accepted = False
        self._in_touch_s: float | None = None
        """Since when a majority of the keepers before this one counts as alive; None while it does not."""
        self._looked_s = float("-inf")
        self._elders_known: tuple[int, tuple[NodeId, ...]] = (-1, ())
        """With the version of the roster that they were found in."""
        self._roster_version = -1
        self._current: tuple[NodeId, ...] = ()
        self._former: list[_Former] = []
        self._restored = False
        self._distrusted = False
        self._newborn = False
        self._first_seen_s: float | None = None

    def restore(self, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back the saved rosters; all count as in force until this restart."""
        saved = list(rows)
        self._accepted = any(key == _ACCEPTED for key, _ in saved)
        for _, lists in decoded_rows([row for row in saved if row[0] != _ACCEPTED], list[list[bytes]]):
            if lists is None:
                self.distrust()
            if lists is None or self._distrusted:
                return
            self._restored = True
            self._former = [_Former(tuple(NodeId(one) for one in keepers), now.boot_s) for keepers in lists]
        if self._restored and self._former:
            self._current = self._former[0].keepers

    def distrust(self) -> None:
        """The disk garbled what this replica granted, or under which roster: it abstains as if it had lost it all."""
        self._distrusted, self._restored, self._accepted = True, False, False
        self._current, self._former = (), []

    def begin(self, now: Now) -> float:
        """This replica lives from now on, or did before: since when. The roster is not looked at: it may still lack
        what the next event brings."""
        if self._first_seen_s is None:
            self._first_seen_s = now.boot_s
            if not self._restored:
                self._former = [_Former((), now.boot_s)]
        return self._first_seen_s

    def observe(self, now: Now) -> Effects:
        """Look at the roster; what changed is saved before anything that depends on it leaves."""
        accepted = self.look_around(now) if now.boot_s - self._looked_s >= LOOK_EVERY_S else []
        first_seen_s = self.begin(now)
        if self._roster.version == self._roster_version or self._roster.member(self._self_id) is None:
            return accepted
        self._roster_version = self._roster.version
        keepers = self._roster.keeper_ids()
        if keepers == self._current:
            return accepted
        seemed_newborn = self._newborn
        self._newborn = self._is_newborn(now)
        if self._newborn and not self._current:
            self._former = []  # nothing was granted before: this is the first set that ever was
        elif seemed_newborn and not self._newborn:
            # Either a later run adds to a young mesh, or only the cards of the latest run had been heard of.
            self._former = [_Former((), first_seen_s)]
        if self._current and not (self._newborn and set(self._current).issubset(keepers)):
            self._former.insert(0, _Former(self._current, now.boot_s))
        self._current = keepers
        self._forget(now)
        return [*accepted, Save(TABLE, _KEY, self._encoded())]

    def look_around(self, now: Now) -> Effects:
        """Look whether enough of those who were there before are in touch, and have been for long enough: whenever a
        member comes or goes."""
        if self._accepted:
            return []
        self._looked_s = now.boot_s
        elders = self._elders()
        if elders and sum(self._is_alive(each) for each in elders) < majority(len(elders)):
            self._in_touch_s = None
        elif self._in_touch_s is None:
            self._in_touch_s = now.boot_s
        elif now.boot_s - self._in_touch_s >= ABSTAIN_S:
            self._accepted = True
            return [Save(TABLE, _ACCEPTED, b"1")]
        return []

    def _elders(self) -> tuple[NodeId, ...]:
        """The keepers whose cards were signed before this one's."""
        if self._elders_known[0] != self._roster.version:
            own = self._roster.member(self._self_id)
            signed_at_ms = own.signed_at_ms if own is not None else 0
            before = (card.node_id for card in self._roster.keepers() if card.signed_at_ms < signed_at_ms)
            self._elders_known = self._roster.version, tuple(before)
        return self._elders_known[1]

    def _is_newborn(self, now: Now) -> bool:
        """Whether all keepers that this replica ever heard of are of the first set that ever was."""
        if self._restored or self._distrusted:
            return False
        return (self._newborn or not self._current) and self._is_newborn_mesh(now)

    def abstains(self, key: str, now: Now) -> bool:
        """Whether this replica must not grant anything at `key` yet."""
        self._forget(now)
        if not self._accepted and self._elders():
            return True
        if not self._former:
            return False
        today = nearest(self._current, key)
        return any(self._must_wait_for(nearest(former.keepers, key), today) for former in self._former)

    def _must_wait_for(self, former: tuple[NodeId, ...], today: tuple[NodeId, ...]) -> bool:
        """Whether a former k-set may have granted what this replica, or a majority of today's, knows nothing of."""
        if self._self_id not in former:
            return True
        stay = len(set(former) & set(today))
        needed, granted = majority(len(today)), majority(len(former))
        return stay >= needed and needed + granted <= len(former)

    def _forget(self, now: Now) -> None:
        self._former = [former for former in self._former if now.boot_s - former.until_s < ABSTAIN_S]
        if len(self._former) > ROSTERS_MAX:
            self._former = [*self._former[: ROSTERS_MAX - 1], _Former((), now.boot_s)]

    def _encoded(self) -> bytes:
        return msgspec.msgpack.encode([self._current, *(former.keepers for former in self._former)])

    def _is_newborn_mesh(self, now: Now) -> bool:
        cards = self._roster.keepers()
        if not cards or self._roster.member(self._self_id) is None:
            return False
        moments = {card.signed_at_ms for card in cards}
        return (
            all(card.serial == FIRST_SERIAL for card in cards)
            and len(moments) == 1
            and abs(now.wall_ms - min(moments)) <= NEWBORN_MS
        )
