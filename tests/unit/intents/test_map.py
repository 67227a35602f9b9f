"""The map of what operators want: the same winner on every node, saved before it is told."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from beemesh.effects import Effects, Erase, Notify, Now, Save
from beemesh.events import IntentChanged, IntentLost, Observed
from beemesh.identity.signing import Signed
from beemesh.intents import map as map_module
from beemesh.intents.map import COMPARISONS_AWAITED, TABLE, TOMBSTONE_KEPT_MS, IntentMap, bucket_of
from beemesh.intents.messages import BUCKETS
from beemesh.intents.record import Intent, version_of
from beemesh.membership.roster import Roster
from tests.unit.intents.cast import (
    ADMIN,
    DEPLOYER,
    OLD,
    cordon,
    grant,
    grants,
    intent_map,
    member,
    revocation,
    tombstone,
    workload,
)
from tests.unit.membership.cast import CA, IDS, MESH, WALL_MS, at

WEB = "workload/deployment/default/web"


def _decoded(signed: Signed) -> Intent:
    return msgspec.msgpack.decode(signed.body, type=Intent)


def _told(effects: Effects) -> list[Any]:
    return [effect.event for effect in effects if isinstance(effect, Notify)]


def _pool() -> list[Signed]:
    """Records that compete: equal numbers with different content, later epochs, removals, forgeries."""
    made = []
    for name in ("web", "api", "db"):
        for seq in (1, 2, 3):
            for replicas in (1, 2):
                made.append(workload(ADMIN, name, seq, replicas=replicas))
        made.append(workload(ADMIN, name, 1, replicas=5, epoch=1))
        made.append(tombstone(ADMIN, f"workload/deployment/default/{name}", seq=3))
        made.append(workload(DEPLOYER, name, 9))
        made.append(workload(OLD, name, 4, epoch=1, issued_ms=WALL_MS - 1))
        made.append(workload(OLD, name, 5, epoch=1))
    made += [workload(OLD, "thiefs"), tombstone(OLD, WEB, 6, epoch=1), cordon(OLD, seq=3), OLDS_REVOCATION]
    return [*made, *(cordon(ADMIN, seq=seq) for seq in (1, 2)), *(member(index) for index in range(3))]


OLDS_REVOCATION = revocation(OLD, "old", WALL_MS)
OLDS_GRANT = grant(OLD, "old", "admin")
POOL = _pool()


def _dumb_twin(records: list[Signed]) -> dict[str, bytes]:
    """The rule, said naively: of all entitled records of a key, the greatest (epoch, seq, hash)."""
    best: dict[str, Any] = {}
    for signed in (*grants(), OLDS_GRANT, *records):
        intent = _decoded(signed)
        if intent.author == DEPLOYER.signer_id or (intent.author == OLD.signer_id and intent.issued_ms >= WALL_MS):
            continue
        version = version_of(intent, signed)
        if intent.key not in best or version > best[intent.key][0]:
            best[intent.key] = (version, signed)
    return {key: signed.body for key, (_, signed) in best.items()}


@given(st.permutations(POOL), st.lists(st.sampled_from(POOL), max_size=20))
def test_any_order_and_any_repetition_gives_the_same_map(order: list[Signed], again: list[Signed]) -> None:
    """Maps that heard the same records are equal, hashes included, and equal to the dumb twin's. What a revocation
    that came late took away is made up for by who heard of it early, once the two are compared."""
    first, second = intent_map(OLDS_GRANT, OLDS_REVOCATION), intent_map(OLDS_GRANT)
    for signed in POOL:
        first.merge(signed, at(0))
    for signed in (*order, *again):
        second.merge(signed, at(0))
    for _, signed in list(first.items()):
        second.merge(signed, at(1))
    for _, signed in list(second.items()):
        assert not first.merge(signed, at(1)).changed

    held = {intent.key: signed.body for intent, signed in second.items()}
    assert held == _dumb_twin(POOL)
    assert first.bucket_hashes() == second.bucket_hashes()


@given(st.lists(st.tuples(st.sampled_from(POOL), st.booleans()), max_size=25), st.sets(st.integers(0, BUCKETS - 1)))
def test_hashes_that_are_kept_are_those_of_a_fresh_look(steps: list[tuple[Signed, bool]], some: set[int]) -> None:
    """Whatever was merged and dropped between two looks: hashes and entries of each part are those of a map that holds
    the same and was never looked at; and a map that begins with it is its own."""
    known = intent_map(OLDS_GRANT)
    for signed, dropped in steps:
        known.bucket_hashes()
        known.merge(signed, at(0))
        if dropped:
            known.drop([_decoded(signed).key])
    fresh = intent_map(OLDS_GRANT)
    for _, signed in sorted(known.items(), key=lambda held: held[0].kind != "revocation"):
        fresh.merge(signed, at(0))
    begun = intent_map()
    begun.begin_with(known)
    assert known.bucket_hashes() == fresh.bucket_hashes() == begun.bucket_hashes()
    listed = [entry.key for entry in known.entries_in(some)]
    assert listed == [intent.key for intent, _ in known.items() if bucket_of(intent.key) in some]
    begun.drop([intent.key for intent, _ in known.items()])
    assert known.bucket_hashes() == fresh.bucket_hashes()


def test_a_record_is_saved_before_anybody_is_told() -> None:
    """The effects are a save, then the news; and what was saved restores the same map."""
    known = intent_map()
    effects = known.merge(workload(), at(0)).effects

    assert isinstance(effects[0], Save)
    assert (effects[0].table, effects[0].key) == (TABLE, WEB.encode())
    assert [type(event) for event in _told(effects)] == [IntentChanged]

    again = IntentMap(CA, Roster(MESH, CA.sign_key))
    rows = [(intent.key.encode(), msgspec.msgpack.encode(signed)) for intent, signed in known.items()]
    assert again.restore(reversed(rows)) == []
    assert again.bucket_hashes() == known.bucket_hashes()


def test_what_a_broken_disk_garbled_is_dropped() -> None:
    """An agent starts with what is left, erases the rest, and no forged card gets into the roster from disk."""
    forged = msgspec.structs.replace(member(1), signature=bytes(64))
    rows = [
        (b"a", b"\xc1"),
        (b"b", msgspec.msgpack.encode(Signed("intent", b"\xc1", CA.signer_id, b""))),
        (b"node/n1", msgspec.msgpack.encode(forged)),
        (b"node/n2", msgspec.msgpack.encode(member(2))),
    ]
    roster = Roster(MESH, CA.sign_key)
    known = IntentMap(CA, roster)

    dropped = known.restore(rows)

    assert [effect.key for effect in dropped if isinstance(effect, Erase)] == [b"a", b"b", b"node/n1"]
    assert [card.name for card in roster.members()] == ["n2"]


def test_the_same_record_again_stands_and_changes_nothing() -> None:
    """Gossip repeats itself; repeating costs no save, no news and no signature check."""
    known = intent_map(workload())
    merged = known.merge(workload(), at(0))

    assert (merged.stands, merged.changed, merged.effects) == (True, False, [])


def test_a_known_body_with_another_signature_is_still_checked() -> None:
    """The short way is for the very record that stands, not for one that looks like it."""
    known = intent_map(workload())
    forged = msgspec.structs.replace(workload(), signature=bytes(64))

    assert not known.merge(forged, at(0)).stands


def test_an_older_record_does_not_stand() -> None:
    """Its author is told what stands."""
    merged = intent_map(workload(seq=3)).merge(workload(seq=2), at(0))

    assert not merged.stands
    assert "(0, 3)" in merged.reason
    assert _told(merged.effects) == []


def test_two_records_of_one_number_report_the_loser() -> None:
    """Whichever comes first, the one with the greater hash wins and the other is told."""
    one, two = workload(replicas=1), workload(replicas=2)
    low, high = sorted((one, two), key=lambda signed: version_of(_decoded(signed), signed))
    for first, second in ((low, high), (high, low)):
        known = intent_map(first)
        lost = [event for event in _told(known.merge(second, at(0)).effects) if isinstance(event, IntentLost)]

        assert [(event.loser, event.winner) for event in lost] == [(_decoded(low), _decoded(high))]
        assert known.get(WEB) == (_decoded(high), high)


def test_a_removal_competes_by_number() -> None:
    """A tombstone beats what is older and loses to what is newer."""
    known = intent_map(workload(seq=1))
    assert known.merge(tombstone(ADMIN, WEB, seq=2), at(0)).changed
    assert known.get(WEB)[0].kind == "tombstone"  # type: ignore[index]
    assert not known.merge(workload(seq=1), at(0)).stands
    assert known.merge(workload(seq=3), at(0)).changed


def _cut_off() -> IntentMap:
    """A map that took what an operator signed after its revocation, which came late: a new workload, a change of one
    that stood, and a removal."""
    known = intent_map(OLDS_GRANT, workload(name="api"), workload(OLD, name="old", issued_ms=WALL_MS - 1))
    for late in (workload(OLD, name="new"), workload(OLD), tombstone(OLD, "workload/deployment/default/api")):
        assert known.merge(late, at(0)).changed
    return known


def _ended(known: IntentMap) -> list[str]:
    """What is told as removed when no comparison brings anything."""
    effects = [effect for _ in range(COMPARISONS_AWAITED + 1) for effect in known.note_comparison()]
    return [event.intent.key for event in _told(effects)]


def test_a_late_revocation_takes_away_what_it_would_have_refused() -> None:
    """What the operator had signed before stands; the rest is gone at once, and kept on disk until its place is taken
    or given up, so that a restart in between does not forget to end it."""
    known = _cut_off()
    rows = [(intent.key.encode(), msgspec.msgpack.encode(signed)) for intent, signed in known.items()]
    effects = known.merge(OLDS_REVOCATION, at(10)).effects

    assert [intent.key for intent, _ in known.items("workload/")] == ["workload/deployment/default/old"]
    assert [type(event) for event in _told(effects)] == [IntentChanged, Observed]
    assert not [effect for effect in effects if isinstance(effect, Erase)]
    again = IntentMap(CA, Roster(MESH, CA.sign_key))
    revoked = (b"revoked", msgspec.msgpack.encode(OLDS_REVOCATION))
    assert not [effect for effect in again.restore([*rows, revoked]) if isinstance(effect, Erase)]
    assert again.bucket_hashes() == known.bucket_hashes()
    assert (
        sorted(_ended(again))
        == sorted(_ended(known))
        == [f"workload/deployment/default/{name}" for name in ("api", "new", "web")]
    )


def test_what_stood_before_a_revocation_comes_back_as_a_change() -> None:
    """Others have it: whoever follows the map hears what took the place of what, and that nothing was removed."""
    known = _cut_off()
    known.merge(OLDS_REVOCATION, at(10))
    (told,) = _told(known.merge(workload(), at(11)).effects)

    assert (told.intent, told.before) == (_decoded(workload()), _decoded(workload(OLD)))
    assert WEB not in _ended(known)
    assert known.get(WEB) == (_decoded(workload()), workload())


def test_what_nobody_has_an_older_record_of_is_told_as_removed() -> None:
    """After a while, and once: the workload of the thief ends, and that of somebody else which only stood as the thief
    had changed it. Nothing is left on disk, and nothing stands that others could be told."""
    known = _cut_off()
    known.merge(OLDS_REVOCATION, at(10))
    assert [known.note_comparison() for _ in range(COMPARISONS_AWAITED)] == [[]] * COMPARISONS_AWAITED
    effects = known.note_comparison()

    keys = [f"workload/deployment/default/{name}" for name in ("api", "new", "web")]
    assert sorted(effect.key for effect in effects if isinstance(effect, Erase)) == [key.encode() for key in keys]
    assert sorted((event.intent.key, event.intent.kind) for event in _told(effects)) == [
        (key, "tombstone") for key in keys
    ]
    assert [known.get(key) for key in keys] == [None] * 3
    assert known.note_comparison() == []


def test_what_a_thief_signed_in_masses_is_told_as_removed_bit_by_bit(monkeypatch: Any) -> None:
    """All who follow the map hear of each in one call: what is over a bound is told by the next, and what turns up
    until then stands. A comparison that comes in between makes it no later."""
    monkeypatch.setattr(map_module, "REMOVALS_TOLD_MAX", 2)
    known = intent_map(OLDS_GRANT, workload(OLD), *(workload(OLD, name) for name in "abcd"))
    known.merge(OLDS_REVOCATION, at(10))
    for _ in range(COMPARISONS_AWAITED):
        assert (known.note_comparison(), known.given_up()) == ([], [])

    first = known.note_comparison()
    assert len(_told(first)) == 2
    rest = known.given_up()
    assert len(rest) == 3
    assert known.merge(workload(ADMIN, rest[0].rpartition("/")[2]), at(11)).changed
    told = [event.intent.key for effects in (known.give_up(), known.note_comparison()) for event in _told(effects)]
    assert told == rest[1:]
    assert known.given_up() == []


def test_the_roster_follows_the_map() -> None:
    """Cards, grants and revocations that win are in the roster at once."""
    roster = Roster(MESH, CA.sign_key)
    known = IntentMap(CA, roster)
    known.merge(member(1), at(0))
    known.merge(grant(ADMIN, "adm", "admin"), at(0))
    assert roster.member(IDS[1]) is not None
    assert roster.grant(ADMIN.signer_id) is not None

    known.merge(revocation(ADMIN, "adm", WALL_MS), at(0))
    assert roster.grant(ADMIN.signer_id) is None


def test_reading_by_key_and_prefix() -> None:
    """Lists are sorted, and a prefix finds what begins with it and nothing else."""
    known = intent_map(workload(name="b"), workload(name="a"), member(1))

    assert [intent.key for intent, _ in known.items("workload/")] == [
        "workload/deployment/default/a",
        "workload/deployment/default/b",
    ]
    assert len(list(known.items())) == len(known) == 6
    assert known.get("nothing") is None
    assert known.version("nothing") is None


def test_removals_are_remembered_for_ninety_days() -> None:
    """Then they are dropped, on disk as well; nothing else is."""
    known = intent_map(workload(name="kept"), tombstone(ADMIN, WEB))
    assert known.forget_old_tombstones(Now(0, WALL_MS + TOMBSTONE_KEPT_MS)) == []

    assert known.forget_old_tombstones(Now(0, WALL_MS + TOMBSTONE_KEPT_MS + 1)) == [Erase(TABLE, WEB.encode())]
    assert known.get(WEB) is None
    assert known.bucket_hashes() == intent_map(workload(name="kept")).bucket_hashes()


def test_a_forgotten_removal_is_not_taken_back() -> None:
    """Where nothing stands there is nothing to remove; where something does, the oldest removal still counts, and what
    the CA removed stays removed for ever."""
    late = Now(0, WALL_MS + TOMBSTONE_KEPT_MS + 1)
    removal = tombstone(ADMIN, WEB)

    merged = intent_map().merge(removal, late)
    assert (merged.stands, merged.changed, merged.effects) == (False, False, [])
    assert "forgotten" in merged.reason
    assert intent_map().merge(removal, Now(0, WALL_MS + TOMBSTONE_KEPT_MS)).changed
    assert intent_map(workload()).merge(removal, late).changed
    assert intent_map().merge(tombstone(CA, "node/n1"), late).changed


def test_a_full_map_takes_no_new_keys_and_still_changes(monkeypatch: Any) -> None:
    """The number of keys is bounded; what is there can be changed and removed."""
    known = intent_map(workload())
    monkeypatch.setattr(map_module, "RECORDS_MAX", len(known))
    assert known.merge(member(1), at(0)).changed

    assert "takes no more" in known.merge(workload(name="another"), at(0)).reason
    assert known.merge(workload(seq=2), at(0)).changed


def test_one_operator_cannot_fill_the_map_for_all(monkeypatch: Any) -> None:
    """Each author has a share; what it gives up by removal's oblivion, or to another author, counts no more."""
    monkeypatch.setattr(map_module, "AUTHOR_RECORDS_MAX", 2)
    known = intent_map(workload(name="a"), workload(name="b"), grant(DEPLOYER, "dep", "admin", seq=2))

    assert "are all used" in known.merge(workload(name="c"), at(0)).reason
    assert known.merge(workload(DEPLOYER, name="c"), at(0)).changed
    assert known.merge(workload(DEPLOYER, name="a", seq=2), at(0)).changed
    assert known.merge(workload(name="d"), at(0)).changed
    assert known.merge(member(1), at(0)).changed


def test_nothing_that_the_ca_signed_is_ever_dropped() -> None:
    """Forgetting after a long absence is for operators' records; cards and revocations stay."""
    known = intent_map(workload(), member(1))

    dropped = known.drop([WEB, "node/n1", "nothing"])
    assert [effect for effect in dropped if isinstance(effect, Erase)] == [Erase(TABLE, WEB.encode())]
    assert known.get("node/n1") is not None


def test_what_is_dropped_is_told_as_removed() -> None:
    """Pods and sealed copies of it end as if its removal had been heard; a removal that goes ends nothing."""
    known = intent_map(workload(), tombstone(ADMIN, "workload/deployment/default/old"))
    dropped = known.drop([WEB, "workload/deployment/default/old"])

    (told,) = [effect.event for effect in dropped if isinstance(effect, Notify)]
    assert (told.intent.key, told.intent.kind, told.before.kind) == (WEB, "tombstone", "workload")
    assert told.signed.signature == b""
    assert sum(isinstance(effect, Erase) for effect in dropped) == 2
