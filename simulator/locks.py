"""Leases that all machines want at once: whoever gets one keeps it for a while, renews it, and gives it up.

The mesh's own leases are seldom contended: a placement has one best bidder, and a steward is chosen by distance. This
load asks of compare-and-swap what workloads ask of it on a bad day, all the time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from beemesh.events import Claim, LeaseDenied, LeaseGranted, LeaseLost, ReleaseLease
from simulator.world import World

PREFIX = "lease/lock"
"""A key that may be leased, and that no protocol of a node ever claims."""
AGAIN_S = (0.2, 2.0)
"""So long until a machine looks at its locks again."""
KEEPS = 0.7
"""How likely it is at each look that a holder keeps what it has."""


class Locks:
    """The load. Hand what nodes notice to `saw`."""

    sees: tuple[type, ...] = (LeaseGranted, LeaseDenied, LeaseLost)

    def __init__(self, world: World, locks: Sequence[tuple[float, float]], until_s: float, seed: int) -> None:
        """`locks`: how long each lasts and how often it is renewed, in seconds."""
        self._world = world
        self._locks = {f"{PREFIX}{number}": lock for number, lock in enumerate(locks)}
        self._until_s = until_s
        self._chance = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        self._asked: dict[tuple[int, int, str], bool] = {}
        """(machine, its life, key) → whether it holds what it asked for."""

    def begin(self) -> None:
        """All machines want all locks from now on, until `until_s`; then whoever holds one gives it up."""
        if not self._locks:
            return
        for machine in self._world.machines:
            self._later(machine.index)

    def saw(self, index: int, event: Any) -> None:
        """An answer to a claim."""
        place = (index, self._world.machines[index].life, event.key)
        if place not in self._asked:
            return
        if isinstance(event, LeaseGranted):
            self._asked[place] = True
        else:
            del self._asked[place]

    def _later(self, index: int) -> None:
        self._world.at(self._world.now_s + self._chance.uniform(*AGAIN_S), partial(self._look, index))

    def _look(self, index: int) -> None:
        machine = self._world.machines[index]
        over = self._world.now_s >= self._until_s
        if machine.is_up and machine.paused_until_s <= self._world.now_s:
            for key, lock in self._locks.items():
                place = (index, machine.life, key)
                if place not in self._asked and not over:
                    self._claim(place, lock)
                elif self._asked.get(place) and (over or self._chance.random() > KEEPS):
                    self._release(place)
        if not over or any(place[:2] == (index, machine.life) for place in self._asked):
            self._later(index)

    def _claim(self, place: tuple[int, int, str], lock: tuple[float, float]) -> None:
        self._asked[place] = False
        lasts_s, renewed_s = lock
        self._world.event(place[0], Claim(place[2], int(lasts_s * 1000), int(renewed_s * 1000)))

    def _release(self, place: tuple[int, int, str]) -> None:
        del self._asked[place]
        if self._world.watch is not None:
            self._world.watch(place[0], ReleaseLease(place[2]))
        self._world.event(place[0], ReleaseLease(place[2]))
