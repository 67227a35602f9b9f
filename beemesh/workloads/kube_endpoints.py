"""Where a workload is reached, as a `v1` Endpoints object: what stock kubectl shows, and what clients follow.

Every pod has host ports of its own, so each address stands in a subset of its own with its ports. One that must not be
sent requests (yet, or any more) is under `notReadyAddresses`; what has no published port is not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from beemesh.workloads.kubeshape import Json, PodView, metadata_of, uid


@dataclass(frozen=True, slots=True)
class EndpointsView:
    """A workload and its pods that run."""

    name: str
    namespace: str
    kind: str
    labels: Mapping[str, str] = field(default_factory=dict)
    pods: Sequence[PodView] = ()
    created_ms: int = 0
    resource_version: int = 0


def endpoints_views(pods: Iterable[PodView], wanted: Iterable[EndpointsView]) -> list[EndpointsView]:
    """The wanted workloads with those of `pods` that are theirs and run somewhere."""
    groups: dict[tuple[str, str, str], list[PodView]] = {}
    for pod in pods:
        if pod.node:
            groups.setdefault((pod.owner_kind, pod.namespace, pod.owner_name), []).append(pod)
    return [
        EndpointsView(
            view.name,
            view.namespace,
            view.kind,
            view.labels,
            sorted(groups.get((view.kind, view.namespace, view.name), ()), key=lambda pod: (pod.name, pod.node)),
            view.created_ms,
            view.resource_version,
        )
        for view in wanted
    ]


def endpoints(view: EndpointsView) -> Json:
    """A `v1` Endpoints object."""
    metadata = metadata_of(
        view.name,
        "Endpoints",
        namespace=view.namespace,
        labels={**view.labels, "beemesh.io/kind": view.kind},
        created_ms=view.created_ms,
        resource_version=view.resource_version,
    )
    metadata["uid"] = uid("Endpoints", view.namespace, view.name, view.kind)  # kinds may share a name
    subsets = [subset for pod in view.pods for subset in _subsets(pod)]
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}


def _subsets(pod: PodView) -> Iterable[Json]:
    by_state: dict[tuple[str, bool], list[Json]] = {}
    for each in pod.endpoints:
        port: Json = {"port": each.port, "protocol": each.protocol}
        if each.name:
            port["name"] = each.name
        is_ready = each.ready and pod.ready and pod.phase == "Running"
        by_state.setdefault((each.address, is_ready), []).append(port)
    for (ip, is_ready), ports in sorted(by_state.items()):
        target = {"kind": "Pod", "name": pod.name, "namespace": pod.namespace}
        address = {"ip": ip, "nodeName": pod.node, "targetRef": target}
        yield {"addresses" if is_ready else "notReadyAddresses": [address], "ports": ports}
