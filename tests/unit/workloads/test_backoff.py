"""How long a container that ends again and again waits for its next start."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beemesh.workloads.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S, RestartSheet


def test_the_first_restart_is_at_once_and_pauses_double_to_five_minutes() -> None:
    """Kubernetes' row: 0, 10, 20, 40, 80, 160, 300, 300 seconds; each restart counts."""
    sheet, now_s, pauses = RestartSheet(), 1000.0, []
    for _ in range(8):
        due_s = sheet.due_s(now_s)
        pauses.append(due_s - now_s)
        sheet = sheet.restarted(now_s, due_s)
        now_s = due_s + 1
    assert pauses == [0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
    assert sheet.restarts == 8


def test_a_steady_run_clears_the_sheet() -> None:
    """A container that ran for more than ten minutes is started again at once, and waits ten seconds after that."""
    sheet = RestartSheet(restarts=5, pause_s=LONGEST_PAUSE_S, restarted_s=100.0)
    ended_s = 100.0 + STEADY_S + 1
    assert sheet.due_s(ended_s) == ended_s
    again = sheet.restarted(ended_s, ended_s)
    assert (again.restarts, again.due_s(ended_s + 5) - (ended_s + 5)) == (6, FIRST_PAUSE_S)


@given(st.lists(st.floats(0.0, 2_000.0), max_size=30))
def test_no_pause_is_longer_than_five_minutes(runs_s: list[float]) -> None:
    """Whatever a container does, it waits at most `LONGEST_PAUSE_S`, no negative time, and counts every restart."""
    sheet, now_s = RestartSheet(), 0.0
    for run_s in runs_s:
        ended_s = now_s + run_s
        due_s = sheet.due_s(ended_s)
        assert -1e-6 <= due_s - ended_s <= LONGEST_PAUSE_S + 1e-6
        sheet, now_s = sheet.restarted(ended_s, due_s), due_s
    assert sheet.restarts == len(runs_s)
