"""One replica of a lease that lies, and one member that claims as no honest one does, change nothing for the others."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from beemesh.dht.claims import ROUNDS_MAX
from beemesh.dht.kset import k_set, kset_hash
from beemesh.events import Claim, LeaseDenied, LeaseGranted, LeaseLost, ReleaseLease
from beemesh.outward import Ask
from beemesh.scheduling.leases import MEMBERSHIPS_PER_ANSWER, NUMBER_AHEAD_MS_MAX, sign_lease
from beemesh.scheduling.messages import CasAnswer, CompareAndSwap, Lease
from simulator.liar import Liar
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import world_of

KEY = "steward/deployment/default/db"
CLAIM = Claim(KEY, 3_000, 1_000, task_id="t", workload_id="w")
WAYS = ("_nothing", "_denial", "_boast", "_garbled", "_said_before")


def _liar(world: World, index: int, way: str, seed: int) -> None:
    """From now on a machine lies about leases in one way."""
    liar = Liar(world.machines[index].crypto, world.ring, seed)
    liar.lies = {CompareAndSwap: getattr(liar, way)}
    world.liars[index] = liar


def _granted(world: World, index: int) -> list[LeaseGranted]:
    return [event for _, who, event in world.events if who == index and isinstance(event, LeaseGranted)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(4))
def test_no_replica_alone_denies_a_lease(way: str, seed: int) -> None:
    """Of five replicas one lies: each claim of a free key is granted within a second, held for as long as it is
    wanted, and takes no number from those that come after it."""
    world = world_of(5, seed)
    _liar(world, 4, way, seed)
    for claimant in (0, 1, 2, 0):
        before = len(_granted(world, claimant))
        world.event(claimant, CLAIM)
        assert world.run_until(lambda: len(_granted(world, claimant)) > before, 1.0), claimant  # noqa: B023
        world.run_for(5)
        world.event(claimant, ReleaseLease(KEY))
        world.run_for(0.5)

    assert not [event for _, _, event in world.events if isinstance(event, LeaseLost | LeaseDenied)]
    assert max(event.fence for event in _granted(world, 0)) < 2**33


def test_who_learned_a_wrong_number_forgets_it_when_the_others_are_back() -> None:
    """Two of five are cut off, so the boasting third has its way; once they answer, a claim is granted again."""
    world = world_of(5)
    world.event(0, CLAIM)
    world.run_for(1)
    world.event(0, ReleaseLease(KEY))
    world.run_for(1)
    _liar(world, 4, "_boast", 1)
    world.faults.cut({0, 1, 4}, {2, 3})
    world.event(1, CLAIM)
    world.run_for(5)
    assert not _granted(world, 1)
    world.faults.heal()
    world.run_for(2)

    world.event(1, CLAIM)

    assert world.run_until(lambda: bool(_granted(world, 1)), 2)


def test_nobody_waits_for_longer_than_a_lease_can_last() -> None:
    """One of three says that the key is held for days, another does not answer: the claim is denied, for a while."""
    world = world_of(3)
    crypto = world.machines[2].crypto
    liar = world.liars[2] = Liar(crypto, world.ring, 1)
    verdict = partial(liar._verdict, outcome="conflict", ttl_ms=10**9)
    liar.lies = {CompareAndSwap: lambda _, told: CasAnswer(verdict(told).verdict, liar._lease(KEY, 1))}
    world.faults.cut({0, 2}, {1})
    world.event(0, CLAIM)
    world.run_for(8)

    (denied,) = [event for _, _, event in world.events if isinstance(event, LeaseDenied)]
    assert denied.holder == world.machines[2].membership.node_id
    assert denied.retry_after_s <= 30


def test_no_more_cards_are_looked_at_than_an_honest_replica_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a verification, and an answer holds thousands."""
    world = world_of(3)
    liar = world.liars[2] = Liar(world.machines[2].crypto, world.ring, 1)
    cards = (world.machines[1].card,) * 1_000
    wrong = partial(liar._verdict, outcome="wrong_set")
    liar.lies = {CompareAndSwap: lambda _, told: msgspec.structs.replace(wrong(told), memberships=cards)}
    intents, merged = world.node(0).intents, list[object]()
    merge = intents.merge
    monkeypatch.setattr(intents, "merge", lambda signed, now: (merged.append(signed), merge(signed, now))[1])
    world.faults.cut({0, 2}, {1})
    world.event(0, CLAIM)
    world.run_for(0.5)

    assert 0 < len(merged) <= (ROUNDS_MAX + 1) * MEMBERSHIPS_PER_ANSWER, "in each round, and in the release"


@pytest.mark.parametrize("leap", [2**62, 2**63, 2**64 - 1])
def test_a_claim_that_nobody_can_have_counted_to_is_refused(leap: int) -> None:
    """A member with good keys asks for a fence and a version near their end: it is as if it had not asked."""
    world = world_of(5)
    _ask_all(world, leap)

    world.event(1, CLAIM)

    assert world.run_until(lambda: bool(_granted(world, 1)), 0.5)
    assert _granted(world, 1)[0].fence == 1


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_highest_number_that_is_granted_is_no_end(replicas: int) -> None:
    """A member drives a key as far as it can, at some replicas or at all: a minute later another has it all the same,
    and a minute of claims after that."""
    world = world_of(5)
    _ask_all(world, world.wall_ms + NUMBER_AHEAD_MS_MAX, replicas)
    world.run_for(NUMBER_AHEAD_MS_MAX / 1000)
    for claimant in (1, 2, 3):
        world.event(claimant, CLAIM)
        assert world.run_until(lambda: bool(_granted(world, claimant)), 1.0)  # noqa: B023
        world.event(claimant, ReleaseLease(KEY))
        world.run_for(1)


def _ask_all(world: World, number: int, replicas: int = 4) -> None:
    """The last machine claims the key by a version and a fence of its choice, and lets it run out."""
    hostile = world.machines[4]
    lease = Lease(KEY, hostile.membership.node_id, "t", number, 500, number, bytes(8), workload_id="w")
    swap = CompareAndSwap(sign_lease(hostile.crypto, lease), number - 1, kset_hash(k_set(world.node(4).roster, KEY)))
    for machine in world.machines[:replicas]:
        address = (machine.membership.addresses[0], machine.membership.gossip_port)
        world.carry(hostile, [Ask(-1, machine.membership.node_id, address, swap, 1.0)])
    world.run_for(1)
