"""From a set of manifests to the changes that make the mesh like it; shared by `apply` and `reconcile`."""

from __future__ import annotations

from beemesh.errors import InvalidInput
from beemesh.workloads.objects import CONFIG_KINDS, in_order
from beemesh.workloads.resolve import needed_objects, resolve
from beemeshctl.applying import Change, Mesh, Planner, read_back
from beemeshctl.client import Client
from beemeshctl.manifests import ManifestSet


def plan_changes(
    client: Client, manifests: ManifestSet, *, mesh: Mesh | None = None, managed_by: str = "", lenient: bool = False
) -> list[Change]:
    """The changes in the order in which they are to be made: ConfigMaps and Secrets before what refers to them,
    and disruption budgets before what they protect.

    Raises `InvalidInput` with every problem; with `lenient` a workload that cannot be resolved is left out instead,
    and its problems are added to `manifests.problems` by the caller's own means.
    """
    mesh = mesh or Mesh.read(client)
    needed = needed_objects(manifests.objects)
    resolution = resolve(manifests.objects, read_back(client, mesh, needed))
    if resolution.problems and not lenient:
        problems = tuple(manifests.problem(key, finding) for key, finding in resolution.problems)
        raise InvalidInput("these manifests cannot be resolved; nothing was changed", problems=problems)
    planner = Planner(client, mesh, managed_by=managed_by)
    configs = [planner.config(item) for item in manifests.objects if item.kind in CONFIG_KINDS]
    policies = [planner.policy(item) for item in in_order(manifests.objects)]
    return configs + policies + [planner.workload(workload) for workload in resolution.workloads]
