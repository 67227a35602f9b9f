"""Asking for what was told elsewhere: only in a large mesh, only those in line, and not all the time."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from agent.api import gathering
from agent.api.gathering import AGAIN_S, Gatherer
from beemesh.errors import Unreachable
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.scheduling.line import tellers_of
from beemesh.scheduling.messages import EventList, ListEvents
from tests.unit.scheduling.large import Large

MOST = 3
"""Workloads in one question here: some keepers have more."""

ANSWER = (Signed("event", b"body", b"signer", b"signature"),)


class Others:
    """All other nodes; `away` do not answer."""

    def __init__(self, away: set[NodeId] | None = None) -> None:
        self.now_s = 100.0
        self.away = away or set()
        self.asked: list[tuple[NodeId, tuple[str, ...]]] = []

    async def ask_node(self, peer: NodeId, message: msgspec.Struct, deadline_s: float) -> msgspec.Struct:
        """As the network."""
        assert isinstance(message, ListEvents)
        self.asked.append((peer, message.workload_ids))
        if peer in self.away:
            raise Unreachable("it is away")
        return EventList(ANSWER)


def gatherer(mesh: Large, others: Others) -> tuple[Gatherer, list[tuple[Signed, ...]]]:
    """Of `n0`, with what it hands on."""
    told: list[tuple[Signed, ...]] = []
    made = Gatherer(mesh.ids["n0"], mesh.roster, mesh.view, others, lambda: others.now_s)
    made.told = told.append
    return made, told


def test_those_in_line_are_asked_and_their_answers_handed_on() -> None:
    """Two keepers of each workload; who is away costs nothing but its answer."""
    mesh = Large()
    line = tellers_of("w", mesh.roster, mesh.view)
    others = Others(away={line[0]})
    made, told = gatherer(mesh, others)
    asyncio.run(made.gather(["w"]))
    assert sorted(others.asked) == sorted((node_id, ("w",)) for node_id in line)
    assert told == [ANSWER]


def test_a_small_mesh_asks_nobody() -> None:
    """There everybody hears all."""
    others = Others()
    made, told = gatherer(Large(20), others)
    asyncio.run(made.gather(["w"]))
    assert others.asked == []
    assert told == []


def test_who_looks_all_the_time_does_not_ask_all_the_time() -> None:
    """The same is asked about again after a while only, and other things at once."""
    mesh, others = Large(), Others()
    made, _ = gatherer(mesh, others)
    asyncio.run(made.gather(["w"]))
    first = len(others.asked)
    asyncio.run(made.gather(["w"]))
    assert len(others.asked) == first
    others.now_s += AGAIN_S
    asyncio.run(made.gather(["w"]))
    assert len(others.asked) == 2 * first


def test_questions_are_shared_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All workloads of one keeper go into one question, as long as it stays small."""
    monkeypatch.setattr(gathering, "ASKED_FOR_MAX", MOST)
    mesh, others = Large(), Others()
    made, _ = gatherer(mesh, others)
    wanted = [f"w{number}" for number in range(1_000)]
    asyncio.run(made.gather(wanted))
    assert max(len(ids) for _, ids in others.asked) == MOST
    asked = {(node_id, each) for node_id, ids in others.asked for each in ids}
    expected = {(node_id, each) for each in wanted for node_id in tellers_of(each, mesh.roster, mesh.view)}
    assert asked == {pair for pair in expected if pair[0] != mesh.ids["n0"]}
    assert len(others.asked) < len(asked)


@pytest.mark.asyncio
async def test_who_reads_while_the_answers_are_on_their_way_has_them_too() -> None:
    """A second reader asks nothing, and does not return before what the first one asked for is in the journal."""
    mesh, arrives = Large(), asyncio.Event()

    class Slow(Others):
        async def ask_node(self, peer: NodeId, message: msgspec.Struct, deadline_s: float) -> msgspec.Struct:
            answer = await super().ask_node(peer, message, deadline_s)
            await arrives.wait()
            return answer

    others = Slow()
    made, told = gatherer(mesh, others)
    first = asyncio.create_task(made.gather(["w"]))
    second = asyncio.create_task(made.gather(["w"]))
    done, _ = await asyncio.wait((first, second), timeout=0.01)
    assert not done
    asked = len(others.asked)
    arrives.set()
    await second
    assert told
    await first
    assert len(others.asked) == asked


@pytest.mark.asyncio
async def test_a_reader_that_goes_away_keeps_nobody_waiting() -> None:
    """Its question ends with it."""
    mesh = Large()

    class Never(Others):
        async def ask_node(self, peer: NodeId, message: msgspec.Struct, deadline_s: float) -> msgspec.Struct:
            await asyncio.Event().wait()
            raise AssertionError

    made, _ = gatherer(mesh, Never())
    first = asyncio.create_task(made.gather(["w"]))
    second = asyncio.create_task(made.gather(["w"]))
    await asyncio.wait((first, second), timeout=0.01)
    first.cancel()
    await asyncio.wait_for(second, 1.0)
