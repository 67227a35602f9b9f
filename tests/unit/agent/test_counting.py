"""What a node's own story becomes on its metrics page."""

from __future__ import annotations

from agent.counting import Counting
from agent.metrics import Metrics
from beemesh.events import EventHeard, LeaseDenied
from beemesh.ids import NodeId, ulid, ulid_time_ms
from beemesh.scheduling.messages import Event, EventStatus

SELF, OTHER = NodeId(b"s" * 32), NodeId(b"o" * 32)


def told(status: EventStatus, node_id: NodeId = SELF, **changes: object) -> EventHeard:
    """An event of a node, at 10 s."""
    return EventHeard(Event(ulid(10_000, bytes(10)), node_id, status, 10_000, **changes))  # type: ignore[arg-type]


def page(*events: object) -> dict[str, float]:
    """The page after these notifications."""
    metrics = Metrics()
    counting = Counting(metrics, SELF)
    for event in events:
        counting.hear(event)
    lines = [line for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_time_inside_of_a_ulid_is_read_back() -> None:
    """What `ulid` wrote, to the millisecond."""
    assert ulid_time_ms(ulid(1_795_271_158_570, bytes(10))) == 1_795_271_158_570


def test_latencies_are_those_of_this_nodes_own_events() -> None:
    """From the task's publication to `Scheduled`, and from there to `Deployed`; what others tell is not counted."""
    task = ulid(9_800, bytes(10))
    shown = page(
        told("Scheduled", task_id=task),
        told("Scheduled", OTHER, task_id=task),
        told("Scheduled", task_id="no ulid"),
        told("Deployed", details={"took_ms": "400"}),
        told("Deployed", details={"took_ms": "-"}),
    )
    assert shown["beemesh_schedule_latency_seconds_count"] == 1
    assert round(shown["beemesh_schedule_latency_seconds_sum"], 3) == 0.2
    assert shown["beemesh_deploy_duration_seconds_sum"] == 0.4


def test_failures_and_leases_are_counted_under_fixed_words() -> None:
    """A reason or kind that is none of ours is `other`, and a steward's summary is no failure of its own."""
    shown = page(
        told("Failed", reason="ImageNotFound"),
        told("Failed", reason="whatever an engine said"),
        told("Failed", reason="all 3 attempts failed", details={"final": "true"}),
        told("Restarted"),
        LeaseDenied("lease/deployment/default/web/0", "taken"),
        LeaseDenied("strange/x", "taken"),
    )
    assert shown['beemesh_deploy_failures_total{reason="ImageNotFound"}'] == 1
    assert shown['beemesh_deploy_failures_total{reason="other"}'] == 1
    assert shown["beemesh_container_restarts_total"] == 1
    assert shown['beemesh_leases_total{kind="lease",result="denied"}'] == 1
    assert shown['beemesh_leases_total{kind="other",result="denied"}'] == 1
