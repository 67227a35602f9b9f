"""The kinds that can be listed, read and watched: one row each. A row is all that a new kind needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agent.api.daemons import daemon_sets
from agent.api.jobs import jobs
from agent.api.seam import Backend, Json
from beemesh.workloads import kube_budgets, kube_policies, kubedaemons, kubedeployment, kubejob, kubeshape
from beemesh.workloads.budgets import Budget
from beemesh.workloads.kube_endpoints import endpoints
from beemesh.workloads.policies import SYSTEM_CLASSES, PriorityClass, Quota
from beemesh.workloads.record import Workload

BEEMESH_GROUP = "beemesh.io/v1alpha1"
EVENTS_LISTED_MAX = 1_000
SHAPED_AT_ONCE = 500
"""Objects that are shaped in one go, some 20 ms: between two goes the agent answers its peers."""

View = TypeVar("View")

Lister = Callable[[Backend, str], Awaitable[list[Json]]]
"""All objects of a kind, in one namespace or (for the empty one) in all, shaped as Kubernetes shapes them."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: where it stands in Kubernetes' API, and who lists it."""

    version: str
    """Group and version, such as `apps/v1`; `v1` for the core group."""
    plural: str
    kind: str
    lister: Lister
    namespaced: bool = True
    short: tuple[str, ...] = ()
    tells: bool = True
    """Whether every change of it is told (`agent.api.live`), so that a watch need not look again and again."""
    is_named_anywhere: bool = False
    """Whether one object is also found by its name without a namespace, because its name is unique in the mesh."""

    @property
    def prefix(self) -> str:
        """The path below which the kind is found."""
        return f"/apis/{self.version}" if "/" in self.version else f"/api/{self.version}"

    def paths(self) -> list[str]:
        """The paths of the list, of a namespace's list, and of one object."""
        found = [f"{self.prefix}/{self.plural}"]
        if not self.namespaced or self.is_named_anywhere:
            found.append(f"{self.prefix}/{self.plural}/{{name}}")
        if self.namespaced:
            inside = f"{self.prefix}/namespaces/{{namespace}}/{self.plural}"
            found += [inside, f"{inside}/{{name}}"]
        return found


async def shaped(shape: Callable[[View], Json], views: Sequence[View]) -> list[Json]:
    """The objects of a kind of which there may be thousands."""
    items: list[Json] = []
    for start in range(0, len(views), SHAPED_AT_ONCE):
        items += map(shape, views[start : start + SHAPED_AT_ONCE])
        await asyncio.sleep(0)
    return items


async def _nodes(api: Backend, _namespace: str) -> list[Json]:
    return [kubeshape.node(view) for view in api.mesh.nodes(api.door.wall_ms())]


async def _pods(api: Backend, namespace: str) -> list[Json]:
    return await shaped(kubeshape.pod, await api.mesh.pods(namespace))


async def _deployments(api: Backend, namespace: str) -> list[Json]:
    return [kubedeployment.deployment(view) for view in await api.mesh.deployments(namespace)]


async def _daemon_sets(api: Backend, namespace: str) -> list[Json]:
    return [kubedaemons.daemon_set(view) for view in await daemon_sets(api.mesh, namespace)]


async def _jobs(api: Backend, namespace: str) -> list[Json]:
    return [kubejob.job(view) for view in await jobs(api.mesh, namespace)]


async def _endpoints(api: Backend, namespace: str) -> list[Json]:
    return [endpoints(view) for view in await api.mesh.endpoints(namespace)]


async def _configmaps(api: Backend, namespace: str) -> list[Json]:
    return [kubeshape.config(view) for view in api.mesh.configs("ConfigMap", namespace)]


async def _secrets(api: Backend, namespace: str) -> list[Json]:
    return [kubeshape.config(view) for view in api.mesh.configs("Secret", namespace)]


async def _budgets(api: Backend, namespace: str) -> list[Json]:
    pods = await api.mesh.pods(namespace)
    workloads = [body for _, body in api.mesh.records("workload/", "workload", Workload)]
    return [
        kube_budgets.budget(body, intent.seq, workloads, pods)
        for intent, body in api.mesh.records("budget/", "budget", Budget)
        if not namespace or body.namespace == namespace
    ]


async def _quotas(api: Backend, namespace: str) -> list[Json]:
    workloads = [body for _, body in api.mesh.workloads(namespace)]
    return [
        kube_policies.quota(body, intent.seq, workloads)
        for intent, body in api.mesh.records("quota/", "quota", Quota)
        if not namespace or body.namespace == namespace
    ]


async def _priority_classes(api: Backend, _namespace: str) -> list[Json]:
    found = api.mesh.records("priority/", "priority", PriorityClass)
    own = [kube_policies.priority_class(body, 0) for body in SYSTEM_CLASSES.values()]
    return [kube_policies.priority_class(body, intent.seq) for intent, body in found] + own


async def _events(api: Backend, namespace: str) -> list[Json]:
    await api.mesh.catch_up(namespace)
    return [kubeshape.event(view) for view in api.mesh.events(namespace)[-EVENTS_LISTED_MAX:]]


async def _tasks(api: Backend, namespace: str) -> list[Json]:
    views = await api.door.tasks(api.mesh.running_tasks)
    return [kubeshape.task(view) for view in views if not namespace or view.namespace == namespace]


RESOURCES = (
    Resource("v1", "nodes", "Node", _nodes, namespaced=False, short=("no",), tells=False),
    Resource("v1", "pods", "Pod", _pods, short=("po",)),
    Resource("v1", "endpoints", "Endpoints", _endpoints, short=("ep",)),
    Resource("v1", "configmaps", "ConfigMap", _configmaps, short=("cm",)),
    Resource("v1", "secrets", "Secret", _secrets),
    Resource("v1", "events", "Event", _events, short=("ev",)),
    Resource("apps/v1", "deployments", "Deployment", _deployments, short=("deploy",)),
    Resource("apps/v1", "daemonsets", "DaemonSet", _daemon_sets, short=("ds",)),
    Resource("batch/v1", "jobs", "Job", _jobs),
    Resource("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", _budgets, short=("pdb",)),
    Resource("v1", "resourcequotas", "ResourceQuota", _quotas, short=("quota",)),
    Resource(
        "scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", _priority_classes, namespaced=False, short=("pc",)
    ),
    Resource(BEEMESH_GROUP, "tasks", "Task", _tasks, is_named_anywhere=True, tells=False),
)
