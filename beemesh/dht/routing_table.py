"""Whom a node knows: everybody, or Kademlia's buckets (Maymounkov & Mazières 2002, section 2.4).

A bucket holds `K` nodes of one distance range. Those that have been there longest stay for as long as they answer:
nobody pushes live contacts out by turning up, however often and under however many names. Newcomers wait beside the
bucket and take the place of one that failed. The caller adds proven members only.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from beemesh.dht.region import SPACE, K, distance
from beemesh.effects import Now
from beemesh.identity.signing import Signed
from beemesh.ids import NODE_ID_BYTES, NodeId

WAITING_MAX = K
"""Newcomers remembered beside a full bucket."""

FAILURES_MAX = 2
"""Questions in a row that a contact may leave unanswered: one may be lost, or meet a pause."""

SAMPLE = 3 * K
"""Nearest contacts from whose distances the size of the network is guessed."""

SOUNDINGS = 9
"""Places of the ID space whose density is remembered: the median of them stands while an attacker crowds four."""

SOUNDINGS_MIN = 3
"""Below that a node goes by its own surroundings, which may be just what an attacker crowds."""


@dataclass(slots=True)
class _Bucket:
    contacts: OrderedDict[NodeId, int] = field(default_factory=OrderedDict)
    """Node → questions in a row that it left unanswered; who answered last stands last."""
    waiting: OrderedDict[NodeId, None] = field(default_factory=OrderedDict)


def size_by(point: bytes, around: Iterable[NodeId]) -> int:
    """How many nodes there are, if they are as dense everywhere as those around `point`.

    In an evenly spread network the i-th nearest node is i/n of the space away; the median of what each of the nearest
    says is taken, so that a few that are planted at the point do not count for many."""
    near = heapq.nsmallest(SAMPLE, (away for each in around if (away := distance(each, point))))
    guesses = sorted(number * SPACE // away for number, away in enumerate(near, 1))
    return guesses[len(guesses) // 2] if len(guesses) >= K else len(guesses) + 1


class RoutingTable:
    """At most `K` contacts for each of the 256 distances, and as many that wait."""

    digest = b""
    is_table = True

    def __init__(self, self_id: NodeId, k: int = K) -> None:
        self._self_id = self_id
        self._k = k
        self._buckets: dict[int, _Bucket] = {}
        self._soundings: list[int] = []

    def is_full(self, now: Now) -> bool:
        """Never: lookups have to go from node to node."""
        return False

    def __iter__(self) -> Iterator[NodeId]:
        for bucket in self._buckets.values():
            yield from bucket.contacts

    def __len__(self) -> int:
        return sum(len(bucket.contacts) for bucket in self._buckets.values())

    def __contains__(self, node_id: bytes) -> bool:
        bucket = self._buckets.get(self._index(node_id))
        return bucket is not None and node_id in bucket.contacts

    def seen(self, node_id: NodeId) -> bool:
        """A member spoke to us or answered; whether it is a contact since now."""
        if node_id == self._self_id or len(node_id) != NODE_ID_BYTES:
            return False
        bucket = self._buckets.setdefault(self._index(node_id), _Bucket())
        if node_id in bucket.contacts:
            bucket.contacts[node_id] = 0
            bucket.contacts.move_to_end(node_id)
        elif len(bucket.contacts) < self._k:
            bucket.waiting.pop(node_id, None)
            bucket.contacts[node_id] = 0
            return True
        else:
            bucket.waiting[node_id] = None
            bucket.waiting.move_to_end(node_id)
            while len(bucket.waiting) > WAITING_MAX:
                bucket.waiting.popitem(last=False)
        return False

    def failed(self, node_id: NodeId) -> bool:
        """A contact left a question unanswered; if that goes on, the newcomer that was seen last takes its place.
        Whether it is a contact no more."""
        bucket = self._buckets.get(self._index(node_id))
        if bucket is None:
            return False
        bucket.waiting.pop(node_id, None)
        if node_id not in bucket.contacts:
            return False
        bucket.contacts[node_id] += 1
        if bucket.contacts[node_id] < FAILURES_MAX or not bucket.waiting:
            return False
        del bucket.contacts[node_id]
        bucket.contacts[bucket.waiting.popitem()[0]] = 0
        return True

    def cards(self, nodes: Iterable[NodeId]) -> tuple[Signed, ...]:
        """Whoever takes part here is known by other means."""
        return ()

    def introduce(self, card: Signed, now: Now) -> NodeId | None:
        """Nobody is introduced by cards."""
        return None

    def forget(self, node_id: NodeId) -> None:
        """A node is no member any more."""
        bucket = self._buckets.get(self._index(node_id))
        if bucket is None:
            return
        bucket.waiting.pop(node_id, None)
        if bucket.contacts.pop(node_id, None) is not None and bucket.waiting:
            bucket.contacts[bucket.waiting.popitem()[0]] = 0
        if not bucket.contacts:
            del self._buckets[self._index(node_id)]

    def nearest(self, point: bytes, count: int) -> tuple[NodeId, ...]:
        """The nearest contacts, nearest first."""
        return tuple(heapq.nsmallest(count, self, key=lambda node_id: distance(node_id, point)))

    def sound(self, point: bytes, around: Iterable[NodeId]) -> None:
        """Take from the nodes that a lookup of `point` heard of how densely the ID space is filled there; `point` is
        drawn by chance, so that nobody chooses where this node looks."""
        self._soundings.append(size_by(point, around))
        del self._soundings[:-SOUNDINGS]

    def size(self) -> int:
        """About how many nodes there are, this one included."""
        guesses = sorted(self._soundings)
        if len(guesses) < SOUNDINGS_MIN:
            guesses = [size_by(self._self_id, self)]
        return max(len(self) + 1, guesses[len(guesses) // 2])

    def _index(self, node_id: bytes) -> int:
        return distance(node_id, self._self_id).bit_length()
