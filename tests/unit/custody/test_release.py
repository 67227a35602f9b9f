"""Who gets shares and who does not, on whole nodes: a lease opens, and nothing else does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from beemesh.crypto import Crypto
from beemesh.custody import custodians
from beemesh.custody.custodians import (
    LISTENING_S,
    RELEASES_BURST,
    TABLE_MANIFESTS,
    TABLE_SERVED,
    TABLE_SHARES,
    UNCLAIMED_S,
    revisions_of,
)
from beemesh.custody.messages import FetchManifest, ManifestAnswer, ReleaseAnswer, ReleaseRequest
from beemesh.custody.sealing import ShareOffer, context_of, good_shares, open_content, reseal
from beemesh.dht.kset import k_set, kset_hash
from beemesh.effects import Notify, Reply, Save, TimerFired
from beemesh.errors import Unavailable
from beemesh.events import EmitEvent, LeaseGranted, PutIntent
from beemesh.identity.signing import decode_body, sign_statement
from beemesh.ids import NodeId, short
from beemesh.scheduling.leases import NUMBER_AHEAD_MS_MAX, lease_digest, lease_key, sign_lease
from beemesh.scheduling.messages import VERDICT_KIND, Lease, LeaseProof, Verdict
from beemesh.scheduling.telling import REASON_CHARS_MAX
from beemesh.workloads.record import Sealing, Workload
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import KEY, running, submit, world_of


def _ask(world: World, at: int, sender: int, message: msgspec.Struct) -> tuple[Any, list[EmitEvent]]:
    """Put a request of one node to another, which saves what it decides; (the answer, what it tells the mesh)."""
    node = world.node(at).node
    effects = node.asked(world.machines[sender].membership.node_id, 991, message, world.now_of(world.machines[at]))
    answers = [effect.message for effect in effects if isinstance(effect, Reply)]
    world.machines[at].disk |= {(save.table, save.key): save.value for save in effects if isinstance(save, Save)}
    told = [effect.event for effect in effects if isinstance(effect, Notify) and isinstance(effect.event, EmitEvent)]
    assert len(answers) == 1
    return answers[0], told


def _request(world: World, proof: LeaseProof | None, replica: int = 0) -> ReleaseRequest:
    found = world.node(0).intents.get(KEY)
    assert found is not None
    (revision,) = revisions_of(found[0])
    return ReleaseRequest(KEY, revision.manifest, revision.sealing.epoch, replica=replica, proof=proof)


@pytest.fixture
def world() -> World:
    """Three nodes with two replicas running."""
    world = world_of(3)
    assert submit(world, replicas=2).accepted
    assert world.run_until(lambda: running(world) == [0, 1], 5)
    return world


def _winning_proof(world: World) -> tuple[int, LeaseProof]:
    """(who won replica 0, the proof that it had)."""
    for _, index, event in world.events:
        if isinstance(event, LeaseGranted) and event.key.startswith("lease/") and event.key.endswith("/0"):
            return index, event.proof
    raise AssertionError("nobody won replica 0")


def test_no_lease_no_share(world: World) -> None:
    """A member without a lease is refused, and the refusal is told to the mesh."""
    for custodian in range(3):
        answer, told = _ask(world, custodian, 2, _request(world, None))

        assert isinstance(answer, ReleaseAnswer)
        assert (answer.released, answer.box) == (False, b"")
        assert [event.event.status for event in told] == ["ShareRefused"]


def test_the_lease_of_another_node_opens_nothing(world: World) -> None:
    """A proof is worth nothing in other hands, nor for another replica."""
    winner, proof = _winning_proof(world)
    thief = (winner + 1) % 3

    stolen, _ = _ask(world, 0, thief, _request(world, proof))
    moved, _ = _ask(world, 0, winner, _request(world, proof, replica=1))

    assert (stolen.released, stolen.reason) == (False, "bad_proof")
    assert (moved.released, moved.reason) == (False, "bad_proof")


def test_grants_that_one_node_made_up_are_no_majority(world: World) -> None:
    """A node that signs grants in the names of others, or its own many times, proves nothing."""
    winner, proof = _winning_proof(world)
    thief = world.machines[(winner + 1) % 3]
    lease = decode_body(proof.lease, Lease)
    own = msgspec.structs.replace(lease, holder=NodeId(thief.crypto.signer_id), fence=lease.fence + 5)
    signed = sign_statement(thief.crypto, "lease", own)
    grants = []
    for machine in world.machines:
        verdict = decode_body(proof.grants[0], Verdict)
        fake = msgspec.structs.replace(verdict, replica=machine.membership.node_id)
        forged = sign_statement(thief.crypto, VERDICT_KIND, fake)
        grants.append(msgspec.structs.replace(forged, signer=machine.crypto.signer_id))

    answer, told = _ask(world, 0, thief.index, _request(world, LeaseProof(signed, tuple(grants))))

    assert not answer.released
    assert [event.event.status for event in told] == ["ShareRefused"]


def test_the_winner_gets_its_share_and_may_ask_again(world: World) -> None:
    """The holder of the lease is served, also twice, and every release is told."""
    winner, proof = _winning_proof(world)

    for _ in range(2):
        answer, told = _ask(world, 0, winner, _request(world, proof))
        assert answer.released
        assert [event.event.status for event in told] == ["ShareReleased"]


def test_fewer_than_k_shares_do_not_open(world: World) -> None:
    """With one share of two the ciphertext stays closed; with two it opens."""
    winner, proof = _winning_proof(world)
    found = world.node(0).intents.get(KEY)
    assert found is not None
    (revision,) = revisions_of(found[0])
    assert (revision.sealing.k, revision.sealing.n) == (2, 3)
    stored, _ = _ask(world, world.machines[0].index, winner, FetchManifest(revision.manifest))
    assert isinstance(stored, ManifestAnswer)
    assert stored.ciphertext is not None
    offers = []
    for custodian in range(3):
        answer, _ = _ask(world, custodian, winner, _request(world, proof))
        offers.append(ShareOffer(world.machines[custodian].membership.node_id, answer.index, answer.box))
    crypto = world.machines[winner].crypto
    context = context_of("sim", KEY, revision)

    one, _ = good_shares(crypto, revision.sealing, offers[:1], short)
    two, _ = good_shares(crypto, revision.sealing, offers[1:], short)

    with pytest.raises(Unavailable, match="only 1 of the 2"):
        open_content(crypto, context, revision, one, stored.ciphertext)
    assert open_content(crypto, context, revision, two, stored.ciphertext).reveal()


def test_who_sends_a_wrong_share_is_named_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the others' shares open it: everybody's events name the custodian, and the replicas run."""
    world = world_of(3)
    liar = world.machines[0].crypto

    def resealed(crypto: Crypto, sealing: Sealing, index: int, box: bytes, open_key: bytes) -> bytes:
        return crypto.seal_to(open_key, bytes(32)) if crypto is liar else reseal(crypto, sealing, index, box, open_key)

    monkeypatch.setattr(custodians, "reseal", resealed)
    assert submit(world, replicas=3).accepted
    assert world.run_until(lambda: running(world) == [0, 1, 2], 10)
    world.run_for(1)

    for index in range(3):
        refused = [each for each in world.node(index).journal.events() if each.status == "ShareRefused"]
        assert {each.reason for each in refused} == {"n0: sent a share that is not the one the operator made"}
        assert {each.workload_id for each in refused} == {KEY.partition("/")[2]}


def test_what_was_withdrawn_is_released_to_nobody(world: World) -> None:
    """After a delete even an honest lease opens nothing, and keepers drop their parts after a while."""
    winner, proof = _winning_proof(world)
    request = _request(world, proof)
    world.event(0, PutIntent(world.sign(world.operator, "tombstone", KEY, None, seq=2)))
    assert world.run_until(lambda: running(world) == [], 10)

    answer, _ = _ask(world, 0, winner, request)

    assert (answer.released, answer.reason) == (False, "withdrawn")
    stored, _ = _ask(world, 0, winner, FetchManifest(request.manifest))
    assert stored.ciphertext is None
    assert _kept(world) == {0, 1, 2}
    for machine in world.machines:
        world.event(machine.index, TimerFired(("custody", "sweep")))
    assert _kept(world) == {0, 1, 2}
    for machine in world.machines:
        machine.boot_offset_s += UNCLAIMED_S + 1
        world.event(machine.index, TimerFired(("custody", "sweep")))
    assert _kept(world) == set()


def test_what_a_rival_withdrew_opens_when_a_third_record_names_it_again(world: World) -> None:
    """Keepers see a workload, then that it was deleted, then from beyond a partition a later record of it, which wins:
    what it names is there, and its replicas run."""
    first = world.node(0).intents.get(KEY)
    assert first is not None
    workload = msgspec.msgpack.decode(first[0].body, type=Workload)
    world.event(0, PutIntent(world.sign(world.operator, "tombstone", KEY, None, seq=2)))
    assert world.run_until(lambda: running(world) == [], 10)

    world.event(0, PutIntent(world.sign(world.operator, "workload", KEY, workload, seq=3)))

    assert world.run_until(lambda: running(world) == [0, 1], 30)
    for machine in world.machines:
        machine.boot_offset_s += UNCLAIMED_S + 1
        world.event(machine.index, TimerFired(("custody", "sweep")))
    assert _kept(world) == {0, 1, 2}


def _kept(world: World) -> set[int]:
    """The machines that keep something for others."""
    return {
        each.index for each in world.machines if any(table in (TABLE_SHARES, TABLE_MANIFESTS) for table, _ in each.disk)
    }


def test_what_somebody_made_up_is_told_to_nobody(world: World) -> None:
    """A key that no record has is refused and not told: an event with it would be kept by all. Nor is more told of
    what is wrong with a proof than a person reads."""
    request = _request(world, None)
    answer, told = _ask(world, 0, 2, msgspec.structs.replace(request, key="workload/" + "x" * 100_000))
    assert (answer.reason, told) == ("unknown_manifest", [])

    proof = _proof(world, 2, (), fence=1)
    odd = msgspec.structs.replace(proof, lease=msgspec.structs.replace(proof.lease, kind="x" * 100_000))
    answer, (event,) = _ask(world, 0, 2, msgspec.structs.replace(request, proof=odd))
    assert answer.reason == "bad_proof"
    assert len(event.event.reason) == REASON_CHARS_MAX


@pytest.mark.parametrize("standing", ["valid", "grace", "out"])
def test_a_flood_of_requests_is_no_flood_of_events(
    world: World, standing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks, and whatever it is refused for: one bucket, and what overflows it is told to nobody."""
    monkeypatch.setattr(type(world.node(0).roster), "standing", lambda *_: standing)
    told = [_ask(world, 0, 2, _request(world, None))[1] for _ in range(2 * round(RELEASES_BURST))]

    assert sum(map(len, told)) == round(RELEASES_BURST)


# --- in a minority ----------------------------------------------------------------------------------------------------

LEASED = lease_key(KEY.partition("/")[2], 0)


def _proof(world: World, holder: int, granters: tuple[int, ...], fence: int, version: int = 1) -> LeaseProof:
    """A lease on replica 0 with the true grants of some machines, whatever they would have said."""
    machine = world.machines[holder]
    lease = Lease(LEASED, machine.membership.node_id, "x", fence, 3_000, version, b"12345678")
    signed = sign_lease(machine.crypto, lease)
    members = kset_hash(k_set(world.node(0).roster, LEASED))
    grants = []
    for each in (world.machines[granter] for granter in granters):
        now_ms = world.now_of(each).wall_ms
        verdict = Verdict(
            LEASED, lease_digest(signed), "granted", each.membership.node_id, members, fence, now_ms, lease.ttl_ms
        )
        grants.append(sign_statement(each.crypto, VERDICT_KIND, verdict))
    return LeaseProof(signed, tuple(grants), tentative=True)


def _released(world: World, at: int, sender: int, proof: LeaseProof) -> tuple[bool, str]:
    answer, _ = _ask(world, at, sender, _request(world, proof))
    return answer.released, answer.reason


@pytest.fixture
def few_left() -> World:
    """Nodes 0 and 1 are left of five and see that they are; nothing runs, and replica 0 could, as a surge."""
    world = world_of(5)
    assert submit(world, replicas=0).accepted
    for gone in (2, 3, 4):
        world.kill(gone)
    world.run_for(30)
    assert len(world.node(0).view.alive()) == 2
    return world


def test_in_a_minority_a_lease_opens_by_the_grants_that_can_be_had(few_left: World) -> None:
    """Of every replica that the custodian sees as well: one that it sees and that granted nothing was not asked."""
    asked = [_released(few_left, 0, 1, _proof(few_left, 1, granters, fence=5)) for granters in ((), (1,), (0,), (0, 1))]

    assert asked == [(False, "no_majority"), (False, "no_majority"), (True, ""), (True, "")]


def test_the_last_one_left_opens_by_its_own_grant(few_left: World) -> None:
    """It is the only replica; nobody else could have granted anything."""
    few_left.kill(1)
    few_left.run_for(30)

    assert _released(few_left, 0, 0, _proof(few_left, 0, (), fence=5)) == (False, "no_majority")
    assert _released(few_left, 0, 0, _proof(few_left, 0, (0,), fence=5)) == (True, "")


def test_a_custodian_that_has_just_started_takes_no_minoritys_word(few_left: World) -> None:
    """It sees nobody yet, also where all are there: whoever waits for its restart must get nothing."""
    few_left.kill(0)
    few_left.start(0)
    proof = _proof(few_left, 1, (0, 1), fence=5)

    assert _released(few_left, 0, 1, proof) == (False, "no_majority")
    few_left.run_for(LISTENING_S - 1)
    assert _released(few_left, 0, 1, proof) == (False, "no_majority")
    few_left.run_for(30)  # others told of the dead as alive, and it found out
    assert _released(few_left, 0, 1, _proof(few_left, 1, (0, 1), fence=5)) == (True, "")


def test_nothing_is_opened_by_a_fence_ahead_of_the_clock(few_left: World) -> None:
    """The fence that was served is kept for ever: one beyond all others would shut out every later holder."""
    ahead = few_left.now_of(few_left.machines[0]).wall_ms + NUMBER_AHEAD_MS_MAX + 1
    for fence, version in ((ahead, 1), (5, ahead)):
        assert _released(few_left, 0, 1, _proof(few_left, 1, (0, 1), fence, version)) == (False, "bad_proof")
    assert _released(few_left, 0, 1, _proof(few_left, 1, (0, 1), fence=5)) == (True, "")


def test_a_majority_comes_before_whatever_a_minority_let_through(few_left: World) -> None:
    """Also after a restart; and the fences that majorities were served at only grow."""
    assert _released(few_left, 0, 1, _proof(few_left, 1, (0, 1), fence=4_000)) == (True, "")
    few_left.kill(0)
    few_left.start(0)

    for fence, holder, granters, outcome in (
        (50, 0, (0, 2, 3), (True, "")),
        (49, 1, (0, 2, 3), (False, "stale_fence")),
        (50, 1, (0, 2, 3), (False, "held_by_another")),
        (51, 1, (0, 2, 3), (True, "")),
    ):
        assert _released(few_left, 0, holder, _proof(few_left, holder, granters, fence)) == outcome


def test_a_minority_does_not_go_behind_a_majority(few_left: World) -> None:
    """What it lets through later leaves the majority's fence in force for majorities."""
    assert _released(few_left, 0, 4, _proof(few_left, 4, (0, 2, 3), fence=50)) == (True, "")
    for fence, outcome in ((49, (False, "stale_fence")), (50, (False, "held_by_another")), (60, (True, ""))):
        assert _released(few_left, 0, 1, _proof(few_left, 1, (0, 1), fence)) == outcome

    assert _released(few_left, 0, 3, _proof(few_left, 3, (0, 2, 3), fence=49)) == (False, "stale_fence")
    assert _released(few_left, 0, 3, _proof(few_left, 3, (0, 2, 3), fence=51)) == (True, "")


def test_a_row_of_an_older_version_counts_as_a_majoritys(few_left: World) -> None:
    """It did not tell; and it can read what is written now."""

    class Old(msgspec.Struct, array_like=True):
        fence: int
        node_id: bytes

    assert _released(few_left, 0, 1, _proof(few_left, 1, (0, 1), fence=40)) == (True, "")
    disk = few_left.machines[0].disk
    (place,) = (place for place in disk if place[0] == TABLE_SERVED)
    old = msgspec.msgpack.decode(disk[place], type=Old)
    assert old == Old(40, few_left.machines[1].membership.node_id)
    few_left.kill(0)
    disk[place] = msgspec.msgpack.encode(old)
    few_left.start(0)

    assert _released(few_left, 0, 2, _proof(few_left, 2, (0, 2, 3), fence=39)) == (False, "stale_fence")
    assert _released(few_left, 0, 2, _proof(few_left, 2, (0, 2, 3), fence=41)) == (True, "")
