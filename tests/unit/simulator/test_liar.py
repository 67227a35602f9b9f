"""A member that lies in its answers is heard, and the mesh does its work all the same."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from beemesh.custody.messages import StoreShare
from beemesh.dht.messages import FindRecords, FoundRecords, StoreRecord
from beemesh.events import FindProviders, MemberDown, ProvidersFound
from beemesh.intents.record import workload_key
from beemesh.workloads.record import Workload
from simulator.liar import QUESTIONS, Liar
from simulator.trial import Trial
from tests.unit.simulator.test_whole_nodes import submit, world_of

WAYS = ("_nothing", "_denial", "_boast", "_garbled", "_said_before")


class _Counting(Liar):
    """Lies about everything in one way, and counts the answers that it changed."""

    def lie(self, way: str) -> None:
        """About all questions but one: an operator is told who does not save a share, and may do without that node."""
        self.lies = dict.fromkeys((kind for kind in QUESTIONS if kind is not StoreShare), getattr(self, way))
        self.changed: Counter[type] = Counter()

    def answer(self, question: msgspec.Struct, answer: msgspec.Struct) -> msgspec.Struct | None:
        """As any liar does."""
        told = super().answer(question, answer)
        self.changed[type(question)] += told != answer
        return told


@pytest.mark.parametrize("way", WAYS)
def test_one_liar_among_six_keeps_nothing_from_being_done(way: str) -> None:
    """A workload is accepted and runs, a node that starts anew is back, and nobody is held dead for long."""
    world = world_of(6)
    liar = _Counting(world.machines[5].crypto, world.ring, 1)
    liar.lie(way)
    world.liars[5] = liar
    assert submit(world, 3).accepted
    assert world.run_until(lambda: sum(len(machine.pods) for machine in world.machines) == 3, 30)
    world.kill(0)
    world.run_for(1)
    world.start(0, knows=[])
    world.run_for(40)

    assert len(liar.changed) >= 6
    assert sum(liar.changed.values()) >= 10
    assert all(len(world.node(index).view.alive()) == 6 for index in range(6))
    assert sum(len(machine.pods) for machine in world.machines) == 3
    assert {event.node_id for _, _, event in world.events if isinstance(event, MemberDown)} <= {
        world.machines[0].membership.node_id
    }


def test_a_crowd_denies_records_and_is_seen_through() -> None:
    """Of twenty nodes the four nearest to a key say that there is nothing: its records are found by every other."""
    world = world_of(20)
    assert submit(world, 2).accepted
    world.run_for(10)
    found = world.node(0).intents.get(workload_key("deployment/default/hello"))
    assert found is not None
    manifest = msgspec.msgpack.decode(found[0].body, type=Workload).current.manifest.hex()
    crowd = [machine.index for machine in Trial.nearest(world, manifest)[:4]]
    for index in crowd:
        world.liars[index] = liar = Liar(world.machines[index].crypto, world.ring, 1)
        liar.crowd([world.machines[each].membership.node_id for each in crowd])
        told = liar.answer(FindRecords("sim", bytes(32), nodes=True), FoundRecords(nodes=(bytes(32),)))
        assert isinstance(told, FoundRecords)
        assert set(told.nodes) == {world.machines[each].membership.node_id for each in crowd}
        assert set(liar.lies) == {FindRecords, StoreRecord}
    askers = [index for index in range(20) if index not in crowd]
    for index in askers:
        world.event(index, FindProviders("looked for", "manifest", manifest))
    world.run_for(8)

    answers = {index: event.nodes for _, index, event in world.events if isinstance(event, ProvidersFound)}
    assert set(answers) >= set(askers)
    assert all(answers[index] for index in askers)


def test_trials_have_liars_and_crowds() -> None:
    """Drawn in a part of them; else all that they promise would be promised of honest answers alone."""
    trials = [Trial(seed, 20, 60.0) for seed in range(60)]
    assert 5 <= sum(trial.crowd > 0 for trial in trials) <= 25
    assert {trial.crowd for trial in trials} == {0, 1, 2, 3, 4}
    assert all(Trial(seed, 4, 10.0).crowd == 0 for seed in range(20)), "of four machines a fifth is nobody"
