"""When a replica must not vote: it was in none of the sets that may have granted what it does not know."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from beemesh.dht.abstention import ABSTAIN_S, NEWBORN_MS, KeeperHistory
from beemesh.dht.kset import K, nearest
from beemesh.effects import Now, Save
from beemesh.identity.grants import Revocation
from beemesh.identity.membership_card import ROLE_KEEPER
from beemesh.ids import NodeId
from beemesh.intents.record import Intent, revoked_key
from beemesh.membership.roster import Roster
from simulator.crypto import FakeCrypto
from tests.unit.scheduling.samples import CA, MESH, WALL_MS, card, membership_intent

KEY = "lease/deployment/default/web/0"
LATER_MS = 1
"""Between two runs of bootstrap, at the least."""


def roster_of(names: str, signed_at_ms: int = WALL_MS) -> Roster:
    """Keepers, signed by one run of bootstrap."""
    roster = Roster(MESH, CA.sign_key)
    add(roster, names, signed_at_ms)
    return roster


def add(roster: Roster, names: str, signed_at_ms: int = WALL_MS) -> None:
    """More of them."""
    for name in names:
        roster.apply(membership_intent(card(name, roles=(ROLE_KEEPER,), signed_at_ms=signed_at_ms)))


def id_of(name: str) -> NodeId:
    """The node of that name."""
    return NodeId(FakeCrypto(name.encode()).signer_id)


def revocation_intent(name: str) -> Intent:
    """The CA's word that a keeper is none any more."""
    body = msgspec.msgpack.encode(Revocation(MESH, "node", id_of(name), name, WALL_MS))
    return Intent(MESH, "revocation", revoked_key("node", id_of(name)), 1, CA.signer_id, WALL_MS, body)


def history(
    name: str, roster: Roster, now: Now, is_alive: Callable[[NodeId], bool] = lambda _node_id: True
) -> KeeperHistory:
    """A replica that starts for the first time."""
    started = KeeperHistory(id_of(name), roster, is_alive)
    started.restore((), now)
    started.observe(now)
    return started


def at(boot_s: float) -> Now:
    """So long after everybody's start."""
    return Now(boot_s, WALL_MS + int(boot_s * 1000))


def test_a_newborn_mesh_votes_at_once() -> None:
    """All cards bear the moment of one run, which is not long ago."""
    roster = roster_of("abcde")
    assert not history("a", roster, at(1.0)).abstains(KEY, at(1.0))
    old = Now(1.0, WALL_MS + NEWBORN_MS + 1)
    assert history("a", roster, old).abstains(KEY, old)


@pytest.mark.parametrize("added", ["f", "fg"])
def test_who_comes_by_a_later_run_abstains_however_soon_it_comes(added: str) -> None:
    """The keepers before it may have granted without it; once that is over it votes."""
    roster = roster_of("abc")
    history("a", roster, at(1.0))
    add(roster, added, WALL_MS + LATER_MS)
    joined = history("f", roster, at(2.0))
    assert joined.abstains(KEY, at(2.0))
    assert joined.abstains(KEY, at(1.9 + ABSTAIN_S))
    joined.observe(at(2.1 + ABSTAIN_S))
    assert not joined.abstains(KEY, at(2.1 + ABSTAIN_S))


def test_who_joined_on_one_side_of_a_partition_abstains_until_the_others_know_of_it() -> None:
    """However long that lasts: the other side renews its leases under the roster of before. Once a majority of those
    that were there before it is in touch for as long as any lease lasts it votes, over restarts as well."""
    roster = roster_of("abc")
    add(roster, "fg", WALL_MS + LATER_MS)
    reached = {id_of(name) for name in "cg"}
    joined = history("f", roster, at(2.0), reached.__contains__)
    joined.observe(at(500.0))
    assert joined.abstains(KEY, at(500.0))

    reached.add(id_of("a"))
    joined.observe(at(501.0))
    joined.observe(at(500.0 + ABSTAIN_S))
    assert joined.abstains(KEY, at(500.0 + ABSTAIN_S))
    reached.discard(id_of("a"))
    joined.observe(at(502.0 + ABSTAIN_S))
    assert joined.abstains(KEY, at(502.0 + ABSTAIN_S)), "it was cut off again before its time was over"
    reached.add(id_of("b"))
    joined.observe(at(600.0))
    (saved,) = joined.observe(at(600.0 + ABSTAIN_S))
    assert isinstance(saved, Save)
    assert not joined.abstains(KEY, at(600.0 + ABSTAIN_S))

    again = KeeperHistory(id_of("f"), roster, lambda _node_id: False)
    again.restore([(saved.key, saved.value)], at(700.0))
    again.observe(at(700.0))
    again.observe(at(700.1 + ABSTAIN_S))
    assert not again.abstains(KEY, at(700.1 + ABSTAIN_S))


def test_who_was_there_abstains_for_keys_of_sets_that_it_was_not_in() -> None:
    """A removal brings it into sets that granted without it; for the others it goes on."""
    names = "abcdefghijkl"
    roster = roster_of(names)
    before = nearest(roster.keeper_ids(), KEY)
    outside = next(name for name in names if id_of(name) not in before)
    inside = next(name for name in names if id_of(name) in before)
    new, old = history(outside, roster, at(1.0)), history(inside, roster, at(1.0))
    grown_s = 2.0 + ABSTAIN_S
    add(roster, "m", WALL_MS + LATER_MS)
    for replica in (new, old):
        replica.observe(at(grown_s))
    assert len(before) == K
    assert new.abstains(KEY, at(grown_s))
    assert not old.abstains(KEY, at(grown_s))
    assert not new.abstains(KEY, at(grown_s + 0.1 + ABSTAIN_S))


def test_who_hears_of_the_cards_of_its_own_run_first_is_no_newborn() -> None:
    """Its agent hands it one card after the other: those of the run before may come last."""
    roster = roster_of("fg", WALL_MS + LATER_MS)
    joined = history("f", roster, at(1.0))
    add(roster, "abc")
    joined.observe(at(1.0))
    assert joined.abstains(KEY, at(1.1))
    assert joined.abstains(KEY, at(0.9 + ABSTAIN_S))
    joined.observe(at(1.1 + ABSTAIN_S))
    assert not joined.abstains(KEY, at(1.1 + ABSTAIN_S))


@pytest.mark.parametrize(
    ("names", "gone", "waits"),
    [("abcde", "de", True), ("abcdefg", "fg", True), ("abcd", "d", False), ("abc", "c", False)],
)
def test_all_wait_while_those_that_stay_may_outvote_a_lease_that_they_do_not_know(
    names: str, gone: str, *, waits: bool
) -> None:
    """Of five, two that leave at once and one that stays may have granted; the other two that stay are a majority."""
    roster = roster_of(names)
    stays = history("a", roster, at(1.0))
    for name in gone:
        roster.apply(revocation_intent(name))
    gone_s = 2.0 + ABSTAIN_S
    stays.observe(at(gone_s))
    assert stays.abstains(KEY, at(gone_s)) == waits
    assert not stays.abstains(KEY, at(gone_s + 0.1 + ABSTAIN_S))
