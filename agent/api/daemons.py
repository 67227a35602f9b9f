"""The mesh's DaemonSets as one agent sees them: the nodes that they are for, and what runs on those."""

from __future__ import annotations

from agent.api.mesh import MeshReader, by_workload, explained, rolled_back_to
from agent.api.told import Told
from beemesh.intents.record import Intent
from beemesh.workloads.daemons import DAEMON_SET
from beemesh.workloads.kubedaemons import DaemonSetView
from beemesh.workloads.kubeshape import PodView
from beemesh.workloads.record import Workload


async def daemon_sets(mesh: MeshReader, namespace: str = "") -> list[DaemonSetView]:
    """Every DaemonSet with what runs of it."""
    wanted = [(intent, body) for intent, body in mesh.workloads(namespace) if body.kind == DAEMON_SET]
    if not wanted:
        return []
    pods, told = by_workload(await mesh.pods(namespace)), mesh.told()
    return [_daemon_set(mesh, intent, body, pods.get(body.workload_id, []), told) for intent, body in wanted]


def _daemon_set(mesh: MeshReader, intent: Intent, body: Workload, pods: list[PodView], told: Told) -> DaemonSetView:
    nodes = mesh.daemons(body, told)
    running = [pod for pod in pods if pod.node and pod.phase in ("Pending", "Running")]
    rightly = [pod for pod in running if pod.replica in nodes]
    behind = {pod.node for pod in rightly if not body.current.covers(pod.revision)}
    failed = told.failed_rollout(body)
    return DaemonSetView(
        name=body.name,
        namespace=body.namespace,
        desired=len(nodes),
        current=len({pod.node for pod in rightly}),
        misscheduled=len({pod.node for pod in running if pod.replica not in nodes}),
        ready=len({pod.node for pod in rightly if pod.ready}),
        updated=len({pod.node for pod in rightly} - behind),
        revision=body.current.number,
        generation=intent.seq,
        labels=body.labels,
        annotations=body.annotations,
        pod_labels=body.pod_labels,
        node_selector=body.constraints.node_selector,
        images=body.images,
        strategy=body.strategy,
        history_limit=body.history_limit,
        failed=explained(failed) if failed is not None else "",
        rolled_back_to=rolled_back_to(failed),
        endpoints=[(pod.name, endpoint) for pod in running for endpoint in pod.endpoints],
        problem="; ".join(sorted({pod.message for pod in pods if not pod.node and pod.message})),
        created_ms=body.created_ms or intent.issued_ms,
        resource_version=intent.seq,
    )
