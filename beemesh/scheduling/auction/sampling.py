"""Whom a steward asks in a large mesh: a few nodes that look good from afar, and a few at random.

Many are looked at for each one that is asked ("power of many choices"): how many grows with the logarithm of the mesh,
drawn by the hash of the task's ID, so that stewards do not all run to the same nodes. Cards are exact (labels, taints,
name); what a node says of its load and its promises is some seconds old, so the steward takes off what it has awarded
itself since. Nothing is decided here: every candidate judges for itself.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable
from math import ceil, log2

import msgspec

from beemesh.identity.membership_card import Membership
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.eligibility import Resources, placement_refusals
from beemesh.scheduling.messages import Task
from beemesh.scheduling.score import Place, score
from beemesh.settings.model import NodeSettings
from beemesh.workloads.record import Constraints, Requirements

ASKED = 8
"""Candidates of one task: enough that one of them is good and free, few enough for the budget of messages."""

ASKED_AT_RANDOM = 2
"""Of those, drawn without a look at their load: a summary may be stale, or flatter its author."""

LOOKED_AT_PER_DOUBLING = 24
"""Nodes whose summaries are compared for each doubling of the mesh: the best of 240 of 1,000 is among the best 2 % in
99 of 100 cases, and to look at them takes a quarter of a millisecond."""

FITTING_KEPT = 64
"""Lists of the members that some constraints allow, the latest: a workload's replicas follow each other."""

AWARD_COUNTS_S = 5.0
"""For so long an award is taken off what its winner's summary says: then the summary has it."""

AWARDS_MAX = 20_000
"""Awards remembered for that."""

FLATTERY_MAX = 0.03
"""How much better than its own public summary a bid may rank: what may honestly have come free since."""


class Awards:
    """What this steward has given away lately, by node."""

    def __init__(self) -> None:
        self._awards: OrderedDict[str, tuple[float, NodeId, Requirements, str, int]] = OrderedDict()
        self._by_node: dict[NodeId, dict[str, tuple[Requirements, str, int]]] = {}

    def add(self, task: Task, node_id: NodeId, boot_s: float) -> None:
        """A node was told to claim."""
        self.drop(task.task_id)
        self._awards[task.task_id] = (boot_s, node_id, task.reqs, task.workload_id, task.replica)
        self._by_node.setdefault(node_id, {})[task.task_id] = (task.reqs, task.workload_id, task.replica)
        while self._awards and (
            len(self._awards) > AWARDS_MAX or next(iter(self._awards.values()))[0] + AWARD_COUNTS_S < boot_s
        ):
            self.drop(next(iter(self._awards)))

    def drop(self, task_id: str) -> None:
        """It did not come to that."""
        gone = self._awards.pop(task_id, None)
        if gone is not None:
            of_node = self._by_node[gone[1]]
            del of_node[task_id]
            if not of_node:
                del self._by_node[gone[1]]

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._by_node

    def held(self, node_id: NodeId) -> tuple[int, int, int]:
        """CPU, memory and storage that a node was given lately."""
        cpu_m = mem_mb = storage_mb = 0
        for reqs, _, _ in self._by_node.get(node_id, {}).values():
            cpu_m, mem_mb, storage_mb = cpu_m + reqs.cpu_m, mem_mb + reqs.mem_mb, storage_mb + reqs.storage_mb
        return cpu_m, mem_mb, storage_mb

    def siblings(self, node_id: NodeId, task: Task) -> int:
        """Other replicas of a task's workload that a node was given lately."""
        given = self._by_node.get(node_id)
        if not given:
            return 0
        return len({no for _, workload, no in given.values() if workload == task.workload_id} - {task.replica})


class Sampler:
    """One steward's picture of the mesh, from cards, summaries and its own awards."""

    def __init__(self, roster: Roster, view: View, settings: NodeSettings) -> None:
        self.awards = Awards()
        self._roster = roster
        self._view = view
        self._weights = settings.scheduler.weights
        self._fitting: OrderedDict[bytes, tuple[NodeId, ...]] = OrderedDict()
        self._fitting_at = -1

    def choose(self, task: Task) -> list[NodeId]:
        """At most `ASKED` live members that may run the task as far as their cards say, the most promising first."""
        alive = self._view.alive()
        sent_to = self._roster.named(task.hints.get("node", ""))
        if sent_to is not None:
            return [sent_to.node_id] if self._view.is_alive(sent_to.node_id) else []
        drawn = draw(task.task_id, alive, LOOKED_AT_PER_DOUBLING * ceil(log2(max(2, len(alive)))))
        chosen = self._pick(task, drawn)
        if len(chosen) < ASKED:
            fitting = [node_id for node_id in self._all_fitting(task.constraints) if self._view.is_alive(node_id)]
            chosen = self._pick(task, draw(task.task_id, tuple(fitting), len(drawn)))
        return chosen

    def ceiling(self, task: Task, node_id: NodeId) -> float:
        """The best score that a node may be believed, by its card, its summary and what it was given lately."""
        card, summary = self._roster.member(node_id), self._view.summary(node_id)
        crowd = max(self.awards.siblings(node_id, task), 1 if node_id in task.avoid else 0)
        if card is None or summary is None:
            return 1.0 / (crowd + 2)  # who has not said publicly what it has counts as the least of its band
        cpu_m, mem_mb, storage_mb = self.awards.held(node_id)
        mem_free = min(summary.mem_mb_total - summary.mem_mb_reserved, summary.mem_mb_free)
        resources = Resources(
            cpu_m_total=summary.cpu_m_total,
            mem_mb_total=summary.mem_mb_total,
            storage_mb_total=summary.storage_mb_total,
            cpu_m_free=summary.cpu_m_total - summary.cpu_m_reserved - cpu_m,
            mem_mb_free=mem_free - mem_mb,
            storage_mb_free=summary.storage_mb_free - storage_mb,
            cpu_load=summary.cpu_load,
        )
        place = Place(
            site=card.site,
            zone=card.zone,
            wished_site=task.hints.get("site", ""),
            wished_zone=task.hints.get("zone", ""),
            crowd=crowd,
            failed=node_id in task.failed,
        )
        return score(task.reqs, resources, place, self._weights).total + FLATTERY_MAX

    # --- choosing ---------------------------------------------------------------------------------------------------

    def _pick(self, task: Task, drawn: list[NodeId]) -> list[NodeId]:
        """Most by their looks, the rest in the order in which they were drawn."""
        looks = self._looks(task, drawn)
        best_first = sorted(drawn, key=looks.__getitem__, reverse=True)
        chosen: dict[NodeId, None] = {}
        for candidates, wanted in ((best_first, ASKED - ASKED_AT_RANDOM), (drawn, ASKED)):
            for node_id in candidates:
                if len(chosen) >= wanted:
                    break
                if node_id not in chosen and self._fits(task.constraints, self._roster.member(node_id)):
                    chosen[node_id] = None
        return list(chosen)

    def _looks(self, task: Task, drawn: list[NodeId]) -> dict[NodeId, float]:
        """How good nodes look from afar, to sort by: free shares and load; behind them what runs a sibling or failed
        before, then what seems full or cordoned, then what nobody has heard of."""
        looks: dict[NodeId, float] = {}
        summary_of, awards, reqs = self._view.summary, self.awards, task.reqs
        fit_weight, load_weight = self._weights.fit / 2, self._weights.qos
        behind = {*task.avoid, *task.failed}
        for node_id in drawn:
            summary = summary_of(node_id)
            if summary is None:
                looks[node_id] = -4.0
                continue
            cpu_m, mem_mb, load = summary.cpu_m_total, summary.mem_mb_total, summary.cpu_load
            if summary.cordoned or cpu_m <= 0 or mem_mb <= 0:
                looks[node_id] = -3.0
                continue
            cpu_left = cpu_m - summary.cpu_m_reserved - reqs.cpu_m
            mem_left = mem_mb - summary.mem_mb_reserved - reqs.mem_mb
            mem_left = min(mem_left, summary.mem_mb_free - reqs.mem_mb)
            crowd = node_id in behind
            if node_id in awards:
                cpu_held, mem_held, _ = awards.held(node_id)
                cpu_left, mem_left = cpu_left - cpu_held, mem_left - mem_held
                crowd = crowd or awards.siblings(node_id, task) > 0
            if cpu_left < 0 or mem_left < 0:
                looks[node_id] = -2.0
                continue
            fit = min(cpu_left / cpu_m, 1.0 - load / 2) + mem_left / mem_mb
            looks[node_id] = fit_weight * fit - load_weight * load - (1.0 if crowd else 0.0)
        return looks

    def _all_fitting(self, constraints: Constraints) -> tuple[NodeId, ...]:
        """Every member whose card satisfies the constraints."""
        if self._fitting_at != self._roster.version:
            self._fitting_at = self._roster.version
            self._fitting.clear()
        key = msgspec.msgpack.encode(constraints)
        if key not in self._fitting:
            self._fitting[key] = tuple(card.node_id for card in self._roster.members() if self._fits(constraints, card))
            while len(self._fitting) > FITTING_KEPT:
                self._fitting.popitem(last=False)
        self._fitting.move_to_end(key)
        return self._fitting[key]

    def _fits(self, constraints: Constraints, card: Membership | None) -> bool:
        if card is None:
            return False
        return (constraints == _ANYWHERE and not card.taints) or not placement_refusals(constraints, card)


def draw(task_id: str, population: tuple[NodeId, ...], number: int) -> list[NodeId]:
    """At most `number`, and nearly as many, different members of `population`, by the hash of the task's ID."""
    size = len(population)
    if size <= 2 * number:
        return _shuffled(task_id, population)[:number]
    stream = struct.unpack(f"<{number}I", hashlib.shake_128(task_id.encode()).digest(4 * number))
    return list(dict.fromkeys(population[value % size] for value in stream))


def by_lot(task_id: str, node_id: NodeId, lot: float) -> bool:
    """Whether a node is among the share `lot` (0…1) of all that is drawn for a task."""
    drawn = hashlib.blake2b(task_id.encode() + node_id, digest_size=4).digest()
    return int.from_bytes(drawn) < lot * 2**32


def _shuffled(task_id: str, population: Iterable[NodeId]) -> list[NodeId]:
    salt = task_id.encode()
    return sorted(population, key=lambda node_id: hashlib.blake2b(salt + node_id, digest_size=8).digest())


_ANYWHERE = Constraints()
