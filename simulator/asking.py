"""What a user learns from one agent about a replica that does not run, by the same functions that answer `explain`."""

from __future__ import annotations

from collections.abc import Iterator

from beemesh.effects import Asked, Reply
from beemesh.ids import NodeId
from beemesh.scheduling.explanation import explain
from beemesh.scheduling.journal import pending_in
from beemesh.scheduling.line import tellers_of
from beemesh.scheduling.messages import Event, SilenceAnswer, SilenceQuestion
from simulator.machine import Machine
from simulator.world import World


def words(world: World, machine: Machine, workload_id: str, revision: int, replica: int) -> tuple[Event, ...]:
    """What the machine's agent can tell of a replica, oldest first."""
    events = told(world, machine, workload_id)
    return tuple(event for event in events if (event.revision, event.replica) == (revision, replica))


def told(world: World, machine: Machine, workload_id: str) -> tuple[Event, ...]:
    """What the machine's agent can tell of a workload: from its own diary and, in a large mesh, from the diaries of
    those whom it would ask (`agent.api.gathering`)."""
    events = {event.event_id: event for each in _diaries(world, machine, workload_id) for event in each}
    return tuple(sorted(events.values(), key=lambda event: (event.issued_ms, event.event_id)))


def _diaries(world: World, machine: Machine, workload_id: str) -> Iterator[tuple[Event, ...]]:
    for each in _asked(world, machine, workload_id):
        assert each.composition is not None, f"n{each.index} is down"
        yield each.composition.journal.events(workload_id=workload_id)


def _asked(world: World, machine: Machine, workload_id: str) -> list[Machine]:
    composition = machine.composition
    assert composition is not None, f"n{machine.index} is down"
    if not composition.view.is_large:
        return [machine]
    line = tellers_of(workload_id, composition.roster, composition.view)
    others = (world.machines[world.index_of(node_id)] for node_id in line)
    return [machine, *(each for each in others if each.is_up and each is not machine)]


def why_pending(world: World, machine: Machine, workload_id: str, revision: int, replica: int) -> str:
    """Why a replica does not run, as `describe` and `explain` would say it; empty when nobody can tell."""
    events = told(world, machine, workload_id)
    pending = pending_in(events, revision, replica)
    if pending is not None and pending.reason:
        return f"{pending.status}: {pending.reason}"
    entries = [
        entry
        for each in _asked(world, machine, workload_id)
        if each.composition is not None
        for entry in each.composition.bidder.book.entries()
        if (entry.task.workload_id, entry.task.revision, entry.task.replica) == (workload_id, revision, replica)
    ]
    if not entries:
        return ""
    entry = max(entries, key=lambda entry: entry.task.task_id)
    silences = {
        other.membership.node_id: reasons
        for other in world.machines
        if other.composition is not None and (reasons := _why_silent(world, other, entry.task.task_id))
    } | entry.refusals
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
