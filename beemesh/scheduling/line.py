"""Who hosts a workload, or would next."""

from __future__ import annotations

from beemesh.dht.kset import k_set, nearest
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.leases import steward_key

CANDIDATES = 3
"""Keepers nearest to a key that watch over its workload."""


def stewards_in_line(workload_id: str, roster: Roster, view: View) -> list[NodeId]:
    """Those that host the workload, or would next: the live keepers nearest to its key."""
    # More than three of the eight nearest are seldom away at the same time; then all keepers are looked at.
    near = [node_id for node_id in k_set(roster, steward_key(workload_id)) if view.is_alive(node_id)]
    if len(near) < CANDIDATES:
        keepers = nearest(roster.keeper_ids(), steward_key(workload_id), len(roster))
        near = [node_id for node_id in keepers if view.is_alive(node_id)]
    return near[:CANDIDATES]


def tellers_of(workload_id: str, roster: Roster, view: View) -> list[NodeId]:
    """In a large mesh: whom to ask what was told of a workload: the keeper that hosts it, and one that would."""
    return stewards_in_line(workload_id, roster, view)[:2]
