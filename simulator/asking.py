"""What a user learns from one agent about a replica that does not run, by the same functions that answer `explain`."""

from __future__ import annotations

from beemesh.effects import Asked, Reply
from beemesh.ids import NodeId
from beemesh.scheduling.explanation import explain
from beemesh.scheduling.messages import Event, SilenceAnswer, SilenceQuestion
from simulator.machine import Machine
from simulator.world import World


def words(machine: Machine, workload_id: str, revision: int, replica: int) -> tuple[Event, ...]:
    """The events that the machine's agent keeps of a replica, oldest first."""
    assert machine.composition is not None, f"n{machine.index} is down"
    events = machine.composition.journal.events(workload_id=workload_id)
    return tuple(event for event in events if (event.revision, event.replica) == (revision, replica))


def why_pending(world: World, machine: Machine, workload_id: str, revision: int, replica: int) -> str:
    """Why a replica does not run, as `describe` and `explain` would say it; empty when nobody can tell."""
    assert machine.composition is not None, f"n{machine.index} is down"
    told = machine.composition.journal.pending(workload_id, revision, replica)
    if told is not None and told.reason:
        return f"{told.status}: {told.reason}"
    entries = [
        entry
        for entry in machine.composition.bidder.book.entries()
        if (entry.task.workload_id, entry.task.revision, entry.task.replica) == (workload_id, revision, replica)
    ]
    if not entries:
        return ""
    entry = entries[-1]
    silences = {
        other.membership.node_id: reasons
        for other in world.machines
        if other.composition is not None and (reasons := _why_silent(world, other, entry.task.task_id))
    }
    events = machine.composition.journal.events(workload_id=workload_id)
    story = explain(entry, events, entries, silences, lambda node_id: f"n{world.index_of(NodeId(node_id))}")
    if story.state in ("Failed", "Cancelled", "Stopped", "Preempted"):
        return f"{story.state}: {story.reason}"
    return "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in story.silent.items())


def _why_silent(world: World, machine: Machine, task_id: str) -> tuple[str, ...]:
    assert machine.composition is not None, f"n{machine.index} is down"
    question = Asked(machine.membership.node_id, 0, SilenceQuestion(task_id))
    effects = machine.composition.bidder.handle(question, world.now_of(machine))
    answers = [effect.message for effect in effects if isinstance(effect, Reply)]
    return answers[0].reasons if answers and isinstance(answers[0], SilenceAnswer) else ()
