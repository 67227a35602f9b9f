"""Leases on whole nodes: whatever is lost, cut or restarted, two majority leases of one key never overlap."""

from __future__ import annotations

import random

import pytest

from beemesh.dht.kset import k_set, kset_hash
from beemesh.effects import Flush, Reply, Save
from beemesh.events import Claim, LeaseDenied, LeaseGranted, LeaseLost, ReleaseLease
from beemesh.identity.signing import decode_body, sign_statement
from beemesh.outward import Ask
from beemesh.scheduling.messages import LEASE_KIND, CompareAndSwap, Lease
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import world_of

LEASE = "lease/deployment/default/db/0"
TTL_MS = 3_000


def _claim(world: World, index: int, *, task_id: str = "t", tentative_ok: bool = False) -> None:
    world.event(index, Claim(LEASE, TTL_MS, 1_000, task_id=task_id, workload_id="w", tentative_ok=tentative_ok))


def _task_of(granted: LeaseGranted) -> str:
    return decode_body(granted.proof.lease, Lease).task_id


def _held(world: World) -> list[tuple[float, float, int]]:
    """(from, until, node) of every majority grant and renewal that a holder believed in."""
    return [
        (at_s, event.expires_boot_s, index)
        for at_s, index, event in world.events
        if isinstance(event, LeaseGranted) and event.key == LEASE and not event.proof.tentative
    ]


def _until_ended(held: list[tuple[float, float, int]], ends: list[tuple[float, int]]) -> list[tuple[float, float, int]]:
    """A holder that gave the lease up, or died, believes in it no longer."""
    return [
        (start_s, min([until_s, *(end_s for end_s, who in ends if who == node and end_s >= start_s)]), node)
        for start_s, until_s, node in held
    ]


def _overlaps(held: list[tuple[float, float, int]]) -> list[tuple[object, object]]:
    return [
        (one, other)
        for number, one in enumerate(held)
        for other in held[number + 1 :]
        if one[2] != other[2] and one[0] < other[1] and other[0] < one[1]
    ]


def test_an_uncontended_claim_is_granted_in_one_round_trip() -> None:
    """Nobody else wants it: granted within 10 ms at 3 ms a way, renewed while held."""
    world = world_of(5)
    started_s = world.now_s

    _claim(world, 0)
    assert world.run_until(lambda: bool(_held(world)), 1)

    assert world.now_s - started_s < 0.01
    world.run_for(10)
    assert len(_held(world)) >= 9
    assert not any(isinstance(event, LeaseLost) for _, _, event in world.events)


def test_a_held_key_is_denied_with_its_holder_until_it_is_released() -> None:
    """The second claimant learns who holds the key; after a release it gets it at once."""
    world = world_of(5)
    _claim(world, 0)
    assert world.run_until(lambda: bool(_held(world)), 1)

    _claim(world, 1)
    assert world.run_until(lambda: any(isinstance(event, LeaseDenied) for _, _, event in world.events), 2)
    denied = next(event for _, _, event in world.events if isinstance(event, LeaseDenied))
    world.event(0, ReleaseLease(LEASE))
    world.run_for(0.1)
    _claim(world, 1)

    assert denied.holder == world.machines[0].membership.node_id
    assert world.run_until(lambda: _held(world)[-1][2] == 1, 1)
    fences = [event.fence for _, _, event in world.events if isinstance(event, LeaseGranted)]
    assert fences[-1] > fences[0]


def test_a_placement_that_is_held_for_one_task_is_denied_to_the_next_one() -> None:
    """A node that won a newer task while it starts an older one's pod is answered, and has the lease once that is
    done; what it holds stays the older task's meanwhile."""
    world = world_of(5)
    _claim(world, 0)
    assert world.run_until(lambda: bool(_held(world)), 1)

    _claim(world, 0, task_id="newer")
    world.run_for(2)
    (denied,) = [event for _, _, event in world.events if isinstance(event, LeaseDenied)]
    granted = [event for _, _, event in world.events if isinstance(event, LeaseGranted)]
    world.event(0, ReleaseLease(LEASE))
    _claim(world, 0, task_id="newer")
    world.run_for(0.5)
    latest = [event for _, _, event in world.events if isinstance(event, LeaseGranted)][-1]

    assert denied.holder == world.machines[0].membership.node_id
    assert {_task_of(event) for event in granted} == {"t"}
    assert (_task_of(latest), latest.renewed) == ("newer", False)


def test_a_minority_grants_nothing_but_tentative_leases() -> None:
    """Cut off with one other of five: no majority, and a tentative lease only for who can use one."""
    world = world_of(5)
    world.faults.cut({0, 1}, {2, 3, 4})

    _claim(world, 0)
    world.run_for(5)
    assert not any(isinstance(event, LeaseGranted) for _, _, event in world.events)
    _claim(world, 1, tentative_ok=True)

    assert world.run_until(
        lambda: any(isinstance(event, LeaseGranted) and event.proof.tentative for _, _, event in world.events), 10
    )
    assert _held(world) == []


@pytest.mark.parametrize("asleep_s", [TTL_MS / 1000 + 1, 20])
def test_grants_that_arrive_after_their_time_grant_nothing(asleep_s: float) -> None:
    """A claimant is suspended between question and answers: it wakes to a majority's grants that are long over."""
    world = world_of(5)
    _claim(world, 0)
    world.pause(0, asleep_s)

    world.run_for(asleep_s + 5)

    assert [grant for grant in _held(world) if grant[2] == 0 and grant[1] <= grant[0]] == []
    denied = [event.reason for _, index, event in world.events if isinstance(event, LeaseDenied) and index == 0]
    assert denied == ["its grants arrived after their time"]


def test_a_renewal_that_arrives_too_late_prolongs_nothing() -> None:
    """A holder is suspended for longer than its lease: it loses the key, and another may have it by then."""
    world = world_of(5)
    _claim(world, 0)
    assert world.run_until(lambda: bool(_held(world)), 1)
    world.run_for(1.001)  # the first renewal is under way
    world.pause(0, 20)
    world.run_for(15)
    _claim(world, 1)
    assert world.run_until(lambda: _held(world)[-1][2] == 1, 3)

    world.run_for(10)

    assert [grant for grant in _held(world) if grant[1] <= grant[0]] == []
    assert any(isinstance(event, LeaseLost) and index == 0 for _, index, event in world.events)


def test_a_holder_whose_clock_stood_still_is_told_at_its_next_renewal() -> None:
    """A hypervisor pauses the machine, and its boot clock does not count that. Others hold the key when it wakes: the
    first answers say so, long before its own clock would end the lease."""
    world, key = world_of(5), "run/deployment/default/db/0"
    world.event(0, Claim(key, 15_000, 5_000, task_id="t", workload_id="w"))
    world.run_for(1)
    world.pause(0, 40)
    world.machines[0].boot_offset_s -= 40
    world.run_for(20)
    world.event(1, Claim(key, 15_000, 5_000, task_id="t", workload_id="w"))
    world.run_for(26)

    assert any(isinstance(event, LeaseGranted) and index == 1 for _, index, event in world.events)
    lost = [event for _, index, event in world.events if isinstance(event, LeaseLost) and index == 0]
    assert [event.reason for event in lost] == ["another node holds it by a greater fence"]


@pytest.mark.parametrize(("prefix", "waits_s"), [("lease", 3.0), ("run", 5.0)])
def test_a_run_lease_keeps_others_away_a_little_longer(prefix: str, waits_s: float) -> None:
    """Its holder stops two seconds before its end; replicas grant the key to nobody else for two more after it."""
    world, key = world_of(5), f"{prefix}/deployment/default/db/0"
    world.event(0, Claim(key, 3_000, 60_000))
    assert world.run_until(lambda: any(isinstance(event, LeaseGranted) for _, _, event in world.events), 1)
    granted_s = world.now_s

    while not any(isinstance(event, LeaseGranted) and index == 1 for _, index, event in world.events):
        world.event(1, Claim(key, 3_000, 60_000))
        world.run_for(0.1)

    assert waits_s - 0.1 <= world.now_s - granted_s <= waits_s + 0.4


def test_who_knows_an_old_version_asks_again_at_once_though_a_replica_is_dead() -> None:
    """The last holder died; the next claimant never heard of its lease. A majority's answers teach it, and it does not
    wait for the dead one's."""
    world = world_of(5)
    _claim(world, 0)
    assert world.run_until(lambda: bool(_held(world)), 1)
    world.kill(0)
    world.run_for(TTL_MS / 1000 + 1)
    before_s = world.now_s

    _claim(world, 1)

    assert world.run_until(lambda: _held(world)[-1][2] == 1, 0.1)
    assert world.now_s - before_s < 0.02
    assert not any(isinstance(event, LeaseDenied) for _, _, event in world.events)


@pytest.mark.parametrize("seed", range(12))
def test_a_claim_takes_one_fence_however_many_rounds_it_needs(seed: int) -> None:
    """The holder's agent starts anew where replicas are dead, and has an old version on its own disk: whatever it
    learns from whom, it goes on by the next fence. A fence further on would mean that another node held the key."""
    world = world_of(5, seed=seed)
    _claim(world, 0)
    assert world.run_until(lambda: bool(_held(world)), 1)
    world.kill(1)
    world.kill(2)
    world.run_for(60)
    world.kill(0)
    world.start(0)
    known = len(_held(world))

    _claim(world, 0)

    assert world.run_until(lambda: len(_held(world)) > known, 20)
    granted = [event for _, _, event in world.events if isinstance(event, LeaseGranted) and event.key == LEASE]
    assert granted[-1].fence == granted[0].fence + 1


def test_a_lease_is_tentative_only_where_no_majority_answers() -> None:
    """One of four replicas is dead and one lost its disk, so their answers differ: who may take a tentative lease asks
    again, and gets a majority's."""
    world = world_of(4)
    _claim(world, 0)
    assert world.run_until(lambda: bool(_held(world)), 1)
    world.event(0, ReleaseLease(LEASE))
    world.run_for(1)
    world.kill(1, disk=False)
    world.start(1)
    world.run_for(60)
    world.kill(0)
    world.run_for(0.1)

    _claim(world, 1, tentative_ok=True)

    assert world.run_until(
        lambda: any(isinstance(event, LeaseGranted) for _, index, event in world.events if index == 1), 3
    )
    granted = [event for _, index, event in world.events if isinstance(event, LeaseGranted) and index == 1]
    assert not granted[0].proof.tentative


@pytest.mark.parametrize("seed", range(30))
def test_majority_leases_never_overlap(seed: int) -> None:
    """Claimants that come and go, restarts with their disk, and cuts: at each moment at most one holder."""
    world = world_of(5, seed)
    dice = random.Random(seed)
    ends: list[tuple[float, int]] = []
    for _ in range(60):
        chosen = dice.randrange(5)
        match dice.randrange(6):
            case 0 | 1 | 2:
                _claim(world, chosen)
            case 3:
                ends.append((world.now_s, chosen))
                world.event(chosen, ReleaseLease(LEASE))
            case 4:
                ends.append((world.now_s, chosen))
                world.kill(chosen)
                world.run_for(dice.uniform(0.0, 0.5))
                world.start(chosen, knows=[])
            case _:
                world.faults.heal()
                world.faults.cut({chosen}, {index for index in range(5) if index != chosen})
        world.run_for(dice.uniform(0.01, 2.0))

    assert _held(world), "nobody ever got the lease: the test would prove nothing"
    assert _overlaps(_until_ended(_held(world), ends)) == []


def test_a_placement_is_given_up_with_one_word_to_each_replica() -> None:
    """Nobody answers a release: with all its words lost the lease ends by itself, and the next claim is granted."""
    world = world_of(5)
    _claim(world, 0)
    assert world.run_until(lambda: bool(_held(world)), 1)
    world.faults.cut({0}, {1, 2, 3, 4})
    world.event(0, ReleaseLease(LEASE))
    released_s = world.now_s

    world.run_for(TTL_MS / 1000)
    _claim(world, 1)

    assert world.run_until(lambda: _held(world)[-1][2] == 1, 3)
    assert not any(isinstance(event, LeaseGranted) and event.renewed for _, _, event in world.events)
    assert world.now_s - released_s < 2 * TTL_MS / 1000


def test_a_release_beside_a_renewal_gives_up_what_the_renewal_brought() -> None:
    """Given up while a renewal is under way: another claimant has the lease at once, not after its lifetime."""
    world = world_of(5)
    claimed_s = world.now_s
    _claim(world, 0)
    assert world.run_until(lambda: bool(_held(world)), 1)
    world.run_for(claimed_s + 1.001 - world.now_s)  # the renewal has just been asked for
    world.event(0, ReleaseLease(LEASE))
    world.run_for(0.05)
    asked_s = world.now_s
    _claim(world, 1)

    assert world.run_until(lambda: _held(world)[-1][2] == 1, 2)
    assert world.now_s - asked_s < 0.5


def test_a_holder_that_is_no_replica_gives_up_what_its_renewal_brings() -> None:
    """It hears of its renewal only by the answers, and lets go before they are in."""
    world, key = world_of(11), "run/deployment/default/db/0"
    replicas = k_set(world.node(0).roster, key)
    holder, other, _ = (one.index for one in world.machines if one.membership.node_id not in replicas)
    world.faults.delay_s = (0.04, 0.05)
    claim = Claim(key, 15_000, 5_000, task_id="t", workload_id="w")
    claimed_s = world.now_s
    world.event(holder, claim)
    world.run_for(claimed_s + 5.02 - world.now_s)  # the renewal has just been asked for
    world.event(holder, ReleaseLease(key))
    world.run_for(0.2)
    world.event(other, claim)

    assert world.run_until(
        lambda: any(isinstance(event, LeaseGranted) and index == other for _, index, event in world.events), 1
    )


def test_the_next_claim_goes_above_the_fence_of_one_that_was_given_up() -> None:
    """A minority granted a claim, and it was taken back: whoever heard of its fence must never see that fence again."""
    world, key = world_of(5), "run/deployment/default/db/0"
    claim = Claim(key, 15_000, 5_000, task_id="t", workload_id="w")
    world.faults.cut({0, 1}, {2, 3, 4})
    world.event(0, claim)
    assert world.run_until(lambda: any(isinstance(event, LeaseDenied) for _, _, event in world.events), 10)
    world.run_for(5)
    world.faults.heal()

    world.event(0, claim)

    assert world.run_until(lambda: any(isinstance(event, LeaseGranted) for _, _, event in world.events), 10)
    assert [event.fence for _, _, event in world.events if isinstance(event, LeaseGranted)] == [2]


def _never_answered(monkeypatch: pytest.MonkeyPatch, world: World, index: int) -> None:
    """From now on no question to a node gets an answer, or the word that there is none."""
    silent, carry = world.machines[index].membership.node_id, world._carriers[Ask]
    monkeypatch.setitem(world._carriers, Ask, lambda machine, ask: None if ask.peer == silent else carry(machine, ask))


def test_a_question_that_is_never_answered_holds_no_claim_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge should say of each question how it ended. Where it does not for one, the others' answers decide in a
    moment: the claim is denied while another node holds the key, and the next one is granted."""
    world, claim = world_of(5), Claim("steward/deployment/default/db", TTL_MS, 1_000, workload_id="w")
    _never_answered(monkeypatch, world, 4)
    world.event(0, claim)
    world.run_for(3)
    world.event(1, claim)

    assert world.run_until(
        lambda: any(isinstance(event, LeaseDenied) and index == 1 for _, index, event in world.events), 3
    )
    world.kill(0)
    world.run_for(TTL_MS / 1000 + 3)
    world.event(1, claim)
    assert world.run_until(
        lambda: any(isinstance(event, LeaseGranted) and index == 1 for _, index, event in world.events), 3
    )


def test_a_holder_whose_questions_are_never_answered_keeps_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal of which nobody says anything has failed like any other: the next one is put before the lease ends."""
    world, claim = world_of(5), Claim(LEASE, 10_000, 1_000, workload_id="w")
    world.event(0, claim)
    world.run_for(0.5)
    with monkeypatch.context() as cut:
        for index in range(1, 5):
            _never_answered(cut, world, index)
        world.run_for(2)
    held = len(_held(world))

    assert world.run_until(lambda: len(_held(world)) > held, 2)
    world.run_for(20)
    assert not any(isinstance(event, LeaseLost) for _, _, event in world.events)


def test_a_round_that_was_answered_leaves_no_timer() -> None:
    """Whether it was granted or denied: nothing is left to look at when its answers are all there."""
    world = world_of(5)
    _claim(world, 0)
    world.run_for(0.5)
    _claim(world, 1)
    world.run_for(0.1)

    assert [type(event) for _, _, event in world.events if type(event) in (LeaseGranted, LeaseDenied)] == [
        LeaseGranted,
        LeaseDenied,
    ]
    for machine in world.machines[:2]:
        assert ("claims", "overdue", LEASE) not in machine.timers


def test_a_renewal_is_granted_once_the_grant_before_it_is_saved() -> None:
    """It writes nothing, but the grant that it goes on with may have failed to be saved, or still wait."""
    world = world_of(3)
    holder, replica = world.machines[1], world.machines[0]
    effects = []
    for version in (1, 2):
        lease = Lease(LEASE, holder.membership.node_id, "t", 1, TTL_MS, version, bytes(8))
        signed = sign_statement(holder.crypto, LEASE_KIND, lease)
        swap = CompareAndSwap(signed, version - 1, kset_hash(k_set(world.node(0).roster, LEASE)))
        effects.append(world.node(0).node.asked(holder.membership.node_id, version, swap, world.now_of(replica)))
    granted, renewed = ([each for each in one if isinstance(each, Save | Flush | Reply)] for one in effects)

    assert [type(each) for each in granted] == [Save, Reply]
    assert [type(each) for each in renewed] == [Flush, Reply]
    assert (renewed[0].table, renewed[0].key) == (granted[0].table, granted[0].key)


RUN = "run/deployment/default/db/0"


class Runners:
    """Nodes that run something by a lease, each with the fence of its last grant, as an executor keeps it on disk."""

    def __init__(self, seed: int = 0) -> None:
        self.world = world_of(5, seed)
        self.fences: dict[int, int] = {}
        self.holder = -1
        """Who was granted the key last."""
        self.went_on = self.overtaken = 0
        self._read = 0

    def claim(self, index: int) -> None:
        """A node claims the key, to go on with what it runs by it if it does."""
        follows = self.fences.get(index, 0)
        self.world.event(index, Claim(RUN, TTL_MS, 1_000, task_id="t", workload_id="w", follows=follows))

    def run(self, seconds: float) -> None:
        """Let time pass. Who is granted the key anew goes on only where nobody else was granted it since."""
        self.world.run_for(seconds)
        for _, index, event in self.world.events[self._read :]:
            if isinstance(event, LeaseGranted) and event.key == RUN:
                before = self.fences.get(index, 0)
                if before and not event.renewed:
                    goes_on = event.fence <= before + 1
                    assert not goes_on or self.holder == index
                    self.went_on, self.overtaken = self.went_on + goes_on, self.overtaken + (not goes_on)
                self.holder, self.fences[index] = index, event.fence
        self._read = len(self.world.events)

    def restart(self, index: int) -> None:
        """Its agent starts anew, without what it had in memory."""
        self.world.kill(index)
        self.world.start(index)

    def cut(self, near: set[int]) -> None:
        """These hear none of the others."""
        self.world.faults.heal()
        self.world.faults.cut(near, set(range(5)) - near)


@pytest.mark.parametrize("seed", range(4))
def test_tries_that_fail_use_up_no_fence_of_what_runs(seed: int) -> None:
    """Minorities grant one try after another, and the agent starts anew in between: who alone claims for what it runs
    goes on by the next fence."""
    runners, dice = Runners(seed), random.Random(seed)
    runners.claim(0)
    runners.run(1)
    for _ in range(3):
        for _ in range(4):
            runners.cut({0, dice.randrange(1, 5)})
            if dice.random() < 0.6:
                runners.restart(0)
            runners.claim(0)
            runners.run(dice.uniform(0.01, 2.0))
        runners.world.faults.heal()
        runners.run(0.5)
        runners.claim(0)
        runners.run(3)

    assert runners.went_on >= 1
    assert runners.overtaken == 0


def test_what_is_not_run_any_more_gives_back_what_its_failed_tries_were_granted() -> None:
    """The pod is gone before a majority was heard: another node gets the key with the very replicas that had kept it
    for the next try."""
    runners = Runners()
    runners.claim(0)
    runners.run(1)
    runners.restart(0)
    runners.cut({0, 1})
    runners.run(8)
    runners.claim(0)
    runners.run(1.5)
    runners.world.event(0, ReleaseLease(RUN))
    runners.run(0.5)
    runners.world.faults.heal()
    runners.world.kill(2)
    runners.world.kill(3)
    runners.claim(4)
    runners.run(2)

    assert runners.holder == 4


@pytest.mark.parametrize("prefix", ["lease/", "steward/"])
@pytest.mark.parametrize("seed", range(4))
def test_who_is_denied_keeps_nobody_away(seed: int, prefix: str) -> None:
    """One of three replicas is dead, the claimant's own still holds the dead one's lease, and it is denied before the
    third one has answered. What that one grants is taken back, and it gets the key once the old lease is over."""
    key, ttl_ms = f"{prefix}deployment/default/db/0", 15_000
    world = world_of(3, seed)
    world.event(1, Claim(key, ttl_ms, 5_000, workload_id="w"))
    world.run_for(1)
    world.kill(0, power=True)
    world.kill(1, power=True)
    world.run_for(60)
    world.start(0)
    world.run_for(3)
    world.event(0, Claim(key, ttl_ms, 5_000, workload_id="w"))
    world.run_for(ttl_ms / 1000 - 2)
    assert not any(isinstance(event, LeaseGranted) for _, index, event in world.events if index != 1)
    world.event(2, Claim(key, ttl_ms, 5_000, workload_id="w"))
    world.run_for(1)

    assert any(isinstance(event, LeaseGranted) for _, index, event in world.events if index == 2)


@pytest.mark.parametrize("seed", range(10))
def test_nobody_goes_on_by_the_next_fence_past_another_holder(seed: int) -> None:
    """The key goes from one to another and back while tries of both fail, with restarts in between."""
    runners, dice = Runners(seed), random.Random(seed)
    for _ in range(12):
        chosen = dice.choice((0, 1))
        runners.cut({chosen, dice.randrange(2, 5)})
        runners.claim(chosen)
        runners.run(dice.uniform(0.01, 2.0))
        if dice.random() < 0.5:
            runners.restart(chosen)
        runners.cut({dice.choice((chosen, dice.randrange(2, 5)))})
        runners.claim(1 - chosen)
        runners.run(dice.uniform(0.1, 2.0))
        if dice.random() < 0.4:
            runners.world.event(1 - chosen, ReleaseLease(RUN))
        if dice.random() < 0.3:
            runners.world.faults.heal()
            runners.restart(1 - chosen)
        runners.run(dice.choice((0.1, 6.0)))

    assert runners.went_on + runners.overtaken > 0


def test_another_holder_by_the_very_fence_of_a_failed_try_is_noticed() -> None:
    """A minority granted a try of ours, and the majority the same fence to another node, which has given it up again:
    what we run is overtaken all the same."""
    runners = Runners()
    runners.claim(0)
    runners.run(1)
    runners.restart(0)
    runners.cut({0, 1})
    runners.run(8)
    runners.claim(0)
    runners.run(0.5)
    runners.claim(4)
    runners.run(2)
    runners.world.event(4, ReleaseLease(RUN))
    runners.run(1)
    assert runners.fences == {0: 1, 4: 2}
    runners.world.faults.heal()
    runners.claim(0)
    runners.run(3)

    assert (runners.holder, runners.overtaken) == (0, 1)
