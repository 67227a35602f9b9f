"""Agents as processes find each other over real sockets: through one member, and with a clock that is a year behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bench.bare_mesh import ROOT, BareMesh, eventually

pytestmark = pytest.mark.timeout(240)

SUBMISSIONS = "/apis/beemesh.io/v1alpha1/submissions"
PATIENCE_S = 60.0
"""Two cores, whatever else is tested on them: what is measured elsewhere is how fast this goes."""

DAYS_BEHIND = 400
WRONG_CLOCK = """
import sys, time
real_ns, behind_ns = time.time_ns, {days} * 86_400 * 10**9
time.time_ns = lambda: real_ns() - behind_ns
from agent.main import main
sys.exit(main(["run", "--config-dir", {config!r}]))
"""


def alive_at(mesh: BareMesh, name: str) -> int:
    """How many members an agent holds for alive, itself included; 0 while it does not answer."""
    try:
        found = re.search(rb'beemesh_members\{state="alive"\} (\d+)', mesh.local(name, "/metrics"))
    except OSError:
        return 0
    return int(found[1]) if found else 0


def all_see_all(mesh: BareMesh) -> bool:
    """Whether every agent that was started sees every other."""
    return all(alive_at(mesh, name) == len(mesh.processes) for name in mesh.processes)


@pytest.fixture
def strangers(tmp_path: Path) -> Iterator[BareMesh]:
    """Three agents that know themselves alone."""
    mesh = BareMesh(tmp_path, 3, joined=False)
    try:
        mesh.start()
        assert eventually(lambda: all(mesh.is_up(name) for name in mesh.names), PATIENCE_S)
        yield mesh
    finally:
        mesh.stop()


def test_strangers_join_through_one_member(strangers: BareMesh) -> None:
    """Two agents are told the card of the third, which knows neither of them: they show theirs and are let in."""
    assert [alive_at(strangers, name) for name in strangers.names] == [1, 1, 1]

    for name in ("b1", "b2"):
        told = strangers.signed(name, "POST", SUBMISSIONS, msgspec.msgpack.encode({"record": strangers.cards["b0"]}))
        assert json.loads(told).get("accepted"), told

    assert eventually(lambda: all_see_all(strangers), PATIENCE_S)


def test_an_agent_whose_clock_starts_in_the_past_becomes_a_member(tmp_path: Path) -> None:
    """Its machine is a year behind: it is held at the time of its configuration, a hundred days ago, learns the time
    from two others, and all see all."""
    mesh = BareMesh(tmp_path, 3, aged_days=100)
    try:
        mesh.start("b0", "b1")
        assert eventually(lambda: all_see_all(mesh), PATIENCE_S)
        program = WRONG_CLOCK.format(days=DAYS_BEHIND, config=str(mesh.folder / "b2" / "config"))
        with (mesh.folder / "b2" / "log").open("ab") as log:
            mesh.processes["b2"] = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=log, stderr=log)

        assert eventually(lambda: all_see_all(mesh), PATIENCE_S), (mesh.folder / "b2" / "log").read_text()[-2_000:]
        seen = json.loads(mesh.signed("b2", "GET", "/apis/beemesh.io/v1alpha1/nodes/b2/links"))
        assert abs(seen["wall_ms"] - time.time_ns() // 1_000_000) < 30_000
    finally:
        mesh.stop()
