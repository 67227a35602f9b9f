"""What goes wrong in one trial, drawn from its seed: swarm testing turns on some kinds of faults and leaves out others.

Groce et al., "Swarm Testing" (ISSTA 2012): trials that leave some features out find more than trials that use them all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["crash", "power", "wipe", "pause", "cut", "one-way", "heal", "slow", "skew", "blackout", "hostile"]
"""`crash`: the agent dies, its pods go on; `power`: the machine; `wipe`: the machine, and its disk is lost; `pause`: it
stands still; `cut`, `one-way`: partitions; `slow`: its network; `skew`: its wall clock; `blackout`: all machines;
`hostile`: somebody has a member's keys and uses them."""

FORMING_S = 5.0
HOSTILE_PART = 0.25
"""Trials with a hostile member: fewer than with any other fault, since it makes noise, and noise hides."""
HOSTILE_AMONG_MIN = 4
"""A death takes two accusers: among fewer, one liar and one fault of the network are two."""
LOSS_MAX = 0.3
REPEAT_MAX = 0.2
SLOWEST_MS = 150.0
CRASH_S_MAX = 5.0
"""An agent is started again by its supervisor. One that stayed away for longer than a run lease could not stop a pod
whose lease is over, and nobody else can."""
SKEW_MS_MAX = 20_000
"""Two clocks may differ by 40 s then: more than admission allows, so some cannot hear each other for a while."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault: when, what, on which machines, and for how long (until it is mended) or how much."""

    at_s: float
    kind: Kind
    machines: tuple[int, ...] = ()
    amount: float = 0.0

    def __str__(self) -> str:
        who = ",".join(f"n{index}" for index in self.machines)
        return f"{self.at_s:8.2f} {self.kind} {who} {self.amount:.2f}".rstrip()


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a trial does to a mesh. `applies` are (when, at which machine, replicas, duplicate tolerant)."""

    loss: float
    repeat: float
    delay_s: tuple[float, float]
    kinds: frozenset[Kind]
    steps: tuple[Step, ...]
    applies: tuple[tuple[float, int, int, bool], ...] = field(default=())
    rivals: tuple[tuple[float, int, int], ...] = field(default=())
    """(when, at which machine, at which other): two operators sign different records of one name and number."""
    is_old: bool = False
    """The mesh was bootstrapped long ago: whoever has no memory of its votes abstains for a while."""


def draw(chance: random.Random, nodes: int, seconds: float) -> Plan:
    """The plan of one trial of `nodes` machines that is tormented for `seconds`."""
    optional: tuple[Kind, ...] = ("crash", "power", "wipe", "pause", "cut", "one-way", "slow", "skew", "blackout")
    kinds: frozenset[Kind] = frozenset(kind for kind in optional if chance.random() < 0.4)
    slowest_s = chance.uniform(0.003, SLOWEST_MS / 1000) if chance.random() < 0.5 else 0.003
    steps: list[Step] = []
    wiped = False
    for kind in sorted(kinds):
        for _ in range(chance.randint(1, 3)):
            if kind == "wipe" and wiped:
                continue  # records stand on two disks: losing both loses them, and rightly so
            wiped |= kind == "wipe"
            steps.append(_step(chance, kind, nodes, seconds))
    applies = tuple(
        (chance.uniform(0.0, seconds * 0.8), chance.randrange(nodes), chance.randint(1, 4), chance.random() < 0.6)
        for _ in range(chance.randint(1, 3))
    )
    rivals = tuple(
        (chance.uniform(0.0, seconds), chance.randrange(nodes), chance.randrange(nodes))
        for _ in range(chance.randint(0, 2))
    )
    calm = Plan(
        loss=chance.uniform(0.0, LOSS_MAX) if chance.random() < 0.5 else 0.0,
        repeat=chance.uniform(0.0, REPEAT_MAX) if chance.random() < 0.5 else 0.0,
        delay_s=(0.0005, slowest_s),
        kinds=kinds,
        steps=tuple(sorted(steps, key=lambda step: step.at_s)),
        applies=applies,
        rivals=rivals,
        is_old="wipe" in kinds or chance.random() < 0.5,
    )
    if nodes < HOSTILE_AMONG_MIN or chance.random() >= HOSTILE_PART:
        return calm
    hostile = _step(chance, "hostile", nodes, seconds)
    steps = sorted([*steps, hostile], key=lambda step: step.at_s)
    return replace(calm, kinds=kinds | {"hostile"}, steps=tuple(steps))


def _step(chance: random.Random, kind: Kind, nodes: int, seconds: float) -> Step:
    at_s = chance.uniform(0.0, seconds)
    lasts_s = chance.uniform(0.2, seconds / 3)
    one = (chance.randrange(nodes),)
    match kind:
        case "cut" | "one-way":
            size = chance.randint(1, max(1, nodes // 2))
            return Step(at_s, kind, tuple(sorted(chance.sample(range(nodes), size))), lasts_s)
        case "slow":
            return Step(at_s, kind, one, chance.uniform(2.0, 100.0))
        case "skew":
            return Step(at_s, kind, one, chance.uniform(-SKEW_MS_MAX, SKEW_MS_MAX))
        case "crash":
            return Step(at_s, kind, one, min(lasts_s, CRASH_S_MAX))
        case "blackout":
            return Step(at_s, kind, tuple(range(nodes)), min(lasts_s, 10.0))
        case "hostile":
            return Step(at_s, kind, one, seconds - at_s)
        case _:
            return Step(at_s, kind, one, lasts_s)
