"""A node that comes learns what was told before: by whole nodes, and step by step."""

from __future__ import annotations

import random
from itertools import count

import pytest

from beemesh.composition import Composition
from beemesh.crypto import KEY_BYTES
from beemesh.dht.kset import nearest
from beemesh.effects import Answered, Effects, Notify, Now, Request, Schedule, TimerFired
from beemesh.events import MemberDown, MemberUp
from beemesh.ids import NodeId
from beemesh.scheduling.catching_up import AFTER_S, AGAIN_S, ASKED, CatchUp
from beemesh.scheduling.leases import steward_key
from beemesh.scheduling.messages import EventList, ListEvents
from beemesh.scheduling.reading import EventsTold
from beemesh.scheduling.telling import MANIFEST
from beemesh.settings.model import Scheduler
from simulator.mock_runtime import MockRuntime
from simulator.operator import deployment, grant_operator, submission
from simulator.spec import machine
from simulator.turnover import Removal, join, leave_out, take_out
from simulator.world import World
from tests.unit.simulator.test_scheduling_checkers import AMPLE_S, WORK, meshed, steady

NOW = Now(100.0, 1_800_000_000_000)


def told(world: World, index: int) -> set[str]:
    """What an agent knows of the workload."""
    return {event.event_id for event in world.node(index).journal.events(workload_id=WORK)}


def apply(world: World, index: int) -> None:
    """A workload is handed in there, and runs."""
    _, command = submission(world, index, deployment("web", 1), 1)
    world.event(index, command)
    world.run_for(AMPLE_S)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> World:
    """A mesh that ran something before its fourth machine came: for longer than topics keep what was published."""
    monkeypatch.setattr("beemesh.topics.broadcaster.CATCH_UP_S", 0.0)
    world, _ = meshed(4)
    world.kill(3, power=True, disk=False)
    leave_out(world, [3])
    world.run_for(60)
    apply(world, 0)
    world.run_for(120)
    return world


def test_a_machine_that_joins_hears_what_was_told_before(joined: World) -> None:
    """It may be the steward next, and any user may ask it."""
    before = told(joined, 0)
    join(joined, joined.machines[3], lambda _text: None)
    joined.run_for(10)

    assert before
    assert before <= told(joined, 3)


def test_what_a_steward_told_that_was_removed_is_told_again(joined: World) -> None:
    """Whoever joins knows nothing of that one, and believes nothing of it."""
    words = [event for event in joined.node(0).journal.events(workload_id=WORK) if MANIFEST in event.details]
    gone = joined.index_of(words[-1].node_id)
    assert take_out(joined, Removal(gone, (gone + 1) % 3, 0.0, b"k" * KEY_BYTES), lambda _text: None)
    joined.run_for(60)
    join(joined, joined.machines[3], lambda _text: None)
    joined.run_for(10)
    heard = [event for event in joined.node(3).journal.events(workload_id=WORK) if MANIFEST in event.details]

    assert heard[-1].status == words[-1].status
    assert heard[-1].node_id != words[-1].node_id


def test_whoever_joins_takes_no_older_record_for_a_new_one(joined: World) -> None:
    """It was signed a short while ago, and has been running for as long: its steward has to ask what runs."""
    _, command = submission(joined, 0, deployment("new", 1), 2)
    joined.event(0, command)
    joined.run_for(5)
    join(joined, joined.machines[3], lambda _text: None)
    joined.run_for(10)
    hosted = [joined.node(index).steward._hosted["deployment/default/new"] for index in (0, 3)]

    assert [each.saw_all for each in hosted] == [True, False]


def test_in_a_large_mesh_a_steward_that_came_later_asks_those_next_in_line() -> None:
    """There nothing comes by itself, and nobody but they has heard it."""
    timing = Scheduler(announce_up_to=1)
    world = World([machine(f"n{index}", {"scheduler": timing}) for index in range(5)], 1)
    MockRuntime(world, steady())
    grant_operator(world)
    world.start_all()
    world.run_for(3)
    last, keepers = world.machines[4].membership.node_id, world.node(0).roster.keeper_ids()
    names = (f"web{number}" for number in range(999))
    name = next(name for name in names if nearest(keepers, steward_key(f"deployment/default/{name}"), 1) == (last,))
    workload_id = f"deployment/default/{name}"
    world.kill(4, power=True, disk=False)
    leave_out(world, [4])
    world.run_for(60)
    _, command = submission(world, 0, deployment(name, 1), 1)
    world.event(0, command)
    world.run_for(AMPLE_S)
    join(world, world.machines[4], lambda _text: None)
    world.run_for(10)
    steward = host_of(world, workload_id)
    before = {event.event_id for event in world.node(steward).journal.events(workload_id=workload_id)}
    assert not world.node(4).journal.events(workload_id=workload_id)
    for _ in range(9):  # whoever claims first after the end of a lease has it
        world.kill(steward)
        world.run_for(30)
        world.start(steward)
        steward = host_of(world, workload_id)
        if steward == 4:
            break
    after = {event.event_id for event in world.node(4).journal.events(workload_id=workload_id)}

    assert before
    assert before <= after


def host_of(world: World, workload_id: str) -> int:
    """The machine that hosts a workload."""
    assert world.run_until(lambda: any(_hosts(world, index, workload_id) for index in range(5)), 60)
    return next(index for index in range(5) if _hosts(world, index, workload_id))


def _hosts(world: World, index: int, workload_id: str) -> bool:
    return world.machines[index].is_up and world.node(index).steward._hosted[workload_id].hosting


def test_whoever_was_cut_off_hears_what_the_others_were_told() -> None:
    """Both sides do where neither is more than half."""
    world, _ = meshed(4)
    world.faults.cut({2, 3}, {0, 1})
    world.run_for(60)
    _, command = submission(world, 0, deployment("web", 1), 1)
    world.event(0, command)
    world.run_for(60)
    before = told(world, 0)
    assert not told(world, 2)
    world.faults.heal()
    world.run_for(30)

    assert before
    assert before <= told(world, 2)


class Asking:
    """The part alone, in a mesh of some members that are all alive."""

    def __init__(self, members: int) -> None:
        world, _ = meshed(members)
        self.node: Composition = world.node(0)
        numbers = count(1)
        self.part = CatchUp(
            world.machines[0].membership.node_id,
            self.node.roster,
            self.node.view,
            random.Random(1),
            lambda: next(numbers),
        )
        self.other = NodeId(world.machines[1].membership.node_id)

    def timer(self) -> Effects:
        """Its time has come."""
        return self.part.handle(TimerFired(("catch-up", "ask")), NOW)


def test_two_are_asked_once_somebody_came() -> None:
    """Nobody else is, and nobody twice while it is about to ask."""
    asking = Asking(5)
    effects = asking.part.handle(MemberUp(asking.other), NOW)
    assert effects == [Schedule(("catch-up", "ask"), NOW.boot_s + AFTER_S)]
    assert asking.part.handle(MemberUp(asking.other), NOW) == []

    questions = [each for each in asking.timer() if isinstance(each, Request)]
    assert len({each.to for each in questions}) == ASKED
    assert all(each.message == ListEvents(()) for each in questions)


def test_an_answer_ends_the_asking_and_silence_does_not() -> None:
    """Until few members are alive."""
    asking = Asking(5)
    asking.part.handle(MemberUp(asking.other), NOW)
    assert Schedule(("catch-up", "ask"), NOW.boot_s + AGAIN_S) in asking.timer()
    assert asking.part.handle(Answered(1, asking.other, None, "no answer"), NOW) == []
    assert asking.timer()

    answer = Answered(2, asking.other, EventList(()))
    assert asking.part.handle(answer, NOW) == [Notify(EventsTold(()))]
    assert asking.timer() == []
    asking.part.handle(MemberDown(asking.other), NOW)
    assert asking.part.handle(MemberUp(asking.other), NOW) == []

    for card in asking.node.roster.members():
        if card.node_id != asking.part._self_id:
            asking.node.view.set_status(card.node_id, "dead")
    asking.part.handle(MemberDown(asking.other), NOW)
    assert asking.part.handle(MemberUp(asking.other), NOW)


def test_in_a_large_mesh_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events go to those whom they concern, and nobody has all."""
    asking = Asking(3)
    monkeypatch.setattr(type(asking.node.view), "is_large", property(lambda _view: True))
    assert asking.part.handle(MemberUp(asking.other), NOW) == []
