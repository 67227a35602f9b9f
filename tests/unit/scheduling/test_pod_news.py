"""What a node tells of its pods' readiness and restarts."""

from __future__ import annotations

from typing import Any

from beemesh.ids import NodeId
from beemesh.scheduling.execution.pod_news import news_of
from beemesh.workloads.observation import ContainerReport, ReplicaReport


def report(*, ready: bool, **container: Any) -> ReplicaReport:
    """A running pod of one container."""
    made = ContainerReport("web", state="running", **container)
    return ReplicaReport(
        "web-1-0", "deployment/default/web", "default", "Deployment", 1, 0, NodeId(bytes(32)), "Running", ready,
        containers=(made,),
    )  # fmt: skip


def test_readiness_is_told_when_it_changes_and_only_then() -> None:
    """Ready and unready are told once each, the latter with what the probes complain of."""
    complaint = "readiness probe failed: HTTP status 503"
    up, down = report(ready=True), report(ready=False, message=complaint)
    assert [each.status for each in news_of(down, up)] == ["Ready"]
    assert [(each.status, each.reason) for each in news_of(up, down)] == [("NotReady", complaint)]
    assert list(news_of(up, up)) == list(news_of(down, down)) == []


def test_a_restart_is_told_with_its_cause() -> None:
    """The exit code, the count and what the probes had complained of are told."""
    before = report(ready=False, message="liveness probe failed: no answer within 1 s")
    (news,) = news_of(before, report(ready=False, restarts=1, exit_code=137))
    assert news.status == "Restarted"
    assert (
        news.reason
        == "container web was started again after exit code 137: liveness probe failed: no answer within 1 s"
    )
    assert news.details == {"container": "web", "restarts": "1"}
