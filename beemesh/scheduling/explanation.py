"""The whole story of a task, from what one agent heard of it: pure, and told in the order in which it happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from beemesh.ids import NodeId
from beemesh.scheduling.messages import Event, Task
from beemesh.scheduling.taskbook import Entry
from beemesh.scheduling.telling import ROLLOUT_EVENTS

NameOf = Callable[[NodeId], str]
"""A node's name for people."""


@dataclass(frozen=True, slots=True)
class BidLine:
    """One bid: its rank from 1, its score, the score's parts and the resources one by one."""

    rank: int
    node: str
    score: float
    parts: Mapping[str, float]
    fit: Mapping[str, float]
    at_ms: int


@dataclass(frozen=True, slots=True)
class LeaseLine:
    """Who held the replica's lease for this task, by which fence, from when until when (0: still)."""

    node: str
    fence: str
    from_ms: int
    until_ms: int
    tentative: bool


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event about the task, or of its earlier and later attempts."""

    at_ms: int
    node: str
    status: str
    reason: str
    task_id: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of a task. `state` is Pending, Scheduled, Deployed, Failed, Cancelled or Stopped; `silent` has each
    silent node's reasons by its name; `attempts` are all tasks of the same replica and revision, oldest first."""

    task_id: str
    workload_id: str
    namespace: str
    revision: int
    replica: int
    attempt: int
    state: str
    node: str
    reason: str
    issued_ms: int
    steward: str
    bids: tuple[BidLine, ...]
    silent: Mapping[str, tuple[str, ...]]
    leases: tuple[LeaseLine, ...]
    attempts: tuple[str, ...]
    events: tuple[EventLine, ...]


RUNS = "running; its history is no longer kept"
"""Of a task whose pod runs, by its node's report, while its events have made room for newer ones."""

ENDS = {"Deployed", "Failed", "Cancelled"}
STATES = ("Scheduled", "Deployed", "Failed", "Cancelled", "Stopped", "Pending", "Preempted")


def explain(
    entry: Entry,
    events: Sequence[Event],
    siblings: Sequence[Entry],
    silences: Mapping[NodeId, tuple[str, ...]],
    name_of: NameOf,
    runs_on: str = "",
) -> Explanation:
    """Tell the story of `entry`. `events` are those of its workload, `siblings` the entries of the same replica (this
    one may be among them), `silences` what nodes answered when they were asked why they did not bid, `runs_on` the node
    that reports its pod, for when no event tells."""
    task = entry.task
    told = [event for event in events if event.status not in ROLLOUT_EVENTS]
    ours = [event for event in told if (event.revision, event.replica) == (task.revision, task.replica)]
    ours.sort(key=lambda event: (event.issued_ms, event.event_id))
    own = [event for event in ours if event.task_id == task.task_id]
    state, node, reason = state_of(own, name_of, runs_on)
    tasks = {each.task.task_id for each in siblings if _same(each.task, task)} | {task.task_id}
    tasks |= {event.task_id for event in ours if event.task_id}
    return Explanation(
        task_id=task.task_id,
        workload_id=task.workload_id,
        namespace=task.namespace,
        revision=task.revision,
        replica=task.replica,
        attempt=task.attempt,
        state=state,
        node=node,
        reason=reason,
        issued_ms=task.issued_ms,
        steward=name_of(NodeId(entry.signed.signer)),
        bids=_bids(entry, name_of),
        silent={
            name_of(node_id): reasons
            for node_id, reasons in sorted(silences.items())
            if reasons and node_id not in entry.bids
        },
        leases=_leases(own, name_of),
        attempts=tuple(sorted(tasks)),
        events=tuple(_line(event, name_of) for event in ours),
    )


def last_state(events: Sequence[Event]) -> Event | None:
    """The event that tells the state of a task, of all of it that are kept, oldest first; None where none does."""
    return next((event for event in reversed(events) if event.status in STATES), None)


def state_of(events: Sequence[Event], name_of: NameOf, runs_on: str = "") -> tuple[str, str, str]:
    """(state, the node that has the task, the reason) by the events of one task, oldest first, and by the node that
    reports its pod."""
    last = last_state(events)
    if last is None:
        return ("Deployed", runs_on, RUNS) if runs_on else ("Pending", "", _reason(None))
    return last.status, name_of(last.node_id) if last.status in ("Scheduled", "Deployed") else "", _reason(last)


def _same(one: Task, other: Task) -> bool:
    return (one.workload_id, one.revision, one.replica) == (other.workload_id, other.revision, other.replica)


def _reason(event: Event | None) -> str:
    if event is None:
        return "no node has taken it yet"
    message = event.details.get("message", "")
    return f"{event.reason}: {message}" if event.reason and message else event.reason or message


def _bids(entry: Entry, name_of: NameOf) -> tuple[BidLine, ...]:
    ranked = sorted(entry.bids.values(), key=lambda bid: (bid.score, bid.node_id), reverse=True)
    return tuple(
        BidLine(place, name_of(bid.node_id), bid.score, bid.reasons, bid.fit, bid.issued_ms)
        for place, bid in enumerate(ranked, start=1)
    )


def _leases(events: Sequence[Event], name_of: NameOf) -> tuple[LeaseLine, ...]:
    lines = []
    for event in events:
        if event.status != "Scheduled":
            continue
        ends = [
            later.issued_ms
            for later in events
            if later.status in ENDS and later.node_id == event.node_id and later.issued_ms >= event.issued_ms
        ]
        fence, tentative = event.details.get("fence", ""), event.details.get("tentative") == "true"
        lines.append(LeaseLine(name_of(event.node_id), fence, event.issued_ms, min(ends, default=0), tentative))
    return tuple(lines)


def _line(event: Event, name_of: NameOf) -> EventLine:
    return EventLine(
        event.issued_ms, name_of(event.node_id), event.status, event.reason, event.task_id, dict(event.details)
    )
