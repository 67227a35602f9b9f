"""Small requests in datagrams: one round trip, where a stream that is not open yet costs a handshake as well.

Only requests that may be handled twice go so, to members whom no stream is open to. A question without an answer is
sent again a few times under its number, and in the end put over a stream, as is one whose answer is too large: whoever
asked sees one `Answered` within the deadline, whichever way it took. Answers go to the address in the asker's card, to
members that were admitted alone, and no faster than a rate: nobody is flooded by what another asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from beemesh.dht.messages import Answer, FindRecords, Question, StoreRecord
from beemesh.effects import Now, Request
from beemesh.ids import BootId, NodeId
from beemesh.rates import Rates
from beemesh.scheduling.messages import SignedEvent
from beemesh.wire.datagram import BODY_BYTES_MAX
from beemesh.wire.registry import CODES, decode_message, encode_message

CARRIED: tuple[type[msgspec.Struct], ...] = (StoreRecord, FindRecords, SignedEvent)
"""Requests that may be handled twice: a record or an event is kept once, however often it comes, and reading changes
nothing."""

RETRY_S = (0.15, 0.15, 0.15)
"""Pauses after each time that a question is sent, with half of the usual deadline left for a stream at their end. A
loss costs one; across a slow link a question is heard twice."""

QUESTIONS_PER_S, QUESTIONS_BURST = 100.0, 500.0
"""Of one member: what it may publish and look up in a second, and at its start. Past it nothing is answered, and the
question comes over a stream, which slows its writer down."""

OPEN_MAX = 1_024
"""Questions of ours in flight, and those of others that wait for an answer; past it requests go over streams."""

SELDOM_PER_S, SELDOM_BURST = 1 / 60, 2.0
"""Whoever asks one member more often than this opens a stream to it meanwhile: there a message costs no signature."""

DATAGRAMS_PER_S, DATAGRAMS_BURST = 1 / 6, 10.0
"""Questions to one member that go in datagrams although no stream is open yet; those past it wait for the stream."""

TOKENS_START = 1 << 61
"""Tokens of questions that came in datagrams; a shell counts its own from 1, the dispatcher from twice as many."""


class Put(NamedTuple):
    """A message for a member, as a datagram."""

    to: NodeId
    message: msgspec.Struct


class _Open(NamedTuple):
    request: Request
    question: Question
    until_s: float
    sent: int


class Questions:
    """What this node asked in datagrams, and what it was asked."""

    def __init__(self, boot_id: BootId, is_warm: Callable[[NodeId], bool]) -> None:
        """`is_warm` tells whether a stream to a member is open. Numbers begin where no earlier boot's did."""
        self._is_warm = is_warm
        self._number = int.from_bytes(boot_id[:6], "big")
        self._open: dict[int, _Open] = {}
        self._asked: OrderedDict[int, tuple[NodeId, int]] = OrderedDict()
        self._token = TOKENS_START
        self._rates = Rates(QUESTIONS_PER_S, QUESTIONS_BURST)
        self._seldom = Rates(SELDOM_PER_S, SELDOM_BURST)
        self._put = Rates(DATAGRAMS_PER_S, DATAGRAMS_BURST)

    # --- asking ---------------------------------------------------------------------------------------------------

    def ask(self, request: Request, now: Now) -> int | None:
        """The number under which a request goes in datagrams; None when it goes over a stream."""
        if type(request.message) not in CARRIED or len(self._open) >= OPEN_MAX or self._is_warm(request.to):
            return None
        question = Question(self._number + 1, *encode_message(request.message))
        if not _fits(question) or not self._put.take(request.to, now.boot_s):
            return None
        self._number += 1
        self._open[self._number] = _Open(request, question, now.boot_s + request.deadline_s, 0)
        return self._number

    def send(self, number: int, now: Now) -> tuple[Put, float] | None:
        """(the question, when to come back for it); None when it was answered."""
        waiting = self._open.get(number)
        if waiting is None or waiting.sent == len(RETRY_S):
            return None
        self._open[number] = waiting._replace(sent=waiting.sent + 1)
        at_s = min(now.boot_s + RETRY_S[waiting.sent], waiting.until_s)
        return Put(waiting.request.to, waiting.question), at_s

    def give_up(self, number: int, now: Now) -> Request | None:
        """The request, with what is left of its deadline, to be put over a stream; None when it was answered."""
        waiting = self._open.pop(number, None)
        if waiting is None:
            return None
        return msgspec.structs.replace(waiting.request, deadline_s=max(0.0, waiting.until_s - now.boot_s))

    def answered(self, sender: NodeId, answer: Answer) -> tuple[Request, msgspec.Struct] | None:
        """(the request, its answer), unless nobody asked that, or it needs a stream."""
        waiting = self._open.get(answer.number)
        if waiting is None or waiting.request.to != sender:
            return None
        message = decode_message(answer.code, answer.body)
        if message is None:
            return None
        del self._open[answer.number]
        return waiting.request, message

    def needs_stream(self, sender: NodeId, answer: Answer) -> bool:
        """Whether whom we asked says so."""
        waiting = self._open.get(answer.number)
        return waiting is not None and waiting.request.to == sender and not answer.code

    def is_often(self, peer: NodeId, now: Now) -> bool:
        """Whether a stream to a member is worth its handshake; to be asked once for each question to it."""
        return not self._seldom.take(peer, now.boot_s)

    # --- answering ------------------------------------------------------------------------------------------------

    def asked(self, sender: NodeId, question: Question, now: Now) -> tuple[int, msgspec.Struct] | None:
        """(a token, the request), unless it is none that is answered so, or one too many."""
        message = decode_message(question.code, question.body)
        if type(message) not in CARRIED or not self._rates.take(sender, now.boot_s):
            return None
        assert message is not None
        self._token += 1
        self._asked[self._token] = sender, question.number
        if len(self._asked) > OPEN_MAX:
            self._asked.popitem(last=False)
        return self._token, message

    def reply(self, token: int, message: msgspec.Struct | None) -> Put | None:
        """The answer to what came under a token; None when nothing did, or there is no answer."""
        place = self._asked.pop(token, None)
        if place is None or message is None:
            return None
        sender, number = place
        answer = Answer(number, *encode_message(message))
        return Put(sender, answer if _fits(answer) else Answer(number))


def _fits(message: Question | Answer) -> bool:
    """Whether it goes into one datagram; both are bodies with two numbers in front."""
    return len(message.body) + OVERHEAD_BYTES <= BODY_BYTES_MAX


OVERHEAD_BYTES = 1 + 9 + 3 + 3
"""The array, its two numbers and the length of the body, at their largest."""

assert all(kind in CODES for kind in CARRIED)
