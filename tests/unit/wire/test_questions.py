"""Requests in datagrams: one outcome each, whatever is lost, and nothing for those who ask too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beemesh.dht.messages import Answer, FindRecords, FoundRecords, Question, RecordStored, StoreRecord
from beemesh.effects import Now, Request
from beemesh.identity.signing import Signed
from beemesh.ids import BootId, NodeId
from beemesh.intents.messages import FetchMembers
from beemesh.wire.datagram import BODY_BYTES_MAX
from beemesh.wire.questions import (
    DATAGRAMS_BURST,
    DATAGRAMS_PER_S,
    OPEN_MAX,
    OVERHEAD_BYTES,
    QUESTIONS_BURST,
    RETRY_S,
    Put,
    Questions,
)
from beemesh.wire.registry import CODES, encode_message
from tests.unit.wire.samples import BOOT

ASKER, PEER, OTHER = NodeId(b"a" * 32), NodeId(b"p" * 32), NodeId(b"o" * 32)
FIND = FindRecords("sim", b"x" * 32)
DEADLINE_S = 1.0


def at(seconds: float) -> Now:
    """A moment."""
    return Now(seconds, int(seconds * 1000))


def asker(*warm: NodeId) -> Questions:
    """A node with streams open to some."""
    return Questions(BOOT, warm.__contains__)


def request(number: int = 1, message: object = FIND) -> Request:
    """A question of the record DHT."""
    return Request(number, PEER, message, DEADLINE_S)  # type: ignore[arg-type]


def sent(questions: Questions, number: int | None, now: Now) -> Question:
    """The question as it leaves."""
    assert number is not None
    put = questions.send(number, now)
    assert put is not None and isinstance(put[0].message, Question)
    return put[0].message


def stored(body_bytes: int) -> StoreRecord:
    """A record of some size on its way."""
    return StoreRecord("sim", Signed("record", bytes(body_bytes), bytes(32), bytes(64)))


def test_an_answer_ends_its_question() -> None:
    """The peer's answer is handed on with the request that it belongs to, once; nothing is sent after it."""
    here, there = asker(), asker()
    number = here.ask(request(7), at(0))
    asked = there.asked(ASKER, sent(here, number, at(0)), at(0))
    assert asked is not None and asked[1] == FIND
    answer = there.reply(asked[0], FoundRecords())
    assert answer == Put(ASKER, Answer(number or 0, *encode_message(FoundRecords())))
    assert isinstance(answer.message, Answer)

    assert here.answered(PEER, answer.message) == (request(7), FoundRecords())
    assert here.answered(PEER, answer.message) is None
    assert here.send(number or 0, at(0.2)) is None
    assert here.give_up(number or 0, at(0.2)) is None


def test_only_whom_it_was_put_to_answers_a_question() -> None:
    """What another member says under its number ends nothing, and neither does an answer that cannot be read."""
    here = asker()
    question = sent(here, here.ask(request(), at(0)), at(0))
    good = Answer(question.number, *encode_message(FoundRecords()))
    assert here.answered(OTHER, good) is None
    assert not here.needs_stream(OTHER, Answer(question.number))
    assert here.answered(PEER, Answer(question.number, CODES[FoundRecords], b"\xc1")) is None
    assert here.answered(PEER, good) is not None


@given(st.lists(st.booleans(), max_size=6))
def test_a_lost_question_is_put_again_and_then_over_a_stream(arrives: list[bool]) -> None:
    """It leaves a bounded number of times under one number; past that the request has half of its deadline left."""
    here, now_s = asker(), 0.0
    number = here.ask(request(), at(0))
    assert number is not None
    times = 0
    while (put := here.send(number, at(now_s))) is not None:
        assert isinstance(put[0].message, Question) and put[0].message.number == number
        times, now_s = times + 1, put[1]
        if arrives[times - 1 : times] == [True]:
            assert here.answered(PEER, Answer(number, *encode_message(FoundRecords()))) is not None
            assert here.give_up(number, at(now_s)) is None
            return
    assert times == len(RETRY_S)
    left = here.give_up(number, at(now_s))
    assert left is not None and left.message == FIND
    assert DEADLINE_S / 2 <= left.deadline_s <= DEADLINE_S - now_s + 1e-9


def test_what_needs_a_stream_takes_one() -> None:
    """Requests to whom a stream is open, those that may not be handled twice, and those too large for a datagram."""
    assert asker(PEER).ask(request(), at(0)) is None
    assert asker().ask(request(message=FetchMembers(())), at(0)) is None
    room = BODY_BYTES_MAX - OVERHEAD_BYTES - len(encode_message(stored(300))[1]) + 300
    assert asker().ask(request(message=stored(room)), at(0)) is not None
    assert asker().ask(request(message=stored(room + 1)), at(0)) is None


def test_an_answer_that_is_too_large_says_so() -> None:
    """The asker learns at once that it has to take a stream, and nobody sends more than a datagram."""
    here, there = asker(), asker()
    number = here.ask(request(), at(0))
    asked = there.asked(ASKER, sent(here, number, at(0)), at(0))
    assert asked is not None
    put = there.reply(asked[0], FoundRecords((Signed("record", bytes(1_000), bytes(32), bytes(64)),)))
    assert put == Put(ASKER, Answer(number or 0))
    assert here.needs_stream(PEER, Answer(number or 0))
    assert len(encode_message(sent(here, number, at(0.1)))[1]) <= BODY_BYTES_MAX


def test_whoever_asks_too_much_gets_no_answer() -> None:
    """Past its burst a member's questions are not looked at; another's are."""
    there, question = asker(), Question(1, *encode_message(FIND))
    taken = [there.asked(ASKER, question, at(0)) is not None for _ in range(int(QUESTIONS_BURST) + 50)]
    assert sum(taken) == QUESTIONS_BURST
    assert there.asked(OTHER, question, at(0)) is not None


def test_only_requests_are_asked_so() -> None:
    """Whatever else comes as a question is no request: nothing else enters by this door."""
    there = asker()
    for message in (RecordStored(True), FetchMembers(()), Question(1, 1, b"")):
        assert there.asked(ASKER, Question(1, *encode_message(message)), at(0)) is None


def test_what_is_open_is_bounded() -> None:
    """Past the bound requests take a stream, and of those asked the oldest are forgotten."""
    here, there = asker(), asker()
    peers = [NodeId(number.to_bytes(32, "big")) for number in range(OPEN_MAX + 1)]
    asked = [here.ask(Request(1, peer, FIND, DEADLINE_S), at(0)) is not None for peer in peers]
    assert asked == [True] * OPEN_MAX + [False]
    question = Question(1, *encode_message(FIND))
    tokens = [there.asked(NodeId(bytes([n % 7] * 32)), question, at(n)) for n in range(OPEN_MAX + 1)]
    assert tokens[0] is not None and there.reply(tokens[0][0], FoundRecords()) is None
    assert tokens[-1] is not None and there.reply(tokens[-1][0], FoundRecords()) is not None


def test_numbers_of_another_boot_mean_nothing() -> None:
    """An answer to what an earlier life asked is not taken for one to this life's first question."""
    before, now = Questions(BootId(b"a" * 16), lambda _: False), Questions(BootId(b"b" * 16), lambda _: False)
    assert abs((before.ask(request(), at(0)) or 0) - (now.ask(request(), at(0)) or 0)) > 1 << 32


def test_who_asks_very_often_waits_for_the_stream() -> None:
    """One member gets no more than a few questions in datagrams; then and again one more."""
    here = asker()
    asked = [here.ask(request(), at(0)) is not None for _ in range(20)]
    assert asked == [True] * int(DATAGRAMS_BURST) + [False] * (20 - int(DATAGRAMS_BURST))
    assert here.ask(request(), at(1 / DATAGRAMS_PER_S)) is not None


def test_who_asks_often_opens_a_stream() -> None:
    """The first two questions in a minute are worth no handshake, further ones are."""
    here = asker()
    assert [here.is_often(PEER, at(0)) for _ in range(4)] == [False, False, True, True]
    assert not here.is_often(PEER, at(61))
    assert not here.is_often(OTHER, at(0))
