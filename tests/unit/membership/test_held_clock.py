"""A clock that starts in the past: held at what certainly happened, moved on by members, by nobody alone."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from beemesh.effects import Now
from beemesh.events import ClockAgreed, ClockTestimony
from beemesh.ids import NodeId
from beemesh.membership.held_clock import WITNESS_KEPT_S, ClockWitnesses, HeldClock
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


@given(st.lists(st.tuples(st.integers(0, 2 * 86_400_000), st.integers(0, 3 * 86_400_000)), max_size=20))
def test_a_held_clock_never_goes_back(steps: list[tuple[int, int]]) -> None:
    """Whatever members agree on and whatever the machine's own clock says meanwhile, the held time only grows."""
    clock, boot_s, raw_ms = HeldClock(SIGNED_MS), 0.0, SIGNED_MS - 3 * 86_400_000
    read = []
    for agreed_ms, passed_ms in steps:
        boot_s, raw_ms = boot_s + passed_ms / 1000, raw_ms + passed_ms
        clock.move_on(SIGNED_MS + agreed_ms, raw_ms, boot_s)
        read.append(clock.read(raw_ms, boot_s))

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
