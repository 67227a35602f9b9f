"""What a steward does while a node that came has not said what it runs."""

from __future__ import annotations

from typing import Any

import pytest

from beemesh.events import MemberDown, MemberUp
from beemesh.scheduling.stewardship.hosting import FLAP_S, NEWCOMER_S
from beemesh.workloads.record import Strategy, Workload
from tests.unit.scheduling.samples import revision, workload
from tests.unit.scheduling.world import World

ID = "deployment/default/hello"


class Flapping(World):
    """A settled mesh of three, and a fourth node that comes and goes, and never answers."""

    def __init__(self, wanted: Workload) -> None:
        super().__init__(("one", "two", "three", "four"))
        self.nodes["four"].kill()
        self.apply(wanted)
        self.run(20)
        self.steward = self.steward_of(wanted.workload_id)

    def come(self) -> None:
        """It is alive, as far as the others know."""
        four = self.nodes["four"].node_id
        self.steward.view.set_status(four, "alive")
        self.steward.tell(MemberUp(four))

    def go(self) -> None:
        """It is dead again."""
        four = self.nodes["four"].node_id
        self.steward.view.set_status(four, "dead")
        self.steward.tell(MemberDown(four))

    def until_there_are(self, replicas: int) -> float:
        """How long it takes until so many run."""
        return self.run_until(lambda: len(self.pods()) == replicas, 60)


def test_what_is_too_many_stops_although_a_node_is_silent() -> None:
    """Nothing that it might say could make the others wanted."""
    world = Flapping(workload(replicas=3))
    world.come()
    world.apply(workload(replicas=1), seq=2)

    assert world.until_there_are(1) < 1.0


def test_what_it_may_be_running_waits_for_its_word_and_no_longer() -> None:
    """It may have been started on its side of a cut: so nobody starts it here before it had the time to say so."""
    world = Flapping(workload(replicas=3))
    world.come()
    world.apply(workload(replicas=4), seq=2)

    assert NEWCOMER_S - 0.1 <= world.until_there_are(4) <= NEWCOMER_S + 1.5


def test_what_it_cannot_be_running_does_not_wait() -> None:
    """Of a DaemonSet each node has its own alone."""
    world = Flapping(workload("daemon", kind="DaemonSet"))
    gone = next(node for node in world.nodes.values() if node is not world.steward and node.runtime)
    world.come()
    gone.runtime.clear()
    gone.look()

    assert world.run_until(lambda: bool(gone.runtime), 60) < NEWCOMER_S / 2


def test_a_node_that_comes_and_goes_is_waited_for_once() -> None:
    """Its second coming has only what the first left of the time; after a while it is a new node again."""
    world = Flapping(workload(replicas=3))
    world.come()
    world.run(NEWCOMER_S / 2)
    world.go()
    world.run(1)
    world.come()
    world.apply(workload(replicas=4), seq=2)
    assert NEWCOMER_S / 2 - 0.1 <= world.until_there_are(4) <= NEWCOMER_S / 2 + 1.5

    world.go()
    world.come()
    world.apply(workload(replicas=5), seq=3)
    assert world.until_there_are(5) < 1.5

    world.go()
    world.run(FLAP_S)
    world.come()
    world.apply(workload(replicas=6), seq=4)
    assert world.until_there_are(6) >= NEWCOMER_S - 0.1


def test_a_node_that_answers_is_waited_for_each_time() -> None:
    """Its word costs next to nothing, and each time it may run something else."""
    world = Flapping(workload(replicas=3))
    hosted = world.steward.steward._hosted[ID]
    four = world.nodes["four"]
    for _ in range(20):
        four.boot()  # tells the others that it is there
        assert four.node_id in hosted.unheard
        world.run(0.5)
        assert four.node_id not in hosted.unheard
        four.kill()
        world.run(0.5)
    assert hosted.patience[four.node_id][1] > NEWCOMER_S - 1.0


@pytest.mark.parametrize("strategy", [Strategy(type="Recreate"), Strategy(max_surge=0, max_unavailable=1)])
def test_nothing_stops_for_a_successor_that_has_to_wait(strategy: Strategy) -> None:
    """Where the old replica goes first, both wait: it would be missing for as long as the node is silent."""
    world = Flapping(workload(strategy=strategy))
    least: list[int] = []
    world.come()
    world.watch = lambda: least.append(len(world.pods()))
    world.apply(workload(strategy=strategy, revisions=(revision(2), revision(1))), seq=2)
    world.run(NEWCOMER_S - 0.5)
    assert min(least) == 1
    assert world.run_until(lambda: world.slots() == [(2, 0)], 60) < 5.0


def test_a_steward_that_takes_over_hears_everybody_first() -> None:
    """Who was alive then may run anything: until it has said what, or had its time, nothing at all is done."""
    world = Flapping(workload(replicas=3))
    for node in world.nodes.values():
        node.view.set_status(world.nodes["four"].node_id, "alive")
    before: Any = world.steward
    before.kill(power=True)
    world.run_until(lambda: ID in {key.removeprefix("steward/") for key in world.leases.held}, 60)
    world.run_until(lambda: world.steward_of(ID) is not before, 60)
    world.apply(workload(replicas=1), seq=2)
    began_s = world.now_s
    world.until_there_are(1)

    assert world.now_s - began_s >= NEWCOMER_S - 1.0
