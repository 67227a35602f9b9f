"""Waiting until what was applied runs: what is missing, told as it changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from beemesh.errors import BeemeshError, Unreachable
from beemesh.workloads.objects import WORKLOAD_KINDS
from beemesh.workloads.rollout_report import RolloutReport, line_of, report_of
from beemeshctl.applying import GROUPS, Change
from beemeshctl.client import Client

POLL_S = 0.1

ROLLING = ("Deployment", "DaemonSet")
"""Kinds whose new revisions the mesh may give up."""


def wait_for(
    client: Client,
    changes: Sequence[Change],
    timeout_s: float,
    tell: Callable[[str], None],
) -> None:
    """Wait until everything that was applied runs and is ready; raises `Unreachable` on time-out with the reasons,
    `BeemeshError` as soon as a replica has failed for good."""
    deadline = time.monotonic() + timeout_s
    waiting = {change.key: change for change in changes if change.kind in WORKLOAD_KINDS}
    told = ""
    while waiting:
        pods = client.get("/api/v1/pods")["items"]
        rollouts = _rollouts(client, waiting.values())
        reasons = []
        for key, change in list(waiting.items()):
            why = _why_waiting(client, change, pods, rollouts)
            if not why:
                del waiting[key]
            else:
                reasons.append(f"{GROUPS[change.kind]}/{change.name}: {why}")
        if waiting and time.monotonic() > deadline:
            raise Unreachable(
                f"not ready within {timeout_s:g} s:\n  " + "\n  ".join(reasons),
                hint="it is accepted, and the mesh goes on trying; `beemeshctl describe` tells more",
            )
        line = "; ".join(reasons)
        if waiting and line != told:
            told = line
            tell(line)
        if waiting:
            time.sleep(POLL_S)


def _rollouts(client: Client, changes: Iterable[Change]) -> dict[str, RolloutReport]:
    """How far each change is that rolls out, by its key. Raises `BeemeshError` when the mesh has given one up."""
    rolling = [change for change in changes if change.kind in ROLLING]
    reports: dict[str, RolloutReport] = {}
    for kind in sorted({change.kind for change in rolling}):
        listed = client.get(f"/apis/apps/v1/{kind.lower()}s")["items"]
        objects = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in listed}
        for change in rolling:
            if change.kind == kind and (found := objects.get((change.namespace, change.name))) is not None:
                reports[change.key] = report_of(found)
    for change in rolling:
        report = reports.get(change.key)
        if report is not None and report.state == "failed" and report.revision == change.revision:
            raise BeemeshError(line_of(report), hint="mend the manifest and apply again")
    return reports


def _why_waiting(client: Client, change: Change, pods: list[Any], rollouts: Mapping[str, RolloutReport]) -> str:
    """Why a change is not done yet; empty when it is. Raises when it has failed for good."""
    if change.kind == "Job":
        return _not_done(client, change)
    if change.kind != "DaemonSet":
        return _not_ready(change, pods)
    report = rollouts.get(change.key)
    if report is None:
        return "not known to the agent that answers yet"
    if report.revision >= change.revision and report.state == "complete":
        return ""
    why = f": {report.message}" if report.message else ""
    return f"{report.updated} of {report.replicas} updated, {report.available} available{why}"


def _not_done(client: Client, change: Change) -> str:
    """Why a job is not complete yet; empty when it is. Raises when it has failed."""
    status = client.get(f"/apis/batch/v1/namespaces/{change.namespace}/jobs/{change.name}")["status"]
    over = next(iter(status["conditions"]), None)
    if over is None:
        return f"{status['succeeded']} of {change.replicas} completed, {status['active']} active"
    if over["type"] == "Failed":
        raise BeemeshError(f"{GROUPS['Job']}/{change.name} failed: {over['reason']}: {over.get('message', '')}")
    return ""


def _not_ready(change: Change, pods: list[Any]) -> str:
    """Why a change is not done yet; empty when it is. Raises when it has failed for good."""
    owner = change.name
    own = [
        pod
        for pod in pods
        if pod["metadata"].get("namespace") == change.namespace
        and pod["metadata"]["annotations"].get("beemesh.io/workload-id") == change.key.partition("/")[2]
    ]
    current = [pod for pod in own if pod["metadata"]["labels"].get("beemesh.io/revision") == str(change.revision)]
    ready = [pod for pod in current if pod["status"]["phase"] == "Succeeded" or _is_ready(pod)]
    failed = [pod for pod in current if pod["status"]["phase"] == "Failed"]
    if failed:
        texts = [
            f"{pod['metadata']['name']}: {pod['status'].get('message', pod['status'].get('reason', ''))}"
            for pod in failed
        ]
        raise BeemeshError(
            f"{GROUPS[change.kind]}/{owner} failed:\n  " + "\n  ".join(texts), hint="mend the manifest and apply again"
        )
    old = [pod for pod in own if pod not in current and pod["spec"].get("nodeName")]
    if len(ready) >= change.replicas and not old:
        return ""
    waiting = [pod["status"].get("message") for pod in current if pod not in ready]
    why = "; ".join(sorted({text for text in waiting if text}))
    return (
        f"{len(ready)} of {change.replicas} ready" + (f" ({len(old)} old)" if old else "") + (f": {why}" if why else "")
    )


def _is_ready(pod: Any) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])
