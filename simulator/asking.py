"""What a user learns from one agent about a replica that does not run, by the same functions that answer `explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from beemesh.effects import Asked, Reply
from beemesh.ids import NodeId
from beemesh.scheduling.explanation import explain
from beemesh.scheduling.journal import pending_in
from beemesh.scheduling.line import tellers_of
from beemesh.scheduling.messages import Event, SilenceAnswer, SilenceQuestion
from beemesh.scheduling.telling import FINAL, RETRYABLE
from beemesh.workloads.reconciler import BACKOFF_MAX_S
from simulator.machine import Machine
from simulator.world import World

STANDS_S = BACKOFF_MAX_S + 30.0
"""So long a failure is the reason why a replica does not run: the longest pause after it, and what another try may take
until something is heard of it, or two clocks differ by."""

TRY_S = 30.0
"""So long a try may take: until what it evicts is gone, its image is there, and it has started."""


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
    """Why a replica does not run, as `describe` and `explain` would say it; empty when nobody can tell. That an earlier
    one of it ran, ended, was stopped or evicted says nothing of why no other does."""
    events = told(world, machine, workload_id)
    pending = pending_in(events, revision, replica)
    if pending is not None and pending.reason and _stands(world, machine, pending, events):
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
    if story.state != "Pending":
        return ""
    return "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in story.silent.items())


def _stands(world: World, machine: Machine, pending: Event, events: Sequence[Event]) -> bool:
    """Whether an event still tells why: after a failure another try follows, unless it was the last one."""
    if pending.status == "Pending" or world.wall_ms - pending.issued_ms <= STANDS_S * 1000:
        return True
    return is_given_up(machine, events, pending.revision, pending.replica)


def is_given_up(machine: Machine, events: Sequence[Event], revision: int, replica: int) -> bool:
    """Whether a replica failed as often as the mesh tries it before a pause of minutes, or its revision was taken
    back, by what is told of its workload."""
    assert machine.composition is not None, f"n{machine.index} is down"
    if any(event.status == "RolledBack" and event.revision == revision for event in events):
        return True
    ours = [event for event in events if (event.revision, event.replica) == (revision, replica)]
    failed = [event for event in ours if event.status == "Failed" and RETRYABLE not in event.details]
    most = machine.spec.settings.scheduler.max_attempts
    return len(failed) >= most or any(FINAL in event.details for event in failed)


def is_tried(world: World, machine: Machine, workload_id: str, revision: int, replica: int) -> bool:
    """Whether somebody has won a replica that failed before a short while ago, and has not said yet how it went."""
    said = words(world, machine, workload_id, revision, replica)
    under_way = bool(said) and said[-1].status == "Scheduled"
    return under_way and world.wall_ms - said[-1].issued_ms <= TRY_S * 1000


def _why_silent(world: World, machine: Machine, task_id: str) -> tuple[str, ...]:
    assert machine.composition is not None, f"n{machine.index} is down"
    question = Asked(machine.membership.node_id, 0, SilenceQuestion(task_id))
    effects = machine.composition.bidder.handle(question, world.now_of(machine))
    answers = [effect.message for effect in effects if isinstance(effect, Reply)]
    return answers[0].reasons if answers and isinstance(answers[0], SilenceAnswer) else ()
