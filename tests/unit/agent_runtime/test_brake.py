"""Containers that end again and again are slowed down, and nothing else is."""

from __future__ import annotations

from agent.runtime.brake import BURST, FIRST_PAUSE_S, LONGEST_PAUSE_S, PATIENCE_S, STEADY_S, WINDOW_S, Brake


def test_a_burst_of_restarts_is_one_too_many() -> None:
    """As many restarts within the window as a burst has pause the container; fewer do not."""
    brake = Brake()
    assert not brake.counts("c", 0, 0.0)
    assert not brake.counts("c", BURST - 1, 1.0)
    assert brake.counts("c", BURST, 2.0)


def test_slow_restarts_are_left_alone() -> None:
    """A container that ends once per window may do so for ever."""
    brake = Brake()
    assert not any(brake.counts("c", number, number * (WINDOW_S + 1)) for number in range(20))


def test_pauses_double_up_to_a_limit_and_the_count_goes_on() -> None:
    """Each pause is twice as long as the one before, and restarts that podman forgot are added."""
    brake, now_s, pauses = Brake(), 0.0, []
    brake.counts("c", 0, now_s)
    for _ in range(12):
        brake.paused("c", now_s)
        assert brake.is_paused("c")
        assert not brake.counts("c", 99, now_s)
        end_s = brake.next_s()
        assert end_s is not None
        pauses.append(end_s - now_s)
        assert not brake.ended("c", end_s - 0.1)
        assert brake.ended("c", end_s)
        now_s = end_s
        brake.started("c", 1, now_s)
        assert brake.counts("c", 1, now_s + 1), "on probation one more end is enough"
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
    assert brake.earlier_restarts("c") == 12 * 2


def test_a_steady_run_clears_the_sheet() -> None:
    """After it ran long enough, a container's next pause is a short one again."""
    brake = Brake()
    brake.counts("c", 0, 0.0)
    for _ in range(4):
        brake.paused("c", 0.0)
    brake.started("c", 0, 0.0)
    brake.runs("c")
    assert not brake.counts("c", 0, STEADY_S)
    brake.paused("c", 1000.0)
    assert brake.next_s() == 1000.0 + FIRST_PAUSE_S


def test_an_ended_container_is_left_to_podman_at_first() -> None:
    """Nobody starts a container that podman may be starting; after a while we do."""
    brake = Brake()
    assert not brake.ended("c", 10.0)
    assert not brake.ended("c", 10.0 + PATIENCE_S / 2)
    assert brake.ended("c", 10.0 + PATIENCE_S)
    brake.keep(set())
    assert not brake.ended("c", 10.0 + PATIENCE_S)
