"""What a node publishes when: against a list that is looked through from end to end."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from beemesh.dht.publisher import BURST, STALE_MAX, TICK_S, Publisher
from beemesh.dht.records import MACHINE_RECORDS, Domain
from beemesh.effects import Now
from beemesh.events import PublishRecord
from beemesh.ids import NodeId
from simulator.crypto import FakeCrypto

SUBJECTS = st.sampled_from("abcdef")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), SUBJECTS, st.sampled_from([0.0, 0.0, 3.0])),
        st.tuples(st.just("withdraw"), SUBJECTS, st.just(0.0)),
        st.tuples(st.just("fail"), SUBJECTS, st.just(0.0)),
        st.tuples(st.just("skip"), SUBJECTS, st.sampled_from([1.0, 700.0])),
        st.tuples(st.just("pass"), st.just(""), st.sampled_from([0.01, 12.0, 2_000.0])),
    ),
    max_size=60,
)


def publisher() -> Publisher:
    """One that has nothing to publish yet."""
    crypto = FakeCrypto(b"a")
    domain = Domain("sim", MACHINE_RECORDS, {crypto.signer_id: crypto.sign_key}.get)
    return Publisher(NodeId(crypto.signer_id), domain, crypto, random.Random(0))


@given(STEPS)
def test_exactly_what_is_due_leaves_youngest_first(steps: list[tuple[str, str, float]]) -> None:
    """Whatever was added, withdrawn, put off or hurried: all that is due leaves, nothing else, and the node looks again
    when the next one is due."""
    published, now_s = publisher(), 0.0
    for number, (what, subject, seconds) in enumerate(steps):
        if what == "add":
            published.add(PublishRecord("manifest", subject, str(number).encode()), now_s + seconds)
        elif what == "withdraw":
            published.withdraw(("manifest", subject))
        elif what == "fail":
            published.settled(("manifest", subject), Now(now_s, 0), well=False)
        elif what == "skip":
            published.skip(("manifest", subject), Now(now_s, 0), seconds)
        now_s += seconds if what == "pass" else 1.0
        now, own = Now(now_s, 0), list(published._own.values())
        due = [each.subject for each in sorted(own, key=lambda each: -each.number) if each.due_s <= now_s]
        assert [each.subject for each in published.due(now)] == due
        first_s = min((each.due_s for each in own), default=None)
        assert published.next_s(now) == (None if first_s is None else max(now_s + TICK_S, first_s))
        assert len(published._later) <= 2 * len(own) + STALE_MAX + 1


def test_what_is_new_does_not_wait_behind_what_a_start_renews() -> None:
    """Of more than may leave at once the youngest leaves first, and the others follow in time."""
    published, now = publisher(), Now(0.0, 0)
    for number in range(100):
        published.add(PublishRecord("manifest", f"old {number}"), 0.0)
    assert len(list(published.due(now))) == BURST
    published.add(PublishRecord("manifest", "new"), 0.5)
    assert next(iter(published.due(Now(0.5, 0)))).subject == "new"
    left = [each for tick in range(2, 20) for each in published.due(Now(tick * TICK_S, 0))]
    assert len(left) == 100 - BURST
