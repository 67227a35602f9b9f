"""The metrics that dashboards and alerts are written against: they are on the page from the first moment.

Others are made when a protocol first counts something; these have their words here. Names follow Prometheus' rules: a
counter's `_total` is added by its library, times are seconds.
"""

from __future__ import annotations

from typing import get_args

from beemesh.workloads.observation import StopReason

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "container_restarts": ("containers of this node that were started again", ()),
    "datagrams_refused": ("datagrams that did not pass a check, by the check", ("reason",)),
    "deploy_failures": ("deployments of this node that failed, by reason", ("reason",)),
    "events_told": ("what this node told the mesh, by status", ("status",)),
    "hooks": ("preStop hooks by result", ("hook", "result")),
    "leases": ("leases that this node asked for, by kind and result", ("kind", "result")),
    "probe_restarts": ("containers that were ended because a probe failed", ("probe",)),
    "probes": ("probes of containers by kind and result", ("probe", "result")),
    "scheduler_bids_sent": ("bids that this node made", ()),
    "scheduler_deployments": ("deployments on this node by result and, of failed ones, reason", ("reason", "result")),
    "scheduler_duplicates": ("doubled replicas that this node, as their steward, had stopped", ()),
    "scheduler_leases": ("leases on tasks that this node won or lost", ("result",)),
    "scheduler_preemptions": ("pods of this node that made room for more important ones", ()),
    "scheduler_reconcile_kills": ("pods of this node that a steward had stopped, by reason", ("reason",)),
    "scheduler_stops": ("orders to stop a replica of this node, by what came of them", ("result",)),
    "scheduler_stops_ordered": ("replicas that this node, as their steward, had stopped, by reason", ("reason",)),
    "scheduler_takeovers": ("workloads whose steward this node became after another", ()),
    "scheduler_tasks_published": ("tasks that this node published as a steward", ()),
    "scheduler_tasks_seen": ("tasks that this node heard of", ()),
    "scheduler_tasks_dropped": ("tasks that were under way here and had to go, since too many came at once", ()),
    "scheduler_tasks_silent": ("tasks for which this node made no bid, by why not", ("reason",)),
}
"""Counter, its help and its labels in order, without the prefix `beemesh_`."""

FROM_ZERO: dict[str, tuple[str, ...]] = {
    "scheduler_reconcile_kills": get_args(StopReason),
    "scheduler_stops_ordered": get_args(StopReason),
}
"""The values of a counter's one label that are shown from the first moment with 0: a series that begins with its first
count has not increased by it, and these may count to one and no further."""

HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "schedule_latency_seconds": (
        "from the publication of a task to its lease on this node",
        (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
    ),
    "deploy_duration_seconds": (
        "from the lease on a replica to its running pod",
        (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 120.0),
    ),
}
"""Histogram, its help and its buckets: 0.3 s is the aim for a median placement, 1 s for the slow ones; an engine takes
a third of a second to start a pod, a pull as long as it takes."""
