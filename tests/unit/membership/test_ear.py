"""A node that hears nobody judges nobody."""

from __future__ import annotations

from beemesh.effects import Effects, Now
from beemesh.ids import NodeId
from beemesh.membership.ear import Ear
from beemesh.membership.suspicion import verdict
from tests.unit.membership.cast import IDS, alive, at, suspect, table

INTERVAL_S = 1.0


def test_a_node_that_never_heard_anybody_trusts_itself() -> None:
    """There is nothing to compare with yet."""
    assert not Ear(INTERVAL_S).is_deaf(1_000.0)


def test_three_intervals_of_silence_are_deafness() -> None:
    """While words come in between, it hears."""
    ear = Ear(INTERVAL_S)
    for second in range(10):
        ear.heard(second)
        assert not ear.is_deaf(second + 0.9)

    assert not ear.is_deaf(12.0)
    assert ear.is_deaf(12.1)


def test_it_listens_for_a_moment_before_it_trusts_itself_again() -> None:
    """After a gap the first word may come before those that matter."""
    ear = Ear(INTERVAL_S)
    ear.heard(0.0)
    ear.heard(20.0)

    assert ear.is_deaf(20.9)
    assert not ear.is_deaf(21.0)


def test_the_deaf_hold_nobody_dead_on_the_word_of_others() -> None:
    """Accusers are enough for a node that hears; a deaf one waits, and gives the accused all its time once it hears."""
    members = table(5)
    for index in (1, 2, 3, 4):
        members.take(alive(index, 1), at(0))
    members.hear(IDS[1], at(0))
    for accuser in (1, 2, 3):
        members.take(suspect(accuser, 4), at(0.5))
    for tenth in range(45, 200):
        members.suspicion_due(IDS[4], at(tenth / 10))
    assert members.view.status(IDS[4]) == "suspect"

    judged_s = None
    for tenth in range(200, 300):
        if tenth % 10 == 0:
            members.hear(IDS[1], at(tenth / 10))
        members.suspicion_due(IDS[4], at(tenth / 10))
        if members.view.status(IDS[4]) == "dead":
            judged_s = tenth / 10
            break
    assert judged_s is not None and 24.0 <= judged_s <= 24.2


def test_a_lone_survivor_judges_although_it_hears_nobody() -> None:
    """When all others fail its own probes as well, there is nobody whom it could hear."""
    members = table(3)
    for index in (1, 2):
        members.take(alive(index, 1), at(0))
        members.hear(IDS[index], at(0))
        row = members.get(IDS[index])
        assert row is not None
        members.accuse(row, at(1))
    for tenth in range(10, 300):
        for index in (1, 2):
            members.suspicion_due(IDS[index], at(tenth / 10))

    assert [members.view.status(IDS[index]) for index in (1, 2)] == ["dead", "dead"]


def test_deafness_takes_only_the_word_of_others_away() -> None:
    """The rule of the lone survivor stands."""
    members = table(3)
    members.take(suspect(1, 2), at(0))
    row = members.get(IDS[2])
    assert row is not None
    members.take(alive(2, 1), at(0))
    members.take(suspect(1, 2), at(0))
    doubt = row.suspicion
    assert doubt is not None
    doubt.add(IDS[0], suspect(0, 2))

    assert verdict(doubt, IDS[0], possible=[IDS[1]], failed_since={}, now_s=99, deaf=False)
    assert not verdict(doubt, IDS[0], possible=[IDS[1]], failed_since={}, now_s=99, deaf=True)
    assert verdict(doubt, IDS[0], possible=[], failed_since={}, now_s=99, deaf=True)


def test_own_probes_from_before_the_deafness_are_history() -> None:
    """A node that accused before it was starved asks the accused again: it may have come back meanwhile."""
    members = table(5)
    for index in (1, 2, 3, 4):
        members.take(alive(index, 1), at(0))
    members.hear(IDS[1], at(0))
    row = members.get(IDS[4])
    assert row is not None
    members.accuse(row, at(0.5))
    members.take(suspect(1, 4), at(0.5))
    members.take(suspect(2, 4), at(0.5))
    asked: list[float] = []

    def ask(node_id: NodeId, now: Now) -> Effects:
        assert node_id == IDS[4]
        asked.append(now.boot_s)
        return []

    members.ask = ask
    for tenth in range(200, 250):
        if tenth % 10 == 0:
            members.hear(IDS[1], at(tenth / 10))
        members.suspicion_due(IDS[4], at(tenth / 10))

    assert asked == [22.0, 23.0]
    assert members.view.status(IDS[4]) == "dead"
