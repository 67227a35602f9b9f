"""When a node says anew how it is, and when that is worth a datagram."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.effects import Schedule, TimerFired
from beemesh.events import PodsObserved, ResourcesObserved
from beemesh.membership.claims import ClaimDesk
from beemesh.membership.members import Members
from beemesh.membership.self_summary import LOOK_S, RENEW_S, SelfSummary
from beemesh.membership.settings import SelfFacts
from beemesh.membership.summaries import Summary, is_news
from beemesh.workloads.observation import ReplicaReport
from tests.unit.membership.cast import IDS, KEYS, WALL_MS, alive, at, roster, table

BEFORE = Summary(IDS[1], 1, WALL_MS, 4000, 3000, 0, 8000, 6000, 0, 100_000, 50_000, 0)


def _resources(load: float = 0.1, mem_mb_free: int = 6000) -> ResourcesObserved:
    return ResourcesObserved(4000, 8000, 100_000, load, mem_mb_free, 50_000)


def _speaker() -> tuple[SelfSummary, Members]:
    members = table(5)
    members.take(alive(1, 1), at(0))
    speaker = SelfSummary(IDS[0], members, SelfFacts(), lambda _key: None)
    speaker.start(at(0))
    speaker.handle(_resources(), at(0))
    speaker.handle(TimerFired(("summary", "soon")), at(0.3))
    while members.rumours.take(members.retransmits):
        pass
    return speaker, members


def _seqs(members: Members, speaker: SelfSummary, first_s: float, last_s: float) -> int:
    """How many summaries are written between two moments."""
    seen = set()
    second = first_s
    while second <= last_s:
        (again,) = speaker.handle(TimerFired(("summary", "look")), at(second))
        assert isinstance(again, Schedule)
        second = again.at_boot_s
        seen.add(members.own.summary_seq)
    return len(seen)


def test_a_quiet_node_renews_its_summary_rarely_and_patiently() -> None:
    """Six looks in vain, then one renewal, which rides along with what is sent in any case."""
    speaker, members = _speaker()

    assert _seqs(members, speaker, LOOK_S, RENEW_S) == 1
    assert members.rumours.get(("summary", IDS[0], b"")) is None
    assert _seqs(members, speaker, RENEW_S + LOOK_S, RENEW_S + LOOK_S) == 1
    assert members.rumours.get(("summary", IDS[0], b"")) is not None
    assert not members.rumours.has_urgent


def test_a_load_that_swings_a_little_is_not_told() -> None:
    """A machine's load never stands still, and the mesh need not hear of every step."""
    speaker, members = _speaker()
    before = members.own.summary_seq
    speaker.handle(_resources(0.25, 5500), at(5))
    speaker.handle(TimerFired(("summary", "look")), at(10))
    assert members.own.summary_seq == before

    speaker.handle(_resources(0.9), at(15))
    speaker.handle(TimerFired(("summary", "look")), at(20))
    assert members.own.summary_seq > before
    assert members.rumours.has_urgent


def test_a_pod_more_is_told_soon() -> None:
    """Within moments, and by a datagram of its own; the same pods again are not told."""
    speaker, members = _speaker()
    pod = ReplicaReport("web-1-0", "deployment/default/web", "default", "Deployment", 1, 0, IDS[0], "Running", True)
    assert speaker.handle(PodsObserved(()), at(5)) == []

    (soon,) = speaker.handle(PodsObserved((pod,)), at(6))
    assert isinstance(soon, Schedule)
    speaker.handle(TimerFired(soon.key), at(soon.at_boot_s))
    assert members.view.summary(IDS[0]).pods_running == 1  # type: ignore[union-attr]
    assert members.rumours.has_urgent


def test_the_number_of_an_earlier_life_is_outbid() -> None:
    """Where the clock was ahead before the restart, others keep the older summary until ours has a higher number."""
    speaker, members = _speaker()
    members.own.summary_seq += 1_000_000
    speaker.handle(TimerFired(("summary", "look")), at(10))

    assert members.view.summary(IDS[0]).seq > WALL_MS + 1_000_000  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "news"),
    [
        ({"seq": 9, "taken_ms": WALL_MS + 9, "cpu_load": 0.9}, False),
        ({"cpu_m_free": 2300}, False),
        ({"cpu_m_free": 2100}, True),
        ({"mem_mb_free": 5300}, False),
        ({"mem_mb_free": 5100}, True),
        ({"storage_mb_free": 46_000}, False),
        ({"storage_mb_free": 44_000}, True),
        ({"pods_running": 1}, True),
        ({"cordoned": True}, True),
        ({"ring_epoch": 2}, True),
        ({"cpu_m_reserved": 10}, True),
    ],
)
def test_what_is_news(change: dict[str, int], news: bool) -> None:
    """Measured values count from a good part of the whole on, everything else at once."""
    assert is_news(msgspec.structs.replace(BEFORE, **change), BEFORE) is news


def test_a_disk_that_is_full_is_news() -> None:
    """However little was left: work is not placed there any more."""
    nearly = msgspec.structs.replace(BEFORE, storage_mb_free=1)
    assert is_news(msgspec.structs.replace(nearly, storage_mb_free=0), nearly)


def test_renewals_of_others_are_passed_on_patiently() -> None:
    """Whoever relays a summary sees itself whether it says anything new."""
    members = table(5)
    members.take(alive(1, 1), at(0))
    desk = ClaimDesk(KEYS[1], roster(5))
    members.take(desk.sign("summary", BEFORE), at(1))
    assert members.rumours.has_urgent
    while members.rumours.take(members.retransmits):
        pass

    members.take(desk.sign("summary", msgspec.structs.replace(BEFORE, seq=2, cpu_load=0.5)), at(2))
    assert len(members.rumours) == 1
    assert not members.rumours.has_urgent


def test_nobody_else_moves_our_own_number() -> None:
    """A summary in this node's name that it did not sign leaves its numbers alone; one of an earlier life is outbid."""
    members = table(5)
    forged = ClaimDesk(KEYS[1], roster(5)).sign("summary", msgspec.structs.replace(BEFORE, node_id=IDS[0], seq=1 << 61))
    members.take(forged, at(1))
    assert members.own.summary_seq == 0

    members.take(ClaimDesk(KEYS[0], roster(5)).sign("summary", msgspec.structs.replace(BEFORE, node_id=IDS[0])), at(1))
    assert members.own.summary_seq == 1
