"""Whom a node knows of those that keep records: Kademlia's buckets, or, on the machine plane, the roster.

A node whose roster and view are whole asks those that matter at once. It learns that they are not from the digest of
the roster, which goes with every question: whoever knows another roster names the nodes that it would ask, with their
cards, which the mesh CA signed. So a node that knows one seed finds its way, and joins the others' cards to its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from beemesh.effects import Now
from beemesh.errors import Untrusted
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed, decode_body
from beemesh.ids import NodeId
from beemesh.intents.record import Intent, node_key
from beemesh.membership.roster import Roster
from beemesh.membership.view import View

PARTIAL_S = 30.0
"""For so long after it met a member that was not in its roster a node goes from node to node: by then a push-pull has
brought the rest."""


class Contacts(Protocol):
    """Whom a node knows, of those that keep records."""

    @property
    def is_table(self) -> bool:
        """Whether it has to be filled and measured by lookups, as Kademlia's buckets have."""
        ...

    def is_full(self, now: Now) -> bool:
        """Whether nobody is missing, as far as this node can tell."""
        ...

    @property
    def digest(self) -> bytes:
        """Equal on nodes that know the same; empty where that cannot be told."""
        ...

    def __iter__(self) -> Iterator[NodeId]:
        """All contacts; this node included where it keeps records itself and knows everybody."""
        ...

    def size(self) -> int:
        """How many nodes there are in all, known or not."""
        ...

    def seen(self, node_id: NodeId) -> bool:
        """A member spoke to us or answered; whether it is a contact since now."""
        ...

    def failed(self, node_id: NodeId) -> bool:
        """A member left a question unanswered; whether it is a contact no more."""
        ...

    def forget(self, node_id: NodeId) -> None:
        """A node is no member any more."""
        ...

    def sound(self, point: bytes, around: Iterable[NodeId]) -> None:
        """What a lookup of a chance point heard of."""
        ...

    def cards(self, nodes: Iterable[NodeId]) -> tuple[Signed, ...]:
        """The signed cards of some contacts, for somebody who may not know them."""
        ...

    def introduce(self, card: Signed, now: Now) -> NodeId | None:
        """Whom a card names, when that is a keeper whom this node did not know; None for all others."""
        ...


class RosterContacts:
    """The keepers of the roster that count as alive: all that there are, once this node has heard of most of them."""

    is_table = False

    def __init__(
        self,
        roster: Roster,
        view: View,
        card_of: Callable[[str], tuple[Intent, Signed] | None],
        check: Callable[[Signed], Intent],
    ) -> None:
        """`card_of` gives the record of a key of the intent map; `check` opens a signed one or raises `Untrusted`."""
        self._roster = roster
        self._view = view
        self._card_of = card_of
        self._check = check
        self._alive: tuple[NodeId, ...] = ()
        self._unknown = 0
        self._read_at: tuple[int, int] | None = None
        self._partial_until_s = 0.0

    def _read(self) -> tuple[NodeId, ...]:
        at = self._roster.version, self._view.version
        if at != self._read_at:
            self._read_at = at
            statuses = [(card.node_id, self._view.status(card.node_id)) for card in self._roster.keepers()]
            self._alive = tuple(node_id for node_id, status in statuses if status in ("alive", "suspect"))
            self._unknown = sum(status == "unknown" for _, status in statuses)
        return self._alive

    def is_full(self, now: Now) -> bool:
        """Whether this node has heard of most keepers, and met none of late that was not in its roster."""
        return len(self._read()) >= self._unknown and self._partial_until_s <= now.boot_s

    @property
    def digest(self) -> bytes:
        """The roster's."""
        return self._roster.digest()

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._read())

    def size(self) -> int:
        """Keepers that count as alive, and those not heard of yet: they may be."""
        return max(1, len(self._read()) + self._unknown)

    def seen(self, node_id: NodeId) -> bool:
        """Membership knows better."""
        return False

    def failed(self, node_id: NodeId) -> bool:
        """Membership knows better."""
        return False

    def forget(self, node_id: NodeId) -> None:
        """Membership knows better."""

    def sound(self, point: bytes, around: Iterable[NodeId]) -> None:
        """The size is known."""

    def cards(self, nodes: Iterable[NodeId]) -> tuple[Signed, ...]:
        """The cards of members, as the mesh CA signed them."""
        cards = [self._roster.member(node_id) for node_id in nodes]
        records = [self._card_of(node_key(card.name)) for card in cards if card is not None]
        return tuple(record[1] for record in records if record is not None)

    def introduce(self, card: Signed, now: Now) -> NodeId | None:
        """A keeper that the roster lacks: from now on, and for a while, this node takes its roster for partial."""
        try:
            claimed = msgspec.msgpack.decode(decode_body(card, Intent).body, type=Membership)
            if (
                not claimed.is_keeper
                or self._roster.member(claimed.node_id)
                or self._roster.is_revoked(claimed.node_id)
            ):
                return None
            if self._check(card).kind != "membership":
                return None
        except (Untrusted, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        self._partial_until_s = now.boot_s + PARTIAL_S
        return claimed.node_id
