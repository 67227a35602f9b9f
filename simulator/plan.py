"""What goes wrong in one trial, drawn from its seed: swarm testing turns on some kinds of faults and leaves out others.

Groce et al., "Swarm Testing" (ISSTA 2012): trials that leave some features out find more than trials that use them all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal[
    "crash",
    "power",
    "wipe",
    "pause",
    "cut",
    "one-way",
    "swizzle",
    "roll",
    "slow",
    "skew",
    "blackout",
    "hostile",
    "full",
    "sluggish",
    "stuck",
]
"""`crash`: the agent dies, its pods go on; `power`: the machine; `wipe`: the machine, and its disk is lost; `pause`: it
stands still; `cut`, `one-way`: partitions; `swizzle`: machines are cut off one after the other, and joined again in
another order; `roll`: all agents are started anew, one after the other; `slow`: its network; `skew`: its wall clock;
`blackout`: all machines; `hostile`: somebody has a member's keys and uses them; `full`: its disk refuses
all writes; `sluggish`: its disk takes long for each; `stuck`: its container engine fails to end pods."""

FORMING_S = 5.0
HOSTILE_PART = 0.25
"""Trials with a hostile member: fewer than with any other fault, since it makes noise, and noise hides."""
HOSTILE_AMONG_MIN = 4
"""A death takes two accusers: among fewer, one liar and one fault of the network are two."""
LOSS_MAX = 0.3
REPEAT_MAX = 0.2
SLOWEST_MS = 150.0
LONG_PART = 0.3
"""Trials whose faults may last as long as the trial, not a third of it: long enough for both sides of a partition to
hold each other dead."""
BLIND_PART = 0.5
"""Wipes that come while somebody else is cut off, and back just then: who voted is gone, and who did not has a vote."""
RESTART_S = (0.05, 1.0)
"""How long an agent is away that is started anew on purpose, and how long until the next one is."""
CRASH_S_MAX = 5.0
"""An agent is started again by its supervisor."""
ABSENT_PART = 0.25
ABSENT_S = (5.0, 40.0)
"""Crashes after which nothing starts it for longer, and how long: past the end of each lease that it held."""
LOCK_S = (2.0, 15.0)
"""From shorter than any lease in use to the longest that is granted."""
SKEW_MS_MAX = 20_000
"""Two clocks may differ by 40 s then: more than admission allows, so some cannot hear each other for a while."""
DISK_PART = 0.2
"""Trials with full disks, and with sluggish ones."""
SLUGGISH_S = (0.02, 3.0)
"""The longest that one write of a sluggish disk takes."""
STUCK_PART = 0.2
"""Trials with engines that fail to end pods for a while."""
LISTS_PART = 0.3
LISTS_AFTER_S = (0.5, 3.0, 15.0)
"""Trials whose container engines do not tell at once what they run when an agent starts, and for how long at most."""


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
    locks: tuple[tuple[float, float], ...] = field(default=())
    """(how long it lasts, how often it is renewed) of leases that all machines want, in seconds."""
    rivals: tuple[tuple[float, int, int], ...] = field(default=())
    """(when, at which machine, at which other): two operators sign different records of one name and number."""
    is_old: bool = False
    """The mesh was bootstrapped long ago: whoever has no memory of its votes abstains for a while."""
    lists_after_s: float = 0.0
    """So long after an agent's start at most its engine tells it what runs."""


def draw(chance: random.Random, nodes: int, seconds: float) -> Plan:
    """The plan of one trial of `nodes` machines that is tormented for `seconds`."""
    optional: tuple[Kind, ...] = (
        "crash", "power", "wipe", "pause", "cut", "one-way", "swizzle", "roll", "slow", "skew", "blackout",
    )  # fmt: skip
    kinds: frozenset[Kind] = frozenset(kind for kind in optional if chance.random() < 0.35)
    slowest_s = chance.uniform(0.003, SLOWEST_MS / 1000) if chance.random() < 0.5 else 0.003
    longest_s = seconds if chance.random() < LONG_PART else seconds / 3
    steps: list[Step] = []
    for kind in sorted(kinds):
        # records stand on two disks: losing both loses them, and rightly so
        for _ in range(1 if kind == "wipe" else chance.randint(1, 3)):
            steps += _steps(chance, kind, nodes, seconds, longest_s)
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
        locks=tuple(_lock(chance) for _ in range(chance.randint(0, 2))),
        rivals=rivals,
        is_old="wipe" in kinds or chance.random() < 0.5,
    )
    if nodes < HOSTILE_AMONG_MIN or chance.random() >= HOSTILE_PART:
        return calm
    at_s = chance.uniform(0.0, seconds)
    steps.append(Step(at_s, "hostile", (chance.randrange(nodes),), seconds - at_s))
    return replace(calm, kinds=kinds | {"hostile"}, steps=tuple(sorted(steps, key=lambda step: step.at_s)))


def with_ailments(plan: Plan, chance: random.Random, nodes: int, seconds: float) -> Plan:
    """What may be wrong within machines, besides: their disks and engines. Drawn by another stream of chance: with or
    without it a seed goes wrong in the same ways."""
    ailments: tuple[Kind, ...] = ("full", "sluggish")
    kinds = [kind for kind in ailments if chance.random() < DISK_PART]
    steps = [
        Step(chance.uniform(0.0, seconds), kind, (chance.randrange(nodes),), chance.uniform(0.2, seconds / 2))
        for kind in kinds
        for _ in range(chance.randint(1, 3))
    ]
    return replace(
        plan,
        kinds=plan.kinds | frozenset(kinds),
        steps=tuple(sorted((*plan.steps, *steps), key=lambda step: step.at_s)),
        lists_after_s=chance.choice(LISTS_AFTER_S) if chance.random() < LISTS_PART else 0.0,
    )


def with_stuck_engines(plan: Plan, chance: random.Random, nodes: int, seconds: float) -> Plan:
    """Engines that fail to end pods for a while, besides. Drawn by a stream of chance of its own, too."""
    if chance.random() >= STUCK_PART:
        return plan
    steps = [
        Step(chance.uniform(0.0, seconds), "stuck", (chance.randrange(nodes),), chance.uniform(1.0, seconds))
        for _ in range(chance.randint(1, 3))
    ]
    return replace(
        plan,
        kinds=plan.kinds | {"stuck"},
        steps=tuple(sorted((*plan.steps, *steps), key=lambda step: step.at_s)),
    )


def with_absences(plan: Plan, chance: random.Random) -> Plan:
    """Agents that stay away for longer than their leases last, besides. Drawn by a stream of chance of its own, too."""
    steps = tuple(
        replace(step, amount=chance.uniform(*ABSENT_S))
        if step.kind == "crash" and chance.random() < ABSENT_PART
        else step
        for step in plan.steps
    )
    return replace(plan, steps=steps)


def _lock(chance: random.Random) -> tuple[float, float]:
    lasts_s = chance.uniform(*LOCK_S)
    return lasts_s, lasts_s * chance.uniform(0.3, 0.8)


def _steps(chance: random.Random, kind: Kind, nodes: int, seconds: float, longest_s: float) -> list[Step]:
    """One fault: a step, or several that belong together."""
    at_s, lasts_s, one = chance.uniform(0.0, seconds), chance.uniform(0.2, longest_s), chance.randrange(nodes)
    match kind:
        case "cut" | "one-way":
            size = chance.randint(1, max(1, nodes // 2))
            return [Step(at_s, kind, tuple(sorted(chance.sample(range(nodes), size))), lasts_s)]
        case "swizzle":
            return _swizzle(chance, nodes, at_s, lasts_s)
        case "roll":
            return _roll(chance, nodes, at_s)
        case "slow":
            return [Step(at_s, kind, (one,), chance.uniform(2.0, 100.0))]
        case "skew":
            return [Step(at_s, kind, (one,), chance.uniform(-SKEW_MS_MAX, SKEW_MS_MAX))]
        case "crash":
            return [Step(at_s, kind, (one,), min(lasts_s, CRASH_S_MAX))]
        case "blackout":
            return [Step(at_s, kind, tuple(range(nodes)), min(lasts_s, 10.0))]
        case "wipe" if nodes > 1 and chance.random() < BLIND_PART:
            other = (one + chance.randrange(1, nodes)) % nodes
            away = Step(max(0.0, at_s - lasts_s), "cut", (other,), min(at_s, lasts_s))
            return [away, Step(at_s, kind, (one,), chance.uniform(*RESTART_S))]
        case _:
            return [Step(at_s, kind, (one,), lasts_s)]


def _swizzle(chance: random.Random, nodes: int, at_s: float, lasts_s: float) -> list[Step]:
    """FoundationDB's "swizzle-clogging", which finds most there."""
    half_s = lasts_s / 2
    steps = []
    for index in chance.sample(range(nodes), chance.randint(1, nodes)):
        from_s, until_s = chance.uniform(0.0, half_s), chance.uniform(half_s, lasts_s)
        steps.append(Step(at_s + from_s, "cut", (index,), until_s - from_s))
    return steps


def _roll(chance: random.Random, nodes: int, at_s: float) -> list[Step]:
    steps = []
    for index in chance.sample(range(nodes), nodes):
        away_s = chance.uniform(*RESTART_S)
        steps.append(Step(at_s, "crash", (index,), away_s))
        at_s += away_s + chance.uniform(*RESTART_S)
    return steps
