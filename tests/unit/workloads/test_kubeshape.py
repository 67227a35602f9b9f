"""Mesh state is shown in shapes and tables that Kubernetes' tools know."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from beemesh.identity.membership_card import Taint
from beemesh.workloads import kubedeployment as deploy
from beemesh.workloads import kubeshape as shape
from beemesh.workloads.budgets import Budget
from beemesh.workloads.kube_budgets import budget as shaped_budget
from beemesh.workloads.kube_endpoints import EndpointsView, endpoints
from beemesh.workloads.kube_policies import priority_class
from beemesh.workloads.kube_policies import quota as shaped_quota
from beemesh.workloads.kubedaemons import DaemonSetView, daemon_set
from beemesh.workloads.kubejob import JobView, job
from beemesh.workloads.kubetable import COLUMNS, age, rows, table
from beemesh.workloads.observation import ContainerReport, Endpoint
from beemesh.workloads.policies import PriorityClass, Quota

AT_MS = 1_795_200_000_123
ENDPOINT = Endpoint("10.0.0.5", 31000, 8080, name="http", ready=True)
POD = shape.PodView(
    name="hello-1-0",
    namespace="default",
    workload_id="deployment/default/hello",
    owner_kind="Deployment",
    owner_name="hello",
    revision=1,
    node="alpha",
    phase="Running",
    ready=True,
    labels={"app": "hello"},
    containers=(ContainerReport("web", "hello:1", "running", ready=True, restarts=2, started_ms=AT_MS),),
    endpoints=(ENDPOINT,),
    created_ms=AT_MS,
    started_ms=AT_MS,
    resource_version=7,
)


def condition(item: shape.Json, kind: str) -> str:
    """The status of one condition."""
    return next(str(entry["status"]) for entry in item["status"]["conditions"] if entry["type"] == kind)


def test_a_running_pod() -> None:
    """A pod shows its node, owner, readiness and where it is reached."""
    item = shape.pod(POD)
    assert (item["metadata"]["name"], item["spec"]["nodeName"]) == ("hello-1-0", "alpha")
    assert item["status"]["phase"] == "Running"
    assert condition(item, "Ready") == "True"
    expected = {
        "address": "10.0.0.5",
        "port": 31000,
        "targetPort": 8080,
        "protocol": "TCP",
        "name": "http",
        "ready": True,
    }
    assert item["status"]["endpoints"] == [expected]
    deployment = deploy.deployment(deploy.DeploymentView("hello", "default", 2))
    assert item["metadata"]["ownerReferences"][0]["uid"] == deployment["metadata"]["uid"]
    assert json.loads(json.dumps(item)) == item


def test_a_waiting_pod_says_why() -> None:
    """A replica that no node took is Pending, unscheduled, with the reason."""
    view = shape.PodView(
        "hello-1-1", "default", "deployment/default/hello", "Deployment", "hello", reason="NoBids", message="too big"
    )
    item = shape.pod(view)
    assert (item["status"]["phase"], item["status"]["reason"]) == ("Pending", "NoBids")
    assert condition(item, "PodScheduled") == "False"


def test_a_deployment_counts() -> None:
    """A deployment's status has Kubernetes' counts, generation and conditions."""
    view = deploy.DeploymentView(
        "hello", "default", 2, running=2, ready=1, updated=2, generation=3, observed_generation=3
    )
    item = deploy.deployment(view)
    counts = {name: item["status"][name] for name in ("replicas", "readyReplicas", "unavailableReplicas")}
    assert counts == {"replicas": 2, "readyReplicas": 1, "unavailableReplicas": 1}
    assert (item["metadata"]["generation"], item["status"]["observedGeneration"]) == (3, 3)
    assert condition(item, "Available") == "False"
    assert condition(deploy.deployment(deploy.DeploymentView("a", "b", 1, ready=1)), "Available") == "True"


def test_a_node() -> None:
    """A node shows readiness, cordon, taints, labels and room."""
    view = shape.NodeView("alpha", "abc", cordoned=True, taints=(Taint("k", "v", "NoSchedule"),), roles=("keeper",))
    item = shape.node(view)
    assert item["spec"]["unschedulable"] is True
    assert item["spec"]["taints"] == [{"key": "k", "value": "v", "effect": "NoSchedule"}]
    heads, cells = rows("Node", [item], AT_MS)
    assert dict(zip(heads, cells[0], strict=True))["STATUS"] == "Ready,SchedulingDisabled"


def test_tables_have_a_cell_for_every_column() -> None:
    """Every kind has a table, for kubectl and for a terminal."""
    items = {
        "Pod": shape.pod(POD),
        "DaemonSet": daemon_set(DaemonSetView("hello", "default", 3, node_selector={"disk": "ssd"})),
        "Job": job(JobView("hello", "default", 2)),
        "Deployment": deploy.deployment(deploy.DeploymentView("hello", "default", 2, endpoints=(("p", ENDPOINT),))),
        "Node": shape.node(shape.NodeView("alpha", "abc", addresses=("10.0.0.5",))),
        "Task": shape.task(shape.TaskView("01ABC", "deployment/default/hello", "default", 1, 0)),
        "Event": shape.event(shape.EventView("01ABC", "Deployed", "alpha", kind="Pod", name="x", at_ms=AT_MS)),
        "Endpoints": endpoints(EndpointsView("web", "default", "Deployment")),
        "ConfigMap": shape.config(shape.ConfigView("ConfigMap", "c", "default")),
        "PodDisruptionBudget": shaped_budget(Budget("default", "web", min_available="1"), 1, [], []),
        "ResourceQuota": shaped_quota(Quota("default", "team", {"pods": 3}), 1, []),
        "PriorityClass": priority_class(PriorityClass("high", 10), 1),
        "Secret": shape.config(shape.ConfigView("Secret", "s", "default", type="Opaque")),
    }
    assert set(items) == set(COLUMNS)
    for kind, item in items.items():
        printed = table(kind, [item], AT_MS)
        assert len(printed["rows"][0]["cells"]) == len(printed["columnDefinitions"])
        heads, cells = rows(kind, [item], AT_MS, wide=True)
        assert len(heads) == len(cells[0])
        assert json.dumps(printed)


def test_pod_row() -> None:
    """The cells of a pod say what kubectl would say."""
    assert rows("Pod", [shape.pod(POD)], AT_MS + 60_000)[1] == [["hello-1-0", "1/1", "Running", "2", "60s", "alpha"]]


def test_age_in_words() -> None:
    """Ages are short, as in kubectl."""
    at = shape.timestamp(AT_MS)
    later = [AT_MS + seconds * 1000 for seconds in (0, 119, 120, 7200, 200_000)]
    assert [age(at, now_ms) for now_ms in later] == ["0s", "119s", "2m", "2h", "2d"]
    assert age("", AT_MS) == "<unknown>"


def test_status() -> None:
    """Failures carry Kubernetes' reason and code."""
    item = shape.status(404, "no pod is named x", kind="pods", name="x")
    assert (item["status"], item["reason"], item["code"]) == ("Failure", "NotFound", 404)
    assert shape.status(200, "done")["status"] == "Success"


@given(st.integers(-(2**63), 2**63))
def test_any_time_can_be_written(wall_ms: int) -> None:
    """No time that a clock or a stranger gives breaks the output."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shape.timestamp(wall_ms))


def test_uids_are_stable() -> None:
    """The same object has the same UID from every agent, and looks like one."""
    assert shape.uid("a", "b") == shape.uid("a", "b") != shape.uid("ab", "")
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}", shape.uid("a"))
