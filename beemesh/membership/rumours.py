"""Claims on their way: each is passed on a limited number of times, the least often told first."""

from __future__ import annotations

import math
from collections.abc import Iterator

from beemesh.membership.claims import size_of
from beemesh.membership.messages import Claim

RETRANSMIT_MULT = 4
"""Times ceil(log10(n+1)): how often a node passes one claim on (memberlist)."""

RENEWAL_RETOLD = 2
"""How often a summary is passed on that says nothing new: four of five members get it so, the others when they compare
states."""

GOSSIP_BYTES_MAX = 950
"""Claims in one datagram: what 1,200 bytes leave after header, seal, envelope and a ping's own fields."""

RUMOURS_MAX = 8_192
"""Claims waiting: four per member of a mesh of 2,000. The most told are dropped first."""

CLAIM_BYTES_MIN = 130
"""Less room than this holds no claim: stop looking."""

CLAIMS_PER_DATAGRAM = 5
"""So many usual ones (an Alive, an accusation: 160 bytes) share a datagram."""

MISSES_MAX = 4
"""Claims that do not fit and are passed over before a datagram goes as it is: most are of much the same size."""

Key = tuple[str, bytes, bytes]


def retransmit_limit(members: int) -> int:
    """How often one claim is passed on in a mesh of that size."""
    return RETRANSMIT_MULT * math.ceil(math.log10(members + 1))


class Rumours:
    """Claims by key; a newer claim of a key replaces the older one."""

    def __init__(self) -> None:
        self._levels: list[dict[Key, Claim]] = [{}]
        self._level_of: dict[Key, int] = {}
        self._patient: set[Key] = set()

    def __len__(self) -> int:
        return len(self._level_of)

    @property
    def has_urgent(self) -> bool:
        """Whether anything waits that is worth a datagram of its own."""
        return len(self._level_of) > len(self._patient)

    @property
    def untold(self) -> int:
        """Claims that were not passed on even once."""
        return len(self._levels[0])

    def add(self, key: Key, claim: Claim, *, told: int = 0, patient: bool = False) -> None:
        """Pass `claim` on from here; one that starts with `told` above 0 is less urgent, and a `patient` one rides
        along with what is sent in any case."""
        self.drop(key)
        if len(self._level_of) >= RUMOURS_MAX:
            self._drop_most_told()
        self._put(key, claim, told)
        if patient:
            self._patient.add(key)

    def drop(self, key: Key) -> None:
        """Pass it on no longer."""
        level = self._level_of.pop(key, None)
        if level is not None:
            del self._levels[level][key]
            self._patient.discard(key)

    def get(self, key: Key) -> Claim | None:
        """The claim that waits under `key`."""
        level = self._level_of.get(key)
        return None if level is None else self._levels[level][key]

    def take(
        self,
        limit: int,
        *,
        first: tuple[Claim, ...] = (),
        budget_bytes: int = GOSSIP_BYTES_MAX,
        counts: bool = True,
    ) -> tuple[Claim, ...]:
        """As many claims as fit, `first` before all others; each that is taken has been told once more. Unless it
        `counts`: what goes to somebody who may be dead has been told to nobody."""
        chosen = list(first)
        left = budget_bytes - sum(size_of(claim) for claim in first)
        told: list[tuple[Key, Claim, int]] = []
        misses = 0
        for key, claim, level in self._by_urgency():
            if left < CLAIM_BYTES_MIN or misses == MISSES_MAX:
                break
            size = size_of(claim)
            if size > left:
                misses += 1
                continue
            if claim not in first:
                chosen.append(claim)
                left -= size
            told.append((key, claim, level + 1))
        if not counts:
            return tuple(chosen)
        for key, claim, times in told:
            if times < limit:
                del self._levels[times - 1][key]
                self._put(key, claim, times)
            else:
                self.drop(key)
        return tuple(chosen)

    def _by_urgency(self) -> Iterator[tuple[Key, Claim, int]]:
        """The least told first, of those the newest."""
        for level, claims in enumerate(self._levels):
            for key, claim in reversed(claims.items()):
                yield key, claim, level

    def _put(self, key: Key, claim: Claim, told: int) -> None:
        while len(self._levels) <= told:
            self._levels.append({})
        self._levels[told][key] = claim
        self._level_of[key] = told

    def _drop_most_told(self) -> None:
        for claims in reversed(self._levels):
            if claims:
                self.drop(next(iter(claims)))
                return
