"""What an agent looks after in a pod: read from its manifest, kept as a label, refused where it cannot be done."""

from __future__ import annotations

from typing import Any

import pytest

from beemesh.workloads.care import Exec, HttpGet, PodCare, ProbeSpec, Sleep, TcpSocket, care_of
from beemesh.workloads.objects import path_text
from beemesh.workloads.podspec import ReplicaIdentity, open_template, plan_pod
from beemesh.workloads.resolve import resolve
from beemesh.workloads.validation import check

CONTAINER: dict[str, Any] = {
    "name": "web",
    "image": "localhost/web:1",
    "env": [{"name": "FILE", "value": "/tmp/ok"}],
    "ports": [{"containerPort": 8080, "name": "http"}],
    "startupProbe": {"tcpSocket": {"port": 8080}, "failureThreshold": 30, "periodSeconds": 1},
    "readinessProbe": {
        "httpGet": {"path": "/ready", "port": "http", "httpHeaders": [{"name": "X-A", "value": "b c"}]},
        "initialDelaySeconds": 2,
        "timeoutSeconds": 3,
        "successThreshold": 2,
    },
    "livenessProbe": {"exec": {"command": ["cat", "$(FILE)"]}, "terminationGracePeriodSeconds": 5},
    "lifecycle": {"preStop": {"sleep": {"seconds": 4}}},
}


def pod(**changes: Any) -> dict[str, Any]:
    """A Pod with probes of all kinds."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {"terminationGracePeriodSeconds": 12, "containers": [{**CONTAINER, **changes}]},
    }


def test_a_checked_manifest_becomes_care() -> None:
    """Probes of all kinds, named ports, filled commands, hooks and grace arrive with Kubernetes' defaults."""
    result = check(pod())
    assert result.object is not None, result.findings
    (workload,) = resolve([result.object]).workloads
    plan = plan_pod(open_template(workload.template), ReplicaIdentity("web", "default", "n1"))
    care = care_of(plan.pod["spec"])
    assert care.grace_s == 12
    web = care.containers["web"]
    assert web.pre_stop == Sleep(4)
    assert web.has_readiness
    assert web.probes == (
        ProbeSpec("startup", TcpSocket(8080), failure_threshold=30, period_s=1),
        ProbeSpec("liveness", Exec(("cat", "/tmp/ok")), grace_s=5),
        ProbeSpec(
            "readiness",
            HttpGet(8080, "/ready", headers=(("X-A", "b c"),)),
            initial_delay_s=2,
            timeout_s=3,
            success_threshold=2,
        ),
    )
    assert PodCare.decode(care.encode()) == care
    assert PodCare.decode("\ud800{") == PodCare.decode("") == PodCare()


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"livenessProbe": {"grpc": {"port": 1}}}, "livenessProbe.grpc", "not supported by beemesh yet"),
        ({"livenessProbe": {}}, "livenessProbe", "must have one of exec, httpGet, tcpSocket"),
        ({"livenessProbe": {"tcpSocket": {"port": "htpp"}}}, "livenessProbe.tcpSocket.port", "did you mean 'http'"),
        ({"readinessProbe": {"tcpSocket": {"port": 0}}}, "readinessProbe.tcpSocket.port", "from 1 to 65535"),
        ({"readinessProbe": {"httpGet": {"port": 1, "host": "a"}}}, "readinessProbe.httpGet.host", "not supported"),
        ({"readinessProbe": {"httpGet": {"port": 1, "path": "/a\r\nb"}}}, "readinessProbe.httpGet.path", "blanks"),
        ({"livenessProbe": {"exec": {"command": []}}}, "livenessProbe.exec", "must name a command"),
        ({"startupProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}, "successThreshold", "must be 1"),
        (
            {"readinessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 1}},
            "terminationGracePeriodSeconds",
            "means nothing",
        ),
        ({"lifecycle": {"postStart": {"exec": {"command": ["a"]}}}}, "lifecycle.postStart", "not supported"),
        ({"lifecycle": {"preStop": {"tcpSocket": {"port": 1}}}}, "lifecycle.preStop.tcpSocket", "not supported"),
        (
            {"readinessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": "c"}]}}},
            "httpHeaders[0].name",
            "no name of an HTTP header",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_at_its_place(changes: dict[str, Any], place: str, words: str) -> None:
    """Each wrong or unsupported field of a probe or hook is named with its path and what was expected."""
    found = check(pod(**changes)).findings
    texts = [f"{path_text(each.path)}: {each.message} {each.hint}" for each in found]
    assert any(place in text and words in text for text in texts), texts
