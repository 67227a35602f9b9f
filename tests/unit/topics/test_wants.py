"""What is missing is asked for, and whoever promises what it does not have is not believed for long."""

from __future__ import annotations

from beemesh.ids import NodeId
from beemesh.topics.messages import MESSAGE_ID_BYTES
from beemesh.topics.wants import ASK_AGAIN_S, MISSING_MAX, MISSING_PER_MEMBER_MAX, SHUNNED_S, Wants

HONEST, LIAR = NodeId(b"h" * 32), NodeId(b"l" * 32)


def _ids(count: int, start: int = 0) -> list[bytes]:
    return [number.to_bytes(MESSAGE_ID_BYTES, "big") for number in range(start, start + count)]


def test_patience_waits_for_a_push() -> None:
    """What is probably on its way is asked for only when it does not come in time; a better offer is taken at once."""
    wants, key = Wants(), _ids(1)
    assert wants.mentioned(HONEST, key, 0.0, patience_s=0.2) == []
    assert wants.due(0.1)[0] == {}
    assert wants.due(0.2)[0] == {HONEST: key}

    other = _ids(1, start=5)
    assert wants.mentioned(HONEST, other, 0.0, patience_s=0.2) == []
    assert wants.mentioned(LIAR, other, 0.1) == other


def test_a_flood_of_ids_that_do_not_exist_leaves_room() -> None:
    """One member fills no more than its share of what is asked for."""
    wants = Wants()
    wants.mentioned(LIAR, _ids(10 * MISSING_MAX), 0.0)

    assert len(wants) == MISSING_PER_MEMBER_MAX
    assert wants.mentioned(HONEST, _ids(1, start=10**9), 0.0)


def test_whoever_never_delivers_is_not_believed() -> None:
    """Broken promises end in being ignored for a while; one answer in time is enough to be believed."""
    wants = Wants()
    now_s, asked = 0.0, 0
    for number in range(200):
        now_s += ASK_AGAIN_S
        wants.mentioned(LIAR, _ids(1, start=number), now_s)
        wants.mentioned(HONEST, _ids(1, start=10**6 + number), now_s)
        if number % 10 == 0:
            wants.arrived(_ids(1, start=10**6 + number)[0], HONEST, now_s)
        asked += LIAR in wants.due(now_s)[0]

    assert wants.is_shunned(LIAR, now_s)
    assert not wants.is_shunned(HONEST, now_s)
    assert asked < 100
    assert not wants.is_shunned(LIAR, now_s + SHUNNED_S)


def test_a_dead_member_is_asked_for_nothing() -> None:
    """What only a dead member had is not asked for any more; another holder's is."""
    wants, keys = Wants(), _ids(2)
    wants.mentioned(LIAR, keys, 0.0)
    wants.mentioned(HONEST, keys[:1], 0.0)
    wants.forget_member(LIAR)

    assert wants.due(1.0)[0] == {HONEST: keys[:1]}
    assert len(wants) == 1


def test_an_id_of_the_wrong_length_is_ignored() -> None:
    """Ids are 16 bytes."""
    wants = Wants()
    assert wants.mentioned(LIAR, [b"", b"x" * 17], 0.0) == []
    assert len(wants) == 0


def _requests(wants: Wants, key: list[bytes], from_s: float, until_s: float) -> int:
    """How often a message is asked for between two moments, when it does not come."""
    count = len(wants.mentioned(HONEST, key, from_s))
    now_s = wants.next_s()
    while now_s is not None and now_s < until_s:
        count += len(wants.due(now_s)[0])
        now_s = wants.next_s()
    return count


def test_a_node_that_hears_slowly_asks_slowly() -> None:
    """Answers that take longer than a pause are on their way: asking again and again brings each many times over."""
    wants = Wants()
    assert _requests(wants, _ids(1), 1.0, 4.0) <= 14
    wants.arrived(_ids(1)[0], HONEST, 4.0)

    assert _requests(wants, _ids(1, start=1), 10.0, 13.0) <= 3


def test_losses_alone_slow_no_repair() -> None:
    """Where some answers come at once, a message that does not come is asked for as quickly as ever."""
    wants = Wants()
    for number in range(4):
        wants.mentioned(HONEST, _ids(1, start=number), 1.0)
        wants.arrived(_ids(1, start=number)[0], HONEST, 1.6 if number else 1.02)

    assert _requests(wants, _ids(1, start=9), 2.0, 3.45) >= 14


def test_a_few_losses_are_not_taken_for_slowness() -> None:
    """The first answers were lost a few times, as they are at 30 % loss: the next message is asked for as quickly."""
    wants = Wants()
    for number, delay_s in enumerate((0.2, 0.9, 0.4)):
        wants.mentioned(HONEST, _ids(1, start=number), 1.0)
        wants.arrived(_ids(1, start=number)[0], HONEST, 1.0 + delay_s)

    assert _requests(wants, _ids(1, start=9), 3.0, 3.95) >= 10
    wants.arrived(_ids(1, start=9)[0], HONEST, 3.95)
    assert _requests(wants, _ids(1, start=10), 5.0, 5.95) <= 4
