"""Who has been in touch with whom, and since when: read from the world as it is, not from what was planned for it."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from beemesh.membership.settings import SwimSettings
from beemesh.wire.admission import CLOCK_SKEW_MS
from simulator.machine import Machine
from simulator.network import Faults
from simulator.world import World

CALM_LOSS = 0.1
"""Above this loss a mesh of some twenty may lose a member for a moment; it is told by the rate, not by one trial."""

ROUND_TRIP_S_MAX = SwimSettings().probe_timeout_s
"""A slower echo comes too late for its probe."""


class Touch:
    """Two members are in touch while both run, are awake and speak for themselves, their disks take what they write,
    each has the other's card, what each sends reaches the other soon enough for a probe, little of it is lost, and
    their clocks are near enough for them to hear each other."""

    def __init__(self) -> None:
        self._seen: Any = None
        self._lives: list[tuple[int, float]] = []
        self._since_s: dict[tuple[int, int], float] = {}
        """Pair, the lower number first → since when they are in touch; whoever is not is not there."""

    def look(self, world: World) -> None:
        """See what changed. What begins and ends between two looks is missed, but for crashes and pauses."""
        seen = _seen(world)
        if seen == self._seen:
            return
        self._seen = seen
        before, known = self._lives, self._since_s
        self._lives = [(machine.life, machine.paused_until_s) for machine in world.machines]
        same = {index for index, (old, new) in enumerate(zip(before, self._lives, strict=False)) if old == new}
        well = [machine for machine in world.machines if _is_well(machine, world.now_s)]
        well = [machine for machine in well if machine.index not in world.liars]
        self._since_s = {}
        for one, other in combinations(well if world.faults.loss <= CALM_LOSS else (), 2):
            if _hear_each_other(world.faults, one, other):
                pair = (one.index, other.index)
                lasts = one.index in same and other.index in same
                self._since_s[pair] = known.get(pair, world.now_s) if lasts else world.now_s

    def lasts_s(self, now_s: float, one: int, other: int) -> float:
        """For how long two machines have been in touch without a gap; 0 while they are not."""
        return now_s - self._since_s.get((min(one, other), max(one, other)), now_s)


def _seen(world: World) -> Any:
    """All that who is in touch with whom depends on."""
    faults, now_s = world.faults, world.now_s
    machines = [
        (each.life, each.paused_until_s, _is_well(each, now_s), each.skew_ms, _cards(each)) for each in world.machines
    ]
    slow, liars = sorted(faults.slow.items()), sorted(world.liars)
    return machines, faults.loss <= CALM_LOSS, faults.delay_s, list(faults.cuts), slow, liars


def _is_well(machine: Machine, now_s: float) -> bool:
    return machine.is_member and machine.is_up and machine.ailing is None and machine.paused_until_s <= now_s


def _cards(machine: Machine) -> int:
    """Changes whenever those do that the machine has."""
    return machine.composition.roster.version if machine.composition is not None else 0


def _knows(machine: Machine, other: Machine) -> bool:
    """Whether it lets in what the other one sends: a joiner is a stranger to whoever has not got its card yet."""
    composition = machine.composition
    return composition is not None and composition.roster.member(other.membership.node_id) is not None


def _hear_each_other(faults: Faults, one: Machine, other: Machine) -> bool:
    a, b = one.index, other.index
    if not (_knows(one, other) and _knows(other, one)):
        return False
    slowest_s = faults.delay_s[1] * faults.slow.get(a, 1.0) * faults.slow.get(b, 1.0)
    if 2 * slowest_s > ROUND_TRIP_S_MAX or abs(one.skew_ms - other.skew_ms) + slowest_s * 1000 > CLOCK_SKEW_MS:
        return False
    return faults.reaches(a, b) and faults.reaches(b, a)
