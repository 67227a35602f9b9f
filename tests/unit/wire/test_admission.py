"""The gate: each refusal with its reason, in an order that costs honest senders nothing."""

from __future__ import annotations

import time
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.crypto_native import NativeCrypto
from beemesh.effects import Now
from beemesh.ids import BootId
from beemesh.intents.record import node_key
from beemesh.membership import messages as membership
from beemesh.wire import admission
from beemesh.wire.admission import Admission
from beemesh.wire.datagram import signed_payload, write_header
from beemesh.wire.envelope import Envelope, Header
from beemesh.wire.registry import CODES
from beemesh.wire.replay import ReplayGuard
from beemesh.wire.verdict import Admitted, Refusal, Refused
from tests.unit.identity.cast import card, keys, record, revoke, roster
from tests.unit.wire.samples import BOOT, NEWS, NOW, PING, RING, Speaker, gate, header_of, later

KEY = RING.keys[1].key
HOME, ELSEWHERE = ("10.0.0.1", 7946), ("10.0.0.9", 40_000)
OTHER_BOOT = BootId(b"another boot id!")


def floored(*nodes: str) -> tuple[Admission, Speaker]:
    """A gate that already knows the present boot of its first node."""
    made, speaker = gate(*nodes), Speaker(nodes[0])
    made.set_floor(speaker.node_id, speaker.boot_id, 0)
    return made, speaker


def wrapped(header: Header, envelope: Envelope) -> bytes:
    """What any member can make with the gossip key: an envelope under a header, both of its choice."""
    member = keys("insider")
    subkey = member.datagram_key(KEY, header.sender, header.boot_id)
    plaintext = msgspec.msgpack.encode(envelope)
    sealed = member.datagram_cipher(subkey).encrypt(header.counter, plaintext, write_header(header))
    return write_header(header) + sealed


def signed_envelope(signer: NativeCrypto, header: Header, code: int, body: bytes, wall_ms: int) -> Envelope:
    """An envelope that verifies under this header."""
    return Envelope(code, wall_ms, body, signer.sign(signed_payload(write_header(header), code, wall_ms, body)))


def reason(judged: Admitted | Refused) -> Refusal | None:
    """Why it was refused, None when it was admitted."""
    return judged.reason if isinstance(judged, Refused) else None


def test_an_honest_datagram_is_admitted_once() -> None:
    """A fresh datagram of a member comes through with its content; the very same again is `replayed`."""
    made, speaker = floored("a")
    data = speaker.say(PING)
    assert made.admit(data, NOW) == Admitted(speaker.node_id, BOOT, 1, PING, has_floor=True)
    assert made.admit(data, NOW) == Refused(Refusal.REPLAYED, speaker.node_id)


@pytest.mark.parametrize("off_s", [-31, 31])
def test_a_datagram_31_seconds_off_is_refused(off_s: int) -> None:
    """Beyond 30 s of skew, in either direction, a datagram is refused; just within it is taken."""
    made, speaker = floored("a")
    assert reason(made.admit(speaker.say(wall_ms=NOW.wall_ms + off_s * 1000), NOW)) is Refusal.CLOCK_SKEW
    within = NOW.wall_ms + (30_000 if off_s > 0 else -30_000)
    assert reason(made.admit(speaker.say(wall_ms=within), NOW)) is None


def test_an_oversized_datagram_is_refused_unread() -> None:
    """More than 1,200 bytes are not looked at."""
    made, speaker = floored("a")
    assert made.admit(speaker.say() + bytes(1_200), NOW) == Refused(Refusal.OVERSIZED)


def test_what_has_no_header_is_malformed() -> None:
    """Too short, or another version."""
    made, speaker = floored("a")
    for data in (b"", b"x", bytes(61), b"\x02" + speaker.say()[1:]):
        assert made.admit(data, NOW) == Refused(Refusal.MALFORMED)


def test_an_unknown_key_epoch_is_told_apart() -> None:
    """A datagram under a gossip key that is not in the ring says so: the sender has missed a rotation, or we have."""
    made = gate("a")
    made.use(type(RING)(active=1, keys=RING.keys[:1]))
    assert reason(made.admit(Speaker("a").say(), NOW)) is Refusal.KEY_EPOCH


def test_every_key_of_the_ring_is_accepted() -> None:
    """During a rotation some send with the old key and some with the new one."""
    made = gate("a", "b")
    for name, active in (("a", 1), ("b", 2)):
        speaker = Speaker(name, ring=type(RING)(active=active, keys=RING.keys))
        assert reason(made.admit(speaker.say(PING), NOW)) is None


def test_an_outsider_without_the_gossip_key_is_undeciphered() -> None:
    """What does not authenticate under the gossip key is refused, whoever it claims to be from."""
    made, speaker = floored("a")
    data = speaker.say()
    assert reason(made.admit(data[:-1] + bytes([data[-1] ^ 1]), NOW)) is Refusal.UNDECIPHERED
    assert reason(made.admit(data, NOW)) is None


def test_an_unknown_or_revoked_sender_is_refused() -> None:
    """Whoever is not in the roster has no word, though it may still know the gossip key."""
    known = roster("a", "b")
    made = Admission(keys("receiver"), known, RING, lambda _: True)
    assert reason(made.admit(Speaker("stranger").say(), NOW)) is Refusal.UNKNOWN_SENDER
    assert reason(made.admit(Speaker("a").say(), NOW)) is None
    revoke(known, "a", keys("a"))
    assert reason(made.admit(Speaker("a", OTHER_BOOT).say(), NOW)) is Refusal.UNKNOWN_SENDER


def test_a_member_past_the_end_of_its_grace_is_refused() -> None:
    """Expired for less than the grace it is heard, afterwards not; nor looked at first, nor decrypted, however much of
    it comes. A new card lets it in again at once."""
    ends_s = (card("a").ends_ms - NOW.wall_ms) // 1000
    known, speaker = roster("a", "b"), Speaker("a")
    made = Admission(keys("receiver"), known, RING, lambda _: True)
    made.set_floor(speaker.node_id, BOOT, 0)

    def says(at_s: float) -> bytes:
        return speaker.say(wall_ms=later(at_s).wall_ms)

    assert reason(made.admit(says(ends_s), later(ends_s), HOME)) is None
    over_s = ends_s + 1
    for _ in range(int(admission.UNDECIPHERED_PER_S) + 100):
        data = says(over_s)
        assert made.admit(data, later(over_s), HOME) == Refused(Refusal.EXPIRED, speaker.node_id)
    assert not made.is_likely(data, HOME)
    assert reason(made.admit(Speaker("stranger").say(), later(over_s))) is Refusal.UNKNOWN_SENDER, "a budget is left"

    renewed = msgspec.structs.replace(card("a"), serial=2, not_after_ms=later(over_s + 60).wall_ms)
    known.apply(record("membership", node_key("a"), renewed))
    assert reason(made.admit(says(over_s), later(over_s), HOME)) is None


def test_an_unsigned_datagram_of_an_insider_is_refused() -> None:
    """The gossip key alone makes nobody's word: without the sender's own signature it is refused."""
    made, speaker = floored("a")
    header = header_of(speaker.node_id, 1)
    forged = signed_envelope(keys("insider"), header, CODES[membership.Claims], b"\x91\x90", NOW.wall_ms)
    assert made.admit(wrapped(header, forged), NOW) == Refused(Refusal.SIGNATURE, speaker.node_id)
    assert reason(made.admit(speaker.say(), NOW)) is None, "the forgery must not have used up the counter"


@pytest.mark.parametrize(
    "header",
    [header_of(keys("a").signer_id, 2), header_of(keys("a").signer_id, 1, OTHER_BOOT)],
    ids=["another counter", "another boot"],
)
def test_an_insider_cannot_wrap_an_envelope_anew(header: Header) -> None:
    """An envelope that a member really signed does not verify under a counter or boot id that it did not sign."""
    made, speaker = floored("a")
    made.set_floor(speaker.node_id, header.boot_id, 0)
    signed = signed_envelope(
        speaker.crypto, header_of(speaker.node_id, 1), CODES[membership.Ping], b"\x90", NOW.wall_ms
    )
    assert reason(made.admit(wrapped(header, signed), NOW)) is Refusal.SIGNATURE


def test_a_forger_cannot_move_a_window() -> None:
    """A forged counter far ahead changes nothing for the honest sender's small ones."""
    made, speaker = floored("a")
    header = header_of(speaker.node_id, 1 << 60)
    forged = signed_envelope(keys("insider"), header, 5, b"\x91\x90", NOW.wall_ms)
    made.admit(wrapped(header, forged), NOW)
    assert reason(made.admit(speaker.say(), NOW)) is None


def test_what_does_not_decode_is_refused() -> None:
    """An unknown type (a newer peer) and a body of another shape are counted, and are no exception."""
    made, speaker = floored("a")
    for counter, (code, body) in enumerate([(19, b""), (1, b"\xc1"), (20, b"\x93\xa1\xff\xc4\x00\xc4\x00")], start=1):
        header = header_of(speaker.node_id, counter)
        envelope = signed_envelope(speaker.crypto, header, code, body, NOW.wall_ms)
        assert reason(made.admit(wrapped(header, envelope), NOW)) is Refusal.UNDECODED


# --- floors ---------------------------------------------------------------------------------------------------------


def test_before_its_floor_a_boot_may_only_ping() -> None:
    """After our start only pings and echoes are heard of a boot; after it echoed, everything from there on."""
    made, speaker = gate("a"), Speaker("a")
    recorded = speaker.say()
    assert reason(made.admit(recorded, NOW)) is Refusal.NO_FLOOR
    judged = made.admit(speaker.say(PING), NOW)
    assert isinstance(judged, Admitted)
    assert not judged.has_floor
    echo = made.admit(speaker.say(membership.Ack(b"12345678")), NOW)
    assert isinstance(echo, Admitted)
    made.set_floor(echo.sender, echo.boot_id, echo.counter)
    assert reason(made.admit(recorded, NOW)) is Refusal.REPLAYED
    assert reason(made.admit(speaker.say(), NOW)) is None


def test_recordings_cannot_silence_a_sender_that_has_no_floor() -> None:
    """Replays to a node that just started are refused before they use up the honest sender's rate."""
    made, speaker = gate("a"), Speaker("a")
    recorded = [speaker.say(PING) for _ in range(10)]
    for _ in range(300):
        for data in recorded:
            made.admit(data, NOW)
    assert reason(made.admit(speaker.say(PING), NOW)) is None


def test_a_new_boot_needs_a_floor_again_and_ends_the_old_one() -> None:
    """After a restart the sender echoes anew; what its earlier boot sent is then believed no more."""
    made, old = floored("a")
    new = Speaker("a", OTHER_BOOT)
    held_back = old.say()
    assert reason(made.admit(new.say(), NOW)) is Refusal.NO_FLOOR
    made.set_floor(new.node_id, OTHER_BOOT, new.counter)
    assert reason(made.admit(new.say(), NOW)) is None
    assert reason(made.admit(held_back, NOW)) is Refusal.NO_FLOOR


def test_two_agents_with_one_key_are_both_still_heard_to_ping() -> None:
    """Clones take the floor in turns, so that whoever looks for them sees both."""
    made, first = floored("a")
    second = Speaker("a", OTHER_BOOT)
    for speaker in (second, first, second):
        assert reason(made.admit(speaker.say(), NOW)) is Refusal.NO_FLOOR
        assert reason(made.admit(speaker.say(PING), NOW)) is None
        made.set_floor(speaker.node_id, speaker.boot_id, speaker.counter)
        assert reason(made.admit(speaker.say(), NOW)) is None


# --- floods ---------------------------------------------------------------------------------------------------------


def test_a_flood_of_rubbish_costs_known_boots_nothing() -> None:
    """When the budget for undecipherable datagrams is used up, members whose boot is known are still heard."""
    made, speaker = floored("a")
    rubbish = write_header(header_of(b"x" * 32, 1)) + bytes(100)
    reasons = [reason(made.admit(rubbish, NOW)) for _ in range(int(admission.UNDECIPHERED_PER_S) + 100)]
    assert reasons.count(Refusal.UNDECIPHERED) == admission.UNDECIPHERED_PER_S
    assert reasons[-1] is Refusal.BUDGET
    assert reason(made.admit(speaker.say(), NOW)) is None
    assert reason(made.admit(rubbish, later(1.0))) is Refusal.UNDECIPHERED, "the budget comes back with time"


def test_a_flooding_member_is_limited_alone() -> None:
    """A member beyond its rate is refused; others are not, and it is heard again later."""
    made, flooder = floored("a", "b")
    quiet = Speaker("b")
    reasons = [reason(made.admit(flooder.say(), NOW)) for _ in range(int(admission.SENDER_BURST) + 1)]
    assert reasons.count(None) == admission.SENDER_BURST
    assert reasons[-1] is Refusal.RATE
    assert reason(made.admit(quiet.say(PING), NOW)) is None
    assert reason(made.admit(flooder.say(), Now(NOW.boot_s + 1, NOW.wall_ms))) is None


def test_a_few_forgeries_do_not_use_up_the_rate_of_the_one_they_name() -> None:
    """Forged datagrams draw on a budget of their own before they touch the member that they claim to be from."""
    made, speaker = floored("a")
    header = header_of(speaker.node_id, 5_000)
    forged = wrapped(header, signed_envelope(keys("insider"), header, 5, b"\x91\x90", NOW.wall_ms))
    for _ in range(int(admission.FORGED_PER_S)):
        assert reason(made.admit(forged, NOW)) is Refusal.SIGNATURE
    reasons = {reason(made.admit(speaker.say(), NOW)) for _ in range(int(admission.SENDER_BURST))}
    assert reasons == {None}


def test_forgeries_from_elsewhere_never_silence_a_member() -> None:
    """However many forgeries name a member, it is heard from where it was heard before; once their budget is used up,
    they are not even verified."""
    made, speaker = floored("a")
    assert reason(made.admit(speaker.say(), NOW, HOME)) is None
    header = header_of(speaker.node_id, 5_000)
    forged = wrapped(header, signed_envelope(keys("insider"), header, 5, b"\x91\x90", NOW.wall_ms))
    reasons = Counter(reason(made.admit(forged, NOW, ELSEWHERE)) for _ in range(4_000))
    assert reasons == {Refusal.SIGNATURE: admission.FORGED_PER_S, Refusal.BUDGET: 4_000 - admission.FORGED_PER_S}
    assert reason(made.admit(speaker.say(), NOW, HOME)) is None


def _forged_in_the_name_of(speaker: Speaker) -> bytes:
    header = header_of(speaker.node_id, 5_000)
    return wrapped(header, signed_envelope(keys("insider"), header, 5, b"\x91\x90", NOW.wall_ms))


def test_who_hands_a_members_datagrams_on_does_not_silence_it() -> None:
    """A liar that was sent genuine ones passes them on from its own address, and forges others there: the member is
    still heard from where it was, and its own place is still the likely one."""
    made, speaker = floored("a")
    assert reason(made.admit(speaker.say(), NOW, HOME)) is None
    forged = _forged_in_the_name_of(speaker)
    for moment in range(4):
        assert reason(made.admit(speaker.say(), later(moment), ELSEWHERE)) is None
        reasons = [reason(made.admit(forged, later(moment), ELSEWHERE)) for _ in range(2_000)]
        assert reasons[-1] is Refusal.BUDGET
        honest = speaker.say()
        assert made.is_likely(honest, HOME)
        assert reason(made.admit(honest, later(moment), HOME)) is None


@pytest.mark.parametrize("boot", [BOOT, OTHER_BOOT], ids=["the same boot", "a new boot"])
def test_a_member_is_expected_where_it_echoed_last(boot: BootId) -> None:
    """Its address changed: an echo of our ping comes from there, and no forgeries from the old place silence it."""
    made, old = floored("a")
    assert reason(made.admit(old.say(), NOW, HOME)) is None
    moved = old if boot == BOOT else Speaker("a", boot)
    echo = made.admit(moved.say(PING), NOW, ELSEWHERE)
    assert isinstance(echo, Admitted)
    made.set_floor(echo.sender, echo.boot_id, echo.counter, ELSEWHERE)

    reasons = [reason(made.admit(_forged_in_the_name_of(old), NOW, HOME)) for _ in range(2_000)]

    assert reasons[-1] is Refusal.BUDGET
    honest = moved.say()
    assert made.is_likely(honest, ELSEWHERE)
    assert reason(made.admit(honest, NOW, ELSEWHERE)) is None


def test_forgeries_with_a_forged_source_silence_one_member_alone() -> None:
    """Who can also forge a member's address uses up the rate of that member, and of no other."""
    made, victim = floored("a", "b")
    other = Speaker("b")
    for speaker in (victim, other):
        assert reason(made.admit(speaker.say(PING), NOW, HOME)) is None
    header = header_of(victim.node_id, 5_000)
    forged = wrapped(header, signed_envelope(keys("insider"), header, 5, b"\x91\x90", NOW.wall_ms))
    for _ in range(4_000):
        made.admit(forged, NOW, HOME)
    assert reason(made.admit(victim.say(PING), NOW, HOME)) is Refusal.RATE
    assert reason(made.admit(other.say(PING), NOW, HOME)) is None
    assert reason(made.admit(victim.say(PING), later(1.0), HOME)) is None


def test_strangers_with_the_gossip_key_share_the_budget_of_what_does_not_decrypt() -> None:
    """Whoever was shut out still knows the gossip key for a while: what it sends costs no more than rubbish does."""
    made, speaker = floored("a")
    stranger = Speaker("stranger").say()
    reasons = Counter(reason(made.admit(stranger, NOW)) for _ in range(3_000))
    assert reasons == {Refusal.UNKNOWN_SENDER: 2_000, Refusal.BUDGET: 1_000}
    assert reason(made.admit(speaker.say(), NOW)) is None


def test_a_restarted_member_is_heard_under_a_flood_from_where_it_was() -> None:
    """Its new boot has no floor yet, and still its datagrams are looked at, since they come from its old address."""
    made, speaker = floored("a")
    assert reason(made.admit(speaker.say(), NOW, HOME)) is None
    rubbish = write_header(header_of(b"x" * 32, 1)) + bytes(100)
    while reason(made.admit(rubbish, NOW, ELSEWHERE)) is not Refusal.BUDGET:
        pass
    assert reason(made.admit(Speaker("a", OTHER_BOOT).say(PING), NOW, ELSEWHERE)) is Refusal.BUDGET
    assert reason(made.admit(Speaker("a", OTHER_BOOT).say(PING), NOW, HOME)) is None


def test_a_glance_tells_the_next_datagram_of_a_known_boot_from_all_else() -> None:
    """Likely is what a boot that lives sends from where it was heard, under a key of ours, within its rate; not what is
    replayed, comes from elsewhere, names another boot or nobody. A glance changes nothing."""
    made, speaker = floored("a")
    first, second = speaker.say(), speaker.say()
    assert not made.is_likely(first, HOME), "nothing was verified yet"
    assert reason(made.admit(first, NOW, HOME)) is None
    assert made.is_likely(second, HOME)
    assert made.is_likely(second, HOME)
    for data, source in (
        (second, ELSEWHERE),
        (first, HOME),
        (Speaker("a", OTHER_BOOT).say(), HOME),
        (Speaker("stranger").say(), HOME),
        (write_header(header_of(speaker.node_id, 9, epoch=7)) + bytes(100), HOME),
        (b"", HOME),
    ):
        assert not made.is_likely(data, source)
    assert reason(made.admit(second, NOW, HOME)) is None
    while reason(made.admit(speaker.say(), NOW, HOME)) is not Refusal.RATE:
        pass
    assert not made.is_likely(speaker.say(), HOME)


def test_nothing_is_remembered_of_what_was_not_verified() -> None:
    """Altered, forged and strangers' datagrams leave no trace, so no flood of them pushes out what is."""
    made, speaker = floored("a")
    header = header_of(keys("a").signer_id, 7, OTHER_BOOT)
    forged = wrapped(header, signed_envelope(keys("insider"), header, 5, b"\x91\x90", NOW.wall_ms))
    for data in (forged, Speaker("stranger").say(), speaker.say()[:-1] + b"!"):
        assert reason(made.admit(data, NOW, HOME)) is not None
    assert not made._peers
    assert list(made._guard._senders[speaker.node_id].windows) == [BOOT]


def test_memory_stays_bounded_under_a_flood() -> None:
    """Neither strangers nor boots that a member invents for itself grow what is kept."""
    made = gate("a")
    for number in range(50):
        made.admit(Speaker("a", BootId(number.to_bytes(16, "big"))).say(PING), NOW)
        made.admit(Speaker(f"stranger {number}").say(PING), NOW)
    guard: ReplayGuard = made._guard
    assert [len(known.windows) for known in guard._senders.values()] == [4]
    assert list(made._peers) == [keys("a").signer_id]


@settings(max_examples=200)
@given(st.binary(max_size=1_300))
def test_no_bytes_raise(data: bytes) -> None:
    """Anything at all is answered with a refusal."""
    assert isinstance(gate("a").admit(data, NOW), Refused)


@given(code=st.integers(0, 65_535), body=st.binary(max_size=300))
def test_no_body_of_a_member_raises(code: int, body: bytes) -> None:
    """A member may sign whatever it likes: it is admitted or refused, never an exception."""
    made, speaker = floored("a")
    header = header_of(speaker.node_id, 1)
    made.admit(wrapped(header, signed_envelope(speaker.crypto, header, code, body, NOW.wall_ms)), NOW)


def test_a_quick_gate() -> None:
    """A thousand signed datagrams pass in far less than a second (a sanity bound, not a benchmark)."""
    made, speaker = floored("a")
    sent = [speaker.say(NEWS) for _ in range(900)]
    started_s = time.perf_counter()
    assert all(isinstance(made.admit(data, NOW), Admitted) for data in sent)
    assert time.perf_counter() - started_s < 2.0
