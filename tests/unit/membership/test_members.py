"""What changes a node's opinion of a member, and what does not."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.effects import Cancel, Effects, Notify, Schedule, Send
from beemesh.events import EmitEvent, MemberDown, MemberLeft, MemberUp, Observed
from beemesh.identity.grants import Revocation
from beemesh.identity.membership_card import GRACE_MS
from beemesh.intents.record import Intent, node_key, revoked_key
from beemesh.membership.claims import ClaimDesk, size_of
from beemesh.membership.members import ASKED_AROUND, STALL_S, Members
from beemesh.membership.messages import Claim
from beemesh.membership.rumours import GOSSIP_BYTES_MAX
from beemesh.membership.summaries import Summary
from beemesh.membership.suspicion import ACCUSATION_AGE_MAX_MS, ACCUSATION_BURST, REFUTATION_BURST
from tests.unit.membership.cast import (
    CA,
    IDS,
    KEYS,
    MESH,
    STRANGER,
    WALL_MS,
    alive,
    at,
    leave,
    membership,
    roster,
    suspect,
    table,
    told,
    told_kinds,
)


def _meshed(size: int = 5) -> Members:
    """A table in which all others live at incarnation 1."""
    members = table(size)
    for index in range(1, size):
        members.take(alive(index, 1), at(0))
    return members


def _due(members: Members, index: int, from_s: float, until_s: float) -> float | None:
    """Answer the suspicion timers of one member until it is judged dead; when that was."""
    timer_s = from_s
    while timer_s <= until_s:
        effects = members.suspicion_due(IDS[index], at(timer_s))
        if MemberDown(IDS[index]) in told(effects):
            return timer_s
        following = [effect.at_boot_s for effect in effects if isinstance(effect, Schedule)]
        if not following:
            return None
        timer_s = max(following[0], timer_s + 1e-6)
    return None


def _look_s(effects: Effects) -> float:
    """When the next look at a suspect is due."""
    return max((effect.at_boot_s for effect in effects if isinstance(effect, Schedule)), default=0.0)


def test_a_signed_alive_makes_a_member_alive() -> None:
    """Its own word is enough, and it is passed on."""
    members = table()
    effects = members.take(alive(1, 1, host="192.168.7.7"), at(0))

    assert told(effects) == [MemberUp(IDS[1])]
    assert members.view.is_alive(IDS[1])
    assert members.view.address(IDS[1]) == ("192.168.7.7", 7946)
    assert members.rumours.get(("alive", IDS[1], b"")) is not None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "10.1.2.3",
        "fd00::5",
        "::ffff:10.1.2.3",
        "fe80::1%eth0.100",
        "node-1",
        "node_1.lan.",
        f"{'a' * 63}.example",
        ".".join(["a" * 63] * 3 + ["a" * 61]),
    ],
)
def test_a_member_says_itself_where_it_is_reached(host: str) -> None:
    """By an IP address, also one of a link; by a name, up to the longest; or not at all, and its card tells."""
    members = table()

    assert told(members.take(alive(1, 1, host=host), at(0))) == [MemberUp(IDS[1])]
    assert members.view.address(IDS[1]) == (host or "10.0.0.1", 7946)


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".a",
        ".",
        "a" * 64,
        f"{'a' * 64}.example",
        ".".join(["a" * 63] * 3 + ["a" * 62]),
        "a\0b",
        "a b",
        "a\n",
        "fe80::1%a\0b",
        "fe80::1%",
        "fe80::1%" + "a" * 16,
        "[fd00::5]",
        "10.1.2.3:7946",
        "q\u00e4" * 60,
    ],
)
def test_a_host_that_no_resolver_takes_is_not_believed(host: str) -> None:
    """Looking it up would raise where the member is asked: the claim is refused, and its last address stays."""
    members = _meshed()
    before = members.view.address(IDS[1])
    refused = Notify(Observed("swim_claims_refused", {"reason": "shape"}))

    assert members.take(alive(1, 2, host=host), at(1)) == [refused]
    assert members.view.address(IDS[1]) == before


def test_nobody_speaks_for_another() -> None:
    """A claim that its author did not sign changes nothing, whoever relays it."""
    members = _meshed()
    for forged in (alive(1, 9, by=KEYS[2]), leave(1, 9, by=KEYS[2]), suspect(2, 1, by=KEYS[3])):
        assert told_kinds(members.take(forged, at(1))) == []

    assert members.view.status(IDS[1]) == "alive"
    assert members.get(IDS[1]).incarnation == 1  # type: ignore[union-attr]


def test_a_stale_incarnation_changes_nothing() -> None:
    """An old Alive does not undo a leave, nor a newer address."""
    members = _meshed()
    members.take(alive(1, 5, host="new"), at(1))
    members.take(alive(1, 4, host="old"), at(2))
    assert members.view.address(IDS[1]) == ("new", 7946)

    assert told(members.take(leave(1, 5), at(3))) == [MemberLeft(IDS[1])]
    for stale in (4, 5):
        members.take(alive(1, stale), at(4))
        assert members.view.status(IDS[1]) == "left"

    assert told(members.take(alive(1, 6), at(5))) == [MemberUp(IDS[1])]


def test_garbage_is_refused() -> None:
    """A claim of no known kind, or with a body of another shape, is counted and forgotten."""
    members = _meshed()
    for claim in (
        Claim("alive", b"\xc1", bytes(64)),
        Claim("alive", b"x" * 5_000, b""),
        alive(1, 0),
        alive(1, 1 << 63),
    ):
        assert told_kinds(members.take(claim, at(1))) == []
    assert members.get(IDS[1]).incarnation == 1  # type: ignore[union-attr]


def test_two_accusers_bring_death_within_the_bounds() -> None:
    """With the second accuser the time shrinks; with the third it is the shortest."""
    for accusers, latest_s in (((1, 2), 12.0), ((1, 2, 3), 4.1)):
        members = _meshed(6)
        for accuser in accusers:
            members.take(suspect(accuser, 4, at_s=1), at(1))
        assert members.view.status(IDS[4]) == "suspect"

        died_s = _due(members, 4, 1.0, 30.0)

        assert died_s is not None
        assert 5.0 <= died_s <= 1.0 + latest_s
        assert members.view.status(IDS[4]) == "dead"


def test_one_accuser_cannot_kill() -> None:
    """However long and often a single member accuses, nobody dies of it; afterwards the suspicion is dropped."""
    members = _meshed(5)
    for second in range(1, 60):
        members.take(suspect(1, 4, at_s=second), at(second))
        members.suspicion_due(IDS[4], at(second))

    assert _due(members, 4, 60.0, 200.0) is None
    assert members.view.is_alive(IDS[4])


def test_an_accuser_has_a_budget() -> None:
    """One that accuses everybody at once is believed a few times, no more."""
    members = _meshed(8)
    counted = 0
    for incarnation in range(1, 10):
        for accused in range(2, 8):
            members.take(alive(accused, incarnation), at(1))
            members.take(suspect(1, accused, incarnation, at_s=1), at(1))
            counted += members.view.status(IDS[accused]) == "suspect"

    assert counted == ACCUSATION_BURST


def test_a_forged_accusation_costs_the_accuser_nothing() -> None:
    """Whatever is said in its name, by whomever: what it signs itself counts, as often as it may accuse."""
    members = _meshed(12)
    for _ in range(10 * ACCUSATION_BURST):
        members.take(suspect(1, 2, at_s=1, by=KEYS[3]), at(1), IDS[3])
    for accused in range(2, 2 + ACCUSATION_BURST):
        members.take(suspect(1, accused, at_s=1), at(1), IDS[1])

    assert [members.view.status(IDS[index]) for index in range(2, 2 + ACCUSATION_BURST)] == ["suspect"] * 8


def test_nothing_is_remembered_of_who_is_no_member() -> None:
    """Accusations in the name of nobody known leave no trace: when its card comes, its accusations count."""
    members = _meshed(4)
    for number in range(10 * ACCUSATION_BURST):
        members.take(suspect(6, 1 + number % 3, at_s=1), at(1), IDS[3])
    members.roster.apply(membership(6))
    members.take(suspect(6, 1, at_s=1), at(1), IDS[3])

    assert members.view.status(IDS[1]) == "suspect"


def test_an_accusation_heard_again_is_paid_for_once() -> None:
    """Gossip brings each one through many members: it is charged once, and past the budget not verified."""
    members = _meshed(12)
    for accused in range(2, 2 + ACCUSATION_BURST):
        for relay in range(1, 12):
            members.take(suspect(1, accused, at_s=1), at(1), IDS[relay])
    assert [members.view.status(IDS[index]) for index in range(2, 2 + ACCUSATION_BURST)] == ["suspect"] * 8

    beyond = members.take(suspect(1, 11, at_s=1, by=KEYS[3]), at(1), IDS[3])

    assert told(beyond) == [Observed("swim_claims_refused", {"reason": "budget"})]


def test_contact_beats_accusations() -> None:
    """Whoever still reaches the accused ignores its accusers."""
    members = _meshed(5)
    for accuser in (1, 2, 3):
        members.take(suspect(accuser, 4, at_s=1), at(1))
    members.hear(IDS[4], at(2))

    assert members.view.status(IDS[4]) == "alive"
    assert _due(members, 4, 5.0, 60.0) is None


def test_contact_brings_back_the_dead() -> None:
    """A member that speaks to us lives, whatever we judged."""
    members = _meshed(5)
    for accuser in (1, 2, 3):
        members.take(suspect(accuser, 4, at_s=1), at(1))
    assert _due(members, 4, 5.0, 60.0) is not None

    assert told(members.hear(IDS[4], at(70))) == [MemberUp(IDS[4])]


def test_an_old_alive_does_not_bring_back_the_dead() -> None:
    """Replaying what a dead node said before it died changes nothing; its next incarnation does."""
    members = _meshed(5)
    for accuser in (1, 2, 3):
        members.take(suspect(accuser, 4, at_s=1), at(1))
    _due(members, 4, 5.0, 60.0)

    members.take(alive(4, 1), at(70))
    assert members.view.status(IDS[4]) == "dead"
    members.take(alive(4, 2), at(71))
    assert members.view.status(IDS[4]) == "alive"


def test_a_refutation_ends_the_suspicion() -> None:
    """The accused says at a higher incarnation that it lives; accusations of the lower one count no more."""
    members = _meshed(5)
    members.take(suspect(1, 4, at_s=1), at(1))
    members.take(alive(4, 2), at(2))
    members.take(suspect(2, 4, at_s=2), at(2))

    assert members.view.status(IDS[4]) == "alive"


def test_accusations_are_for_now() -> None:
    """One from minutes ago, or one at an incarnation that its subject never signed, is nobody's suspicion."""
    members = _meshed(5)
    old_s = ACCUSATION_AGE_MAX_MS / 1000 + 1
    members.take(suspect(1, 4, at_s=0), at(old_s))
    members.take(suspect(2, 4, incarnation=7, at_s=old_s), at(old_s))

    assert members.view.status(IDS[4]) == "alive"


def test_this_node_refutes_what_is_said_of_it() -> None:
    """Suspected at its own incarnation, it speaks at the next; a forged or invented accusation moves nothing."""
    members = _meshed()
    members.take(suspect(1, 0, incarnation=1, by=KEYS[2]), at(1))
    members.take(suspect(1, 0, incarnation=50), at(1))
    assert members.own.incarnation == 1

    members.take(suspect(1, 0, incarnation=1), at(1))

    assert members.own.incarnation == 2
    assert members.health.score == 1
    assert members.rumours.get(("alive", IDS[0], b"")) == members.own.claim


def test_one_accuser_costs_the_accused_little() -> None:
    """It can name all our next incarnations in one message: few of them are refuted, and one point of health is lost
    for them; every other accuser costs its own point, as Lifeguard has it."""
    members = _meshed()
    for second in range(1, 60):
        for _ in range(20):
            members.take(suspect(1, 0, members.own.incarnation, at_s=second), at(second))
    assert members.own.incarnation <= 1 + REFUTATION_BURST + 60
    assert members.health.score == 1

    for accuser in (2, 3):
        members.take(suspect(accuser, 0, members.own.incarnation, at_s=60), at(60))
    assert members.health.score == 3


def test_what_an_accuser_says_of_others_keeps_nobody_from_refuting_it() -> None:
    """A liar that has no accusation of others left here may have one elsewhere, and names us there."""
    members = _meshed(12)
    for accused in range(2, 12):
        members.take(suspect(1, accused, at_s=1), at(1))

    members.take(suspect(1, 0, at_s=1), at(1))

    assert members.own.incarnation == 2


def test_an_accusation_past_the_budget_is_not_verified() -> None:
    """Whatever is said in a name that was heard too often costs no signature check."""
    members = _meshed()
    for _ in range(REFUTATION_BURST):
        members.take(suspect(1, 0, members.own.incarnation, at_s=1), at(1))

    forged = members.take(suspect(1, 0, members.own.incarnation, at_s=1, by=KEYS[3]), at(1), IDS[3])

    assert told(forged) == [Observed("swim_claims_refused", {"reason": "budget"})]


def test_our_own_earlier_life_is_outbid() -> None:
    """After a restart the mesh may still hold our former word: ours becomes the higher one, once per second at most."""
    members = table()
    members.take(alive(0, 40, boot=9), at(1))
    assert members.own.incarnation == 41

    members.take(alive(0, 60, boot=9), at(1.5))
    assert members.own.incarnation == 41


def test_two_agents_with_one_identity_are_reported() -> None:
    """A boot id that comes back after another took its place lives beside it: boot ids are never used again."""
    members = _meshed()
    for incarnation, boot in ((2, 2), (3, 3)):
        assert told_kinds(members.take(alive(1, incarnation, boot=boot), at(incarnation))) == []

    events = [event for event in told(members.take(alive(1, 4, boot=2), at(4))) if isinstance(event, EmitEvent)]

    assert [event.event.status for event in events] == ["IdentityCloned"]
    assert events[0].event.details == {"node": "n1"}
    assert told_kinds(members.take(alive(1, 5, boot=3), at(5))) == []


def test_standing_still_accuses_nobody() -> None:
    """A suspicion whose timer fires much too late starts again: what happened meanwhile was never heard."""
    members = _meshed(5)
    for accuser in (1, 2, 3):
        members.take(suspect(accuser, 4, at_s=1), at(1))
    woke_s = 3_600.0

    assert _due(members, 4, woke_s, woke_s) is None
    assert members.view.status(IDS[4]) == "suspect"
    assert members.health.score == 1
    assert _due(members, 4, woke_s + 4.0 + STALL_S / 2, woke_s + 10) is not None


def test_a_summary_is_written_by_its_owner_alone_and_the_newest_stands() -> None:
    """Another's signature, or an older number, changes nothing."""
    members = _meshed()

    def claim(seq: int, by: int) -> Claim:
        return ClaimDesk(KEYS[by], roster(0)).sign("summary", Summary(IDS[1], seq, WALL_MS, pods_running=seq))

    for seq, by in ((5, 1), (4, 1), (9, 2)):
        members.take(claim(seq, by), at(1))

    summary = members.view.summary(IDS[1])
    assert summary is not None
    assert summary.pods_running == 5


def test_who_leaves_the_roster_is_forgotten() -> None:
    """A removed member is down for all who care, and its claims are no longer heard or told."""
    members = _meshed()
    members.roster.apply(Intent(MESH, "tombstone", node_key("n1"), 2, CA.signer_id, 0))

    assert told(members.follow_roster()) == [MemberDown(IDS[1])]
    assert members.view.status(IDS[1]) == "unknown"
    assert members.rumours.get(("alive", IDS[1], b"")) is None
    assert told(members.take(alive(1, 7), at(9))) == []


def _revoked(members: Members, index: int) -> Effects:
    revocation = Revocation(MESH, "node", IDS[index], f"n{index}", 0)
    body = msgspec.msgpack.encode(revocation)
    members.roster.apply(Intent(MESH, "revocation", revoked_key("node", IDS[index]), 1, CA.signer_id, 0, body))
    return members.follow_roster()


def test_an_accuser_that_is_revoked_does_not_count_any_more() -> None:
    """Two accusers bring death; when one of them is revoked meanwhile, the other alone does not, and nobody is told of
    the revoked one's word."""
    members = _meshed(6)
    for accuser in (1, 2):
        members.take(suspect(accuser, 4, at_s=1), at(1))
    _revoked(members, 1)

    assert members.rumours.get(("suspect", IDS[4], IDS[1])) is None
    assert members.rumours.get(("suspect", IDS[4], IDS[2])) is not None
    assert _due(members, 4, 1.0, 60.0) is None
    assert members.view.status(IDS[4]) == "alive"


def test_a_suspicion_without_accusers_is_over() -> None:
    """The only accuser was revoked: its suspect is none at once, and two others can accuse it anew."""
    members = _meshed(6)
    members.take(suspect(1, 4, at_s=1), at(1))
    effects = _revoked(members, 1)

    assert Cancel(("swim", "suspicion", IDS[4])) in effects
    assert members.view.status(IDS[4]) == "alive"
    for accuser in (2, 3):
        members.take(suspect(accuser, 4, at_s=2), at(2))
    assert _due(members, 4, 2.0, 60.0) is not None


def test_the_dead_stay_dead_when_their_accuser_is_revoked() -> None:
    """Only contact, or their own word, brings them back."""
    members = _meshed(6)
    for accuser in (1, 2):
        members.take(suspect(accuser, 4, at_s=1), at(1))
    assert _due(members, 4, 1.0, 60.0) is not None
    for accuser in (1, 2):
        _revoked(members, accuser)

    assert members.view.status(IDS[4]) == "dead"
    assert told(members.take(alive(4, 2), at(70))) == [MemberUp(IDS[4])]


def test_who_is_past_its_grace_has_no_word() -> None:
    """Neither of itself nor of others, whoever passes it on; with a new card it counts again."""
    members = _meshed(6)
    word = ClaimDesk(KEYS[1], roster(0)).sign("summary", Summary(IDS[1], 9, WALL_MS))
    claims = (alive(1, 9), word, suspect(1, 4), leave(1, 9))
    members.roster.apply(membership(1, 2, not_after_ms=WALL_MS - GRACE_MS))
    for claim in claims:
        members.take(claim, at(1), IDS[2])

    assert members.get(IDS[1]).incarnation == 1  # type: ignore[union-attr]
    assert members.view.summary(IDS[1]) is None
    assert [members.view.status(IDS[index]) for index in (1, 4)] == ["alive", "alive"]

    members.roster.apply(membership(1, 3, not_after_ms=WALL_MS))
    for claim in claims:
        members.take(claim, at(1), IDS[2])

    assert members.view.summary(IDS[1]) is not None
    assert [members.view.status(IDS[index]) for index in (1, 4)] == ["left", "suspect"]


def test_strangers_are_nobody() -> None:
    """Without a card no claim counts, and no accusation either."""
    members = _meshed(3)
    for claim in (alive(6, 1), suspect(6, 1), leave(6, 1), suspect(1, 6)):
        assert told_kinds(members.take(claim, at(1))) == []

    assert members.view.status(IDS[1]) == "alive"
    assert members.hear(STRANGER.signer_id, at(1)) == []  # type: ignore[arg-type]


def test_who_wonders_asks_around_in_time() -> None:
    """A third accusation would end the wait: whoever did not hear one asks others, so that the answers are there when
    the shortest time is over, and goes on asking every probe interval."""
    members = _meshed(6)
    members.take(suspect(1, 5, at_s=1), at(1))
    set_for = _look_s(members.take(suspect(2, 5, at_s=1), at(1)))
    assert set_for == pytest.approx(4.0)

    for second in (4, 5, 6):
        effects = members.suspicion_due(IDS[5], at(second))
        asked = [each for each in effects if isinstance(each, Send)]
        assert len({each.to for each in asked}) == ASKED_AROUND
        assert all(each.message.asks == (IDS[5],) and len(each.message.claims) == 2 for each in asked)
        assert IDS[5] not in {each.to for each in asked}
        assert _look_s(effects) == pytest.approx(second + 1)


def test_who_missed_an_accusation_judges_with_the_others() -> None:
    """One that gossip passed by, of a member that died, learns of it from whoever knows more, and is no slower."""
    mine, theirs = _meshed(6), _meshed(6)
    for accuser in (1, 2, 3):
        theirs.take(suspect(accuser, 5, at_s=1), at(1))
    for accuser in (1, 2):
        mine.take(suspect(accuser, 5, at_s=1), at(1))
    assert _due(theirs, 5, 4.0, 40.0) == pytest.approx(5.0)

    question = next(each for each in mine.suspicion_due(IDS[5], at(4)) if isinstance(each, Send))
    looks_s = [_look_s(mine.take(claim, at(4.1))) for claim in theirs.known_of(question.message.asks, IDS[0], at(4.05))]

    assert _due(mine, 5, max(looks_s), 40.0) == pytest.approx(5.0, abs=0.2)


def test_who_wonders_hears_that_the_suspect_lives() -> None:
    """The answer brings the last word of the suspect itself, which ends the suspicion, and it fits a datagram."""
    mine, theirs = _meshed(6), _meshed(6)
    for accuser in (1, 2, 3):
        mine.take(suspect(accuser, 5, at_s=1), at(1))
    theirs.take(alive(5, 2), at(2))
    theirs.take(suspect(1, 5, 2, at_s=3), at(3))

    known = theirs.known_of((IDS[5], *IDS[1:5]), IDS[0], at(4))
    for claim in known:
        mine.take(claim, at(4))

    assert known[0] == alive(5, 2)
    assert sum(map(size_of, known)) <= GOSSIP_BYTES_MAX
    suspicion = mine.get(IDS[5]).suspicion  # type: ignore[union-attr]
    assert suspicion is not None
    assert (suspicion.since_s, list(suspicion.accusers)) == (4.0, [IDS[1]])  # of what was said since


def test_an_accusation_is_repeated_while_there_is_no_verdict() -> None:
    """Every further failed probe says it again: whoever missed it gets another chance to hear it."""
    members = _meshed(5)
    member = members.get(IDS[4])
    assert member is not None
    members.accuse(member, at(1))
    while members.rumours.take(members.retransmits):
        pass
    members.accuse(member, at(3))

    assert members.rumours.get(("suspect", IDS[4], IDS[0])) is not None


def test_further_accusers_are_not_passed_on() -> None:
    """Three accusers are told of; a fourth changes nothing, neither another's word nor our own."""
    members = table(8)
    for index in range(1, 8):
        members.take(alive(index, 1), at(0))
    for accuser in (1, 2, 3, 5):
        members.take(suspect(accuser, 4, at_s=1), at(1))
    member = members.get(IDS[4])
    assert member is not None
    members.accuse(member, at(1))

    told_of = [claim for claim in members.rumours.take(100, budget_bytes=10_000) if claim.kind == "suspect"]
    assert len(told_of) == 3
    assert member.suspicion is not None
    assert set(member.suspicion.accusers) == {IDS[1], IDS[2], IDS[3]}
