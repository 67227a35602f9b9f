"""What an agent tells of tasks whose events have made room for newer ones: what runs is not called pending."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from agent.tasks import TaskReader
from beemesh.ids import NodeId
from beemesh.scheduling.explanation import RUNS
from beemesh.scheduling.messages import Event
from tests.unit.agent.test_daemon_sets import reader
from tests.unit.agent.test_mesh_reader import Diary
from tests.unit.scheduling.samples import workload
from tests.unit.scheduling.world import World


class Book:
    """The first node's books with another journal, and how often the mesh was asked what runs."""

    def __init__(self, world: World, events: list[Event]) -> None:
        node = world.nodes["one"]
        self._mesh = reader(world)
        self.asked = 0

        def kept(*, task_id: str = "", workload_id: str = "") -> list[Event]:
            return [each for each in Diary(events).events(workload_id=workload_id) if task_id in ("", each.task_id)]

        composition: Any = SimpleNamespace(
            bidder=node.bidder, journal=SimpleNamespace(events=kept), roster=node.roster, view=node.view
        )
        self._reader = TaskReader(composition, self._silent)

    @staticmethod
    async def _silent(_node_id: NodeId, _message: Any) -> None:
        return None

    async def _running(self) -> dict[str, str]:
        self.asked += 1
        return await self._mesh.running_tasks()

    def listed(self) -> list[tuple[str, str, str]]:
        """State, node and reason of each task in the list."""
        return [(view.state, view.node, view.reason) for view in asyncio.run(self._reader.tasks(self._running))]

    def story(self, task_id: str) -> tuple[str, str, str]:
        """The same of one task, as `explain` tells it."""
        found = asyncio.run(self._reader.explain(task_id, self._running))
        return found["state"], found["node"], found["reason"]


def placed() -> tuple[World, str, str]:
    """A mesh that runs one pod; its task, and the name of its node."""
    world = World()
    world.apply(workload())
    world.run_until(lambda: bool(world.pods()))
    world.run(2)
    (report,) = world.pods()
    return world, report.task_id, next(name for name, node in world.nodes.items() if node.node_id == report.node_id)


def test_what_runs_is_told_from_its_report_once_its_events_are_gone() -> None:
    """In the list and in its story, also where a later event is left that says nothing of its state."""
    world, task_id, name = placed()
    later = Event(f"01JC{0:022}", NodeId(b"n" * 32), "Ready", 1, task_id, "deployment/default/hello", "default", 1)
    for left in ([], [later]):
        book = Book(world, left)
        assert book.listed() == [("Deployed", name, RUNS)]
        assert book.story(task_id) == ("Deployed", name, RUNS)
        assert book.asked == 2

    world.nodes[name].runtime.clear()
    assert Book(world, []).listed()[0][0] == "Bidding"
    assert Book(world, []).story(task_id)[0] == "Pending"


def test_nobody_is_asked_for_what_the_events_tell() -> None:
    """The usual case costs the mesh nothing."""
    world, task_id, name = placed()
    book = Book(world, world.events())
    assert book.listed() == [("Deployed", name, "")]
    assert book.story(task_id) == ("Deployed", name, "")
    assert book.asked == 0
