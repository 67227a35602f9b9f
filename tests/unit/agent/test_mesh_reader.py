"""What an agent says of the whole mesh: the last word on each replica, at a cost that many replicas do not multiply."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from agent.api import resources
from agent.api.daemons import daemon_sets
from agent.api.jobs import jobs
from agent.api.mesh import MeshReader
from beemesh.scheduling.messages import Event
from beemesh.workloads.record import JobTerms
from tests.unit.agent.test_daemon_sets import reader
from tests.unit.scheduling.samples import WALL_MS, workload
from tests.unit.scheduling.test_daemons import daemon_set
from tests.unit.scheduling.world import World

MANY = 1_000


class Diary:
    """A journal that counts how often it is read."""

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.reads = 0
        self._events = tuple(events)

    def events(self, *, workload_id: str = "") -> Sequence[Event]:
        """As `Journal.events`."""
        self.reads += 1
        return [each for each in self._events if workload_id in ("", each.workload_id)]


def said(status: str, replica: int, at_ms: int, **changes: Any) -> Event:
    """A word on a replica of the sample workload."""
    values = {"workload_id": "deployment/default/hello", "replica": replica, "reason": f"{status} at {at_ms}"}
    return Event(f"01JC{at_ms:022d}", b"n" * 32, status, at_ms, **values | changes)  # type: ignore[arg-type]


def watched(world: World, diary: Diary) -> MeshReader:
    """The first node's view of the mesh, with this journal."""
    found = reader(world)
    found.journal = diary
    return found


def test_a_thousand_missing_replicas_read_the_journal_as_often_as_one() -> None:
    """Lists of every kind: what they cost does not grow with replicas times events, nor with workloads times events."""
    kinds: dict[str, Any] = {
        "pods": MeshReader.pods,
        "deployments": MeshReader.deployments,
        "endpoints": MeshReader.endpoints,
        "daemon sets": daemon_sets,
        "jobs": jobs,
    }

    def reads(replicas: int, workloads: int) -> dict[str, int]:
        world = World()
        for index in range(workloads):
            world.apply(workload(f"web{index}", replicas=replicas))
            world.apply(daemon_set(name=f"daemon{index}"))
            world.apply(workload(f"job{index}", kind="Job", job=JobTerms()))
        told = {}
        for kind, ask in kinds.items():
            diary = Diary()
            asyncio.run(ask(watched(world, diary)))
            told[kind] = diary.reads
        return told

    assert reads(MANY, 1) == reads(1, 1)
    assert reads(1, 5) == reads(1, 1)


def test_a_missing_replica_shows_the_last_word_on_it() -> None:
    """The newest `Pending` or `Failed` of that replica since its record was signed, whatever was told of others."""
    world = World()
    world.apply(workload(replicas=4))
    diary = Diary(
        [
            said("Failed", 3, WALL_MS - 1),
            said("Pending", 0, WALL_MS + 1),
            said("Failed", 0, WALL_MS + 2),
            said("Scheduled", 0, WALL_MS + 3),
            said("Pending", 1, WALL_MS + 4),
            said("Failed", 1, WALL_MS + 5, workload_id="daemonset/default/hello"),
        ]
    )

    pods = asyncio.run(watched(world, diary).pods())

    assert [pod.message for pod in pods] == [f"Failed at {WALL_MS + 2}", f"Pending at {WALL_MS + 4}", "", ""]
    assert [pod.reason for pod in pods] == ["Failed", "Pending", "Scheduling", "Scheduling"]


def test_others_are_served_while_many_objects_are_shaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that asks whether the agent lives does not wait for the whole of a long list, which is complete."""
    monkeypatch.setattr(resources, "SHAPED_AT_ONCE", 2)
    order: list[int | str] = []

    async def story() -> list[dict[str, Any]]:
        asyncio.get_running_loop().call_soon(order.append, "a peer")
        return await resources.shaped(lambda view: order.append(view) or {"view": view}, range(5))

    assert asyncio.run(story()) == [{"view": view} for view in range(5)]
    assert order == [0, 1, "a peer", 2, 3, 4]
