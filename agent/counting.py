"""Metrics from what the node itself tells: how long tasks take, how leases go, why deployments fail, what is restarted.

Every label's values are a few fixed words: what comes from outside is counted under `other`.
"""

from __future__ import annotations

from typing import Any

from agent.metrics import Metrics
from agent.runtime.contract import FailureReason
from beemesh.events import EventHeard, LeaseDenied, LeaseGranted, LeaseLost, Observed
from beemesh.ids import NodeId, is_ulid, ulid_time_ms
from beemesh.scheduling.messages import Event
from beemesh.scheduling.telling import FINAL

LEASE_KINDS = frozenset({"lease", "run", "steward", "recovery"})
FAILURES = frozenset({*(reason.value for reason in FailureReason), "ManifestDenied", "Timeout"})
OTHER = "other"


class Counting:
    """Counts for one node; hears every notification of it."""

    def __init__(self, metrics: Metrics, self_id: NodeId) -> None:
        self._metrics = metrics
        self._self_id = self_id

    def hear(self, event: Any) -> None:
        """Something was told inside of the node."""
        match event:
            case LeaseGranted(key=key, renewed=renewed):
                self._lease(key, "renewed" if renewed else "granted")
            case LeaseDenied(key=key):
                self._lease(key, "denied")
            case LeaseLost(key=key):
                self._lease(key, "lost")
            case EventHeard(event=told) if told.node_id == self._self_id:
                self._told(told)

    def _lease(self, key: str, result: str) -> None:
        kind = key.partition("/")[0]
        labels = {"kind": kind if kind in LEASE_KINDS else OTHER, "result": result}
        self._metrics.count(Observed("leases", labels))

    def _told(self, event: Event) -> None:
        self._metrics.count(Observed("events_told", {"status": event.status}))
        match event.status:
            case "Scheduled" if is_ulid(event.task_id):
                took_s = max(0.0, (event.issued_ms - ulid_time_ms(event.task_id)) / 1000)
                self._metrics.measure("schedule_latency_seconds", took_s)
            case "Deployed" if event.details.get("took_ms", "").isdecimal():
                self._metrics.measure("deploy_duration_seconds", int(event.details["took_ms"][:9]) / 1000)
            case "Failed" if FINAL not in event.details:
                reason = event.reason if event.reason in FAILURES else OTHER
                self._metrics.count(Observed("deploy_failures", {"reason": reason}))
            case "Restarted":
                self._metrics.count(Observed("container_restarts"))
