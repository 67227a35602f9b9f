"""Nobody is sent more than its budget, control goes first, and no topic keeps the others waiting."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from beemesh.ids import NodeId
from beemesh.topics.outbox import BURST_BYTES, BYTES_PER_S, CONTROL, QUANTUM_BYTES, QUEUE_BYTES_MAX, Outbox

PEER, OTHER = NodeId(b"p" * 32), NodeId(b"o" * 32)


class Parcel(msgspec.Struct, frozen=True):
    """Something to send."""

    topic: str
    number: int


def _fill(outbox: Outbox, peer: NodeId = PEER) -> None:
    """Use up a peer's burst."""
    assert len(outbox.send(peer, Parcel("", 0), int(BURST_BYTES), 0.0)) == 1


def test_a_quiet_peer_is_sent_to_at_once() -> None:
    """Within the burst nothing waits."""
    outbox = Outbox()

    assert all(outbox.send(PEER, Parcel("a", number), 1_000, 0.0, "a") for number in range(200))
    assert outbox.next_s(0.0) is None


def test_a_budget_is_a_rate() -> None:
    """Beyond the burst a peer gets its bytes per second, no more and no less; other peers have their own."""
    outbox = Outbox()
    _fill(outbox)
    for number in range(1_000):
        outbox.send(PEER, Parcel("a", number), 1_000, 0.0, "a")
    assert outbox.send(OTHER, Parcel("a", 0), 1_000, 0.0, "a")

    now_s, sent = 0.0, 0
    while outbox.waiting_bytes and now_s < 0.25:
        now_s = max(now_s + 0.001, outbox.next_s(now_s) or 0.0)
        sent += len(outbox.due(now_s))
    assert abs(sent * 1_000 - now_s * BYTES_PER_S) <= 2_000


def test_a_large_message_whose_turn_it_is_holds_no_timer_at_now() -> None:
    """What waits for the bytes of the one is not due because a small one of another topic would fit already."""
    outbox = Outbox()
    _fill(outbox)
    outbox.send(PEER, Parcel("large", 0), 60_000, 0.0, "large")
    for number in range(100):
        outbox.send(PEER, Parcel("small", number), 100, 0.0, "small")

    now_s, looks, sent = 0.0, 0, 0
    while (next_s := outbox.next_s(now_s)) is not None and looks < 500:
        now_s, looks = next_s, looks + 1
        sent += len(outbox.due(now_s))
    assert sent == 101
    assert looks <= 101


def test_control_goes_before_data() -> None:
    """What keeps the mesh going overtakes whatever waits."""
    outbox = Outbox()
    _fill(outbox)
    for number in range(10):
        outbox.send(PEER, Parcel("a", number), 1_000, 0.0, "a")
    outbox.send(PEER, Parcel(CONTROL, 0), 100, 0.0)

    assert outbox.due(0.01)[0].message == Parcel(CONTROL, 0)


def test_topics_take_turns_by_bytes() -> None:
    """A flood on one topic does not keep another waiting, whatever the size of its messages."""
    outbox = Outbox()
    _fill(outbox)
    for number in range(400):
        outbox.send(PEER, Parcel("flood", number), 3_000, 0.0, "flood")
    for number in range(100):
        outbox.send(PEER, Parcel("quiet", number), 500, 0.0, "quiet")
    sent = [effect.message for effect in outbox.due(0.09)]
    by_topic = {topic: sum(parcel.topic == topic for parcel in sent) for topic in ("flood", "quiet")}

    assert by_topic["quiet"] == 100
    assert abs(by_topic["flood"] * 3_000 - by_topic["quiet"] * 500) <= 3 * QUANTUM_BYTES + BYTES_PER_S * 0.09 - 100_000


def test_what_finds_no_room_is_counted() -> None:
    """A peer's queue is bounded: the oldest of its longest topic are dropped, and the others stay."""
    outbox = Outbox()
    _fill(outbox)
    outbox.send(PEER, Parcel("quiet", 0), 500, 0.0, "quiet")
    for number in range(3_000):
        outbox.send(PEER, Parcel("flood", number), 1_000, 0.0, "flood")

    assert outbox.waiting_bytes <= QUEUE_BYTES_MAX
    assert outbox.dropped >= 900
    sent = [effect.message for effect in outbox.due(0.01)]
    assert Parcel("quiet", 0) in sent
    assert Parcel("flood", 0) not in sent


def test_nothing_waits_for_who_is_gone() -> None:
    """A dead peer's queue is forgotten."""
    outbox = Outbox()
    _fill(outbox)
    outbox.send(PEER, Parcel("a", 1), 1_000, 0.0, "a")
    outbox.forget(PEER)

    assert outbox.waiting_bytes == 0
    assert outbox.next_s(0.0) is None


@given(
    st.lists(
        st.tuples(st.sampled_from([PEER, OTHER]), st.sampled_from(["", "a", "b", "c"]), st.integers(1, 60_000)),
        max_size=60,
    )
)
def test_everything_that_is_not_dropped_leaves_in_order(parcels: list[tuple[NodeId, str, int]]) -> None:
    """Whatever is sent: each topic keeps its order, nothing is lost or doubled, and the queue ends empty."""
    outbox, sent = Outbox(), []
    for number, (peer, topic, size) in enumerate(parcels):
        sent += outbox.send(peer, Parcel(topic, number), size, 0.0, topic)
    now_s = 0.0
    for _ in range(10_000):
        at_s = outbox.next_s(now_s)
        if at_s is None:
            break
        now_s = max(at_s, now_s + 1e-6)
        sent += outbox.due(now_s)

    assert outbox.waiting_bytes == 0
    assert len(sent) + outbox.dropped == len(parcels)
    for peer in (PEER, OTHER):
        for topic in ("", "a", "b", "c"):
            numbers = [each.message.number for each in sent if each.to == peer and each.message.topic == topic]
            assert numbers == sorted(numbers)
