"""Which nodes a DaemonSet is for: read from the roster's signed cards and from who is alive."""

from __future__ import annotations

from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.eligibility import placement_refusals
from beemesh.workloads.daemons import ordinal_of
from beemesh.workloads.record import Workload


def daemon_nodes(workload: Workload, revision: int, roster: Roster, view: View) -> dict[int, str]:
    """Ordinal → name of each live member that `revision` fits. A cordon changes nothing of it (as in Kubernetes); who
    is dead counts again once it is back."""
    asks = workload.as_of(revision) or workload
    return {
        ordinal_of(card.node_id): card.name
        for card in roster.members()
        if view.is_alive(card.node_id) and not placement_refusals(asks.constraints, card)
    }
