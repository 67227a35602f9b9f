"""The picture of what runs while somebody watches: pushed, asked for once per word, and dropped when nobody looks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent.api.live import LiveReplicas as Live
from agent.api.live import Reports
from beemesh.events import EventHeard, MemberDown
from beemesh.ids import NodeId
from beemesh.scheduling.messages import Event
from beemesh.workloads.observation import ReplicaReport

ONE, TWO = NodeId(b"1" * 32), NodeId(b"2" * 32)


class Mesh:
    """Two nodes that answer what they run, or nothing at all."""

    def __init__(self) -> None:
        self.runs: dict[NodeId, Reports | None] = {ONE: (), TWO: ()}
        self.asked: list[NodeId] = []
        self.live = Live(lambda: list(self.runs), self.ask)

    async def ask(self, node_id: NodeId) -> Reports | None:
        """What the node runs."""
        self.asked.append(node_id)
        await asyncio.sleep(0)
        return self.runs[node_id]

    def tell(self, node_id: NodeId) -> None:
        """The node says that something of a workload changed."""
        told = Event("01JC0000000000000000000000", node_id, "Ready", 1, workload_id="deployment/default/web")
        self.live.hear(EventHeard(told))


def report(node_id: NodeId, *, ready: bool = True) -> ReplicaReport:
    """A replica on a node."""
    return ReplicaReport("web-1-0", "deployment/default/web", "default", "Deployment", 1, 0, node_id, "Running", ready)


def run(story: Callable[[Mesh], Awaitable[None]]) -> None:
    """Let a story happen on a fresh mesh."""

    async def told() -> None:
        await story(Mesh())

    asyncio.run(asyncio.wait_for(told(), 5))


async def settle() -> None:
    """Let everything that is under way end."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_word_leads_to_one_question_and_a_beat() -> None:
    """Who tells something is asked, the others are not, and watchers are woken with the news in place."""

    async def story(mesh: Mesh) -> None:
        with mesh.live.watched() as beat:
            assert await mesh.live.reports() == ()
            mesh.asked.clear()
            beat.clear()
            mesh.runs[TWO] = (report(TWO),)
            mesh.tell(TWO)
            await settle()
            assert beat.is_set()
            assert mesh.asked == [TWO]
            assert await mesh.live.reports() == (report(TWO),)

    run(story)


def test_many_words_while_a_question_is_under_way_lead_to_one_more() -> None:
    """A flood of words is one question under way and one after it, whose answer counts."""

    async def story(mesh: Mesh) -> None:
        with mesh.live.watched():
            await mesh.live.reports()
            mesh.asked.clear()
            for _ in range(50):
                mesh.tell(ONE)
            await asyncio.sleep(0)
            mesh.runs[ONE] = (report(ONE, ready=False),)
            mesh.tell(ONE)
            await settle()
            assert mesh.asked == [ONE, ONE]
            assert await mesh.live.reports() == (report(ONE, ready=False),)

    run(story)


def test_a_dead_node_goes_at_once_and_a_silent_one_at_its_second_silence() -> None:
    """What a dead node ran is gone; of a node that does not answer once, the last word stands."""

    async def story(mesh: Mesh) -> None:
        mesh.runs = {ONE: (report(ONE),), TWO: (report(TWO),)}
        with mesh.live.watched():
            assert len(await mesh.live.reports()) == 2
            mesh.live.hear(MemberDown(ONE))
            assert await mesh.live.reports() == (report(TWO),)
            mesh.runs[TWO] = None
            mesh.tell(TWO)
            await settle()
            assert await mesh.live.reports() == (report(TWO),)
            mesh.tell(TWO)
            await settle()
            assert await mesh.live.reports() == ()

    run(story)


def test_without_watchers_nothing_is_asked() -> None:
    """Words are passed over while nobody watches, also after a watcher has gone."""

    async def story(mesh: Mesh) -> None:
        mesh.tell(ONE)
        with mesh.live.watched():
            await mesh.live.reports()
        mesh.asked.clear()
        mesh.tell(ONE)
        await settle()
        assert mesh.asked == []

    run(story)


def test_the_mesh_is_told_that_somebody_watches() -> None:
    """With the first watcher, at once: in a large mesh events come only to those who ask."""

    async def story(mesh: Mesh) -> None:
        told: list[None] = []
        mesh.live.announce = lambda: told.append(None)
        await settle()
        assert told == []
        with mesh.live.watched():
            await settle()
            assert len(told) == 1

    run(story)


def test_a_question_that_breaks_keeps_no_watcher_waiting() -> None:
    """Whatever goes wrong with one node, the others are shown, at once and afterwards."""

    async def story(mesh: Mesh) -> None:
        async def ask(node_id: NodeId) -> Reports | None:
            if node_id == ONE:
                raise ArithmeticError("a fault of ours, or an answer that nobody thought of")
            await settle()
            return await mesh.ask(node_id)

        mesh.live = Live(lambda: list(mesh.runs), ask)
        mesh.runs[TWO] = (report(TWO),)
        with mesh.live.watched():
            assert await mesh.live.reports() == (report(TWO),)
            mesh.runs[TWO] = (report(TWO, ready=False),)
            mesh.tell(ONE)
            mesh.tell(TWO)
            await settle()
            await settle()
            assert await mesh.live.reports() == (report(TWO, ready=False),)

    run(story)


def test_a_round_that_breaks_keeps_no_watcher_waiting() -> None:
    """What is known is shown, even if that is nothing."""

    async def story(mesh: Mesh) -> None:
        def announce() -> None:
            raise ArithmeticError("a fault of ours")

        mesh.live.announce = announce
        with mesh.live.watched():
            assert await mesh.live.reports() == ()

    run(story)
