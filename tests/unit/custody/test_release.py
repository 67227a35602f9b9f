"""Who gets shares and who does not, on whole nodes: a lease opens, and nothing else does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from beemesh.custody.custodians import revisions_of
from beemesh.custody.messages import FetchManifest, ManifestAnswer, ReleaseAnswer, ReleaseRequest
from beemesh.custody.sealing import ShareOffer, context_of, good_shares, open_content
from beemesh.effects import Notify, Reply
from beemesh.errors import Unavailable
from beemesh.events import EmitEvent, LeaseGranted
from beemesh.identity.signing import decode_body, sign_statement
from beemesh.ids import NodeId, short
from beemesh.scheduling.messages import VERDICT_KIND, Lease, LeaseProof, Verdict
from simulator.world import World
from tests.unit.simulator.test_whole_nodes import KEY, running, submit, world_of


def _ask(world: World, at: int, sender: int, message: msgspec.Struct) -> tuple[Any, list[EmitEvent]]:
    """Put a request of one node to another; (the answer, what the asked node tells the mesh)."""
    node = world.node(at).node
    effects = node.asked(world.machines[sender].membership.node_id, 991, message, world.now_of(world.machines[at]))
    answers = [effect.message for effect in effects if isinstance(effect, Reply)]
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


def test_what_was_withdrawn_is_released_to_nobody(world: World) -> None:
    """After a delete even an honest lease opens nothing, and keepers drop their parts."""
    from beemesh.events import PutIntent

    winner, proof = _winning_proof(world)
    request = _request(world, proof)
    world.event(0, PutIntent(world.sign(world.operator, "tombstone", KEY, None, seq=2)))
    assert world.run_until(lambda: running(world) == [], 10)

    answer, _ = _ask(world, 0, winner, request)

    assert (answer.released, answer.reason) == (False, "withdrawn")
    stored, _ = _ask(world, 0, winner, FetchManifest(request.manifest))
    assert stored.ciphertext is None
