"""Endpoints in Kubernetes' shape: who may be sent requests, and who may not."""

from __future__ import annotations

from typing import Any

from beemesh.workloads.kube_endpoints import EndpointsView, endpoints, endpoints_views
from beemesh.workloads.kubeshape import PodView
from beemesh.workloads.kubetable import rows
from beemesh.workloads.observation import Endpoint


def pod(replica: int, **changes: Any) -> PodView:
    """A running replica of `web` with one published port."""
    base: dict[str, Any] = {
        "name": f"web-1-{replica}",
        "namespace": "default",
        "workload_id": "deployment/default/web",
        "owner_kind": "Deployment",
        "owner_name": "web",
        "node": f"n{replica}",
        "phase": "Running",
        "ready": True,
        "endpoints": (Endpoint("10.0.0.1", 20000 + replica, 80, name="http", ready=True),),
    }
    return PodView(**{**base, **changes})


def shape(*pods: PodView) -> dict[str, Any]:
    """The Endpoints object of `web` with these pods."""
    (view,) = endpoints_views(pods, [EndpointsView("web", "default", "Deployment")])
    return endpoints(view)


def test_only_ready_and_running_pods_are_addresses() -> None:
    """Ready ones are addresses with their own ports, the unready and the terminating are listed as not ready, pods that
    run nowhere and pods of other workloads not at all."""
    made = shape(
        pod(0),
        pod(1, ready=False),
        pod(2, phase="Terminating"),
        pod(3, node=""),
        pod(4, owner_name="other"),
    )
    assert (made["apiVersion"], made["kind"], made["metadata"]["name"]) == ("v1", "Endpoints", "web")
    ready = [subset for subset in made["subsets"] if "addresses" in subset]
    assert ready == [
        {
            "addresses": [
                {
                    "ip": "10.0.0.1",
                    "nodeName": "n0",
                    "targetRef": {"kind": "Pod", "name": "web-1-0", "namespace": "default"},
                }
            ],
            "ports": [{"port": 20000, "protocol": "TCP", "name": "http"}],
        }
    ]
    unready = [subset["notReadyAddresses"][0]["nodeName"] for subset in made["subsets"] if "addresses" not in subset]
    assert unready == ["n1", "n2"]


def test_the_table_shows_where_to_go() -> None:
    """One line per workload: reachable places, and on demand how many are not ready."""
    names, cells = rows("Endpoints", [shape(pod(0), pod(1), pod(2, ready=False)), shape()], 0, wide=True)
    assert names == ["NAME", "ENDPOINTS", "AGE", "NOT READY", "NODES"]
    assert [cells[0][1], *cells[0][3:]] == ["10.0.0.1:20000,10.0.0.1:20001", "1", "n0,n1"]
    assert cells[1][1] == "<none>"
