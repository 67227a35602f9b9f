"""What operators do to a record: the next one, as data."""

from __future__ import annotations

import msgspec
import pytest

from beemesh.errors import InvalidInput, NotFound
from beemesh.ids import Digest
from beemesh.workloads.record import HISTORY_MAX, Requirements, Revision, Sealing, Strategy, Workload
from beemesh.workloads.revising import restarted, scaled, undone, with_paused, with_revision
from beemesh.workloads.strategies import strategy_of

NOW_MS = 1_800_000_000_000


def sealed(number: int) -> Revision:
    """A revision as sealing makes it."""
    return Revision(number, Digest(bytes([number]) * 32), 1, Sealing("shamir", 1, 1, (), b"c"), (), b"f")


def draft(**changes: object) -> Workload:
    """A record without revisions."""
    return msgspec.structs.replace(Workload("Deployment", "default", "hello", 3, ()), **changes)


def history(*cpu_m: int, limit: int = HISTORY_MAX) -> Workload:
    """Revisions that asked for so much, the last one current."""
    workload: Workload | None = None
    for number, each in enumerate(cpu_m, 1):
        wanted = draft(requirements=Requirements(cpu_m=each), history_limit=limit)
        workload = with_revision(workload, wanted, sealed(number), NOW_MS, f"cause {number}")
    assert workload is not None
    return workload


def numbers(workload: Workload) -> list[int]:
    """The revisions' numbers, newest first."""
    return [revision.number for revision in workload.revisions]


def test_a_new_revision_keeps_what_the_old_ones_asked_for() -> None:
    """Each older revision remembers its own terms, and as many are kept as the limit says."""
    workload = history(10, 20, 30)

    assert numbers(workload) == [3, 2, 1]
    asked = [workload.as_of(number) for number in (1, 2, 3)]
    assert [each.requirements.cpu_m for each in asked if each] == [10, 20, 30]
    assert workload.as_of(4) is None
    assert numbers(history(10, 20, 30, limit=1)) == [3, 2]
    assert numbers(history(10, 20, 30, limit=0)) == [3]


def test_an_undo_renumbers_the_old_revision() -> None:
    """As in Kubernetes it becomes the newest and leaves its place; it remembers how it was sealed and what it asked."""
    workload = undone(history(10, 20, 30), 1, NOW_MS)

    assert numbers(workload) == [4, 3, 2]
    assert workload.requirements.cpu_m == 10
    assert workload.current.manifest == sealed(1).manifest
    assert (workload.current.sealed_number, workload.current.aliases) == (1, (1,))
    assert workload.current.covers(1)
    again = undone(undone(workload, 3, NOW_MS), 4, NOW_MS)
    assert numbers(again) == [6, 5, 2]
    assert (again.current.sealed_number, again.current.aliases) == (1, (1, 4))
    assert again.requirements.cpu_m == 10


def test_an_undo_without_a_number_goes_one_back() -> None:
    """Two of them return to where it was."""
    once = undone(history(10, 20), 0, NOW_MS)
    assert (numbers(once), once.requirements.cpu_m) == ([3, 2], 10)
    twice = undone(once, 0, NOW_MS)
    assert (numbers(twice), twice.requirements.cpu_m) == ([4, 3], 20)


def test_what_cannot_be_undone_is_refused() -> None:
    """Unknown revisions, the current one, and a workload without a history, each with what is there."""
    with pytest.raises(NotFound, match="no revision 9"):
        undone(history(10, 20), 9, NOW_MS)
    with pytest.raises(InvalidInput, match="is the current one"):
        undone(history(10, 20), 2, NOW_MS)
    with pytest.raises(NotFound, match="no revision before"):
        undone(history(10), 0, NOW_MS)


def test_a_restart_is_a_new_revision_of_the_same() -> None:
    """Its pods are other ones, so none of before counts as its own."""
    workload = restarted(history(10, 20), NOW_MS)

    assert numbers(workload) == [3, 1]
    assert (workload.current.sealed_number, workload.current.manifest) == (2, sealed(2).manifest)
    assert not workload.current.covers(2)


def test_scaling_counts_percentages_anew() -> None:
    """A quarter of eight is two; scaled to nothing and back, nothing is forgotten."""
    rolling = {"strategy": {"rollingUpdate": {"maxUnavailable": 0}}}
    workload = msgspec.structs.replace(history(10), strategy=strategy_of("Deployment", rolling, 3))
    assert scaled(workload, 8).strategy.max_surge == 2
    back = scaled(scaled(workload, 0), 3)
    assert back == workload
    with pytest.raises(InvalidInput, match="expected 0 to"):
        scaled(workload, -1)
    with pytest.raises(InvalidInput, match="no number of replicas"):
        scaled(msgspec.structs.replace(workload, kind="Pod"), 2)


def test_pausing_twice_is_refused() -> None:
    """Paused and resumed it is as before."""
    workload = msgspec.structs.replace(history(10), strategy=Strategy())
    paused = with_paused(workload, paused=True)
    assert with_paused(paused, paused=False) == workload
    with pytest.raises(InvalidInput, match="is paused already"):
        with_paused(paused, paused=True)
