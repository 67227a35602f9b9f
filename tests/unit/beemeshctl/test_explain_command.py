"""`beemeshctl explain`: whose story is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from beemesh.errors import InvalidInput, NotFound
from beemesh.workloads.kubedeployment import DeploymentView, deployment
from beemesh.workloads.kubeshape import PodView, TaskView, pod, task
from beemeshctl import client as client_module
from beemeshctl.client import BEEMESH
from beemeshctl.commands.explain import command

Json = dict[str, Any]


def listed(number: int, workload_id: str, replica: int = 0) -> Json:
    """A task in the list; a greater number is newer."""
    return task(TaskView(f"01JC{number:022}", workload_id, "default", 1, replica))


def replica_pod(name: str, workload_id: str, replica: int = 0, **changes: Any) -> Json:
    """A pod of that workload."""
    kind, _, owner = workload_id.split("/")
    return pod(PodView(name, "default", workload_id, kind.capitalize(), owner, 1, replica, **changes))


WEB, DAEMON, LONE = "deployment/default/web", "daemonset/default/web", "pod/default/lone"
TASKS = [
    *(listed(number, WEB, replica) for number, replica in ((1, 0), (2, 1), (3, 0), (4, 2))),
    listed(5, DAEMON, 7),
    listed(6, LONE),
    listed(7, "job/default/gone"),
]
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
OBJECTS = {
    f"{BEEMESH}/tasks": {"items": TASKS},
    f"{DEPLOYMENTS}/web": deployment(DeploymentView("web", "default", 2)),
    f"{DEPLOYMENTS}/idle": deployment(DeploymentView("idle", "default", 0)),
    f"{PODS}/web-1-0": replica_pod("web-1-0", WEB, node="one", task_id=f"01JC{1:022}"),
    f"{PODS}/web-1-1": replica_pod("web-1-1", WEB, 1),
    f"{PODS}/web-1-9": replica_pod("web-1-9", WEB, 9),
    f"{PODS}/lone": replica_pod("lone", LONE),
}


class Client:
    """An agent that has these."""

    def __init__(self, **_: Any) -> None:
        pass

    def get(self, path: str) -> Json:
        """As `Client.get`; the story of a task is its number."""
        if path.endswith("/explanation"):
            return {"number": int(path.split("/")[-2][4:])}
        if path not in OBJECTS:
            raise NotFound(path)
        return OBJECTS[path]


def told(monkeypatch: pytest.MonkeyPatch, target: str) -> list[int]:
    """The numbers of the tasks that are explained."""
    monkeypatch.setattr(client_module, "Client", Client)
    result = CliRunner().invoke(command, [target, "-o", "json"], standalone_mode=False, catch_exceptions=False)
    stories = json.loads(result.stdout)
    return [story["number"] for story in (stories if isinstance(stories, list) else [stories])]


@pytest.mark.parametrize(
    ("target", "numbers"),
    [
        ("deployment/web", [3, 2]),
        ("deploy/web", [3, 2]),
        ("deployments.apps/web", [3, 2]),
        ("ds/web", [5]),
        ("DaemonSet/web", [5]),
        ("pod/web-1-0", [1]),
        ("po/web-1-1", [2]),
        ("pod/lone", [6]),
        ("job/gone", [7]),
        (f"01JC{4:022}", [4]),
    ],
)
def test_a_type_and_name_mean_what_they_mean_to_get(
    monkeypatch: pytest.MonkeyPatch, target: str, numbers: list[int]
) -> None:
    """The newest task of each wanted replica of that one workload, without ordinals that were scaled away; of a pod the
    task that it runs for, or where it does not run the newest of its replica."""
    assert told(monkeypatch, target) == numbers


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("d/web", "no type 'd'"),
        ("s/web", "no type 's'"),
        ("node/one", "nodes come of no task"),
        ("deployment/", "no TYPE/NAME"),
    ],
)
def test_what_has_no_tasks_is_refused(monkeypatch: pytest.MonkeyPatch, target: str, words: str) -> None:
    """An unknown type is not taken for another one whose name begins alike."""
    with pytest.raises(InvalidInput, match=words):
        told(monkeypatch, target)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("deployment/idle", "no replica of it is wanted"),
        ("deployment/other", "no task of it is remembered"),
        ("pod/web-1-9", "no task of it is remembered"),
    ],
)
def test_without_a_task_it_says_so(monkeypatch: pytest.MonkeyPatch, target: str, words: str) -> None:
    """There may be none since nobody wants one, or since it was forgotten."""
    with pytest.raises(NotFound, match=words):
        told(monkeypatch, target)
