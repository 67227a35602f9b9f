"""When a node probes, asks for help, answers, joins and leaves; and that every message fits its datagram."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beemesh.effects import Answered, Asked, Effects, Notify, Received, Reply, Request, Schedule, Send, TimerFired
from beemesh.events import EmitEvent, FloorWanted, IntentChanged, LeaveMesh, MemberUp, Observed, PingEchoed, PutIntent
from beemesh.ids import BootId, NodeId
from beemesh.intents.messages import FetchMembers, IntentRecords
from beemesh.intents.record import Intent, node_key
from beemesh.membership.claims import COUNTER_MAX, FORGERIES_BURST, ClaimDesk, decode
from beemesh.membership.exchange import CLAIMS_PER_ANSWER_MAX, CLAIMS_PER_MESSAGE_MAX, KNOWN_MAX
from beemesh.membership.local_health import SCORE_MAX
from beemesh.membership.messages import (
    Ack,
    Alive,
    Claim,
    Claims,
    Known,
    Leave,
    Nack,
    Ping,
    PingReq,
    PushPull,
    PushPullAnswer,
    Suspect,
)
from beemesh.membership.summaries import SUMMARY_BODY_BYTES_MAX, Summary
from beemesh.membership.suspicion import ACCUSATION_BURST, REFUTATION_BURST
from beemesh.membership.swim import PROBES_OPEN_MAX, RELAYS_BURST, RELAYS_PER_PROBE, Swim
from beemesh.membership.view import View
from beemesh.wire.datagram import BODY_BYTES_MAX
from beemesh.wire.framing import FRAME_BYTES_MAX
from tests.unit.membership.cast import (
    CA,
    IDS,
    KEYS,
    MESH,
    WALL_MS,
    alive,
    at,
    leave,
    membership,
    roster,
    signed_card,
    suspect,
    told,
)


def _swim(size: int = 4, *, started: bool = True, self_index: int = 0) -> Swim:
    """Member 0, or another, of a mesh of that size; all others have echoed when it is `started`."""
    known = roster(size)
    swim = Swim(
        IDS[self_index],
        BootId(bytes(16)),
        ("10.0.0.0", 7946),
        signed_card(self_index),
        roster=known,
        view=View(IDS[self_index], known),
        crypto=KEYS[self_index],
        randomness=random.Random(3),
        new_request_id=itertools.count(1).__next__,
    )
    swim.start(at(0))
    if started:
        for index in (each for each in range(size) if each != self_index):
            ping = _sent(swim.handle(FloorWanted(IDS[index]), at(0)), Ping)[0][1]
            swim.handle(Received(IDS[index], Ack(ping.nonce, (alive(index, 1),))), at(0.01))
    return swim


def _emptied(swim: Swim) -> None:
    """Let it tell all that it has to tell."""
    while swim.members.rumours.take(swim.members.retransmits):
        pass


def _sent(effects: Effects, kind: type[Any]) -> list[tuple[bytes, Any]]:
    return [(each.to, each.message) for each in effects if isinstance(each, Send) and isinstance(each.message, kind)]


def _timers(effects: Effects) -> dict[Any, float]:
    return {effect.key: effect.at_boot_s for effect in effects if isinstance(effect, Schedule)}


def _probe(swim: Swim, at_s: float) -> tuple[int, Ping, dict[Any, float]]:
    effects = swim.handle(TimerFired(("swim", "probe")), at(at_s))
    ((target, ping),) = _sent(effects, Ping)
    return IDS.index(target), ping, _timers(effects)  # type: ignore[arg-type]


def test_everybody_is_probed_once_per_round() -> None:
    """Round robin: detection time is bounded, not a matter of luck."""
    swim = _swim(6)
    for start_s in (1, 6):
        targets = []
        for second in range(start_s, start_s + 5):
            target, ping, _ = _probe(swim, second)
            swim.handle(Received(IDS[target], Ack(ping.nonce)), at(second + 0.01))
            targets.append(target)
        assert sorted(targets) == [1, 2, 3, 4, 5]


def test_everybody_is_probed_by_one_other_in_every_interval() -> None:
    """By the wall clock all move on together, so that no dead node waits long for its first probe."""
    swims = [_swim(6, self_index=index) for index in range(6)]
    for second in range(1, 8):
        assert sorted(_probe(swim, second + 0.15 * place)[0] for place, swim in enumerate(swims)) == list(range(6))


def test_a_probe_within_the_same_interval_goes_to_the_next_one() -> None:
    """A clock that stands still, or timers that are early, keep nobody from being probed."""
    swim = _swim(6)
    assert sorted(_probe(swim, 1.0)[0] for _ in range(5)) == [1, 2, 3, 4, 5]


PACE = st.tuples(st.integers(0, SCORE_MAX), st.sampled_from([0.0, 0.9, 1.9]))


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 14), st.lists(PACE, min_size=1, max_size=6))
@example(10, [(2, 0.0)])
@example(5, [(0, 0.9)])
@example(4, [(0, 0.0), (1, 0.0)])
def test_whoever_is_unwell_or_late_probes_everybody_in_turn(size: int, paces: list[tuple[int, float]]) -> None:
    """However its probes are stretched and how late its timers come, again and again: it passes by nobody for two
    rounds; one that stays unwell for none; and once it is well it is in step with the others after a round."""
    swim = _swim(size)
    due_s, targets = 1.0, []
    for score, late_s in itertools.islice(itertools.cycle(paces), 6 * size):
        swim.members.health.score = score
        target, _, timers = _probe(swim, due_s + late_s)
        targets.append(target)
        due_s = timers["swim", "probe"]
    rounds = 1 if all(score for score, _ in paces) else 2
    window = rounds * (size - 1)
    assert all(len(set(targets[first:][:window])) == size - 1 for first in range(1, len(targets) - window))

    swim.members.health.score = 0
    other = _swim(size, self_index=1)
    for second in range(size):
        mine, theirs = _probe(swim, int(due_s) + 1 + second)[0], _probe(other, int(due_s) + 1 + second)[0]
    order = sorted(range(size), key=lambda index: IDS[index])
    assert (order.index(mine) - order.index(0)) % size == (order.index(theirs) - order.index(1)) % size


def test_who_asks_about_a_member_is_answered() -> None:
    """The answer is the member's last word and all accusations; who asks of nobody known is not."""
    swim = _swim(6)
    for accuser in (1, 2, 3):
        swim.handle(Received(IDS[accuser], Claims((suspect(accuser, 5, at_s=1),))), at(1))

    ((to, answer),) = _sent(swim.handle(Received(IDS[4], Claims((), (IDS[5],))), at(2)), Claims)
    assert to == IDS[4]
    assert [claim.kind for claim in answer.claims] == ["alive", "suspect", "suspect", "suspect"]
    assert _sent(swim.handle(Received(IDS[4], Claims((), (b"nobody",))), at(2)), Claims) == []  # type: ignore[arg-type]


def test_what_goes_to_the_dead_is_not_told() -> None:
    """News on a ping to a suspect, or to a dead member, may reach nobody: they stay to be told as often as before."""
    swim = _swim(6)
    _emptied(swim)
    swim.handle(Received(IDS[1], Claims((suspect(1, 5, at_s=1),))), at(1))
    swim.handle(TimerFired(("swim", "gossip")), at(1.1))
    for second in range(2, 40):
        swim.handle(FloorWanted(IDS[5]), at(second))

    assert swim.members.rumours.get(("suspect", IDS[5], IDS[1])) is not None


def test_an_echo_of_our_own_nonce_sets_the_floor_and_the_round_trip() -> None:
    """Only the member that was asked can echo, and only what was asked."""
    swim = _swim(3, started=False)
    ping = _sent(swim.handle(FloorWanted(IDS[1]), at(0)), Ping)[0][1]

    assert PingEchoed(IDS[2]) not in told(swim.handle(Received(IDS[2], Ack(ping.nonce)), at(0.01)))
    assert PingEchoed(IDS[1]) not in told(swim.handle(Received(IDS[1], Ack(bytes(8))), at(0.01)))
    effects = swim.handle(Received(IDS[1], Ack(ping.nonce)), at(0.02))
    assert PingEchoed(IDS[1]) in told(effects)
    assert PingEchoed(IDS[1]) not in told(swim.handle(Received(IDS[1], Ack(ping.nonce)), at(0.03)))


def test_a_failed_probe_is_repeated_through_others_and_then_accused() -> None:
    """500 ms for the echo, then three helpers, and an accusation at the end of the interval."""
    swim = _swim(6)
    target, ping, timers = _probe(swim, 1.0)
    assert timers["swim", "direct", ping.nonce] == 1.5

    helpers = _sent(swim.handle(TimerFired(("swim", "direct", ping.nonce)), at(1.5)), PingReq)
    assert len(helpers) == 3
    assert all(request.target == IDS[target] and to != IDS[target] for to, request in helpers)
    swim.handle(TimerFired(("swim", "over", ping.nonce)), at(2.0))

    assert swim.members.view.status(IDS[target]) == "suspect"
    claim = swim.members.rumours.get(("suspect", IDS[target], IDS[0]))
    assert claim is not None
    assert decode(claim) == Suspect(IDS[0], IDS[target], 1, WALL_MS + 2000)


def test_a_helpers_word_saves_the_target() -> None:
    """One helper that reaches the target is enough: it lives."""
    swim = _swim(6)
    target, ping, _ = _probe(swim, 1.0)
    (helper, _), *_ = _sent(swim.handle(TimerFired(("swim", "direct", ping.nonce)), at(1.5)), PingReq)
    swim.handle(Received(helper, Ack(ping.nonce)), at(1.6))  # type: ignore[arg-type]
    swim.handle(TimerFired(("swim", "over", ping.nonce)), at(2.0))

    assert swim.members.view.status(IDS[target]) == "alive"


def test_a_bystander_cannot_save_the_target() -> None:
    """An echo from a node that was not asked for help counts for nothing."""
    swim = _swim(6)
    target, ping, _ = _probe(swim, 1.0)
    helpers = {to for to, _ in _sent(swim.handle(TimerFired(("swim", "direct", ping.nonce)), at(1.5)), PingReq)}
    bystander = next(node for node in IDS[1:6] if node not in helpers and node != IDS[target])
    swim.handle(Received(bystander, Ack(ping.nonce)), at(1.6))
    swim.handle(TimerFired(("swim", "over", ping.nonce)), at(2.0))

    assert swim.members.view.status(IDS[target]) == "suspect"


def test_a_probe_whose_end_comes_late_accuses_nobody() -> None:
    """After a pause of this machine the echo may wait in a queue of ours: local health pays, not the target."""
    swim = _swim(6)
    target, ping, _ = _probe(swim, 1.0)
    swim.handle(TimerFired(("swim", "over", ping.nonce)), at(60.0))

    assert swim.members.view.status(IDS[target]) == "alive"
    assert swim.members.health.score == 1


def test_bad_health_stretches_the_probes() -> None:
    """A node that is unwell itself asks more slowly and waits longer."""
    swim = _swim(6)
    swim.members.health.score = 2
    _, ping, timers = _probe(swim, 1.0)

    assert timers["swim", "probe"] == 4.0
    assert timers["swim", "direct", ping.nonce] == 2.5
    assert timers["swim", "over", ping.nonce] == 4.0


def test_a_helper_pings_and_reports() -> None:
    """It forwards the echo with the asker's nonce, and says in time that it is well when there is none."""
    swim = _swim(4)
    effects = swim.handle(Received(IDS[1], PingReq(b"8 bytes!", IDS[2])), at(1.0))
    ((to, ping),) = _sent(effects, Ping)
    assert (to, ping.nonce != b"8 bytes!") == (IDS[2], True)

    nacked = _sent(swim.handle(TimerFired(("swim", "nack", ping.nonce)), at(1.4)), Nack)
    assert nacked == [(IDS[1], Nack(b"8 bytes!"))]
    echoed = swim.handle(Received(IDS[2], Ack(ping.nonce)), at(1.45))
    assert (IDS[1], Ack(b"8 bytes!")) in _sent(echoed, Ack)


def test_one_member_has_few_pings_made_for_it() -> None:
    """However often it asks: a helper's pings are its own, at the target's rate. Others are helped meanwhile, and so is
    it again later."""
    swim = _swim(6)
    made = 0
    for asked in range(1_000):
        request = PingReq(asked.to_bytes(8, "big"), IDS[2])
        made += len(_sent(swim.handle(Received(IDS[1], request), at(1.0 + asked / 100)), Ping))
    assert made <= RELAYS_BURST + 10 * RELAYS_PER_PROBE

    for asker, at_s in ((3, 11.0), (1, 12.0)):
        assert _sent(swim.handle(Received(IDS[asker], PingReq(bytes(8), IDS[2])), at(at_s)), Ping)


@pytest.mark.parametrize("own", [False, True])
def test_what_is_done_for_others_displaces_no_probe_of_our_own(own: bool) -> None:
    """Where nothing more can be open, a relayed ping goes, the oldest, or else one of our own that accuses nobody: a
    node that loses its probes notices no death."""
    swim = _swim(70)
    target, ping, _ = _probe(swim, 1.0)
    others = [index for index in range(1, 70) if index != target]
    for number in range(PROBES_OPEN_MAX + 100):
        other = IDS[others[number % len(others)]]
        event = FloorWanted(other) if own else Received(other, PingReq(number.to_bytes(8, "big"), IDS[target]))
        assert _sent(swim.handle(event, at(1.0 + number // len(others) / 4)), Ping)
    swim.handle(TimerFired(("swim", "over", ping.nonce)), at(2.0))

    assert swim.members.view.status(IDS[target]) == "suspect"


def test_the_suspect_hears_of_it_in_the_very_ping() -> None:
    """Lifeguard's buddy: the ping to a suspect carries the accusation."""
    swim = _swim(4)
    accusation = suspect(1, 2)
    effects = swim.handle(Received(IDS[1], Claims((accusation,))), at(1))
    verifying = dict(_sent(effects, Ping))

    assert accusation in verifying[IDS[2]].claims


def test_a_ping_from_a_boot_that_never_echoed_proves_nothing() -> None:
    """It may be a recording: it is answered, but nobody comes alive by it."""
    swim = _swim(3, started=False)
    effects = swim.handle(Received(IDS[1], Ping(b"8 bytes!")), at(1))

    assert _sent(effects, Ack)
    assert swim.members.view.status(IDS[1]) == "unknown"


def test_an_answer_from_a_boot_that_never_echoed_proves_nothing_unless_we_asked() -> None:
    """An Ack or a Nack to nothing that is open may be a recording as well: nobody comes alive by it, also not when it
    says what we once asked another one. The answer to our own ping does it."""
    swim = _swim(4, started=False)
    ping = _sent(swim.handle(FloorWanted(IDS[1]), at(0)), Ping)[0][1]

    for answer in (Ack(b"recorded"), Nack(b"recorded"), Ack(ping.nonce), Ping(ping.nonce)):
        swim.handle(Received(IDS[2], answer), at(0.01))
        assert swim.members.view.status(IDS[2]) == "unknown"

    swim.handle(Received(IDS[1], Ack(ping.nonce)), at(0.02))
    assert swim.members.view.status(IDS[1]) == "alive"


def test_whoever_echoed_is_heard_also_when_its_answer_is_late() -> None:
    """Its boot is known, so nothing of it is a recording: an echo after the end of its probe still proves that it
    lives."""
    swim = _swim(6)
    target, ping, _ = _probe(swim, 1.0)
    swim.handle(TimerFired(("swim", "over", ping.nonce)), at(2.0))
    assert swim.members.view.status(IDS[target]) == "suspect"

    swim.handle(Received(IDS[target], Ack(ping.nonce)), at(2.1))
    assert swim.members.view.status(IDS[target]) == "alive"


def test_a_joiner_is_answered_with_all_that_is_known() -> None:
    """Its card goes to the intent map, its claims are taken, and it gets every claim that it lacks."""
    swim = _swim(4)
    claim = alive(1, 9)
    effects = swim.handle(Asked(IDS[1], 7, PushPull((), (claim,), (signed_card(1),))), at(1))

    assert PutIntent(signed_card(1)) in told(effects)
    (reply,) = [effect.message for effect in effects if isinstance(effect, Reply)]
    assert isinstance(reply, PushPullAnswer)
    known = [statement for statement in map(decode, reply.claims) if isinstance(statement, Alive)]
    assert {statement.node_id for statement in known} == set(IDS[:4])


def test_a_lone_node_goes_on_looking_for_the_others() -> None:
    """Until somebody answers, a few members are asked again and again, and the first answer joins."""
    swim = _swim(5, started=False)
    for second in (0, 100):
        effects = swim.handle(TimerFired(("swim", "push-pull")), at(second))
        asked = [effect for effect in effects if isinstance(effect, Request)]
        assert len(asked) == 3
        assert _timers(effects)["swim", "push-pull"] <= second + 6

    answer = PushPullAnswer((alive(asked[0].to and IDS.index(asked[0].to), 1), alive(4, 1)))
    effects = swim.handle(Answered(asked[0].request_id, asked[0].to, answer), at(101))
    assert MemberUp(asked[0].to) in told(effects)
    assert swim.members.view.is_alive(IDS[4])


def _asks(effects: Effects) -> list[tuple[bytes, Any]]:
    return [(each.to, each.message) for each in effects if isinstance(each, Request)]


def test_the_card_of_a_stranger_is_fetched_from_who_relayed_its_claim() -> None:
    """Its claim waits, bounded and asked for together with others, and counts as soon as the card is there."""
    swim = _swim(3)
    for sender, stranger in ((1, 5), (1, 6), (2, 5)):
        effects = swim.handle(Received(IDS[sender], Claims((alive(stranger, 1),))), at(1))
        assert not _asks(effects)
    effects = swim.handle(TimerFired(("swim", "cards")), at(1.15))
    assert sorted(_asks(effects)) == sorted([(IDS[1], FetchMembers((IDS[6],))), (IDS[2], FetchMembers((IDS[5],)))])

    request = next(each for each in effects if isinstance(each, Request) and each.to == IDS[2])
    effects = swim.handle(Answered(request.request_id, IDS[2], IntentRecords((signed_card(5),))), at(1.2))
    assert told(effects) == [PutIntent(signed_card(5), tell=False)]
    swim.members.roster.apply(membership(5))
    effects = swim.handle(IntentChanged(membership(5), signed_card(5), None), at(1.2))
    assert MemberUp(IDS[5]) in told(effects)


def test_a_stranger_is_asked_for_again_but_not_for_ever() -> None:
    """Every two seconds while its card does not come, five times in all; news of it in between change nothing."""
    swim = _swim(3)
    swim.handle(Received(IDS[1], Claims((alive(5, 1),))), at(1))
    asked = []
    for tenth in range(300):
        at_s = 1.15 + tenth / 10
        swim.handle(Received(IDS[1], Claims((alive(5, 1 + tenth),))), at(at_s))
        asked += [at_s for _ in _asks(swim.handle(TimerFired(("swim", "cards")), at(at_s)))]

    assert len(asked) == 5
    assert min(b - a for a, b in itertools.pairwise(asked)) >= 1.999


def _refused(effects: Effects) -> list[str]:
    """The reasons of all claims that were refused."""
    observed = [
        event for event in told(effects) if isinstance(event, Observed) and event.metric == "swim_claims_refused"
    ]
    return [event.labels["reason"] for event in observed]


def _forgeries(count: int, *, at_s: float, by: int) -> Claims:
    """Accusations, an Alive and a Leave in others' names, over and over."""
    false = (suspect(1, 2, at_s=at_s, by=KEYS[by]), alive(2, 9, by=KEYS[by]), leave(1, 1, by=KEYS[by]))
    return Claims(tuple(itertools.islice(itertools.cycle(false), count)))


def test_who_tells_forgeries_is_not_listened_to_for_a_while() -> None:
    """Each costs a verification, so a member may tell a few; others are heard meanwhile, and it is, too, later on."""
    swim = _swim(6)
    reasons = _refused(swim.handle(Received(IDS[3], _forgeries(1_000, at_s=1, by=3)), at(1)))
    for tenth in range(50):
        reasons += _refused(swim.handle(Received(IDS[3], _forgeries(5, at_s=1, by=3)), at(1 + tenth / 10)))
    assert reasons.count("signature") == FORGERIES_BURST
    assert set(reasons) == {"signature", "relay"}

    true = suspect(1, 5, at_s=6)
    swim.handle(Received(IDS[3], Claims((true,))), at(6))
    assert swim.members.view.status(IDS[5]) == "alive"
    swim.handle(Received(IDS[4], Claims((true,))), at(6))
    assert swim.members.view.status(IDS[5]) == "suspect"

    swim.handle(Received(IDS[3], Claims((suspect(1, 4, at_s=60),))), at(60))
    assert swim.members.view.status(IDS[4]) == "suspect"


def test_who_tells_of_whom_we_do_not_know_yet_is_listened_to() -> None:
    """News of a member can be here before its card: that says nothing against whoever tells."""
    swim = _swim(6)
    accused = ((0, swim.members.own.incarnation), (5, 1))
    unknown = (suspect(7, *each, at_s=1 + number / 10) for number in range(50) for each in accused)

    swim.handle(Received(IDS[3], Claims((*unknown, suspect(1, 5, at_s=1)))), at(1))

    assert swim.members.view.status(IDS[5]) == "suspect"


def test_a_forger_that_was_removed_is_forgotten() -> None:
    """Whoever comes back with a new card is a member like any other."""
    swim = _swim(6)
    swim.handle(Received(IDS[3], _forgeries(100, at_s=1, by=3)), at(1))
    for record in (Intent(MESH, "tombstone", node_key("n3"), 2, CA.signer_id, 0), membership(3, seq=3)):
        swim.members.roster.apply(record)
        swim.handle(IntentChanged(record, signed_card(3), signed_card(3)), at(1))

    swim.handle(Received(IDS[3], Claims((suspect(3, 5, at_s=1),))), at(1))

    assert swim.members.view.status(IDS[5]) == "suspect"


def test_one_message_holds_no_more_claims_than_an_honest_one() -> None:
    """Over a stream there is room for thousands: those past what a comparison sends are not looked at."""
    swim = _swim(3)
    lives = tuple(alive(1, 2 + number) for number in range(CLAIMS_PER_MESSAGE_MAX + 100))

    swim.handle(Received(IDS[1], Claims(lives)), at(1))

    assert swim.members.get(IDS[1]).incarnation == 1 + CLAIMS_PER_MESSAGE_MAX  # type: ignore[union-attr]


def _verified(swim: Swim) -> list[Claim]:
    """The claims whose signatures it checks from now on."""
    checked: list[Claim] = []
    holds = swim.members.desk.holds

    def noted(claim: Claim, *rest: Any) -> bool:
        checked.append(claim)
        return holds(claim, *rest)

    swim.members.desk.holds = noted  # type: ignore[method-assign,assignment]
    return checked


def _summary(index: int, seq: int) -> Claim:
    return ClaimDesk(KEYS[index], roster(0)).sign("summary", Summary(IDS[index], seq, WALL_MS))


WORD = st.tuples(st.sampled_from([alive, leave, _summary]), st.integers(1, 3), st.integers(2, 30))


@settings(max_examples=60, deadline=None)
@given(st.lists(WORD, max_size=60))
def test_the_last_word_counts_and_no_other_is_verified(words: list[tuple[Any, int, int]]) -> None:
    """In whatever order one message tells what members said of themselves: the newest Alive, Leave and summary of each
    are checked, and what they say together is believed; a Leave ends its incarnation."""
    swim = _swim(4)
    checked = _verified(swim)
    swim.handle(Received(IDS[1], Claims(tuple(say(index, number) for say, index, number in words))), at(1))

    assert len(checked) <= len({(say, index) for say, index, _ in words})
    for index in (1, 2, 3):
        lives = [(number, say is leave) for say, who, number in words if who == index and say is not _summary]
        member, summary = swim.members.get(IDS[index]), swim.members.view.summary(IDS[index])
        assert member is not None
        left = swim.members.view.status(IDS[index]) == "left"
        assert (member.incarnation, left) == max(lives, default=(1, False))
        seqs = [number for say, who, number in words if who == index and say is _summary]
        assert (summary.seq if summary is not None else 0) == max(seqs, default=0)


def test_a_message_full_of_accusations_costs_few_verifications() -> None:
    """Of its sender's own, thousands: of this node at each of its next incarnations, and of all others."""
    swim = _swim(20)
    checked, first = _verified(swim), swim.members.own.incarnation
    of_us = tuple(suspect(1, 0, first + ahead, at_s=1) for ahead in range(500))
    of_others = tuple(suspect(1, 2 + number % 18, at_s=1) for number in range(500))
    for _ in range(2):
        swim.handle(Received(IDS[1], Claims(of_us + of_others)), at(1))

    assert len(checked) == REFUTATION_BURST + ACCUSATION_BURST


def test_all_that_a_comparison_sends_is_heard() -> None:
    """However much the other one lacks: both claims of each member that it wants fit one message."""
    swim = _swim(3)
    summary = ClaimDesk(KEYS[2], roster(0)).sign("summary", Summary(IDS[2], 1, WALL_MS))
    swim.handle(Received(IDS[2], Claims((summary,))), at(1))

    effects = swim.handle(Answered(1, IDS[1], PushPullAnswer(wanted=(IDS[2],) * KNOWN_MAX)), at(1))

    ((_, answer),) = _sent(effects, Claims)
    assert 2 * CLAIMS_PER_ANSWER_MAX == len(answer.claims) <= CLAIMS_PER_MESSAGE_MAX


def test_a_lone_node_asks_whoever_it_learns_of_at_once() -> None:
    """Told of one member after minutes alone, it compares states with it without waiting for its next turn."""
    swim = _swim(1)
    swim.members.roster.apply(membership(1))

    effects = swim.handle(IntentChanged(membership(1), signed_card(1), None), at(600))

    assert _timers(effects)[("swim", "push-pull")] == 600
    assert [to for to, _ in _asks(swim.handle(TimerFired(("swim", "push-pull")), at(600)))] == [IDS[1]]


def test_a_backlog_of_news_goes_in_several_datagrams() -> None:
    """A site that joins at once is told of in one round to three members, each datagram with other claims."""
    swim = _swim(8)
    swim.members.rumours.take(99, budget_bytes=10**6)
    for number in range(30):
        swim.members.rumours.add(("alive", IDS[7], bytes([number])), alive(7, 1 + number))

    sent = _sent(swim.handle(TimerFired(("swim", "gossip")), at(5)), Claims)

    assert len({to for to, _ in sent}) == 3
    assert len(sent) == 12
    assert len({claim.body for _, message in sent[:6] for claim in message.claims}) >= 25


def test_absent_members_are_called_and_those_that_left_are_not() -> None:
    """The dead and the never seen are pinged now and then, so that a healed partition is noticed."""
    swim = _swim(4)
    for index, status in ((1, "dead"), (2, "left"), (3, "unknown")):
        swim.members.view.set_status(IDS[index], status)  # type: ignore[arg-type]
    pings = _sent(swim.handle(TimerFired(("swim", "announce")), at(40)), Ping)

    assert {to for to, _ in pings} == {IDS[1], IDS[3]}
    assert all(ping.hello for _, ping in pings)


def test_leaving_is_told_to_those_present() -> None:
    """A signed Leave to everybody of a small mesh, and an event."""
    swim = _swim(4)
    effects = swim.handle(LeaveMesh(), at(5))

    goodbyes = _sent(effects, Claims)
    assert {to for to, _ in goodbyes} == set(IDS[1:4])
    assert isinstance(decode(goodbyes[0][1].claims[0]), Leave)
    statuses = [event.event.status for event in told(effects) if isinstance(event, EmitEvent)]
    assert statuses == ["NodeLeft"]


def test_gossip_rests_when_there_is_nothing_to_tell() -> None:
    """No rumours, no timer: a quiet mesh does not wake its machines five times a second."""
    swim = _swim(4)
    for second in range(1, 60):
        effects = swim.handle(TimerFired(("swim", "gossip")), at(second))
        if ("swim", "gossip") not in _timers(effects):
            break

    assert ("swim", "gossip") not in _timers(effects)
    assert _timers(swim.handle(Received(IDS[1], Claims((alive(2, 5),))), at(61)))["swim", "gossip"] == 61.02


def test_every_message_fits_its_datagram() -> None:
    """However much there is to tell, pings, echoes and gossip stay below the wire's limit for a body."""
    swim = _swim(8)
    long_host = "h" * 100
    for index in range(1, 8):
        swim.members.take(alive(index, 3, host=long_host), at(1))
        for accuser in range(1, 8):
            swim.members.take(suspect(accuser, index, 3, at_s=1), at(1))
        swim.members.take(ClaimDesk(KEYS[index], roster(0)).sign("summary", _largest_summary(index)), at(1))
    events = [
        *(Received(IDS[index], Ping(bytes(8), (), True)) for index in range(1, 8)),
        *(FloorWanted(IDS[index]) for index in range(1, 8)),
        TimerFired(("swim", "gossip")),
        Received(IDS[1], PingReq(bytes(8), IDS[2])),
    ]
    for second, event in enumerate(events, start=2):
        for effect in swim.handle(event, at(second)):
            if isinstance(effect, Send):
                assert len(msgspec.msgpack.encode(effect.message)) <= BODY_BYTES_MAX


def _largest_summary(index: int) -> Summary:
    many = 1 << 40
    return Summary(
        *(IDS[index], many, many, many, many, many, many, many, many, many, many, many, 0.123456789, many, many, True),
        engine="e" * 32,
        agent_version="v" * 32,
        labels_digest=bytes(8),
        api_port=65535,
        started_ms=many,
    )


def test_the_largest_summary_is_small() -> None:
    """Three summaries share a datagram."""
    assert len(msgspec.msgpack.encode(_largest_summary(1))) <= SUMMARY_BODY_BYTES_MAX


def test_the_first_echo_leads_to_the_news_that_the_node_joined() -> None:
    """Once per start, and a moment later: a site that starts at once has more urgent things to say."""
    swim = _swim(3, started=False)
    timers = []
    for index in (1, 2):
        ping = _sent(swim.handle(FloorWanted(IDS[index]), at(0)), Ping)[0][1]
        timers.append(_timers(swim.handle(Received(IDS[index], Ack(ping.nonce)), at(0.1))).get(("swim", "joined")))

    assert timers[0] is not None and 1 <= timers[0] <= 3.1
    assert timers[1] is None
    effects = swim.handle(TimerFired(("swim", "joined")), at(3))
    statuses = [e.event.event.status for e in effects if isinstance(e, Notify) and isinstance(e.event, EmitEvent)]
    assert statuses == ["NodeJoined"]


def test_states_are_compared_by_what_differs() -> None:
    """A member that knows everything gets no summary and no Alive of others; one that missed something gets that."""
    swim = _swim(5)
    desk = {index: ClaimDesk(KEYS[index], swim.members.roster) for index in range(1, 5)}
    for index in range(1, 5):
        claim = desk[index].sign("summary", Summary(IDS[index], 7, 0))
        swim.handle(Received(IDS[index], Claims((alive(index, 3), claim))), at(1))

    def answered(known: tuple[Known, ...]) -> set[tuple[str, bytes]]:
        (reply,) = [e for e in swim.handle(Asked(IDS[1], 9, PushPull(known)), at(2)) if isinstance(e, Reply)]
        statements = [decode(claim) for claim in reply.message.claims]
        return {(type(each).__name__, each.node_id) for each in statements if each.node_id != IDS[0]}

    everything = tuple(Known(IDS[index], 3, 7) for index in range(1, 5))
    assert answered(everything) == set()
    assert answered((*everything[:3], Known(IDS[4], 3, 6))) == {("Summary", IDS[4])}
    assert answered((Known(IDS[1], 3, 7), Known(IDS[2], 2, 7), *everything[2:])) == {("Alive", IDS[2])}


def test_a_comparison_of_the_largest_mesh_fits_a_stream_message() -> None:
    """With the largest numbers its lines take half of what a stream carries at once."""
    line = msgspec.msgpack.encode(Known(IDS[1], COUNTER_MAX, COUNTER_MAX))

    assert len(line) * KNOWN_MAX <= FRAME_BYTES_MAX / 2


def test_a_member_that_is_known_there_and_not_here_is_asked_for() -> None:
    """A comparison goes both ways also for those whose cards are missing; revoked ones are not wanted back."""
    swim = _swim(3)
    question = PushPull((Known(IDS[1], 1), Known(IDS[5], 4), Known(IDS[6], 0)))

    (reply,) = [e for e in swim.handle(Asked(IDS[1], 9, question), at(2)) if isinstance(e, Reply)]

    assert IDS[5] in reply.message.wanted
    assert IDS[6] not in reply.message.wanted


@pytest.mark.parametrize("answers", [True, False])
def test_whom_others_accuse_is_asked_before_it_is_judged(answers: bool) -> None:
    """A probe's time before the suspicion time is over it is pinged; whoever still reaches it ignores its accusers."""
    swim = _swim(6)
    for accuser in (1, 2, 3):
        swim.handle(Received(IDS[accuser], Claims((suspect(accuser, 4, 1, at_s=1),))), at(1))
    asked = []
    for tenth in range(12, 80):
        moment = at(tenth / 10)
        swim.handle(Received(IDS[1], Claims(())), moment)
        for to, ping in _sent(swim.handle(TimerFired(("swim", "suspicion", IDS[4])), moment), Ping):
            asked.append((tenth / 10, to))
            if answers:
                swim.handle(Received(to, Ack(ping.nonce)), moment)

    assert asked == [(4.0, IDS[4])]
    assert swim.members.view.status(IDS[4]) == ("alive" if answers else "dead")


def _with_dead(swim: Swim, index: int) -> None:
    """It judges a member by the word of two others, and by its own failed question."""
    for accuser in (1, 2):
        swim.handle(Received(IDS[accuser], Claims((suspect(accuser, index, 1, at_s=1),))), at(1))
    for tenth in range(12, 300):
        swim.handle(Received(IDS[1], Claims(())), at(tenth / 10))
        swim.handle(TimerFired(("swim", "suspicion", IDS[index])), at(tenth / 10))
    assert swim.members.view.status(IDS[index]) == "dead"


def test_who_missed_a_death_is_shown_the_accusations() -> None:
    """A late accuser that asks is told at once what others said of the dead. Whoever only passes accusations on, or
    answers, is told nothing: two that know of the same death would tell each other of it for ever."""
    swim = _swim(6)
    _with_dead(swim, 4)

    def shown(asker: int, *asks: NodeId) -> list[tuple[bytes, set[bytes]]]:
        late = Claims((suspect(asker, 4, 1, at_s=40),), asks)
        effects = swim.handle(Received(IDS[asker], late), at(40))
        assert _sent(effects, Ping) == []
        said = [(to, map(decode, told.claims)) for to, told in _sent(effects, Claims)]
        return [(to, {word.accuser for word in words if isinstance(word, Suspect)}) for to, words in said]

    assert shown(3, IDS[4]) == [(IDS[3], {IDS[1], IDS[2]})]
    assert shown(1, IDS[4]) == [(IDS[1], {IDS[2]})]
    assert shown(3) == []


@pytest.mark.parametrize("answers", [True, False])
def test_long_after_a_death_a_late_accuser_finds_a_second_one(answers: bool) -> None:
    """Whom it tells looks again, once, and accuses afresh, to it alone; the dead that answers is alive instead."""
    swim = _swim(6)
    _with_dead(swim, 4)
    late = Claims((suspect(3, 4, 1, at_s=400),), (IDS[4],))

    swim.handle(Received(IDS[3], Claims(())), at(400))
    asked = swim.handle(Received(IDS[3], late), at(400))
    again = swim.handle(Received(IDS[3], late), at(400.2))
    ((to, ping),) = _sent(asked, Ping)
    if answers:
        swim.handle(Received(IDS[4], Ack(ping.nonce)), at(400.5))
    witnessed = _sent(swim.handle(TimerFired(("swim", "over", ping.nonce)), at(401)), Claims)

    assert (to, _sent(again, Ping)) == (IDS[4], [])
    assert swim.members.view.status(IDS[4]) == ("alive" if answers else "dead")
    expected = [] if answers else [(IDS[3], Suspect(IDS[0], IDS[4], 1, WALL_MS + 401_000))]
    assert [(whom, decode(message.claims[0])) for whom, message in witnessed] == expected


@pytest.mark.parametrize("what", ["it is alive here", "it spoke", "deaf"])
def test_nobody_bears_witness_to_what_it_does_not_know(what: str) -> None:
    """An accuser alone gets no second one where the accused is alive, has spoken since, or we hear nobody ourselves."""
    swim = _swim(6)
    if what != "it is alive here":
        _with_dead(swim, 4)
    late = suspect(3, 4, 1, at_s=400)
    effects = swim.handle(Received(IDS[3], Claims((late,), (IDS[4],))), at(400))
    over_s = 400.9 if what == "deaf" else 401
    if what == "it spoke":
        swim.handle(Received(IDS[4], Claims(())), at(400.5))
    witnessed = [
        message
        for _, ping in _sent(effects, Ping)
        for _, message in _sent(swim.handle(TimerFired(("swim", "over", ping.nonce)), at(over_s)), Claims)
    ]

    assert len(_sent(effects, Ping)) == 1
    assert witnessed == []


def test_news_reach_who_does_not_listen_yet() -> None:
    """A member that never echoed is drawn as often as others, and gets the news by a ping, once we stand for long."""
    reached = {}
    for start_s in (2, 60):
        swim = _swim(6)
        member = swim.members.get(IDS[5])
        assert member is not None
        member.echoed = False
        pinged = 0
        for number in range(60):
            moment = at(start_s + number / 5)
            swim.members.rumours.add(("alive", IDS[1], b""), alive(1, number + 2))
            effects = swim.handle(TimerFired(("swim", "gossip")), moment)
            pings = [ping for to, ping in _sent(effects, Ping) if to == IDS[5]]
            assert all(ping.claims for ping in pings)
            pinged += len(pings)
            gossiped = [to for to, _ in _sent(effects, Claims)]
            assert len(gossiped) >= 3 - len(pings) and (start_s == 2 or IDS[5] not in gossiped or not pings)
        reached[start_s] = pinged

    assert reached[2] == 0
    assert 6 <= reached[60] <= 25
