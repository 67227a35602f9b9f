"""Which replicas to move from the fullest nodes to the emptiest: a bounded proposal for a person to look at. Pure.

Greedy: of all single moves the one that lowers the imbalance most, then the next one from there. The imbalance is the
sum of the squares of all loads, which falls whenever something goes from a fuller node to a sufficiently emptier one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec

from beemesh.scheduling.stewardship.layout import Layout, Pod
from beemesh.workloads.moves import starts_first
from beemesh.workloads.reconciler import Declared

MOVES_DEFAULT = 10
"""Moves of one proposal where nobody says: what a person can look through."""

GAIN_LEAST = 0.05
"""By which share one move must lower the imbalance of its two nodes: less is not worth a restart."""

SOURCES_LOOKED_AT = 5
TARGETS_LOOKED_AT = 5
"""The fullest and the emptiest nodes that are looked at for each move: the best one is between them."""


class ProposedMove(msgspec.Struct, frozen=True, rename="camel"):
    """One replica, and the loads of both nodes before and after."""

    namespace: str
    pod: str
    workload: str
    replica: int
    source: str
    target: str
    source_load: float
    target_load: float
    source_load_after: float
    target_load_after: float


class Proposal(msgspec.Struct, frozen=True, rename="camel"):
    """What `beemeshctl rebalance -o json` prints."""

    imbalance: float
    imbalance_after: float
    moves: tuple[ProposedMove, ...]
    dry_run: bool = False
    done: tuple[str, ...] = ()
    """The pods that have moved, by `<namespace>/<pod>`."""


def imbalance(layout: Layout) -> float:
    """The sum of the squares of the loads of all nodes that take work or run any."""
    return sum(layout.load(name) ** 2 for name, host in layout.hosts.items() if host.alive)


def propose(layout: Layout, moves_max: int = MOVES_DEFAULT) -> Proposal:
    """At most `moves_max` moves, each of which lowers the imbalance, fits its target and is allowed by the budgets;
    none of a replica twice. `layout` is left as it was."""
    current = replace(layout, pods=list(layout.pods))
    before = imbalance(current)
    moved: set[tuple[str, int]] = set()
    proposed: list[ProposedMove] = []
    while len(proposed) < moves_max:
        best = min(_moves(current, moved), key=lambda pair: pair[0], default=None)
        if best is None:
            break
        _, pod, target = best
        moved.add((pod.workload_id, pod.replica))
        proposed.append(_carry_out(current, pod, target))
    return Proposal(before, imbalance(current), tuple(proposed))


def _moves(layout: Layout, moved: set[tuple[str, int]]) -> Iterator[tuple[float, Pod, str]]:
    """Each move that may be proposed, with the change of the imbalance."""
    names = sorted(
        (name for name, host in layout.hosts.items() if host.alive), key=lambda name: (layout.load(name), name)
    )
    for source in names[::-1][:SOURCES_LOOKED_AT]:
        for pod in layout.on(source):
            if (pod.workload_id, pod.replica) in moved or not _may_move(layout, pod):
                continue
            for target in names[:TARGETS_LOOKED_AT]:
                if target == source or layout.refusals(pod, target):
                    continue
                change, before = _change(layout, pod, target)
                if change <= -GAIN_LEAST * before:
                    yield change, pod, target


def _may_move(layout: Layout, pod: Pod) -> bool:
    """Whether it runs well, may be doubled, and its workload lacks nothing."""
    workload = layout.workloads.get(pod.workload_id)
    if workload is None or not pod.ready or pod.leaving or pod.revision != workload.current.number:
        return False
    if not starts_first(Declared.of(workload), tolerant=workload.duplicate_tolerant):
        return False
    return layout.healthy(pod.workload_id) >= workload.replicas


def _change(layout: Layout, pod: Pod, target: str) -> tuple[float, float]:
    """How much the imbalance would change, and what that of the two nodes is before."""
    names = (pod.node, target)
    before = sum(layout.load(name) ** 2 for name in names)
    after = replace(layout, pods=_moved(layout, pod, target))
    return sum(after.load(name) ** 2 for name in names) - before, before


def _carry_out(layout: Layout, pod: Pod, target: str) -> ProposedMove:
    before = layout.load(pod.node), layout.load(target)
    layout.pods = _moved(layout, pod, target)
    return ProposedMove(
        namespace=pod.namespace,
        pod=pod.name,
        workload=pod.workload_id,
        replica=pod.replica,
        source=pod.node,
        target=target,
        source_load=round(before[0], 4),
        target_load=round(before[1], 4),
        source_load_after=round(layout.load(pod.node), 4),
        target_load_after=round(layout.load(target), 4),
    )


def _moved(layout: Layout, pod: Pod, target: str) -> list[Pod]:
    return [replace(each, node=target) if each is pod else each for each in layout.pods]
