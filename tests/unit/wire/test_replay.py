"""The window against a model: a set of all counters that were ever taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beemesh.ids import BootId, NodeId
from beemesh.wire.replay import BOOTS_PER_SENDER_MAX, RETIRED_BOOTS_MAX, SENDERS_MAX, WINDOW, ReplayGuard

SENDER = NodeId(b"s" * 32)
BOOTS = [BootId(bytes([number]) * 16) for number in range(8)]

counters = st.lists(
    st.one_of(
        st.integers(0, 40), st.integers(0, 3 * WINDOW), st.sampled_from([WINDOW - 1, WINDOW, WINDOW + 1, 2**64 - 1])
    ),
    max_size=60,
)


@given(floor=st.integers(0, 2 * WINDOW), taken=counters)
def test_a_counter_is_fresh_once(floor: int, taken: list[int]) -> None:
    """Fresh is exactly what is above the floor, not taken before, and less than a window behind the highest taken."""
    guard, seen, highest = ReplayGuard(), set[int](), floor
    guard.set_floor(SENDER, BOOTS[0], floor)
    for counter in taken:
        expected = counter > floor and counter not in seen and highest - counter < WINDOW
        assert guard.is_fresh(SENDER, BOOTS[0], counter) == expected
        if expected:
            guard.enter(SENDER, BOOTS[0], counter)
            seen.add(counter)
            highest = max(highest, counter)


@given(taken=counters)
def test_without_a_floor_nothing_is_fresh_twice(taken: list[int]) -> None:
    """A boot that is not believed yet has a window nevertheless: recordings count once."""
    guard, seen = ReplayGuard(), set[int]()
    for counter in taken:
        if guard.is_fresh(SENDER, BOOTS[0], counter):
            assert counter not in seen
            guard.enter(SENDER, BOOTS[0], counter)
            seen.add(counter)
    assert not guard.has_floor(SENDER, BOOTS[0])


@given(before=counters, floor=st.integers(0, 2 * WINDOW))
def test_a_floor_ends_everything_before_it(before: list[int], floor: int) -> None:
    """Nothing at or below the floor, and nothing that was heard before it, is fresh afterwards."""
    guard = ReplayGuard()
    for counter in before:
        if guard.is_fresh(SENDER, BOOTS[0], counter):
            guard.enter(SENDER, BOOTS[0], counter)
    guard.set_floor(SENDER, BOOTS[0], floor)
    assert not any(guard.is_fresh(SENDER, BOOTS[0], counter) for counter in (*before, floor, floor // 2))


def test_a_second_floor_of_the_same_boot_changes_nothing() -> None:
    """Every echo sets the floor; only the first one of a boot moves its window."""
    guard = ReplayGuard()
    guard.set_floor(SENDER, BOOTS[0], 10)
    guard.enter(SENDER, BOOTS[0], 12)
    guard.set_floor(SENDER, BOOTS[0], 12)
    assert guard.is_fresh(SENDER, BOOTS[0], 11)


def test_looking_up_changes_nothing() -> None:
    """A counter stays fresh however often it is asked about."""
    guard = ReplayGuard()
    guard.set_floor(SENDER, BOOTS[0], 0)
    assert all(guard.is_fresh(SENDER, BOOTS[0], 5) for _ in range(3))


def test_only_the_last_boot_to_echo_has_the_floor() -> None:
    """A later boot takes the floor from the earlier one."""
    guard = ReplayGuard()
    guard.set_floor(SENDER, BOOTS[0], 5)
    guard.set_floor(SENDER, BOOTS[1], 1)
    assert not guard.has_floor(SENDER, BOOTS[0])
    assert guard.has_floor(SENDER, BOOTS[1])


def test_old_boots_never_push_the_present_one_out() -> None:
    """However many boots are heard of, the one with the floor keeps its window, and the number stays bounded."""
    guard = ReplayGuard()
    guard.set_floor(SENDER, BOOTS[0], 9)
    for boot in BOOTS[1:]:
        guard.enter(SENDER, boot, 1)
    assert len(guard._senders[SENDER].windows) == BOOTS_PER_SENDER_MAX
    assert not guard.is_fresh(SENDER, BOOTS[0], 9)
    assert guard.is_fresh(SENDER, BOOTS[0], 10)


def test_a_sender_that_falls_over_again_and_again_is_not_believed_twice() -> None:
    """Nothing that any of many lives of a sender said counts again, although only a few of them keep a window."""
    guard = ReplayGuard()
    boots = [BootId(bytes([number]) * 16) for number in range(BOOTS_PER_SENDER_MAX + RETIRED_BOOTS_MAX)]
    for boot in boots:
        guard.enter(SENDER, boot, 23)

    assert not any(guard.is_fresh(SENDER, boot, 23) for boot in boots)
    assert guard.is_fresh(SENDER, boots[-1], 24)


def test_a_life_that_answers_is_believed_again() -> None:
    """A boot that lost its window, and then echoes a ping of ours, lives: what it says from there on counts."""
    guard = ReplayGuard()
    for number in range(BOOTS_PER_SENDER_MAX + 1):
        guard.enter(SENDER, BOOTS[number], 1)

    guard.set_floor(SENDER, BOOTS[0], 7)

    assert not guard.is_fresh(SENDER, BOOTS[0], 7)
    assert guard.is_fresh(SENDER, BOOTS[0], 8)


def test_the_number_of_senders_is_bounded() -> None:
    """More senders than any roster has push out the one known longest."""
    guard = ReplayGuard()
    for number in range(SENDERS_MAX + 3):
        guard.enter(NodeId(number.to_bytes(32, "big")), BOOTS[0], 1)
    assert len(guard._senders) == SENDERS_MAX


def test_a_forgotten_sender_starts_anew() -> None:
    """After it left the roster nothing of it is kept."""
    guard = ReplayGuard()
    guard.set_floor(SENDER, BOOTS[0], 9)
    guard.forget(SENDER)
    assert not guard.has_floor(SENDER, BOOTS[0])
    assert guard.is_fresh(SENDER, BOOTS[0], 1)
