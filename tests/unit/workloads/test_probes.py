"""Probes as a kubelet runs them: when they are due, and what their results change."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beemesh.workloads.care import Kind, ProbeSpec, TcpSocket
from beemesh.workloads.probes import ContainerProbes


def spec(kind: Kind, **changes: Any) -> ProbeSpec:
    """A probe with Kubernetes' defaults."""
    return ProbeSpec(kind, TcpSocket(80), **changes)


def probes(*specs: ProbeSpec, started_s: float = 100.0, spread: float = 0.0) -> ContainerProbes:
    """The probes of a container that started at `started_s`."""
    return ContainerProbes(specs, started_s, spread)


def kinds(found: tuple[ProbeSpec, ...]) -> list[str]:
    """The kinds of the probes that are due."""
    return [each.kind for each in found]


def test_a_container_without_probes_is_ready_and_never_due() -> None:
    """Nothing is asked of it, and it is ready as soon as it runs."""
    container = probes()
    assert container.is_ready
    assert container.next_s() is None


def test_readiness_begins_unready_after_its_delay_and_repeats_in_its_period() -> None:
    """The first look is `initialDelaySeconds` after the start, the next one a period later; ready from a success on."""
    container = probes(spec("readiness", initial_delay_s=5, period_s=3))
    assert not container.is_ready
    assert container.due(104.9) == ()
    assert container.next_s() == 105.0
    assert kinds(container.due(105.0)) == ["readiness"]
    assert container.due(110.0) == (), "one look at a time"
    assert container.result("readiness", 105.1, ok=True).changed
    assert container.is_ready
    assert container.next_s() == 108.0


def test_thresholds_count_results_in_a_row() -> None:
    """Unready after `failureThreshold` failures in a row, ready again after `successThreshold` successes in a row."""
    container = probes(spec("readiness", failure_threshold=3, success_threshold=2))
    answers = [True, False, True, True, False, False, True, False, False, False, True, True]
    seen = []
    for ok in answers:
        container.result("readiness", 100.0, ok=ok)
        seen.append(container.is_ready)
    assert seen == [False, False, False, True, True, True, True, True, True, False, False, True]


def test_liveness_that_fails_restarts_with_its_own_grace_and_asks_no_more() -> None:
    """The third failure in a row is the verdict, said once; the container is unready from then on."""
    container = probes(spec("liveness", grace_s=7))
    assert container.is_ready
    verdicts = [container.result("liveness", 100.0 + n, ok=False) for n in range(4)]
    assert [(each.failed, each.grace_s) for each in verdicts] == [
        (None, None),
        (None, None),
        ("liveness", 7),
        (None, None),
    ]
    assert verdicts[2].changed
    assert not container.is_ready
    assert container.next_s() is None


def test_startup_holds_the_others_back_until_it_succeeds() -> None:
    """Only startup is asked at first; after its success it is asked no more, readiness at once and liveness in time."""
    container = probes(spec("startup"), spec("liveness", period_s=20), spec("readiness", period_s=50))
    assert kinds(container.due(100.0)) == ["startup"]
    container.result("startup", 100.1, ok=False)
    assert not container.is_ready
    assert container.due(109.0) == ()
    assert kinds(container.due(110.0)) == ["startup"]
    assert container.result("startup", 133.0, ok=True).changed
    assert container.is_started
    assert sorted(kinds(container.due(133.0))) == ["liveness", "readiness"]
    assert not container.is_ready
    container.result("readiness", 133.1, ok=True)
    assert container.is_ready
    assert container.next_s() is not None


def test_startup_that_never_succeeds_restarts() -> None:
    """After its failures in a row the container is to be restarted."""
    container = probes(spec("startup", failure_threshold=2))
    assert container.result("startup", 100.0, ok=False).failed is None
    assert container.result("startup", 110.0, ok=False).failed == "startup"


def test_missed_looks_are_not_made_up() -> None:
    """After a machine stood still the next look is one period ahead, not a burst of those that were missed."""
    container = probes(spec("liveness", period_s=10))
    assert kinds(container.due(155.0)) == ["liveness"]
    container.result("liveness", 155.1, ok=True)
    assert container.next_s() == 160.0


def test_first_looks_at_liveness_are_spread_and_at_readiness_are_not() -> None:
    """Of two containers that started together the second is looked at later, by at most a tenth of the period."""
    early, late = probes(spec("liveness")), probes(spec("liveness"), spread=1.0)
    assert (early.next_s(), late.next_s()) == (100.0, 101.0)
    assert probes(spec("readiness"), spread=1.0).next_s() == 100.0


@given(st.lists(st.tuples(st.sampled_from(["startup", "liveness", "readiness"]), st.booleans()), max_size=60))
def test_whatever_comes_in_a_container_is_condemned_once_and_unready_afterwards(
    answers: list[tuple[Kind, bool]],
) -> None:
    """At most one verdict to restart, no readiness before startup's success, and none after the verdict."""
    container = probes(spec("startup"), spec("liveness"), spec("readiness"))
    condemned = 0
    for number, (kind, ok) in enumerate(answers):
        verdict = container.result(kind, 100.0 + number, ok=ok)
        condemned += verdict.failed is not None
        assert not container.is_ready or (container.is_started and not condemned)
        assert not condemned or container.next_s() is None
    assert condemned <= 1
