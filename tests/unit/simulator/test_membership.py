"""What membership promises of joining, leaving, moving, forgetting keys, wrong clocks and neighbouring versions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from beemesh.effects import Now
from beemesh.events import EmitEvent, LeaveMesh, MemberDown, Observed, PutIntent
from beemesh.identity.membership_card import GRACE_MS
from beemesh.ids import NodeId
from beemesh.membership.claims import ClaimDesk, Statement
from beemesh.membership.held_clock import HeldClock
from beemesh.membership.messages import Alive, Claim, ClaimKind, Claims, Suspect
from beemesh.membership.picture import picture_of
from beemesh.membership.summaries import Summary
from beemesh.membership.versions import PROTOCOL_VERSION, gets_on_with
from simulator.world import START_WALL_MS, World

DAY_MS = 86_400_000


def _lone(nodes: int, seed: int) -> World:
    """Agents that run for a minute, each knowing itself alone."""
    world = World(nodes, seed)
    for machine in world.machines:
        world.start(machine.index, knows=[machine.card])
    world.run_for(60)
    return world


def _meshed(nodes: int, seed: int) -> World:
    world = World(nodes, seed)
    world.start_all()
    assert world.run_until(lambda: _all_see(world, nodes), 10)
    world.run_for(5)
    return world


def _all_see(world: World, alive: int) -> bool:
    running = [machine.composition for machine in world.machines if machine.composition is not None]
    return all(len(composition.view.alive()) == alive for composition in running)


def _tell(world: World, index: int, of: int) -> None:
    world.event(index, PutIntent(world.machines[of].card))


def _deaths(world: World, since_s: float) -> list[Any]:
    return [event for at_s, _, event in world.events if isinstance(event, MemberDown) and at_s >= since_s]


# --- joining and leaving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [2, 10, 30])
def test_lone_nodes_that_are_told_of_one_are_a_mesh_within_a_second(nodes: int) -> None:
    """All are told to join through the same member at one moment."""
    world = _lone(nodes, 1)
    for index in range(1, nodes):
        _tell(world, index, of=0)

    assert world.run_until(lambda: _all_see(world, nodes), 1)


@pytest.mark.parametrize("seed", range(4))
def test_any_member_is_a_seed(seed: int) -> None:
    """Each lone node is told of another one at random, not of the same: they become one mesh all the same."""
    world = _lone(8, seed)
    for index in range(1, 8):
        _tell(world, index, of=world.random.randrange(index))

    assert world.run_until(lambda: _all_see(world, 8), 5)


@pytest.mark.parametrize("through", range(5))
def test_a_joiner_may_come_through_whichever_member_it_knows(through: int) -> None:
    """All others learn of it within two seconds, although nobody has its card."""
    world = World(6, through)
    cards = [machine.card for machine in world.machines]
    for index in range(5):
        world.start(index, knows=cards[:5])
    world.run_for(30)
    world.start(5, knows=[cards[5], cards[through]])

    assert world.run_until(lambda: _all_see(world, 6), 2)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_machines_that_joined_while_they_reached_only_each_other_join_all(seed: int) -> None:
    """Two new machines see each other, and none of those that were there before: these do not know them, and let in
    nothing that they send. When they reach them all are one mesh within the time between two comparisons."""
    world = World(6, seed)
    cards = [machine.card for machine in world.machines]
    world.faults.cut({0, 1, 2, 3}, {4, 5})
    for index in range(6):
        world.start(index, knows=cards if index in (4, 5) else cards[:4])
    world.run_for(60)
    assert [len(world.node(index).view.alive()) for index in range(6)] == [4, 4, 4, 4, 2, 2]

    world.faults.heal()

    assert world.run_until(lambda: _all_see(world, 6), 40)


def test_a_node_that_left_is_not_called_and_comes_back_when_it_likes() -> None:
    """Hours after its goodbye nobody suspects it; started again, it is there within three seconds."""
    world = _meshed(4, 3)
    world.event(2, LeaveMesh())
    world.run_for(0.5)
    world.kill(2)
    left_s = world.now_s
    world.run_for(600)
    assert not _deaths(world, left_s)
    assert _all_see(world, 3)
    world.start(2)

    assert world.run_until(lambda: _all_see(world, 4), 3)


def test_whoever_missed_a_goodbye_hears_of_it_when_states_are_compared() -> None:
    """A node leaves while a partition keeps half of the others from hearing it, who hold it dead: two minutes after
    the heal all hold it for left, and nobody calls it; started again, it is there within three seconds."""
    world = _meshed(5, 3)
    gone = world.machines[0].membership.node_id
    world.faults.cut({3, 4}, {0, 1, 2})
    world.run_for(3)
    world.event(0, LeaveMesh())
    world.run_for(0.2)
    world.kill(0)
    world.run_for(60)
    assert [world.node(index).view.status(gone) for index in range(1, 5)] == ["left", "left", "dead", "dead"]

    world.faults.heal()
    world.run_for(120)

    assert [world.node(index).view.status(gone) for index in range(1, 5)] == ["left"] * 4
    assert not any(world.node(index).view.absent() for index in range(1, 5))
    world.start(0)
    assert world.run_until(lambda: _all_see(world, 5), 3)


# --- partitions, restarts, moves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [{0}, {0, 1}])
def test_a_partition_of_an_hour_heals_in_seconds(alone: set[int]) -> None:
    """The dead are remembered for as long as they are members, and are called again and again."""
    world = _meshed(4, 5)
    others = {0, 1, 2, 3} - alone
    world.faults.cut(alone, others)
    world.run_for(3_600)
    assert {len(world.node(index).view.alive()) for index in alone} == {len(alone)}
    world.faults.heal()

    assert world.run_until(lambda: _all_see(world, 4), 15)


def test_a_machine_that_lost_its_keys_takes_its_own_name_back() -> None:
    """New keys, signed by the CA for the same name: all know the new identity within seconds, nobody the old one."""
    world = _meshed(5, 2)
    old = world.machines[2].membership.node_id
    world.kill(2, power=True, disk=False)
    world.run_for(2)
    world.reissue(2, keys=b"new keys of node 2")
    world.start(2)
    new = world.machines[2].membership.node_id

    assert old != new
    assert world.run_until(lambda: all(world.node(index).view.is_alive(new) for index in range(5)), 3)
    world.run_for(30)
    for index in range(5):
        roster, view = world.node(index).roster, world.node(index).view
        assert roster.member(old) is None
        assert view.status(old) == "unknown"
        named = roster.named("n2")
        assert named is not None and named.node_id == new
    assert _all_see(world, 5)


def test_a_member_that_moved_is_found_at_its_new_address() -> None:
    """Others hold its old card and the old address; it shows the new one, and nobody holds it dead afterwards."""
    world = _meshed(5, 4)
    world.kill(3)
    world.run_for(60)
    world.reissue(3, address="10.9.9.9")
    world.start(3)

    assert world.run_until(lambda: _all_see(world, 5), 5)
    back_s = world.now_s
    world.run_for(60)
    assert not _deaths(world, back_s)
    moved = world.machines[3].membership.node_id
    assert {world.node(index).view.address(moved) for index in (0, 1, 2, 4)} == {("10.9.9.9", 7946)}
    expected = {world.node(index).node._admission._peers[moved].source for index in (0, 1, 2, 4)}
    assert expected == {("10.9.9.9", 7946)}, "its echoes came from there, and so does what is worth a look in a flood"


# --- clocks -----------------------------------------------------------------------------------------------------------


def _started_in_the_past(world: World, index: int, days: int) -> None:
    machine = world.machines[index]
    machine.skew_ms = -days * DAY_MS
    machine.clock = HeldClock(START_WALL_MS - 30 * DAY_MS)
    world.start(index)


def _behind_s(world: World, index: int) -> float:
    return (world.wall_ms - world.now_of(world.machines[index]).wall_ms) / 1000


@pytest.mark.parametrize("nodes", [2, 3, 6])
def test_a_clock_that_starts_in_the_past_is_moved_on_by_the_others(nodes: int) -> None:
    """A machine that boots in the year before its configuration was signed is a full member within half a minute."""
    world = _meshed(nodes, 7)
    world.kill(1)
    world.run_for(60)
    _started_in_the_past(world, 1, days=400)
    assert _behind_s(world, 1) == pytest.approx(30 * 86_400 + world.now_s, abs=1)

    assert world.run_until(lambda: _behind_s(world, 1) < 1, 15)
    assert world.run_until(lambda: _all_see(world, nodes), 15)
    back_s = world.now_s
    world.run_for(120)
    assert not _deaths(world, back_s)
    assert _behind_s(world, 1) < 2


def test_a_member_whose_clock_runs_ahead_takes_a_held_one_nowhere_alone() -> None:
    """The honest members' time is where the held clock stops, however far ahead one of them is."""
    world = _meshed(5, 8)
    world.kill(1)
    world.run_for(60)
    world.machines[0].skew_ms = 365 * DAY_MS
    _started_in_the_past(world, 1, days=400)
    world.run_for(60)

    assert abs(_behind_s(world, 1)) < 2


def test_a_lone_node_stays_at_the_time_of_its_configuration() -> None:
    """Nobody tells it better."""
    world = World(2, 1)
    _started_in_the_past(world, 0, days=400)
    world.run_for(300)

    assert world.now_of(world.machines[0]).wall_ms == START_WALL_MS - 30 * DAY_MS


# --- memberships that end ---------------------------------------------------------------------------------------------


def _ends(world: World, index: int, at_ms: int) -> None:
    """A machine that is down has a card whose grace ends then, and all know it."""
    machine = world.machines[index]
    machine.membership = msgspec.structs.replace(machine.membership, not_after_ms=at_ms - GRACE_MS)
    world.reissue(index)


def _refusals(world: World, since_s: float) -> set[str]:
    seen = [event for at_s, _, event in world.events if isinstance(event, Observed) and at_s >= since_s]
    return {event.labels["reason"] for event in seen if event.metric == "datagrams_refused"}


def test_a_member_is_shut_out_at_the_end_of_its_grace_and_comes_back_with_a_new_card() -> None:
    """Half a minute after it ended nobody counts it any more, and people are told why; it hears nobody, and a restart
    with the old card changes nothing. With a new one all see it within five seconds."""
    world = World(4, 3)
    _ends(world, 0, START_WALL_MS + 30_000)
    world.start_all()
    assert world.run_until(lambda: _all_see(world, 4), 10)
    world.run_for(30 - world.now_s)
    assert _all_see(world, 4)
    assert not _deaths(world, 0)

    world.run_for(30)
    world.kill(0)
    world.start(0)
    world.run_for(120)

    assert [len(world.node(index).view.alive()) for index in range(4)] == [1, 3, 3, 3]
    assert _refusals(world, 31) == {"expired"}
    dead = [e.event for _, _, e in world.events if isinstance(e, EmitEvent) and e.event.status == "NodeDead"]
    assert "the membership of node n0 has ended" in {event.reason for event in dead}

    world.kill(0)
    _ends(world, 0, START_WALL_MS + DAY_MS)
    world.start(0, knows=[machine.card for machine in world.machines])
    assert world.run_until(lambda: _all_see(world, 4), 5)


# --- neighbouring versions --------------------------------------------------------------------------------------------


class NewerAlive(Alive, frozen=True, array_like=True):
    """What the next version may say of itself."""

    favourite_colour: str = "green"


class NewerSummary(Summary, frozen=True, array_like=True, omit_defaults=True):
    """The same of its summary."""

    happiness: float = 0.5


class NewerDesk(ClaimDesk):
    """Signs as the next version of the protocol might: more fields at the end."""

    def sign(self, kind: ClaimKind, statement: Statement) -> Claim:
        """See `ClaimDesk.sign`."""
        fields = msgspec.structs.asdict(statement)
        if isinstance(statement, Alive):
            statement = NewerAlive(**{**fields, "protocol_version": PROTOCOL_VERSION + 1})
        elif isinstance(statement, Summary):
            statement = NewerSummary(**{**fields, "protocol_version": PROTOCOL_VERSION + 1})
        return super().sign(kind, statement)


def _upgrade(world: World, index: int) -> None:
    """Let a node speak the next version from here on, and gossip a kind of claim that this one does not know."""
    members = world.node(index).swim.members
    machine = world.machines[index]
    members.desk = NewerDesk(machine.crypto, world.node(index).roster)
    members.speak(members.own.incarnation + 1)
    weather = Claim("weather", b"\x01sunny", bytes(64))
    members.rumours.add(("weather", NodeId(members.self_id), b""), weather)


@pytest.mark.parametrize("seed", range(3))
def test_neighbouring_versions_live_side_by_side(seed: int) -> None:
    """Upgraded one by one while a node dies: all are seen by all, and each is shown with its own version."""
    world = _meshed(8, seed)
    for index in range(4):
        _upgrade(world, index)
        world.run_for(5)
    upgraded_s = world.now_s
    world.kill(7)

    assert world.run_until(lambda: _all_see(world, 7), 20)
    world.run_for(60)
    assert {event.node_id for event in _deaths(world, upgraded_s)} == {world.machines[7].membership.node_id}
    for index in range(7):
        node = world.node(index)
        picture = picture_of(node.swim.members, node.keyring.ring, Now(world.now_s, world.wall_ms))
        shown = {link.node: link.protocol_version for link in picture.links if link.state == "alive"}
        wanted = {f"n{other}": PROTOCOL_VERSION + (other < 4) for other in range(7) if other != index}
        assert shown == wanted
        assert all(gets_on_with(version) for version in shown.values())
    undecoded = {"reason": "undecoded"}
    refused = [e for _, _, e in world.events if isinstance(e, Observed) and e.labels == undecoded]
    assert not refused, "a datagram with a claim of an unknown kind is still heard"


# --- a member that lies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [4, 8])
def test_a_liar_that_accuses_everybody_keeps_nobody_from_noticing_a_death(nodes: int) -> None:
    """Once a second it names the next incarnations of each other member: they stay well, and see who is gone as soon as
    without it, by their own probes."""
    world = _meshed(nodes, 1)
    liar, others = nodes - 1, range(nodes - 1)
    crypto, roster = world.machines[liar].crypto, world.node(liar).roster
    liar_id = world.machines[liar].membership.node_id

    def lie() -> None:
        for index in (each for each in others if world.machines[each].composition is not None):
            accused, first = world.machines[index].membership.node_id, world.node(index).swim.members.own.incarnation
            chain = (Suspect(liar_id, accused, first + ahead, world.wall_ms) for ahead in range(8))
            desk = ClaimDesk(crypto, roster)
            world.say(liar, index, Claims(tuple(desk.sign("suspect", accusation) for accusation in chain)))
        world.at(world.now_s + 1.0, lie)

    world.node(liar).swim.members.accuse = lambda member, now: []  # type: ignore[method-assign]
    lie()
    world.run_for(20)
    assert max(world.node(index).swim.members.health.score for index in others) <= 1
    gone = world.machines[0].membership.node_id
    world.kill(0)

    assert world.run_until(lambda: all(not world.node(index).view.is_alive(gone) for index in others if index), 20)
