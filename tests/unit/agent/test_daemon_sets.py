"""What an agent says of DaemonSets: numbers of nodes, in Kubernetes' words."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from agent.api.daemons import daemon_sets
from agent.api.mesh import MeshReader
from beemesh.ids import NodeId
from beemesh.workloads.kubedaemons import daemon_set as shaped
from beemesh.workloads.kubetable import rows
from beemesh.workloads.observation import ListReplicas, ReplicaList
from tests.unit.scheduling.test_daemons import daemon_set, everywhere
from tests.unit.scheduling.world import World


def reader(world: World) -> MeshReader:
    """The first node's view of it."""
    node = world.nodes["one"]

    async def ask_node(peer: NodeId, message: ListReplicas, _deadline_s: float) -> ReplicaList:
        return ReplicaList(peer, tuple(world.nodes_by_id[peer].runtime.values()))

    intents: Any = SimpleNamespace(get=world.intents.get, items=lambda prefix="": world.records(prefix))
    return MeshReader(node.node_id, node.roster, node.view, intents, node.journal, SimpleNamespace(ask_node=ask_node))


def status(world: World) -> dict[str, Any]:
    """The status of the one there is."""
    (view,) = asyncio.run(daemon_sets(reader(world)))
    found: dict[str, Any] = shaped(view)["status"]
    return found


def test_it_counts_nodes() -> None:
    """Wanted on each that lives, whether it runs there or not; the table says the same."""
    world = World()
    world.apply(daemon_set())
    assert (status(world)["desiredNumberScheduled"], status(world)["currentNumberScheduled"]) == (3, 0)
    assert [pod.phase for pod in asyncio.run(reader(world).pods())] == ["Pending"] * 3
    world.run_until(lambda: everywhere(world))
    world.nodes["three"].kill(power=True)

    found = status(world)
    names = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled")
    assert [found[name] for name in (*names, "numberAvailable", "numberMisscheduled")] == [2, 2, 2, 2, 2, 0]
    (view,) = asyncio.run(daemon_sets(reader(world)))
    heads, (cells,) = rows("DaemonSet", [shaped(view)], 0)
    assert heads == ["NAME", "DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE", "NODE SELECTOR", "AGE"]
    assert cells[:7] == ["hello", "2", "2", "2", "2", "2", "<none>"]


def test_it_tells_of_a_failed_rollout() -> None:
    """Why, and what runs in its place."""
    world = World()
    world.apply(daemon_set(1))
    world.run_until(lambda: everywhere(world))
    world.run(15)
    world.bad[2] = "ImageNotFound: no such image"
    world.apply(daemon_set(2, 1), 2)
    world.run_until(lambda: bool(world.events("RolledBack")), 300)
    world.run(30)

    found = status(world)
    assert found["rolledBackTo"] == 1
    assert found["conditions"][0]["reason"] == "ProgressDeadlineExceeded"
    assert "ImageNotFound" in found["conditions"][0]["message"]
    assert (found["numberReady"], found["updatedNumberScheduled"]) == (3, 0)
