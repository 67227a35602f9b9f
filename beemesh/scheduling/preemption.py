"""Whom a node would evict for a more important replica: the smallest harm that makes room. Pure.

What is compared of two sets of victims, in this order:

1. how many their workloads cannot spare, such as the only replica of one: they go only when nothing else makes room;
2. how many there are;
3. their priorities, the highest first (lower is better);
4. how long they have been there, the youngest first (younger is better);
5. their names, so that the answer is the same everywhere.

The search is exact up to `STEPS_MAX` partial sets, which ordinary nodes never need: replicas of equal needs are
interchangeable, and a set that can no longer free enough is given up. Beyond, a set is taken from which nobody can be
spared, though a smaller one may exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from beemesh.workloads.record import Requirements

VICTIMS_MAX = 16
"""Replicas that are evicted for one: more harm than that is never worth it."""

STEPS_MAX = 20_000
"""Partial sets looked at: some tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that might go. `since_ms` is when it came (wall time); `guarded` when its workload cannot spare it: it
    is the only one, or a disruption budget wants it."""

    name: str
    reqs: Requirements
    priority: int = 0
    since_ms: int = 0
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class Shortage:
    """What is missing, never negative: amounts, places for pods, and host ports as (protocol, port)."""

    cpu_m: int = 0
    mem_mb: int = 0
    storage_mb: int = 0
    pods: int = 0
    ports: frozenset[tuple[str, int]] = frozenset()


Cost = tuple[int, int, tuple[int, ...], tuple[int, ...], tuple[str, ...]]


def cost(chosen: Iterable[Candidate]) -> Cost:
    """What evicting these would mean; smaller is better."""
    these = tuple(chosen)
    return (
        sum(each.guarded for each in these),
        len(these),
        tuple(sorted((each.priority for each in these), reverse=True)),
        tuple(sorted(-each.since_ms for each in these)),
        tuple(sorted(each.name for each in these)),
    )


def frees(chosen: Iterable[Candidate], shortage: Shortage) -> bool:
    """Whether the shortage is over when these are gone."""
    freed = [sum(column) for column in zip(*(_gives(each, shortage) for each in chosen), strict=True)]
    return all(have >= need for have, need in zip(freed or [0] * len(_needs(shortage)), _needs(shortage), strict=True))


def victims(candidates: Iterable[Candidate], shortage: Shortage) -> tuple[Candidate, ...] | None:
    """The least harmful set that makes room, sorted by name; None when none does. Empty when nothing is missing."""
    useful = [each for each in candidates if any(_gives(each, shortage))]
    if frees((), shortage):
        return ()
    if not frees(useful, shortage):
        return None
    search = _Search(useful, shortage)
    for guarded in range(sum(each.guarded for each in useful) + 1):
        for count in range(max(1, guarded), min(VICTIMS_MAX, len(useful)) + 1):
            best = search.best(count, guarded)
            if best is not None:
                return tuple(sorted(best, key=lambda each: each.name))
            if search.steps > STEPS_MAX:
                return _spared(useful, shortage)
    return None


class _Search:
    """All sets of one size, by groups of candidates that give the same: of those the cheapest go first."""

    def __init__(self, candidates: Sequence[Candidate], shortage: Shortage) -> None:
        self.steps = 0
        self._needs = _needs(shortage)
        grouped: dict[tuple[bool, tuple[int, ...]], list[Candidate]] = {}
        for each in candidates:
            grouped.setdefault((each.guarded, _gives(each, shortage)), []).append(each)
        self._groups = [
            (guarded, gives, sorted(members, key=lambda each: (each.priority, -each.since_ms, each.name)))
            for (guarded, gives), members in sorted(grouped.items(), key=lambda item: item[0])
        ]
        self._most = [self._most_from(index) for index in range(len(self._groups) + 1)]

    def best(self, count: int, guarded: int) -> tuple[Candidate, ...] | None:
        """The cheapest set of `count`, just `guarded` of them such as cannot be spared."""
        return min(self._sets(0, count, guarded, self._needs), key=cost, default=None)

    def _most_from(self, index: int) -> list[list[int]]:
        """Per need, how much at most so many members of the groups from `index` on can give."""
        columns = []
        for need in range(len(self._needs)):
            amounts = sorted((gives[need] for _, gives, members in self._groups[index:] for _ in members), reverse=True)
            sums = [0]
            for amount in amounts[:VICTIMS_MAX]:
                sums.append(sums[-1] + amount)
            columns.append(sums)
        return columns

    def _can(self, index: int, count: int, needs: tuple[int, ...]) -> bool:
        most = self._most[index]
        return all(need <= 0 or most[at][min(count, len(most[at]) - 1)] >= need for at, need in enumerate(needs))

    def _sets(self, index: int, count: int, guarded: int, needs: tuple[int, ...]) -> Iterator[tuple[Candidate, ...]]:
        self.steps += 1
        if count == 0:
            if guarded == 0 and all(need <= 0 for need in needs):
                yield ()
            return
        if index == len(self._groups) or guarded < 0 or self.steps > STEPS_MAX or not self._can(index, count, needs):
            return
        is_guarded, gives, members = self._groups[index]
        for taken in range(min(count, len(members)) + 1):
            left = tuple(need - taken * amount for need, amount in zip(needs, gives, strict=True))
            rest = self._sets(index + 1, count - taken, guarded - (taken if is_guarded else 0), left)
            for others in rest:
                yield (*members[:taken], *others)


def _spared(candidates: Sequence[Candidate], shortage: Shortage) -> tuple[Candidate, ...] | None:
    """All of them but those who can stay, the most precious first."""
    chosen = list(candidates)
    precious = sorted(chosen, key=lambda each: (each.guarded, each.priority, -each.since_ms, each.name), reverse=True)
    for each in precious:
        rest = [other for other in chosen if other is not each]
        if frees(rest, shortage):
            chosen = rest
    return tuple(sorted(chosen, key=lambda each: each.name)) if len(chosen) <= VICTIMS_MAX else None


def _needs(shortage: Shortage) -> tuple[int, ...]:
    """The shortage as one list of amounts: each port is one of its own."""
    ports = (1 for _ in shortage.ports)
    return (shortage.cpu_m, shortage.mem_mb, shortage.storage_mb, shortage.pods, *ports)


def _gives(candidate: Candidate, shortage: Shortage) -> tuple[int, ...]:
    """What its end would give of what is missing; 0 of the rest, so that all that differ matter."""
    reqs = candidate.reqs
    held = {(port.protocol, port.number) for port in reqs.ports}
    amounts = (reqs.cpu_m, reqs.mem_mb, reqs.storage_mb, 1)
    missing = (shortage.cpu_m, shortage.mem_mb, shortage.storage_mb, shortage.pods)
    given = tuple(min(amount, need) for amount, need in zip(amounts, missing, strict=True))
    return (*given, *(1 if port in held else 0 for port in sorted(shortage.ports)))
