"""How the roster changes in a trial: machines join late, one is removed and lingers, the gossip key changes.

The rest of a trial is drawn by another stream of chance: with or without turnover a seed goes wrong in the same ways.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from beemesh.crypto import KEY_BYTES
from beemesh.errors import BeemeshError
from simulator.fleet import KEEPERS_MIN
from simulator.machine import Machine
from simulator.observer import Tell
from simulator.operator import change_key, is_alone, remove, unplug
from simulator.world import World

PART = 0.4
"""Trials with each kind of change."""

JOINS_MAX = 3

LINGERS_S_MAX = 20.0
"""A machine that was removed runs on by itself for so long: longer than a run lease."""

Load = tuple[float, Callable[[], object]]
"""When something happens after the forming, and what."""


@dataclass(frozen=True, slots=True)
class Removal:
    """`machine` is removed by a record that is put at `by`, and unplugged after `lingers_s`."""

    machine: int
    by: int
    lingers_s: float
    key: bytes


@dataclass(frozen=True, slots=True)
class Turnover:
    """What changes, by when: (when, which machine) joins, (when, removal), (when, at which machine, the new key)."""

    joins: tuple[tuple[float, int], ...] = ()
    removals: tuple[tuple[float, Removal], ...] = ()
    rotations: tuple[tuple[float, int, bytes], ...] = ()

    def loads(self, world: World, tell: Tell) -> list[Load]:
        """What is to be done while a trial lasts."""
        joins: list[Load] = [(at_s, partial(join, world, world.machines[index], tell)) for at_s, index in self.joins]
        removals: list[Load] = [(at_s, partial(take_out, world, removal, tell)) for at_s, removal in self.removals]
        rotations: list[Load] = [(at_s, partial(rotate, world, by, key, tell)) for at_s, by, key in self.rotations]
        return joins + removals + rotations


def draw_turnover(chance: random.Random, nodes: int, seconds: float, *, forgetful: bool) -> Turnover:
    """The changes of a trial of `nodes` machines that lasts `seconds`. Records and shares outlive one lost disk of
    those that have them: where disks are lost anyhow (`forgetful`) nothing is removed."""
    if nodes <= KEEPERS_MIN:
        return Turnover()
    absent = chance.sample(range(KEEPERS_MIN, nodes), min(nodes - KEEPERS_MIN, chance.randint(1, JOINS_MAX)))
    joins = tuple((chance.uniform(0.0, seconds), index) for index in absent)
    machine, by = chance.sample(range(nodes), 2)
    lingers_s = draw_lingering_s(chance)
    removal = chance.uniform(0.0, seconds), Removal(machine, by, lingers_s, chance.randbytes(KEY_BYTES))
    rotation = chance.uniform(0.0, seconds), chance.randrange(nodes), chance.randbytes(KEY_BYTES)
    return Turnover(
        joins if chance.random() < PART else (),
        (removal,) if chance.random() < PART and not forgetful else (),
        (rotation,) if chance.random() < PART else (),
    )


def draw_lingering_s(chance: random.Random) -> float:
    """How long a removed machine goes on: often not at all."""
    return chance.choice((0.0, chance.uniform(0.0, LINGERS_S_MAX)))


def leave_out(world: World, absent: Iterable[int]) -> None:
    """These machines are not there at first, and nobody has heard of them."""
    for index in absent:
        machine = world.machines[index]
        machine.is_member = False
        world.records.remove(machine.card)


def join(world: World, machine: Machine, tell: Tell) -> None:
    """A machine that was left out is bootstrapped; the others hear of it from itself."""
    machine.is_member = True
    world.certify(machine)
    world.records.append(machine.card)
    tell(f"n{machine.index} joins")
    world.wake(machine.index)
    world.start(machine.index)


def take_out(world: World, removal: Removal, tell: Tell) -> bool:
    """Remove a machine that belongs to the mesh; it goes on for a while by itself, until somebody unplugs it. False
    when that could not be: it does not belong to it, or who was asked does not answer. Nor is one taken out that sees
    nobody else: what it accepted is on its own disk alone, and rightly goes with that."""
    machine = world.machines[removal.machine]
    if not machine.is_member or removal.by == removal.machine or is_alone(world, removal.machine):
        return False
    try:
        remove(world, removal.by, machine, removal.key)
    except BeemeshError:
        return False
    tell(f"remove n{machine.index} at n{removal.by}, which goes on for {removal.lingers_s:.2f} s")
    world.at(world.now_s + removal.lingers_s, partial(unplug, world, machine))
    return True


def rotate(world: World, by: int, key: bytes, tell: Tell) -> None:
    """Change the gossip key at some machine, if that answers."""
    try:
        change_key(world, by, key)
    except BeemeshError:
        return
    tell(f"change the gossip key at n{by}")
