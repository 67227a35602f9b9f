"""A benchmark says which of its aims were missed, and fails then: nobody reads figures for themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import apply_latency, peers, placements

COST: dict[str, Any] = {
    "hosts": 10,
    "placements": 100,
    "placed": 100,
    "doubled": 0,
    "messages": 60.0,
    "bids": 3.0,
    "cpu_ms": 3.0,
    "per_cpu_s": 300.0,
    "wall_s": 1.0,
    "decided_p50_ms": 1.0,
    "decided_p99_ms": 2.0,
    "by_type": {},
}


def verdicts(capsys: pytest.CaptureFixture[str]) -> list[bool]:
    """Which of the printed aims were met, in order."""
    return [line.endswith(": met") for line in capsys.readouterr().out.splitlines() if line.startswith("aim: ")]


@pytest.mark.parametrize(("whole_ms", "code"), [(450.0, 0), (451.0, 1)])
def test_an_apply_may_cost_so_much_above_podman(whole_ms: float, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """150 ms above a bare podman of 300 ms are met, more are not."""
    row = {"podman": 300.0, "whole": whole_ms}
    assert apply_latency.report([row], [300.0], 100.0) == code
    assert verdicts(capsys) == [code == 0]


@pytest.mark.parametrize(
    ("start_ms", "replace_ms", "met"),
    [(90.0, 40.0, [True, True]), (110.0, 40.0, [False, True]), (90, 50, [True, False])],
)
def test_we_are_to_be_ahead_of_the_peer_in_both(
    start_ms: float, replace_ms: float, met: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    """In starting and in replacing; as fast is not ahead."""
    rows = {"swarm": [{"start": 100.0, "replace": 50.0}], "beemesh": [{"start": start_ms, "replace": replace_ms}]}
    assert peers.report(rows) == (0 if all(met) else 1)
    assert verdicts(capsys) == met


@pytest.mark.parametrize(
    ("change", "met"),
    [
        ({}, [True, True, True]),
        ({"placed": 99}, [False, True, True]),
        ({"messages": 60.1}, [True, False, True]),
        ({"per_cpu_s": 299.9}, [True, True, False]),
    ],
)
def test_placements_must_be_cheap_and_are_to_be_fast(
    change: dict[str, Any], met: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of the three is told by itself."""
    assert placements.verdict(placements.Cost(**(COST | change))) == (0 if all(met) else 1)
    assert verdicts(capsys) == met


def test_the_last_line_stays_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is printed for people comes before the JSON."""
    peers.report({"swarm": [{"start": 1.0, "replace": 1.0}], "beemesh": [{"start": 2.0, "replace": 2.0}]})
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["start_ratio"] == 2.0
