"""A simulated disk that is slow or refuses does what an agent's would: nothing leaves that it does not have."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from beemesh.effects import Erase, Flush, Notify, Reply, Run, Save, Schedule
from beemesh.events import ClockAgreed, PodsObserved, StopPod, Submitted
from beemesh.node import Node
from beemesh.outward import Ask
from beemesh.scheduling.messages import SilenceAnswer, SilenceQuestion
from simulator.ailing_disk import TRY_EVERY_S, AilingDisk
from simulator.mock_runtime import MockRuntime
from simulator.plan import LISTS_AFTER_S, SLUGGISH_S, draw, with_ailments
from simulator.world import REFUSAL, World

SAVE = Save("leases", b"key", b"value")
PLACE = (SAVE.table, SAVE.key)


def reply(token: int) -> Reply:
    """An answer that counts on what was saved before it."""
    return Reply(token, SilenceAnswer("task", True))


class Bench:
    """A disk, and all that left it."""

    def __init__(self, seed: int = 0) -> None:
        self.left: list[Any] = []
        self.withdrawn: list[Any] = []
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.disk = AilingDisk(
            self.left.append, self.withdrawn.append, lambda in_s, act: self.due.append((in_s, act)), random.Random(seed)
        )

    def pass_time(self, *, but: int = 0) -> None:
        """All that is due happens, in order, but for the first ones."""
        while len(self.due) > but:
            self.due.pop(but)[1]()


def test_what_follows_a_save_waits_for_a_slow_disk() -> None:
    """The answer leaves after its row; timers, and what came before the save, at once."""
    bench = Bench()
    bench.disk.slow_down(2.0, 60.0)
    timer = Schedule("timer", 1.0)
    bench.disk.carry([reply(1), SAVE, reply(2), timer])
    assert bench.left == [reply(1), timer]
    bench.disk.carry([Flush(*PLACE), reply(3)])
    bench.disk.carry([Flush("leases", b"another"), reply(4)])
    assert bench.left[2:] == [reply(4)]
    bench.pass_time(but=1)
    assert bench.left[3:] == [SAVE, reply(2), reply(3)]
    assert not bench.disk.is_well, "it is slow until its time is over"
    bench.pass_time()
    assert bench.disk.is_well


def test_a_promise_is_a_notification_that_waits() -> None:
    """What the node believes is told at once; that it accepted something, when the disk has it."""
    bench = Bench()
    bench.disk.slow_down(2.0, 60.0)
    told, promised = Notify(ClockAgreed(5)), Notify(Submitted(1, True))
    bench.disk.carry([SAVE, promised, told])
    assert bench.left == [told]
    bench.pass_time(but=1)
    assert bench.left == [told, SAVE, promised]


def test_what_a_disk_refuses_is_written_later_and_nothing_that_waited_happens() -> None:
    """Whoever waits for an answer or a job hears so; the row comes with the next attempt that it takes."""
    bench = Bench()
    bench.disk.refuse(60.0)
    job, answer = Run("stop", StopPod("web", 0)), reply(2)
    bench.disk.carry([SAVE, job, answer, Notify(Submitted(1, True))])
    bench.pass_time(but=1)
    assert (bench.left, bench.withdrawn) == ([], [job, answer])
    bench.disk.carry([Flush(*PLACE), reply(3)])
    bench.pass_time(but=1)
    assert bench.withdrawn == [job, answer, reply(3)]
    bench.due.pop(0)[1]()  # it takes writes again
    assert bench.due[0][0] <= TRY_EVERY_S
    assert not bench.disk.is_well
    bench.pass_time()
    assert bench.left == [SAVE]
    assert bench.disk.is_well


def test_a_crash_forgets_what_waits_and_an_attempt_is_written_whole_or_not_at_all() -> None:
    """Both come, by chance; nothing leaves after it."""
    seen = set()
    for seed in range(20):
        bench = Bench(seed)
        bench.disk.slow_down(2.0, 60.0)
        erase = Erase("leases", b"other")
        bench.disk.carry([SAVE, erase, reply(1)])
        bench.disk.carry([Save("leases", b"later", b""), reply(2)])
        bench.disk.crash()
        bench.pass_time(but=1)
        assert bench.left in ([], [SAVE, erase])
        seen.add(len(bench.left))
    assert seen == {0, 2}


def test_a_mended_disk_has_all() -> None:
    """Faults that lay over each other end together, and what was refused is there soon."""
    world = World(2, 1)
    world.start_all()
    world.run_for(1)
    machine = world.machines[0]
    world.ail(0).refuse(1_000)
    world.ail(0).refuse(1_000)
    world.ail(0).slow_down(0.5, 1_000)
    world.carry(machine, [SAVE])
    world.run_for(30)
    assert PLACE not in machine.disk
    assert machine.ailing is not None
    machine.ailing.mend()
    world.run_for(TRY_EVERY_S + 1)
    assert machine.disk[PLACE] == SAVE.value
    assert machine.ailing is None


def test_whoever_asks_hears_that_the_other_side_has_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is withdrawn is told as such: nobody waits until the time for it is over."""
    world, heard = World(2, 1), list[tuple[object, str]]()
    world.start_all()
    world.run_for(1)
    node, peer = world.node(0).node, world.machines[1].membership.node_id
    world.ail(1).refuse(1_000)

    def answer(_node: Node, number: int, _peer: object, message: object, why: str, _now: object) -> list[Any]:
        if number == 1 << 40:
            heard.append((message, why))
        return []

    monkeypatch.setattr(type(node), "asked", lambda _node, _peer, token, *_: [SAVE, reply(token)])
    monkeypatch.setattr(type(node), "answer", answer)
    world.carry(world.machines[0], [Ask(1 << 40, peer, ("", 0), SilenceQuestion("task"), 60.0)])
    world.run_for(1)
    assert heard == [(None, REFUSAL)]


def test_a_late_list_is_the_first_that_an_agent_hears() -> None:
    """Nothing that a pod does meanwhile is told; then all of them."""
    world = World(2, 1)
    runtime = MockRuntime(world, 1)
    world.lists_after_s = 5.0
    heard: list[float] = []
    carry = world.event

    def event(index: int, what: Any) -> None:
        if isinstance(what, PodsObserved) and index == 0:
            heard.append(world.now_s)
        carry(index, what)

    world.event = event  # type: ignore[method-assign]
    world.start_all()
    machine = world.machines[0]
    runtime._changed(machine)
    assert not heard
    assert not machine.is_listed
    world.run_for(5.1)
    assert len(heard) == 1
    assert machine.is_listed
    world.list_pods(machine, machine.life)
    assert len(heard) == 1


def test_ailments_are_drawn_beside_all_else() -> None:
    """Full and sluggish disks and late lists occur and are left out, and change nothing else of a plan."""
    plans = [draw(random.Random(seed), 5, 30) for seed in range(300)]
    ailing = [with_ailments(plan, random.Random(f"{seed}"), 5, 30.0) for seed, plan in enumerate(plans)]
    for plan, with_them in zip(plans, ailing, strict=True):
        assert [step for step in with_them.steps if step.kind not in ("full", "sluggish")] == list(plan.steps)
        assert with_them.applies == plan.applies
    for kind in ("full", "sluggish"):
        assert 20 < sum(kind in plan.kinds for plan in ailing) < 150
    assert {plan.lists_after_s for plan in ailing} == {0.0, *LISTS_AFTER_S}
    assert SLUGGISH_S[0] > 0


def test_a_submission_is_not_told_accepted_by_a_full_disk() -> None:
    """The node believes that it has the record, and neither promises it nor lets others count it."""
    world = World(3, 1)
    told: list[Any] = []
    world.watch = lambda _index, event: told.append(event)
    world.start_all()
    world.run_for(2)
    world.ail(0).refuse(1_000)
    world.carry(world.machines[0], [SAVE, Notify(Submitted(1, True))])
    world.run_for(2)
    assert not [event for event in told if isinstance(event, Submitted)]
