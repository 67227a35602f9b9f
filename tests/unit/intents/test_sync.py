"""Maps come together: by news at once, by comparison in the end, within bounds, and without raising the dead."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest

from beemesh.effects import (
    Answered,
    Asked,
    Broadcast,
    Effects,
    Erase,
    Flush,
    Notify,
    Now,
    Reply,
    Request,
    Save,
    Schedule,
    TimerFired,
)
from beemesh.events import Delivered, EmitEvent, IntentChanged, IntentPut, MemberUp, PutIntent
from beemesh.identity.signing import Signed
from beemesh.intents import digests as digests_module
from beemesh.intents import map as map_module
from beemesh.intents.awaited import AT_ONCE_BURST, FETCH_AGAIN_S, FETCH_TRIES
from beemesh.intents.digests import MORE_DIFFERS
from beemesh.intents.forgeries import FORGED_BURST, FORGED_PER_S
from beemesh.intents.map import COMPARISONS_AWAITED, REMOVALS_TOLD_MAX, TABLE, TOMBSTONE_KEPT_MS, IntentMap, bucket_of
from beemesh.intents.messages import (
    ANSWER_BYTES_MAX,
    BUCKETS,
    INLINE_BYTES_MAX,
    KEYS_PER_FETCH_MAX,
    RECORDS_PER_MESSAGE_MAX,
    TOPIC_INTENTS,
    FetchIntents,
    FetchMembers,
    IntentDigests,
    IntentEntry,
    IntentNews,
    IntentRecords,
    IntentsAck,
    PushIntents,
    SyncIntents,
)
from beemesh.intents.record import IntentVersion
from beemesh.intents.sync import (
    CONTACT_KEY,
    CONTACT_TABLE,
    GIVE_UP_EVERY_S,
    NEWS_PER_EXCHANGE_MAX,
    IntentSync,
)
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.wire.registry import encode_message
from tests.unit.intents.cast import ADMIN, DEPLOYER, OLD, cordon, grant, grants, member, revocation, tombstone, workload
from tests.unit.membership.cast import CA, IDS, MESH, WALL_MS, at

WEB = "workload/deployment/default/web"
STREAM_BYTES_MAX = 1024 * 1024
CARDS = [member(index) for index in range(4)]
BASE = [*grants(), *CARDS]


class Place:
    """One node's map and its protocol."""

    def __init__(self, index: int, *records: Signed, alive: tuple[int, ...] = (0, 1)) -> None:
        self.node_id = IDS[index]
        roster = Roster(MESH, CA.sign_key)
        view = View(self.node_id, roster)
        self.map = IntentMap(CA, roster)
        for record in (*BASE, *records):
            self.map.merge(record, at(0))
        for other in alive:
            view.set_status(IDS[other], "alive")
        self.sync = IntentSync(self.node_id, self.map, roster, view, random.Random(index), itertools.count(1).__next__)

    def held(self) -> dict[str, bytes]:
        """Key → body of what stands."""
        return {intent.key: signed.body for intent, signed in self.map.items()}

    def put(self, record: Signed, token: int = 7) -> Effects:
        """A record from a command."""
        return self.sync.handle(PutIntent(record, token), at(0))


def _compare(asker: Place, answerer: Place, at_s: float = 1.0, rounds: int = 50) -> int:
    """Let the asker compare itself with the answerer until it asks no more; the number of requests."""
    effects = asker.sync._compare(answerer.node_id)
    requests = 0
    for _ in range(rounds):
        following: Effects = []
        for effect in effects:
            if isinstance(effect, Request):
                requests += 1
                assert len(encode_message(effect.message)[1]) <= STREAM_BYTES_MAX
                answered = answerer.sync.handle(Asked(asker.node_id, 1, effect.message), at(at_s))
                (reply,) = [each for each in answered if isinstance(each, Reply)]
                assert len(encode_message(reply.message)[1]) <= STREAM_BYTES_MAX
                answer = Answered(effect.request_id, answerer.node_id, reply.message)
                following += asker.sync.handle(answer, at(at_s))
            elif isinstance(effect, Schedule) and effect.key == ("intents", "compare-soon"):
                following += asker.sync.handle(TimerFired(effect.key), at(at_s))
        effects = following
        if not effects:
            break
    return requests


def test_equal_maps_cost_one_small_question() -> None:
    """Nothing but hashes is exchanged."""
    assert _compare(Place(0, workload()), Place(1, workload())) == 1


def test_a_comparison_brings_both_sides_together() -> None:
    """What is newer there is fetched, what is newer here is pushed, in whichever direction."""
    one = Place(0, workload(name="a", seq=2), workload(name="b"), workload(name="only-here"))
    two = Place(1, workload(name="a"), workload(name="b", seq=5), tombstone(ADMIN, WEB))
    _compare(one, two)

    assert one.held() == two.held()
    assert _compare(one, two) == 1


@pytest.mark.parametrize("seed", range(8))
def test_random_maps_converge_by_random_comparisons(seed: int) -> None:
    """Four nodes with arbitrary parts of the truth end with the same map."""
    chance = random.Random(seed)
    pool = [workload(name=f"w{n}", seq=s, replicas=r) for n in range(12) for s in (1, 2) for r in (1, 2)]
    pool += [tombstone(ADMIN, f"workload/deployment/default/w{n}", seq=chance.choice((1, 3))) for n in range(6)]
    places = [Place(index, *chance.sample(pool, 15)) for index in range(4)]
    for _ in range(3):
        for asker, answerer in itertools.permutations(places, 2):
            _compare(asker, answerer)

    assert all(place.held() == places[0].held() for place in places)


def test_a_node_that_was_away_gets_everything_in_pieces() -> None:
    """Two thousand records, some of them large: no message is larger than a stream takes, and nothing is missing."""
    many = [workload(name=f"w{number}") for number in range(2_000)]
    large = [workload(name=f"large{number}", padding=50_000) for number in range(15)]
    full, empty = Place(0, *many, *large), Place(1)
    _compare(empty, full, rounds=200)
    assert empty.held() == full.held()

    another = Place(2)
    _compare(full, another, rounds=200)
    assert another.held() == full.held()


def _in_one_bucket(count: int, first: int = 0, bucket: int = 0) -> list[str]:
    """Names of workloads that somebody picked so that their keys all fall into one part of the key space."""
    names = (f"w{number}" for number in itertools.count())
    picked = (name for name in names if bucket_of(f"workload/deployment/default/{name}") == bucket)
    return list(itertools.islice(picked, first, first + count))


def _crowd(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Let few lines fill an answer, by their number or by their size."""
    if limit == "lines":
        monkeypatch.setattr(digests_module, "ENTRIES_PER_DIGEST_MAX", 20)
    else:
        monkeypatch.setattr(digests_module, "DIGEST_BYTES_MAX", 2_000)


def _answer(asked: Place, buckets: tuple[bytes, ...], at_s: float = 1.0) -> IntentDigests:
    (reply,) = asked.sync.handle(Asked(IDS[1], 1, SyncIntents(buckets)), at(at_s))
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, IntentDigests)
    return reply.message


@pytest.mark.parametrize("limit", ["lines", "bytes"])
def test_a_crowded_bucket_holds_up_no_other(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys somebody makes fall into one, answers fit a stream, the others are compared at once, and in the
    end all is equal."""
    _crowd(monkeypatch, limit)
    names = _in_one_bucket(100)
    one = Place(0, *(workload(name=name) for name in names[:70]), workload())
    two = Place(1, *(workload(name=name, seq=2) for name in names[40:]), workload(name="two"))
    answer = _answer(one, two.map.bucket_hashes())
    assert len(answer.entries) <= 30

    _compare(one, two, rounds=3)
    assert one.map.get("workload/deployment/default/two") is not None
    assert two.map.get(WEB) is not None
    for number in range(40):
        _compare(one, two, 30.0 * number)
        _compare(two, one, 30.0 * number + 15)
    assert one.held() == two.held()


def test_a_bucket_that_never_gets_equal_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that one side refuses for good may fill an answer: another one begins with another bucket."""
    _crowd(monkeypatch, "lines")
    allowed, wanted = grant(DEPLOYER, "dep", "admin", seq=2), _in_one_bucket(10, bucket=1)
    two = Place(1, allowed, *(workload(DEPLOYER, name) for name in _in_one_bucket(19)))
    for place in (one := Place(0), two):
        place.map.merge(grant(DEPLOYER, "dep", "viewer", seq=3), at(0))
    for name in wanted:
        two.map.merge(workload(name=name), at(0))
    for number in range(20):
        _compare(one, two, 30.0 * number)

    assert sorted(one.held().keys() - Place(2).held().keys()) == sorted(
        f"workload/deployment/default/{name}" for name in wanted
    )


@pytest.mark.parametrize("limit", ["lines", "bytes"])
def test_an_answer_that_does_not_list_all_of_a_bucket_removes_nothing_else(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a crowded bucket each answer speaks for what lies between the ends of what it lists: what a node brings back
    from a long absence goes, piece by piece, and what stands stays."""
    _crowd(monkeypatch, limit)
    gone, kept = _in_one_bucket(60), _in_one_bucket(60, 60)
    back = _returned(*(workload(name=name) for name in (*gone, *kept)))
    mesh = _mesh(*(workload(name=name) for name in kept), workload(name="new", seq=2))
    for number in range(40):
        _compare_with(back, mesh, LONG_S + 30 * number)
        assert {f"workload/deployment/default/{name}" for name in kept} <= back.held().keys()

    assert back.held() == mesh[0].held() == mesh[1].held()
    assert not _doubts(back, LONG_S + 1_200)


def test_who_knows_no_listing_in_part_takes_it_for_no_equality() -> None:
    """The version before reads the buckets that are listed in full; that more differs is no bucket to it."""
    one = Place(0, workload())
    assert list(one.map.entries_in((MORE_DIFFERS,))) == []


def test_refused_records_do_not_make_it_ask_for_ever() -> None:
    """A peer that holds what we may not take is asked, and then left in peace until the next time."""
    one, two = Place(0), Place(1)
    two.map.merge(grant(DEPLOYER, "dep", "admin", seq=2), at(0))
    two.map.merge(workload(DEPLOYER), at(0))
    one.map.merge(grant(DEPLOYER, "dep", "viewer", seq=3), at(0))
    requests = _compare(one, two)

    assert requests < 10
    assert one.map.get(WEB) is None


LATE = revocation(OLD, "old", WALL_MS)


def _split(*taken: Signed) -> tuple[Place, Place]:
    """Two sides of a cut: an operator was revoked on the first; the second took what it signed after that."""
    before = [grant(OLD, "old", "admin"), workload(ADMIN)]
    return Place(0, *before, LATE), Place(1, *before, *taken)


@pytest.mark.parametrize("asks", [0, 1])
def test_two_sides_of_a_cut_agree_on_what_a_revoked_operator_wanted(asks: int) -> None:
    """Whoever asks first: what it signed after its revocation is gone on both, what stood before is back, and who
    follows the records heard of it; then a comparison finds nothing to do."""
    sides = _split(workload(OLD, seq=2), cordon(OLD, seq=9), workload(OLD, "new"))
    asker, answerer = sides[asks], sides[1 - asks]
    _compare(asker, answerer)
    _compare(asker, answerer, 31.0)

    assert sides[0].held() == sides[1].held()
    assert [intent.author for intent, _ in sides[1].map.items("workload/")] == [ADMIN.signer_id]
    assert _compare(asker, answerer, 61.0) == 1


def test_what_is_not_made_up_for_ends_once_others_could_have_told() -> None:
    """A node that is cut off waits, and one whom nobody answers: the older record may stand on the other side."""
    place = _split(workload(OLD, "new"))[1]
    place.sync._doubtful = False
    place.sync._view.set_status(IDS[0], "dead")
    place.sync.handle(Asked(IDS[0], 5, PushIntents((LATE,))), at(1))
    due = TimerFired(("intents", "compare"))
    alone = [effect for number in range(99) for effect in place.sync.handle(due, at(2 + number))]
    assert [effect for effect in alone if isinstance(effect, Notify | Erase)] == []

    place.sync._view.set_status(IDS[0], "alive")
    unanswered = [effect for number in range(99) for effect in place.sync.handle(due, at(200 + 30 * number))]
    assert [effect for effect in unanswered if isinstance(effect, Notify | Erase)] == []

    answer = Answered(9, IDS[0], IntentDigests((), (), False))
    for number in range(COMPARISONS_AWAITED):
        for hasty in (0, 1):
            effects = place.sync.handle(answer, at(4_000 + 30 * number + hasty))
            assert [effect for effect in effects if isinstance(effect, Notify | Erase)] == []
    effects = place.sync.handle(answer, at(4_600))
    (told,) = [effect.event for effect in effects if isinstance(effect, Notify)]
    assert (told.intent.key, told.intent.kind) == ("workload/deployment/default/new", "tombstone")


@pytest.mark.parametrize("alone", [False, True])
def test_what_a_thief_signed_in_masses_ends_within_moments(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is given up, whatever is more than one call may tell follows a second later, and nothing is lost."""
    monkeypatch.setattr(map_module, "REMOVALS_TOLD_MAX", 2)
    place = _split(*(workload(OLD, name) for name in "abcde"))[1]
    place.sync._doubtful = False
    place.sync._is_alone = lambda: alone  # type: ignore[method-assign]
    place.sync.handle(Asked(IDS[0], 5, PushIntents((LATE,))), at(1))
    noted = TimerFired(("intents", "compare")) if alone else Answered(9, IDS[0], IntentDigests((), (), False))
    for number in range(COMPARISONS_AWAITED):
        effects = place.sync.handle(noted, at(30.0 * number + 30))
        assert ("intents", "give-up") not in [each.key for each in effects if isinstance(each, Schedule)]

    told, now_s, event = [], 4_000.0, noted
    while event is not None:
        effects = place.sync.handle(event, at(now_s))
        told.append([each.event.intent.key for each in effects if isinstance(each, Notify)])
        due = [each.at_boot_s for each in effects if isinstance(each, Schedule) and each.key == ("intents", "give-up")]
        event, now_s = (TimerFired(("intents", "give-up")), due[0]) if due else (None, now_s)
    assert [len(keys) for keys in told] == [2, 2, 1]
    assert sorted(itertools.chain(*told)) == [f"workload/deployment/default/{name}" for name in "abcde"]
    assert now_s == 4_000 + 2 * GIVE_UP_EVERY_S


def test_a_put_is_told_to_all_and_answered() -> None:
    """Saved, announced with the record inside where it is small, and answered; once."""
    place = Place(0)
    effects = place.put(workload())

    kinds = [type(effect).__name__ for effect in effects if not isinstance(effect, Notify)]
    assert kinds == ["Save", "Broadcast"]
    (news,) = [effect.message for effect in effects if isinstance(effect, Broadcast)]
    assert news.record == workload()
    assert [e.event for e in effects if isinstance(e, Notify) and isinstance(e.event, IntentPut)] == [
        IntentPut(7, True)
    ]
    again = place.put(workload())
    assert [e.event for e in again if isinstance(e, Notify)] == [IntentPut(7, True)]
    refused = place.put(workload(DEPLOYER))
    assert [e.event.accepted for e in refused if isinstance(e, Notify) and isinstance(e.event, IntentPut)] == [False]


def test_a_witness_says_again_that_a_record_is_saved_only_once_it_is() -> None:
    """The first save may have failed, or still wait: the answer to a second push asks for what the disk owes."""
    place = Place(1)
    push = Asked(IDS[0], 5, PushIntents((workload(),)))
    first, again = place.sync.handle(push, at(1)), place.sync.handle(push, at(2))

    assert [type(effect) for effect in first if isinstance(effect, Save | Flush | Reply)] == [Save, Reply]
    assert [type(effect) for effect in again] == [Flush, Reply]
    assert again[0] == Flush(TABLE, b"workload/deployment/default/web")


def _news(record: Signed) -> IntentNews:
    (news,) = [effect.message for effect in Place(0).put(record) if isinstance(effect, Broadcast)]
    assert isinstance(news, IntentNews)
    return news


def test_news_of_a_small_record_is_merged_at_once() -> None:
    """It carries the record; hearing it again does nothing."""
    place = Place(1)
    event = Delivered(TOPIC_INTENTS, _news(workload()), IDS[0])

    assert isinstance(place.sync.handle(event, at(1))[0], Save)
    assert place.sync.handle(event, at(2)) == []


def test_news_of_a_large_record_is_fetched_from_who_told() -> None:
    """It does not fit a datagram: only key and version travel."""
    big = workload(padding=INLINE_BYTES_MAX)
    news = _news(big)
    assert news.record is None

    effects = Place(1).sync.handle(Delivered(TOPIC_INTENTS, news, IDS[3]), at(1))
    assert [(e.to, e.message) for e in effects if isinstance(e, Request)] == [(IDS[3], FetchIntents((news.entry.key,)))]


def _heard_of(key: str, relay: int = 1) -> Delivered:
    """News without a record: nobody signed them, and whether there is one is not known yet."""
    return Delivered(TOPIC_INTENTS, IntentNews(IntentEntry(key, IntentVersion(0, 1, b""))), IDS[relay])


def _rounds(place: Place, from_s: float) -> list[tuple[str, ...]]:
    """The keys of each request that it still makes until it gives up, round after round."""
    asked: list[tuple[str, ...]] = []
    for number in range(2 * FETCH_TRIES):
        effects = place.sync.handle(TimerFired(("intents", "fetch")), at(from_s + number * FETCH_AGAIN_S))
        messages = [effect.message for effect in effects if isinstance(effect, Request)]
        asked += [message.keys for message in messages if isinstance(message, FetchIntents)]
    return asked


def test_made_up_news_cost_few_requests() -> None:
    """However many records one member tells of that do not exist, to whomever of the honest that leads."""
    place = Place(0, alive=(0, 1, 2, 3))
    at_once = [effect for number in range(1_500) for effect in place.sync.handle(_heard_of(f"x{number}"), at(1))]
    assert sum(isinstance(effect, Request) for effect in at_once) <= AT_ONCE_BURST

    later = _rounds(place, 2.0)
    assert {key for keys in later for key in keys} == {f"x{number}" for number in range(1_500)}
    assert all(len(keys) <= KEYS_PER_FETCH_MAX for keys in later)
    assert len(later) <= FETCH_TRIES * -(-1_500 // KEYS_PER_FETCH_MAX)
    assert _rounds(place, 9.0) == []


def test_who_makes_up_news_holds_up_nobody_elses() -> None:
    """What another member tells of is asked for at once, and the next round comes in time while news pour in."""
    place = Place(0, alive=(0, 1, 2, 3))
    effects = [e for number in range(99) for e in place.sync.handle(_heard_of(f"x{number}"), at(1 + number / 1_000))]
    assert [effect.at_boot_s for effect in effects if isinstance(effect, Schedule)] == [1 + FETCH_AGAIN_S]

    effects = place.sync.handle(_heard_of(WEB, relay=2), at(1.1))
    assert [(e.to, e.message) for e in effects if isinstance(e, Request)] == [(IDS[2], FetchIntents((WEB,)))]


def test_forged_news_changes_nothing() -> None:
    """The record inside is judged like any other."""
    place = Place(1)
    forged = msgspec.structs.replace(_news(workload()), record=workload(DEPLOYER, seq=9))
    place.sync.handle(Delivered(TOPIC_INTENTS, forged, IDS[0]), at(1))

    assert place.map.get(WEB) is None


def test_a_push_is_saved_before_it_is_acknowledged() -> None:
    """The answer names what stands and is saved, and why the rest was refused; saves come first."""
    place = Place(1)
    effects = place.sync.handle(Asked(IDS[0], 5, PushIntents((workload(), workload(DEPLOYER, "other")))), at(1))
    order = [type(effect).__name__ for effect in effects if isinstance(effect, Save | Reply)]
    (ack,) = [effect.message for effect in effects if isinstance(effect, Reply)]

    assert order == ["Save", "Reply"]
    assert isinstance(ack, IntentsAck)
    assert [(entry.key, entry.version) for entry in ack.saved] == [(WEB, place.map.version(WEB))]
    assert len(ack.refused) == 1


def _forged(count: int) -> tuple[Signed, ...]:
    """Removals of cards in the CA's name: each must be verified to be refused."""
    signed = member(1)
    return tuple(
        msgspec.structs.replace(tombstone(CA, f"node/x{number}"), signature=signed.signature) for number in range(count)
    )


def _verifications(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Whatever is verified from now on."""
    verified: list[bytes] = []
    verify = place.map._verifier.verify

    def counting(public_key: bytes, payload: bytes, signature: bytes) -> bool:
        verified.append(payload)
        return verify(public_key, payload, signature)

    monkeypatch.setattr(place.map._verifier, "verify", counting)
    return verified


def test_a_record_that_a_broken_disk_made_shuts_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node sends it at every comparison, for ever: it costs one verification, and what else it sends is heard."""
    place = Place(1)
    verified = _verifications(place, monkeypatch)
    for number in range(100):
        place.sync.handle(Asked(IDS[0], 5, PushIntents(_forged(1))), at(1 + number))
    assert len(verified) == 1

    place.sync.handle(Asked(IDS[0], 5, PushIntents((*_forged(1), workload(name="good")))), at(200))
    assert [intent.key for intent, _ in place.map.items("workload/")] == ["workload/deployment/default/good"]


@pytest.mark.parametrize("how", ["push", "answer"])
def test_who_sends_forgeries_is_not_listened_to_for_a_while(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost a few verifications, however many there are and however often they come; others are heard, and so is
    the sender later."""

    def send(sender: int, records: tuple[Signed, ...], at_s: float) -> Effects:
        if how == "answer":
            return place.sync.handle(Answered(9, IDS[sender], IntentRecords(records)), at(at_s))
        effects = place.sync.handle(Asked(IDS[sender], 5, PushIntents(records)), at(at_s))
        assert sum(isinstance(effect, Reply) for effect in effects) == 1
        return effects

    place = Place(1)
    verified = _verifications(place, monkeypatch)
    for _ in range(3):
        send(0, (*_forged(2_000), workload(name="hidden")), 1)
    assert len(verified) <= FORGED_BURST + 1

    send(0, (workload(name="ignored"),), 2)
    send(2, (workload(name="others"),), 2)
    send(0, (workload(name="later"),), 2 + 1 / FORGED_PER_S)
    assert [intent.key for intent, _ in place.map.items("workload/")] == [
        f"workload/deployment/default/{name}" for name in ("later", "others")
    ]


def test_records_that_are_refused_for_other_reasons_cost_nobody_its_word() -> None:
    """Honest members differ in what they know of grants, and in what they still remember as removed."""
    place = Place(1)
    unknown = [workload(OLD, f"w{number}") for number in range(50)]
    unentitled = [workload(DEPLOYER, f"w{number}") for number in range(50)]
    place.sync.handle(Asked(IDS[0], 5, PushIntents((*unknown, *unentitled, workload()))), at(1))

    assert place.map.get(WEB) is not None


def test_a_message_is_looked_at_as_far_as_honest_ones_go() -> None:
    """A larger one than any node sends is read to that length; the largest honest one is read whole."""
    place = Place(1)
    records = tuple(workload(name=f"w{number:04}") for number in range(RECORDS_PER_MESSAGE_MAX + 1))
    place.sync.handle(Asked(IDS[0], 5, PushIntents(records)), at(1))

    assert len(list(place.map.items("workload/"))) == RECORDS_PER_MESSAGE_MAX


def test_a_grant_and_what_it_allows_may_come_together() -> None:
    """What the CA signed is merged first, whatever the order of a push."""
    newcomer = Place(1)
    allowing = grant(DEPLOYER, "dep", "deployer", seq=2)
    newcomer.sync.handle(Asked(IDS[0], 5, PushIntents((workload(DEPLOYER), allowing))), at(1))

    assert newcomer.map.get(WEB) is not None


def test_few_changes_from_an_exchange_are_told_on_and_many_are_not() -> None:
    """A healed partition is quick about what changed; a node that comes back with a year's records is not shouted."""
    for count, told in ((NEWS_PER_EXCHANGE_MAX, NEWS_PER_EXCHANGE_MAX), (NEWS_PER_EXCHANGE_MAX + 1, 0)):
        records = tuple(workload(name=f"w{number}") for number in range(count))
        effects = Place(1).sync.handle(Asked(IDS[0], 5, PushIntents(records)), at(1))

        assert sum(isinstance(effect, Broadcast) for effect in effects) == told


def test_cards_are_handed_out_by_node_id() -> None:
    """Whoever heard of a stranger gets its record from whoever relayed the claim."""
    effects = Place(0).sync.handle(Asked(IDS[1], 5, FetchMembers((IDS[2], IDS[7]))), at(1))

    assert effects == [Reply(5, IntentRecords((CARDS[2],)))]


def test_an_answer_is_bounded() -> None:
    """However many large records are asked for, one answer stays within its limit."""
    large = [workload(name=f"l{number}", padding=50_000) for number in range(20)]
    keys = tuple(f"workload/deployment/default/l{number}" for number in range(20))
    (reply,) = Place(0, *large).sync.handle(Asked(IDS[1], 5, FetchIntents(keys[:KEYS_PER_FETCH_MAX])), at(1))

    assert isinstance(reply, Reply)
    assert isinstance(reply.message, IntentRecords)
    assert 0 < sum(len(record.body) for record in reply.message.records) <= ANSWER_BYTES_MAX


def test_a_conflict_is_reported_where_the_loser_was_accepted() -> None:
    """Two operators write one version at once: the author of the loser gets an event, once."""
    other = grant(DEPLOYER, "dep", "admin", seq=2)
    ours, theirs = workload(replicas=1), workload(DEPLOYER, replicas=2)
    places = {signed.signer: Place(0, other) for signed in (ours, theirs)}
    reports = []
    for first, second in ((ours, theirs), (theirs, ours)):
        place = places[first.signer]
        effects = [*place.put(first), *place.sync.handle(Delivered(TOPIC_INTENTS, _as_news(second), IDS[1]), at(1))]
        for effect in list(effects):
            if isinstance(effect, Notify):
                effects += place.sync.handle(effect.event, at(1))
        reports += [e.event.event for e in effects if isinstance(e, Notify) and isinstance(e.event, EmitEvent)]

    assert [event.status for event in reports] == ["IntentConflict"]
    assert "changed it at the same time and won" in reports[0].reason


def _as_news(record: Signed) -> IntentNews:
    place = Place(2, grant(DEPLOYER, "dep", "admin", seq=2), record)
    entry = place.map.entry(WEB)
    assert entry is not None
    return IntentNews(entry, record)


def test_who_came_back_is_compared_with_soon() -> None:
    """In a small mesh by everybody, each at its own moment; this node itself never."""
    place = Place(0, alive=(0, 1))
    effects = place.sync.handle(MemberUp(IDS[1]), at(10))
    (timer,) = [effect for effect in effects if isinstance(effect, Schedule)]
    assert 10 <= timer.at_boot_s <= 10.5

    asked = place.sync.handle(TimerFired(timer.key), at(10.2))
    assert [effect.to for effect in asked if isinstance(effect, Request)] == [IDS[1]]
    assert place.sync.handle(MemberUp(IDS[0]), at(11)) == []


# --- long absences ----------------------------------------------------------------------------------------------------

LONG_S = TOMBSTONE_KEPT_MS / 1000 + 10


def _returned(*records: Signed) -> Place:
    """A node that was last in touch long ago, with what it held then."""
    place = Place(0, *records, alive=(0, 1))
    rows: list[tuple[bytes, bytes]] = [(CONTACT_KEY, str(WALL_MS + 1).encode())]
    place.sync.restore(CONTACT_TABLE, rows, at(LONG_S))
    return place


def _steady(index: int, *records: Signed) -> Place:
    """A node that was in touch all the time."""
    place = Place(index, *records, alive=(0, 1))
    place.sync.restore(CONTACT_TABLE, [(CONTACT_KEY, str(at(LONG_S).wall_ms).encode())], at(LONG_S))
    return place


def _mesh(*records: Signed) -> list[Place]:
    """Two nodes that were in touch all the time: the word of one is not enough to remove what another brings back."""
    return [_steady(index, *records) for index in (1, 2)]


def _compare_with(back: Place, mesh: list[Place], at_s: float = LONG_S) -> None:
    """Let a node that is back compare itself with each of the others, one after the other."""
    for other in mesh:
        _compare(back, other, at_s)


def test_a_long_absence_does_not_bring_back_what_was_removed() -> None:
    """The mesh has forgotten the removal; the node that returns drops the record and keeps the rest."""
    back, mesh = _returned(workload(), workload(name="kept")), _mesh(workload(name="kept"))
    _compare_with(back, mesh)

    assert back.map.get(WEB) is None
    assert back.map.get("workload/deployment/default/kept") is not None
    assert back.held() == mesh[0].held() == mesh[1].held()


def test_one_member_erases_nothing_after_an_outage_of_the_whole_mesh() -> None:
    """All honest nodes were off for long, and one that lies says to each, as often as it likes, that it does not doubt
    and holds nothing: what operators wanted stands, and stands again everywhere once they have compared."""
    kept = (workload(), tombstone(ADMIN, "workload/deployment/default/old"))
    honest = [_returned(*kept) for _ in range(3)]
    lie = IntentDigests(tuple(range(BUCKETS)), ())
    for number in range(3):
        for place in honest:
            effects = place.sync.handle(Answered(1, IDS[3], lie), at(LONG_S + 60 + number))
            assert [effect for effect in effects if isinstance(effect, Erase | Request)] == []
    honest[0].map.merge(workload(name="more"), at(LONG_S))
    _compare_with(honest[1], honest, LONG_S + 120)
    _compare_with(honest[2], honest, LONG_S + 120)

    assert [intent.key for intent, _ in honest[0].map.items("workload/")] == [
        f"workload/deployment/default/{name}" for name in ("more", "old", "web")
    ]
    assert honest[0].held() == honest[1].held() == honest[2].held()


def test_what_one_member_lacks_is_neither_pushed_nor_dropped() -> None:
    """Until a second one lacks it too; who holds it after all takes the first word back."""
    back, (one, two) = _returned(workload()), _mesh()
    _compare(back, one, LONG_S)
    assert (back.map.get(WEB) is not None, one.map.get(WEB)) == (True, None)

    held = IntentDigests((bucket_of(WEB),), (IntentEntry(WEB, IntentVersion(0, 3, b"")),))
    back.sync.handle(Answered(1, IDS[3], held), at(LONG_S + 30))
    _compare(back, two, LONG_S + 60)
    assert back.map.get(WEB) is not None

    _compare(back, one, LONG_S + 90)
    assert back.map.get(WEB) is None


def test_a_long_absence_ends_what_was_removed_meanwhile() -> None:
    """Those who follow the records on the node hear of each removal, of a bounded number at once, and others hear of
    none from it."""
    count = 2 * REMOVALS_TOLD_MAX + 1
    back, mesh = _returned(*(workload(name=f"w{number}") for number in range(count))), _mesh()
    told: list[list[str]] = []
    handle = back.sync.handle

    def noting(event: Any, now: Now) -> Effects:
        effects = handle(event, now)
        assert not [effect for effect in effects if isinstance(effect, Broadcast)]
        events = [effect.event for effect in effects if isinstance(effect, Notify)]
        told.append([event.intent.key for event in events if isinstance(event, IntentChanged)])
        return effects

    back.sync.handle = noting  # type: ignore[method-assign]
    _compare_with(back, mesh)

    assert sorted(key for keys in told for key in keys) == sorted(
        f"workload/deployment/default/w{number}" for number in range(count)
    )
    assert max(len(keys) for keys in told) <= REMOVALS_TOLD_MAX
    assert back.held() == mesh[0].held() == mesh[1].held()


def test_in_a_mesh_of_two_the_word_of_the_other_is_enough() -> None:
    """There is nobody else to ask."""
    back, mesh = _returned(workload()), _steady(1)
    for place in (back, mesh):
        for index in (2, 3):
            gone = tombstone(CA, f"node/n{index}")
            place.sync.handle(Asked(IDS[0], 5, PushIntents((gone,))), at(LONG_S))
    _compare(back, mesh, LONG_S)

    assert back.map.get(WEB) is None
    assert back.held() == mesh.held()


def test_nothing_is_taken_from_who_was_away_too_long() -> None:
    """Also when the mesh asks first."""
    back, mesh = _returned(workload()), _steady(1)
    _compare(mesh, back, LONG_S)

    assert mesh.map.get(WEB) is None


def test_what_was_wanted_since_is_kept() -> None:
    """A record entered on the returned node after its return is newer than its absence: it spreads."""
    fresh = workload(issued_ms=at(LONG_S).wall_ms)
    back, mesh = _returned(workload(name="old")), _mesh()
    back.put(fresh)
    _compare_with(back, mesh)

    assert all(place.map.get(WEB) is not None for place in mesh)
    assert all(place.map.get("workload/deployment/default/old") is None for place in mesh)
    assert back.held() == mesh[1].held()


def test_a_mesh_that_was_off_altogether_loses_nothing() -> None:
    """All were away, so nobody can say that something was removed: everything stands, whoever joins later."""
    one, two = _returned(workload()), _returned(workload(name="b"))
    two.node_id = IDS[1]
    _compare(one, two, LONG_S)
    assert one.held() == two.held()
    assert one.map.get(WEB) is not None

    newcomer = Place(2, alive=(0, 1, 2))
    _compare(one, newcomer, LONG_S)
    _compare(newcomer, one, LONG_S)
    assert newcomer.held() == one.held() == two.held()


def test_doubts_end_when_maps_are_equal() -> None:
    """With a member that was there all the time, or with most of the mesh: from then on its word counts again."""
    back, steady = _returned(workload()), _mesh()
    mesh = steady[0]
    _compare_with(back, steady)
    back.put(workload(name="later"))
    _compare(mesh, back, LONG_S)
    assert mesh.map.get("workload/deployment/default/later") is not None

    few, many = _returned(), _returned()
    for index in (2, 3):
        many.sync._view.set_status(IDS[index], "alive")
    for place, doubts in ((few, True), (many, False)):
        _compare(place, Place(1), LONG_S)
        (reply,) = place.sync.handle(Asked(IDS[1], 1, SyncIntents(())), at(LONG_S))
        assert isinstance(reply, Reply)
        assert reply.message.doubtful is doubts  # type: ignore[attr-defined]


def test_a_removal_that_is_too_old_keeps_no_newcomer_in_doubt() -> None:
    """Who asks others forgets it right before; a newcomer refuses it, so the two maps would never be equal."""
    mesh, newcomer = _steady(0, tombstone(ADMIN, WEB), workload(name="kept")), Place(1)
    mesh.sync.handle(TimerFired(("intents", "compare")), at(LONG_S))
    _compare(newcomer, mesh, LONG_S)
    (reply,) = newcomer.sync.handle(Asked(IDS[1], 1, SyncIntents(())), at(LONG_S))

    assert isinstance(reply, Reply)
    assert reply.message.doubtful is False  # type: ignore[attr-defined]
    assert newcomer.held() == mesh.held()


def test_a_removal_is_forgotten_by_all_although_each_forgets_at_its_own_time() -> None:
    """Comparisons with those who have not forgotten it yet, whichever asks, bring it back to nobody."""
    places = [_steady(index, tombstone(ADMIN, WEB)) for index in range(3)]
    for place in places:
        place.sync.handle(TimerFired(("intents", "compare")), at(LONG_S))
        for asker, answerer in itertools.permutations(places, 2):
            _compare(asker, answerer, LONG_S)

    assert [place.map.get(WEB) for place in places] == [None] * 3


@pytest.mark.parametrize("asks", [0, 1])
def test_what_a_lone_survivor_removed_stays_removed(asks: int) -> None:
    """It ran on while all others were off, for longer than removals are remembered: nobody else can tell of it."""
    survivor, off = places = (Place(0, workload(), workload(name="kept")), Place(1, workload(), workload(name="kept")))
    survivor.sync.restore(CONTACT_TABLE, [(CONTACT_KEY, str(WALL_MS).encode())], at(0))
    survivor.sync._view.set_status(IDS[1], "dead")
    day_s = 86_400.0
    survivor.sync.handle(PutIntent(tombstone(ADMIN, WEB, issued_ms=at(day_s).wall_ms), 7), at(day_s))
    back_s = LONG_S + 5 * day_s
    for day in range(2, int(back_s / day_s)):
        for key in ("housekeeping", "compare"):
            survivor.sync.handle(TimerFired(("intents", key)), at(day * day_s))
    survivor.sync._view.set_status(IDS[1], "alive")
    off.sync.restore(CONTACT_TABLE, [(CONTACT_KEY, str(WALL_MS).encode())], at(back_s))
    _compare(places[asks], places[1 - asks], back_s)
    _compare(places[1 - asks], places[asks], back_s + 30)

    standing = [[intent.key for intent, _ in place.map.items("workload/") if intent.body] for place in places]
    assert standing == [["workload/deployment/default/kept"]] * 2


@pytest.mark.parametrize("others_ask", [True, False])
def test_an_old_removal_that_one_still_remembers_keeps_nobody_in_doubt(others_ask: bool) -> None:
    """Others that were away as well never had what it removed, and take no removal that old."""
    one, other = _returned(tombstone(ADMIN, WEB)), _returned()
    other.node_id = IDS[1]
    for place in (one, other):
        place.sync._view.set_status(IDS[2], "alive")
    for number in range(4):
        if others_ask:
            _compare(other, one, LONG_S + 60 * number)
        _compare(one, other, LONG_S + 60 * number + 30)
        for place in (one, other):
            place.sync.handle(TimerFired(("intents", "compare")), at(LONG_S + 60 * number + 45))

    assert one.held() == other.held()
    assert not _doubts(one, LONG_S + 300)
    assert other.map.get(WEB) is None


def _doubts(place: Place, at_s: float) -> bool:
    """Whether it tells others that it cannot tell what stands."""
    return _answer(place, (), at_s).doubtful


@pytest.mark.parametrize("sleeps", [True, False])
def test_an_agent_that_was_cut_off_for_long_brings_nothing_back(sleeps: bool) -> None:
    """It ran on alone, or slept and knows nothing of it: its first comparison is one of a node that was away."""
    cut_off, mesh, other = Place(0, workload()), Place(1), Place(2)
    for place in (cut_off, mesh, other):
        place.sync.restore(CONTACT_TABLE, [(CONTACT_KEY, str(WALL_MS).encode())], at(0))
    cut_off.sync.handle(TimerFired(("intents", "housekeeping")), at(3_600))
    if not sleeps:
        cut_off.sync._view.set_status(IDS[1], "dead")
    for hours in range(2, int(LONG_S // 3_600) + 3):
        for place in (mesh, other):
            place.sync.handle(TimerFired(("intents", "housekeeping")), at(hours * 3_600))
        if not sleeps:
            cut_off.sync.handle(TimerFired(("intents", "housekeeping")), at(hours * 3_600))
    back_s = LONG_S + 3_700
    cut_off.sync._view.set_status(IDS[1], "alive")
    cut_off.sync.handle(TimerFired(("intents", "compare")), at(back_s))
    _compare_with(cut_off, [mesh, other], back_s)

    assert cut_off.held() == mesh.held()
    assert mesh.map.get(WEB) is None
    (reply,) = cut_off.sync.handle(Asked(IDS[1], 1, SyncIntents(())), at(back_s))
    assert isinstance(reply, Reply)
    assert reply.message.doubtful is False  # type: ignore[attr-defined]


def test_a_clock_that_is_set_right_is_no_absence() -> None:
    """Who is in touch all the time takes a jump of the wall clock for what it is."""
    place = Place(0)
    place.sync.restore(CONTACT_TABLE, [(CONTACT_KEY, str(WALL_MS).encode())], at(0))
    later = Now(60, WALL_MS + 2 * TOMBSTONE_KEPT_MS)
    (reply,) = place.sync.handle(Asked(IDS[1], 1, SyncIntents(())), later)

    assert isinstance(reply, Reply)
    assert reply.message.doubtful is False  # type: ignore[attr-defined]


def test_contact_is_noted_so_that_an_absence_can_be_measured() -> None:
    """Every hour, while another member is there."""
    together, alone = _steady(0), _steady(0)
    alone.sync._view.set_status(IDS[1], "dead")

    def noted(place: Place) -> list[Any]:
        effects = place.sync.handle(TimerFired(("intents", "housekeeping")), at(LONG_S + 5))
        return [effect for effect in effects if isinstance(effect, Save | Erase)]

    assert [effect.table for effect in noted(together)] == [CONTACT_TABLE]
    assert noted(alone) == []
    assert TABLE in together.sync.tables
