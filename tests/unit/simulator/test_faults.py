"""What a trial does to a mesh: cuts that end one by one, faults in their bounds, and leases that all want."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

from beemesh.events import LeaseGranted, ReleaseLease
from simulator.locks import Locks
from simulator.network import Faults
from simulator.plan import RESTART_S, draw
from simulator.world import World


def test_a_cut_ends_alone() -> None:
    """Two cuts part the same machines until both are over; one way means one way."""
    faults = Faults()
    first, second = faults.cut({0}, {1, 2}), faults.cut_one_way({0}, {1})
    assert not faults.reaches(0, 1)
    assert not faults.reaches(1, 0)
    assert faults.reaches(1, 2)
    faults.heal(first)
    assert not faults.reaches(0, 1)
    assert faults.reaches(1, 0)
    faults.heal(second)
    assert faults.reaches(0, 1)
    faults.cut({0}, {1})
    faults.heal()
    assert faults.reaches(0, 1)


def test_plans_repeat_and_use_every_kind_of_fault() -> None:
    """The same seed gives the same plan; among a few hundred each kind occurs, and is left out."""
    plans = [draw(random.Random(seed), 5, 30) for seed in range(300)]
    assert plans[7] == draw(random.Random(7), 5, 30)
    drawn = Counter(kind for plan in plans for kind in plan.kinds)
    assert len(drawn) == 12
    assert all(20 < count < 280 for count in drawn.values())
    assert all(0 <= machine < 5 for plan in plans for step in plan.steps for machine in step.machines)
    assert all(step.amount > 0 for plan in plans for step in plan.steps if step.kind != "skew")


def test_one_disk_is_lost_at_most() -> None:
    """An accepted record stands on two."""
    for seed in range(300):
        assert sum(step.kind == "wipe" for step in draw(random.Random(seed), 5, 30).steps) <= 1


def test_a_roll_starts_all_anew_one_after_the_other() -> None:
    """Each machine once, and each is back before the next one goes."""
    plan = next(plan for plan in (draw(random.Random(seed), 6, 30) for seed in range(2_000))
                if "roll" in plan.kinds and "crash" not in plan.kinds and len(plan.steps) == 6)  # fmt: skip
    assert sorted(step.machines for step in plan.steps) == [(index,) for index in range(6)]
    for step, later in zip(plan.steps, plan.steps[1:], strict=False):
        assert later.at_s - step.at_s - step.amount >= RESTART_S[0]


def test_leases_that_all_want_change_hands_and_are_given_up() -> None:
    """Several machines get each of them in turn; after the end nobody holds one."""
    world = World(4, 1)
    held: dict[str, int] = {}
    holders: set[tuple[str, int]] = set()
    locks = Locks(world, [(3.0, 1.0), (8.0, 5.0)], 40.0, 5)

    def watch(index: int, event: object) -> None:
        if isinstance(event, LeaseGranted):
            held[event.key] = index
            holders.add((event.key, index))
        elif isinstance(event, ReleaseLease):
            held.pop(event.key, None)
        if isinstance(event, Locks.sees):
            locks.saw(index, event)

    world.watch = watch
    world.start_all()
    world.run_for(5)
    locks.begin()
    world.run_for(60)
    changes = Counter(key for key, _ in holders)
    assert changes["lease/lock0"] >= 2
    assert changes["lease/lock1"] >= 2
    assert not held


def test_a_pause_that_ends_early_ends_for_all_that_waited() -> None:
    """What a machine had to do meanwhile happens when it wakes, in order, and not when it was to wake first."""
    world, done = World(2, 1), list[tuple[float, str]]()

    def note(text: str) -> None:
        done.append((world.now_s, text))

    for text in ("a", "b"):
        world.at(1.0, partial(note, text), world.machines[0])
    world.at(1.0, partial(note, "other"), world.machines[1])
    world.pause(0, 60)
    world.run_for(5)
    assert done == [(1.0, "other")]
    world.wake(0)
    world.run_for(1)
    assert done[1:] == [(5.0, "a"), (5.0, "b")]


def test_the_longer_of_two_pauses_counts() -> None:
    """Nothing happens between the ends of both."""
    world, done = World(2, 1), list[float]()
    world.at(1.0, lambda: done.append(world.now_s), world.machines[0])
    world.pause(0, 20)
    world.pause(0, 5)
    world.run_for(30)
    assert done == [20.0]
