"""What `/metrics` shows of the state of the mesh at the moment it is read, besides what protocols count."""

from __future__ import annotations

import statistics
from collections import Counter

from agent.metrics import Metrics
from beemesh.composition import Composition
from beemesh.membership.view import Status
from beemesh.workloads.observation import ReplicaReport

STATES: tuple[Status, ...] = ("alive", "suspect", "dead", "left", "unknown")

POD_STATES = ("ready", "unready", "pending", "terminating", "ended")


def pod_state(report: ReplicaReport) -> str:
    """The word of `POD_STATES` for a pod."""
    match report.phase:
        case "Running":
            return "ready" if report.ready else "unready"
        case "Terminating":
            return "terminating"
        case "Succeeded" | "Failed":
            return "ended"
    return "pending"


def refresh(metrics: Metrics, composition: Composition) -> None:
    """Set every gauge of membership, admission, intents and records."""
    members, view, roster = composition.swim.members, composition.view, composition.roster
    states = Counter(view.status(card.node_id) for card in roster.members())
    for state in STATES:
        metrics.set("members", states[state], "members of the roster by what this node holds them for", state=state)
    rtts_s = [known for card in roster.members() if (known := view.rtt_s(card.node_id)) is not None]
    metrics.set("rtt_median_seconds", statistics.median(rtts_s) if rtts_s else 0.0, "round trip of direct probes")
    metrics.set("rtt_max_seconds", max(rtts_s, default=0.0), "longest round trip of direct probes")
    metrics.set("swim_local_health", members.health.score, "Lifeguard's score of this node: 0 well, 8 worst")
    metrics.set("swim_incarnation", members.own.incarnation, "incarnation of this node")
    metrics.set("swim_rumours_waiting", len(members.rumours), "claims that are still passed on")
    metrics.set("keepers", len(roster.keepers()), "members that hold records and shares")
    metrics.set("gossip_keys", len(composition.keyring.ring.keys), "gossip keys accepted: 2 while they are changed")
    metrics.set("intents", len(composition.intents), "records in the intent map")
    pods = Counter(pod_state(report) for report in composition.executor.pods.reports())
    for pod_kind in POD_STATES:
        metrics.set("pods", pods[pod_kind], "pods of this node by what they are at", state=pod_kind)
    directory = composition.directory
    metrics.set("records_here", len(directory.store), "records of the DHT that this node keeps for others and itself")
    metrics.set("records_writers", directory.store.writers(), "members that have records here")
    metrics.set("records_own", len(directory.published), "records of the DHT that this node publishes")
    metrics.set("records_contacts", directory.contacts.size(), "nodes that keep records, as far as this one knows")
    metrics.set("lookups_open", directory.searching, "lookups under way")
    metrics.raise_to("datagrams_admitted", composition.node.admitted, "datagrams that passed every check")
