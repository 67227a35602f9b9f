"""The checkers bite: each is shown what it exists for, and says so; a hostile member gives none of them a reason."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from beemesh.custody.custodians import TABLE_SERVED, TABLE_SHARES
from beemesh.effects import Save
from beemesh.events import DeployPod, LeaseGranted, MemberDown, Observed, Submitted, TaskWon
from beemesh.identity.signing import Signed, decode_body
from beemesh.ids import Digest
from beemesh.intents.record import Cordon, Intent, cordon_key
from beemesh.membership.suspicion import Suspicion, timeout_bounds_s
from beemesh.scheduling.messages import LeaseProof, Task
from beemesh.secret import SecretBytes
from simulator.checkers.custody import CustodyChecker
from simulator.checkers.durability import DurabilityChecker
from simulator.checkers.evidence import EvidenceChecker
from simulator.checkers.leases import LeaseChecker
from simulator.checkers.membership import MembershipChecker
from simulator.checkers.pods import PodChecker
from simulator.checkers.wire import WireChecker
from simulator.hostile import Hostile
from simulator.liar import Liar
from simulator.world import World
from tests.unit.simulator.test_scheduling_checkers import task

SIGNED = Signed("lease", b"", bytes(32), bytes(64))


def _world(nodes: int = 4, *, booted_s: float = 0.0) -> World:
    world = World(nodes, 1)
    for machine in world.machines:
        machine.boot_offset_s = booted_s
    world.start_all()
    world.run_for(5)
    return world


def test_a_datagram_let_in_twice_is_told() -> None:
    """Once per life is right; the second time is not, and after a restart it counts anew."""
    world, checker, told = _world(), WireChecker(hostile=False), list[str]()
    datagram = bytes(range(200))
    checker.admitted(world, told.append, 0, datagram)
    checker.admitted(world, told.append, 1, datagram)
    assert not told
    checker.admitted(world, told.append, 0, datagram)
    assert len(told) == 1
    world.kill(0)
    world.start(0)
    checker.admitted(world, told.append, 0, datagram)
    assert len(told) == 1


def test_a_refused_honest_datagram_is_told_unless_somebody_is_hostile() -> None:
    """A false signature has an author; a replay may be the network's."""
    world, told = _world(), list[str]()
    for reason in ("signature", "replayed"):
        event = Observed("datagrams_refused", {"reason": reason})
        WireChecker(hostile=True).saw(world, 0.0, 0, event, told.append)
        WireChecker(hostile=False).saw(world, 0.0, 0, event, told.append)
    assert told == ["n0 refused an honest datagram: signature"]


@pytest.mark.parametrize(("tasks", "lives", "is_told"), [(0, 0, True), (1, 0, False), (0, 2, False)])
def test_too_much_traffic_is_told_once(tasks: int, lives: int, is_told: bool) -> None:
    """The rate of each machine is watched over ten seconds, beside the tasks that are won and the agents that start."""
    world, checker, told = _world(), WireChecker(hostile=False), list[str]()
    won = TaskWon(task(), "lease/x", LeaseProof(SIGNED, ()), 1, 0.0)
    for _ in range(60):
        checker.look(world, told.append)
        world.machines[2].sent += 100
        for _ in range(tasks):
            checker.saw(world, world.now_s, 0, won, told.append)
        world.machines[1].life += lives
        world.run_for(0.25)
    assert ["n2 sends" in text for text in told] == [True] * is_told


def test_a_death_without_evidence_is_told() -> None:
    """Held dead with nobody's accusation, while others are there."""
    world, told = _world(), list[str]()
    victim = world.machines[2].membership.node_id
    world.node(0).view.set_status(victim, "dead")
    EvidenceChecker().saw(world, 5.0, 0, MemberDown(victim), told.append)
    assert len(told) == 1


def test_an_incarnation_that_goes_back_is_told() -> None:
    """In the table of any node, within one life."""
    world, checker, told = _world(), EvidenceChecker(), list[str]()
    checker.look(world, told.append)
    world.run_for(1)
    row = world.node(1).swim.members.get(world.machines[3].membership.node_id)
    assert row is not None
    row.incarnation -= 1
    checker.look(world, told.append)
    assert len(told) == 1


def test_an_acceptance_without_copies_is_told() -> None:
    """A record that only its acceptor's memory has was not saved."""
    world, told = _world(), list[str]()
    record = world.sign_ca("cordon", cordon_key("n1"), Cordon("n1", True))
    checker = DurabilityChecker({7: decode_body(record, Intent)})
    checker.saw(world, 5.0, 0, Submitted(7, True), told.append)
    checker.look(world, told.append)
    checker.look(world, told.append)
    assert len(told) == 2


def test_two_shares_in_one_hand_and_two_winners_of_one_fence_are_told() -> None:
    """A share has one keeper, a keeper one share, a fence one winner."""
    world, checker, told = _world(), CustodyChecker(), list[str]()
    manifest = bytes(range(32))

    def share(index: int) -> Save:
        return Save(TABLE_SHARES, manifest, msgspec.msgpack.encode(("workload/x", index)))

    def served(fence: int, node: int, majority_fence: int | None = None) -> Save:
        majority_fence = fence if majority_fence is None else majority_fence
        row = msgspec.msgpack.encode((fence, world.machines[node].membership.node_id, majority_fence))
        return Save(TABLE_SERVED, b"deployment/default/x/0/" + manifest, row)

    for index, save in ((0, share(1)), (1, share(2)), (0, served(3, 1)), (1, served(3, 1))):
        checker.saw(world, 5.0, index, save, told.append)
    assert not told
    for index, save in ((0, share(3)), (2, share(2)), (0, served(3, 2)), (0, served(2, 2))):
        checker.saw(world, 5.0, index, save, told.append)
    assert len(told) == 4

    for save in (served(7, 1, 2), served(3, 2)):  # a minority let something through, and a majority comes after it
        checker.saw(world, 5.0, 0, save, told.append)
    assert len(told) == 4
    for save in (served(3, 1), served(9, 1, 2)):
        checker.saw(world, 5.0, 0, save, told.append)
    assert len(told) == 6


def test_a_hostile_member_is_busy_and_changes_nothing() -> None:
    """With everything that it can do, for twenty seconds: all see all, and nobody was held dead."""
    world = _world(6)
    before = sum(machine.sent for machine in world.machines)
    for seed in range(8):
        Hostile(world, 5, world.now_s + 20, seed).begin()
    world.run_for(30)

    assert sum(machine.sent for machine in world.machines) > before
    assert [event for _, _, event in world.events if isinstance(event, MemberDown)] == []
    assert all(len(world.node(index).view.alive()) == 6 for index in range(6))
    refused = {event.labels["reason"] for _, _, event in world.events
               if isinstance(event, Observed) and event.metric == "datagrams_refused"}  # fmt: skip
    assert {"replayed", "signature", "undeciphered"} <= refused


def test_a_word_that_nobody_said_is_told() -> None:
    """A signature in a table of members belongs to the member that it speaks for."""
    world, checker, told = _world(), EvidenceChecker(), list[str]()
    checker.look(world, told.append)
    assert not told
    row = world.node(1).swim.members.get(world.machines[3].membership.node_id)
    assert row is not None
    assert row.alive is not None
    row.alive = msgspec.structs.replace(row.alive, signature=bytes(64))
    world.run_for(1)
    checker.look(world, told.append)
    assert told == ["n1 believes a word (alive) of n3 that it never said"]


def test_overlapping_leases_and_a_fence_that_comes_again_are_told() -> None:
    """One holder at a time; the next one has a higher fence, unless a disk was lost."""
    world, told = _world(), list[str]()
    for checker in (LeaseChecker(), LeaseChecker(forgetful=True)):
        for index, fence, at_s, until_s in ((0, 3, 5.0, 15.0), (1, 4, 16.0, 26.0), (2, 4, 27.0, 37.0)):
            checker.saw(world, at_s, index, _granted(fence, until_s), told.append)
    assert told == ["n2 was granted lease/x with fence 4, though 4 was granted before"]
    checker.saw(world, 30.0, 3, _granted(5, 40.0), told.append)
    assert told[1:] == ["n3 was granted lease/x, which n2 holds for 7.00 s"]


def _granted(fence: int, until_s: float) -> LeaseGranted:
    return LeaseGranted("lease/x", LeaseProof(SIGNED, ()), fence, until_s)


def test_a_start_without_its_lease_is_told() -> None:
    """What must not be doubled begins under a run lease of this life that lasts; what may be doubled needs none."""
    world, checker, told = _world(), PodChecker(), list[str]()
    start = partial(checker.saw, world, 5.0, 1, blame=told.append)
    start(_deploying(tolerant=True))
    assert not told
    start(_deploying(tolerant=False))
    assert len(told) == 1
    proof = LeaseProof(SIGNED, ())
    start(LeaseGranted("run/deployment/default/x/0", proof, 1, 15.0))
    start(_deploying(tolerant=False))
    assert len(told) == 1
    world.kill(1)
    start(_deploying(tolerant=False))
    assert len(told) == 2


def test_a_pod_that_has_ended_does_not_run() -> None:
    """What a machine still lists of a job that is over is no replica too many."""
    world, checker, told = _world(), PodChecker(), list[str]()
    report = world.machines[1].begin(_deploying(tolerant=True), world.wall_ms)
    world.machines[1].pods["x-0"] = msgspec.structs.replace(report, phase="Succeeded")
    checker.at_end(world, told.append)
    assert not told
    world.machines[1].pods["x-0"] = report
    checker.at_end(world, told.append)
    assert told == ["1 of deployment/default/x/0 run in the end, not 0: n1:0"]


def _deploying(*, tolerant: bool) -> DeployPod:
    some = Digest(bytes(32))
    task = Task("t", "deployment/default/x", "default", "Deployment", 1, 0, some, some, 0, 0, b"",
                duplicate_tolerant=tolerant)  # fmt: skip
    return DeployPod("x-0", task, 1, SecretBytes(b""))


def _false_death(world: World, checker: MembershipChecker, index: int, target: int, *, suspected_s: float) -> bool:
    """Whether it is told that a node holds another one dead, which it has suspected for so long."""
    node, told = world.node(index), list[str]()
    row = node.swim.members.get(world.machines[target].membership.node_id)
    assert row is not None
    since_s = world.now_of(world.machines[index]).boot_s - suspected_s
    row.suspicion = Suspicion(row.incarnation, since_s, 2, *timeout_bounds_s(4, 1.0))
    checker.saw(world, world.now_s, index, MemberDown(row.node_id), told.append)
    row.suspicion = None
    return told != []


def _watched(world: World, checker: MembershipChecker, seconds: float) -> None:
    """Let time pass while the checker looks on."""
    end_s = world.now_s + seconds
    while world.now_s < end_s:
        checker.look(world, lambda _text: None)
        world.run_for(min(0.25, end_s - world.now_s))


def _set_apart(world: World) -> None:
    world.machines[0].skew_ms, world.machines[2].skew_ms = -20_000, 20_000


def _set_right(world: World) -> None:
    world.machines[0].skew_ms = world.machines[2].skew_ms = 0


def _make_stranger(world: World) -> None:
    """n2 has the card of n0 no more."""
    card = decode_body(world.machines[0].card, Intent)
    world.node(2).roster.apply(msgspec.structs.replace(card, kind="tombstone", body=b""))


def _introduce(world: World) -> None:
    world.node(2).roster.apply(decode_body(world.machines[0].card, Intent))


PARTINGS: dict[str, tuple[Callable[[World], object], Callable[[World], object]]] = {
    "cut": (lambda world: world.faults.cut({0, 1}, {2, 3}), lambda world: world.faults.heal()),
    "unheard": (lambda world: world.faults.cut_one_way({2}, {0}), lambda world: world.faults.heal()),
    "unspoken to": (lambda world: world.faults.cut_one_way({0}, {2}), lambda world: world.faults.heal()),
    "slow": (lambda world: world.faults.slow.update({2: 100.0}), lambda world: world.faults.slow.clear()),
    "skew": (_set_apart, _set_right),
    "pause": (lambda world: world.pause(2, 100.0), lambda world: world.wake(2)),
    "crash": (lambda world: world.kill(2), lambda world: world.start(2)),
    "stranger": (_make_stranger, _introduce),
    "lie": (
        lambda world: world.liars.update({2: Liar(world.machines[2].crypto, world.ring, 1)}),
        lambda world: world.liars.clear(),
    ),
    "leave": (
        lambda world: setattr(world.machines[2], "is_member", False),
        lambda world: setattr(world.machines[2], "is_member", True),
    ),
}


@pytest.mark.parametrize("fault", PARTINGS)
def test_a_fault_excuses_suspicions_between_those_that_it_parts(fault: str) -> None:
    """While it lasts, and after it those that it began; whoever is in touch meanwhile may hold nobody dead."""
    world, checker = _world(booted_s=500.0), MembershipChecker()
    begin, end = PARTINGS[fault]
    world.faults.delay_s = (0.0005, 0.01)
    _watched(world, checker, 5.0)
    assert _false_death(world, checker, 0, 2, suspected_s=3.0)
    begin(world)
    _watched(world, checker, 6.0)
    assert not _false_death(world, checker, 0, 2, suspected_s=3.0)
    assert _false_death(world, checker, 0, 1, suspected_s=3.0)
    end(world)
    _watched(world, checker, 2.0)
    assert not _false_death(world, checker, 0, 2, suspected_s=3.0)
    assert _false_death(world, checker, 0, 2, suspected_s=1.0)
    assert _false_death(world, checker, 0, 1, suspected_s=3.0)


def test_heavy_loss_excuses_what_is_suspected_while_it_lasts() -> None:
    """Of everybody by everybody, and nothing that is suspected later."""
    world, checker = _world(), MembershipChecker()
    world.faults.loss = 0.2
    _watched(world, checker, 5.0)
    assert not _false_death(world, checker, 0, 2, suspected_s=3.0)
    world.faults.loss = 0.0
    _watched(world, checker, 2.0)
    assert not _false_death(world, checker, 0, 2, suspected_s=3.0)
    assert _false_death(world, checker, 0, 2, suspected_s=1.0)


def test_what_a_probe_outlives_excuses_nothing() -> None:
    """A tenth of loss, repetition, an echo that still comes in time, and clocks that may hear each other."""
    world, checker = _world(), MembershipChecker()
    world.faults.loss, world.faults.repeat, world.faults.delay_s = 0.1, 0.2, (0.0005, 0.1)
    world.faults.slow[2] = 2.0
    world.machines[2].skew_ms = 20_000
    _watched(world, checker, 5.0)
    assert _false_death(world, checker, 0, 2, suspected_s=3.0)
    assert _false_death(world, checker, 2, 0, suspected_s=3.0)


@pytest.mark.parametrize("fault", ["crash", "pause"])
def test_a_machine_that_was_away_between_two_looks_begins_anew(fault: str) -> None:
    """However short it was: what happened before is excused."""
    world, checker = _world(), MembershipChecker()
    begin, end = PARTINGS[fault]
    _watched(world, checker, 5.0)
    begin(world)
    world.run_for(0.1)
    end(world)
    _watched(world, checker, 2.0)
    assert not _false_death(world, checker, 0, 2, suspected_s=3.0)
    assert not _false_death(world, checker, 2, 3, suspected_s=3.0)
    assert _false_death(world, checker, 0, 1, suspected_s=3.0)


def test_an_old_suspicion_is_excused_until_its_time_is_over() -> None:
    """With two accusers a suspicion lasts 11.4 s among four: by then whoever is in touch with the suspect heard it."""
    world, checker = _world(), MembershipChecker()
    _watched(world, checker, 11.0)
    assert not _false_death(world, checker, 0, 2, suspected_s=100.0)
    _watched(world, checker, 1.0)
    assert _false_death(world, checker, 0, 2, suspected_s=100.0)


def test_a_death_that_nobody_suspected_is_false() -> None:
    """There is no fault to excuse it, unless the two are not in touch."""
    world, checker, told = _world(), MembershipChecker(), list[str]()
    _watched(world, checker, 1.0)
    down = MemberDown(world.machines[2].membership.node_id)
    checker.saw(world, world.now_s, 0, down, told.append)
    assert len(told) == 1
    world.kill(2)
    checker.saw(world, world.now_s, 0, down, told.append)
    assert len(told) == 1
