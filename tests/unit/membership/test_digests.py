"""Large states are compared by hashes first, and lines travel only where these differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.effects import Answered, Asked, Effects, Received, Reply, Request, Send, TimerFired
from beemesh.ids import NodeId
from beemesh.membership.claims import ClaimDesk
from beemesh.membership.digests import ALL_PARTS, HASH_BYTES, LISTED_MAX, PARTS, differing, part_of, parts_of
from beemesh.membership.messages import Claims, Known, PushPull, PushPullAnswer
from beemesh.membership.summaries import Summary
from beemesh.membership.swim import Swim
from tests.unit.membership.cast import IDS, KEYS, alive, at
from tests.unit.membership.test_swim import _swim

MANY = 80
NOBODY = NodeId(bytes(32))

node_ids = st.binary(min_size=32, max_size=32).filter(lambda node_id: node_id != NOBODY).map(NodeId)
lines = st.builds(Known, node_ids, st.integers(1, 2**63 - 1), st.integers(0, 2**63 - 1))
states = st.lists(lines, max_size=20, unique_by=lambda line: line.node_id).map(
    lambda known: sorted(known, key=lambda line: line.node_id)
)


@given(states, states)
def test_exactly_the_parts_differ_whose_lines_do(mine: list[Known], theirs: list[Known]) -> None:
    """Compared with the lines themselves, part by part."""
    found = differing(parts_of(mine, without=NOBODY), parts_of(theirs, without=NOBODY))
    expected = {
        part
        for part in range(PARTS)
        if [line for line in mine if part_of(line.node_id) == part]
        != [line for line in theirs if part_of(line.node_id) == part]
    }
    assert set(found) == expected


@given(states, lines)
def test_the_other_end_and_whom_nobody_heard_of_do_not_count(known: list[Known], other: Known) -> None:
    """Each leaves out itself and the other, so that both count the same; a card without a life says nothing."""
    rest = [line for line in known if line.node_id != other.node_id]
    more = sorted([*rest, other], key=lambda line: line.node_id)
    silent = sorted([*rest, Known(other.node_id, 0, 0)], key=lambda line: line.node_id)
    expected = parts_of(rest, without=NOBODY)
    assert parts_of(more, without=other.node_id) == expected == parts_of(silent, without=NOBODY)


@pytest.mark.parametrize("theirs", [b"", b"short", bytes(PARTS * HASH_BYTES + 1)])
def test_hashes_of_another_shape_differ_everywhere(theirs: bytes) -> None:
    """A later version may divide otherwise: then all lines are compared."""
    assert differing(bytes(PARTS * HASH_BYTES), theirs) == ALL_PARTS


def _standing(self_index: int, size: int = MANY) -> Swim:
    """A member that knows all others for long."""
    swim = _swim(size, self_index=self_index)
    for at_s in (10, 20):
        swim.handle(TimerFired(("swim", "push-pull")), at(at_s))
    return swim


def _question(swim: Swim, at_s: float) -> Request:
    effects = swim.handle(TimerFired(("swim", "push-pull")), at(at_s))
    (request,) = [each for each in effects if isinstance(each, Request)]
    assert isinstance(request.message, PushPull)
    return request


def _answer(swim: Swim, sender: int, question: Any) -> PushPullAnswer:
    (reply,) = [each for each in swim.handle(Asked(IDS[sender], 9, question), at(30)) if isinstance(each, Reply)]
    assert isinstance(reply.message, PushPullAnswer)
    return reply.message


def _asked(effects: Effects) -> list[PushPull]:
    return [each.message for each in effects if isinstance(each, Request) and isinstance(each.message, PushPull)]


def test_members_that_agree_exchange_hashes_alone() -> None:
    """Some 2 KiB, however large the mesh is; and the answer asks for nothing."""
    swim = _standing(0)
    request = _question(swim, 30)
    assert (len(request.message.hashes), request.message.known) == (PARTS * HASH_BYTES, ())

    partner = _standing(IDS.index(request.to))
    answer = _answer(partner, 0, request.message)

    assert (answer.differ, answer.wanted) == (b"", ())
    assert _asked(swim.handle(Answered(request.request_id, request.to, answer), at(30))) == []


def test_members_that_differ_exchange_lines_of_that_part_alone() -> None:
    """What is newer at one end reaches the other, both ways, and no other line travels."""
    swim = _standing(0)
    peer = _question(swim, 30).to
    partner_index = IDS.index(peer)
    partner = _standing(partner_index)
    newer_here, newer_there = [index for index in range(1, MANY) if index != partner_index][:2]
    swim.handle(Received(IDS[newer_here], Claims((alive(newer_here, 5),))), at(29))
    summary = ClaimDesk(KEYS[newer_there], swim.members.roster).sign("summary", Summary(IDS[newer_there], 7, 0))
    partner.handle(Received(IDS[newer_there], Claims((summary,))), at(29))

    first = _answer(partner, 0, _question_to(swim, peer))
    (second,) = _asked(swim.handle(Answered(1, peer, first), at(30)))
    effects = swim.handle(Answered(1, peer, _answer(partner, 0, second)), at(30))
    for each in effects:
        if isinstance(each, Send) and isinstance(each.message, Claims):
            partner.handle(Received(IDS[0], each.message), at(30))

    parts = {part_of(IDS[newer_here]), part_of(IDS[newer_there])}
    assert set(first.differ) == parts
    assert {part_of(line.node_id) for line in second.known} <= parts
    assert len(second.known) < LISTED_MAX / 4
    here, there = partner.members.get(IDS[newer_here]), swim.members.view.summary(IDS[newer_there])
    assert here is not None and here.incarnation == 5
    assert there is not None and there.seq == 7


def _question_to(swim: Swim, peer: NodeId) -> PushPull:
    for at_s in range(31, 400):
        request = _question(swim, at_s)
        if request.to == peer:
            question = request.message
            assert isinstance(question, PushPull)
            return question
    raise AssertionError("that partner was asked no more")


def test_parts_are_answered_once_for_each_question() -> None:
    """A partner that says "it differs" again and again makes nobody send lines again and again."""
    swim = _standing(0)
    request = _question(swim, 30)
    hostile = PushPullAnswer(differ=ALL_PARTS)
    asked = [_asked(swim.handle(Answered(request.request_id, request.to, hostile), at(30 + each))) for each in range(5)]
    assert [len(each) for each in asked] == [1, 0, 0, 0, 0]
    assert all(_asked(swim.handle(Answered(1, IDS[index], hostile), at(40))) == [] for index in range(1, 6))


def test_a_small_mesh_compares_lines_at_once() -> None:
    """They are hardly longer than the hashes, and save a round trip."""
    request = _question(_standing(0, LISTED_MAX), 30)
    assert (request.message.hashes, len(request.message.known)) == (b"", LISTED_MAX - 1)
