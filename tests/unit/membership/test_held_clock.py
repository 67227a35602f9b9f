"""A clock that starts in the past: held at what certainly happened, moved on by members, by nobody alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.effects import Now
from beemesh.events import ClockAgreed, ClockTestimony
from beemesh.ids import NodeId
from beemesh.membership.held_clock import CATCH_UP_MAX_MS, WITNESS_KEPT_S, ClockWitnesses, HeldClock
from tests.unit.membership.cast import IDS, STRANGER, WALL_MS, roster, told

SIGNED_MS = WALL_MS
LATER_MS = WALL_MS + 86_400_000


def _agreed(witnesses: ClockWitnesses, by: NodeId, said_ms: int, boot_s: float = 1.0) -> list[int]:
    effects = witnesses.handle(ClockTestimony(by, said_ms), Now(boot_s, SIGNED_MS))
    return [event.wall_ms for event in told(effects) if isinstance(event, ClockAgreed)]


def test_a_clock_from_before_the_signing_stands_still() -> None:
    """It reads the time of the signing, however long it runs, until the machine's own clock is later than that."""
    clock = HeldClock(SIGNED_MS)

    assert clock.read(0, 5.0) == clock.read(100_000, 105.0) == SIGNED_MS
    assert clock.is_held(100_000, 105.0)
    assert clock.read(SIGNED_MS + 7, 106.0) == SIGNED_MS + 7
    assert not clock.is_held(SIGNED_MS + 7, 106.0)


def test_an_agreement_moves_a_held_clock_on_and_it_runs() -> None:
    """From the agreement on it goes by the boot clock, until the machine's own is set."""
    clock = HeldClock(SIGNED_MS)

    assert clock.move_on(LATER_MS, 0, 10.0)
    assert clock.read(0, 10.0) == LATER_MS
    assert clock.read(2_500, 12.5) == LATER_MS + 2_500
    assert clock.is_held(2_500, 12.5)
    assert clock.read(LATER_MS + 60_000, 12.5) == LATER_MS + 60_000


def test_a_clock_that_is_not_held_follows_nobody() -> None:
    """Members cannot move a machine whose own clock reads later than the signing."""
    clock = HeldClock(SIGNED_MS)

    assert not clock.move_on(LATER_MS, SIGNED_MS + 1, 10.0)
    assert clock.read(SIGNED_MS + 1, 10.0) == SIGNED_MS + 1


@pytest.mark.parametrize("ahead_ms", [0, 40, CATCH_UP_MAX_MS])
def test_a_clock_that_was_set_is_believed_again(ahead_ms: int) -> None:
    """Members were a little ahead when they agreed, and then NTP sets the machine's own clock right: the held one waits
    for it, without a step back, and from then on it is not held any more."""
    clock = HeldClock(SIGNED_MS)
    clock.move_on(LATER_MS + ahead_ms, 0, 10.0)
    assert clock.read(5_000, 15.0) == LATER_MS + ahead_ms + 5_000

    for waited_ms in range(0, ahead_ms, 20):
        assert clock.read(LATER_MS + 5_000 + waited_ms, 15.0 + waited_ms / 1000) == LATER_MS + ahead_ms + 5_000

    later_s = 15.0 + ahead_ms / 1000
    assert clock.read(LATER_MS + 5_000 + ahead_ms, later_s) == LATER_MS + 5_000 + ahead_ms
    assert not clock.is_held(LATER_MS + 5_000 + ahead_ms, later_s)
    assert clock.read(LATER_MS + 86_400_000, later_s + 86_000) == LATER_MS + 86_400_000


def test_a_clock_far_behind_what_members_said_is_not_believed() -> None:
    """Set by somebody to the wrong hour: the held clock runs on."""
    clock = HeldClock(SIGNED_MS)
    clock.move_on(LATER_MS, 0, 10.0)
    wrong_ms = LATER_MS - CATCH_UP_MAX_MS - 1

    assert clock.read(wrong_ms, 10.0) == LATER_MS
    assert clock.read(wrong_ms + 60_000, 70.0) == LATER_MS + 60_000
    assert clock.is_held(wrong_ms + 60_000, 70.0)


def test_a_clock_that_falls_back_is_held_again_and_members_move_it_on() -> None:
    """Believed for a while, it reads the past anew (its battery is gone): the time stands still until they agree."""
    clock = HeldClock(SIGNED_MS)
    clock.move_on(LATER_MS, 0, 10.0)
    assert clock.read(LATER_MS + 10, 10.0) == LATER_MS + 10

    assert clock.read(0, 20.0) == LATER_MS
    assert clock.is_held(0, 20.0)
    assert clock.move_on(LATER_MS + 15_000, 0, 25.0)
    assert clock.read(1_000, 26.0) == LATER_MS + 16_000


steps = st.tuples(
    st.integers(0, 2 * 86_400_000), st.integers(0, 3 * 86_400_000), st.none() | st.integers(0, 2 * CATCH_UP_MAX_MS)
)
"""(what members agree on, how much time passes, and how far behind the held time NTP sets the machine's clock)"""


@given(st.lists(steps, max_size=20))
def test_a_held_clock_never_goes_back_and_is_not_held_for_ever(steps: list[tuple[int, int, int | None]]) -> None:
    """Whatever members agree on and whatever the machine's own clock says meanwhile, the held time only grows. Half a
    minute after that one was set to about what they agree on, it counts alone."""
    clock, boot_s, raw_ms = HeldClock(SIGNED_MS), 0.0, SIGNED_MS - 3 * 86_400_000
    read = []
    for agreed_ms, passed_ms, behind_ms in steps:
        boot_s, raw_ms = boot_s + passed_ms / 1000, raw_ms + passed_ms
        moved = clock.move_on(SIGNED_MS + agreed_ms, raw_ms, boot_s)
        read.append(clock.read(raw_ms, boot_s))
        if moved and behind_ms is not None:
            raw_ms = max(raw_ms, read[-1] - behind_ms)
            read.append(clock.read(raw_ms, boot_s))
            if behind_ms <= CATCH_UP_MAX_MS:
                boot_s, raw_ms = boot_s + CATCH_UP_MAX_MS / 1000, raw_ms + CATCH_UP_MAX_MS
                assert not clock.is_held(raw_ms, boot_s)

    assert all(later >= earlier for earlier, later in itertools.pairwise(read))


def test_two_members_move_the_clock_to_what_both_stand_for() -> None:
    """The later of two words is one member's alone: what both vouch for is the earlier one."""
    witnesses = ClockWitnesses(IDS[0], roster(5))

    assert _agreed(witnesses, IDS[1], LATER_MS + 9_000) == []
    assert _agreed(witnesses, IDS[1], LATER_MS + 9_000) == []
    assert _agreed(witnesses, IDS[2], LATER_MS) == [LATER_MS]


def test_a_liar_moves_nobody_beyond_an_honest_members_time() -> None:
    """A year ahead and as often as it likes: the clock goes where an honest member's word allows."""
    witnesses = ClockWitnesses(IDS[0], roster(5))
    far_ms = LATER_MS + 365 * 86_400_000
    for _ in range(50):
        assert _agreed(witnesses, IDS[1], far_ms) == []

    assert _agreed(witnesses, IDS[2], LATER_MS) == [LATER_MS]


def test_the_only_other_member_is_enough() -> None:
    """In a mesh of two there is nobody else to ask."""
    assert _agreed(ClockWitnesses(IDS[0], roster(2)), IDS[1], LATER_MS) == [LATER_MS]


def test_words_grow_old() -> None:
    """What a member said goes on with our boot clock, and counts for two minutes."""
    witnesses = ClockWitnesses(IDS[0], roster(5))
    _agreed(witnesses, IDS[1], LATER_MS, 1.0)
    assert _agreed(witnesses, IDS[2], LATER_MS + 99_000, 51.0) == [LATER_MS + 50_000]

    witnesses = ClockWitnesses(IDS[0], roster(5))
    _agreed(witnesses, IDS[1], LATER_MS, 1.0)
    assert _agreed(witnesses, IDS[2], LATER_MS, 1.5 + WITNESS_KEPT_S) == []


def test_an_older_recording_does_not_replace_a_members_word() -> None:
    """Whoever plays back what a member said yesterday takes nothing away."""
    witnesses = ClockWitnesses(IDS[0], roster(5))
    _agreed(witnesses, IDS[1], LATER_MS)
    _agreed(witnesses, IDS[1], SIGNED_MS + 60_000)

    assert _agreed(witnesses, IDS[2], LATER_MS) == [LATER_MS]


def test_strangers_do_not_count() -> None:
    """Nor does this node's own word, played back to it."""
    witnesses = ClockWitnesses(IDS[0], roster(5))
    for nobody in (NodeId(STRANGER.signer_id), IDS[0]):
        assert _agreed(witnesses, nobody, LATER_MS) == []

    assert _agreed(witnesses, IDS[1], LATER_MS) == []
