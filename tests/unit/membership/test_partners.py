"""With whom a node compares what it knows."""

from __future__ import annotations

import random
from collections import Counter

from beemesh.membership.partners import KEPT_FOR, PARTNERS, Partners
from tests.unit.membership.cast import IDS, alive, at, table


def _partners(size: int) -> Partners:
    members = table(8)
    for index in range(1, size):
        members.take(alive(index, 1), at(0))
    return Partners(members.view, random.Random(1))


def test_a_few_are_kept_for_a_while_and_all_have_their_turn() -> None:
    """Few at any time, so that streams to them stay open; others in the long run, so that news come everywhere."""
    partners = _partners(8)
    drawn = [partners.one() for _ in range(40 * KEPT_FOR)]

    assert len(set(drawn[: KEPT_FOR // 4])) <= PARTNERS + 1
    counts = Counter(drawn)
    assert set(counts) == set(IDS[1:8])
    assert min(counts.values()) > len(drawn) / 7 / 3
    changes = sum(len(set(drawn[at : at + 12]) - set(drawn[at - 12 : at])) for at in range(12, len(drawn), 12))
    assert changes < len(drawn) / 6


def test_only_who_lives_is_a_partner() -> None:
    """A dead one is replaced; a node that is alone has none."""
    members = table(4)
    partners = Partners(members.view, random.Random(1))
    assert partners.one() is None

    for index in (1, 2, 3):
        members.take(alive(index, 1), at(0))
    assert {partners.one() for _ in range(50)} == set(IDS[1:4])
    members.view.set_status(IDS[2], "dead")
    assert {partners.one() for _ in range(50)} == {IDS[1], IDS[3]}
