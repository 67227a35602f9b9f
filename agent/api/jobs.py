"""The mesh's jobs as one agent sees them: records, what runs, and what the events that it heard say became of them."""

from __future__ import annotations

from agent.api.mesh import MeshReader, by_workload
from agent.api.told import Told
from beemesh.intents.record import Intent
from beemesh.scheduling.messages import Event
from beemesh.scheduling.stewardship.hosting import CLOCKS_MS
from beemesh.scheduling.telling import FINAL, FINISHED, MANIFEST, RETRYABLE, is_of_another
from beemesh.workloads.kubejob import JobView
from beemesh.workloads.kubeshape import PodView
from beemesh.workloads.record import JobTerms, Workload
from beemesh.workloads.rollout import mark_of


async def jobs(mesh: MeshReader, namespace: str = "") -> list[JobView]:
    """Every Job with what became of it."""
    wanted = [(intent, body) for intent, body in mesh.workloads(namespace) if body.kind == "Job"]
    if not wanted:
        return []
    pods, told = by_workload(await mesh.pods(namespace)), mesh.told()
    return [_job(intent, body, pods.get(body.workload_id, []), _events(told, body)) for intent, body in wanted]


def _events(told: Told, body: Workload) -> list[Event]:
    since_ms = body.created_ms - CLOCKS_MS
    return [
        event for event in told.of(body.workload_id) if event.issued_ms >= since_ms and not is_of_another(event, body)
    ]


def _job(intent: Intent, body: Workload, pods: list[PodView], told: list[Event]) -> JobView:
    running = [pod for pod in pods if pod.node and pod.phase in ("Pending", "Running")]
    finished = {pod.replica for pod in pods if pod.phase == "Succeeded"}
    finished |= {event.replica for event in told if event.status == "Stopped" and FINISHED in event.details}
    failures = [
        event
        for event in told
        if event.status == "Failed" and FINAL not in event.details and RETRYABLE not in event.details
    ]
    last = next((event for event in reversed(told) if _is_end(event, body)), None)
    over = "" if last is None else "Complete" if last.status == "Completed" else "Failed"
    return JobView(
        name=body.name,
        namespace=body.namespace,
        completions=body.replicas,
        terms=body.job or JobTerms(),
        active=len(running),
        ready=sum(pod.ready for pod in running),
        succeeded=body.replicas if over == "Complete" else len(finished),
        failed=len(failures),
        over=over,
        reason=last.reason if last is not None else "",
        message=last.details.get("message", "") if last is not None else "",
        over_ms=last.issued_ms if last is not None else 0,
        labels=body.labels,
        annotations=body.annotations,
        pod_labels=body.pod_labels,
        images=body.images,
        created_ms=body.created_ms or intent.issued_ms,
        resource_version=intent.seq,
    )


def _is_end(event: Event, body: Workload) -> bool:
    mine = event.details.get(MANIFEST) == mark_of(body.current).hex()
    return mine and event.status in ("Completed", "Failed")
