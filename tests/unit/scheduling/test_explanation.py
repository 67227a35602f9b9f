"""The story of a task, told from what one agent heard."""

from __future__ import annotations

from beemesh.ids import NodeId
from beemesh.scheduling.explanation import explain
from beemesh.workloads.record import Requirements
from tests.unit.scheduling.samples import workload
from tests.unit.scheduling.world import World


def names(world: World) -> dict[NodeId, str]:
    """Node names by id."""
    return {node.node_id: name for name, node in world.nodes.items()}


def test_any_agent_tells_the_same_story() -> None:
    """Every agent lists the same bids in the same order, the winner's lease with its fence, and the events."""
    world = World()
    world.apply(workload())
    world.run_until(lambda: bool(world.pods()))
    world.run(2)
    (report,) = world.pods()
    stories = []
    for node in world.nodes.values():
        entry = node.bidder.book.get(report.task_id)
        assert entry is not None
        events = node.journal.events(workload_id=report.workload_id)
        stories.append(explain(entry, events, tuple(node.bidder.book.entries()), {}, names(world).__getitem__))

    story = stories[0]
    assert stories == [story] * 3
    assert story.state == "Deployed"
    assert story.node == names(world)[report.node_id] == story.bids[0].node
    assert [bid.rank for bid in story.bids] == list(range(1, len(story.bids) + 1))
    assert story.bids[0].parts["crowd"] == 0
    assert [lease.node for lease in story.leases] == [story.node]
    assert story.leases[0].fence == str(report.fence)
    assert story.leases[0].until_ms > story.leases[0].from_ms
    assert [event.status for event in story.events] == ["Scheduled", "Deployed"]


def test_the_silent_and_the_failed_are_named() -> None:
    """A pending task names the reasons of the silent; a failed one its reason and its other attempts."""
    world = World()
    wanted = workload(requirements=Requirements(mem_mb=99_999))
    world.apply(wanted)
    world.run(3)
    node = world.nodes["two"]
    (entry,) = node.bidder.book.entries()
    entries = {each.node_id: each.bidder.book.get(entry.task.task_id) for each in world.nodes.values()}
    silences = {node_id: known.reasons for node_id, known in entries.items() if known}
    story = explain(entry, node.journal.events(), (entry,), silences, names(world).__getitem__)
    assert story.state == "Pending"
    assert "needs 99999 MiB" in story.reason
    assert set(story.silent) == {"one", "two", "three"}
    assert story.bids == ()

    world = World()
    for each in world.nodes.values():
        each.fails = "StartFailed: exec format error"
    world.apply(workload())
    world.run(5)
    node = world.nodes["one"]
    first = next(iter(node.bidder.book.entries()))
    story = explain(first, node.journal.events(), tuple(node.bidder.book.entries()), {}, names(world).__getitem__)
    assert story.state == "Failed"
    assert story.reason == "StartFailed: exec format error"
    assert len(story.attempts) >= 3
