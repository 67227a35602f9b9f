"""Whose word a node takes about a workload. Any member can sign any event; so what became of a replica counts from
whoever had it, and what became of the whole from its steward.

What is left to a liar: of a task that nobody else was heard to have it can say that it failed or ended, as it could
take it and let it fail. A keeper that did not see all of a workload (it was restarted, or the mesh is large, where few
hear of a task) takes anybody's word of a replica until it hosts the workload itself: it cannot know better, and what an
honest node told must not be lost. So it is with what it finds in its own journal when it starts, where words of whole
workloads have to come from one of the keepers nearest to the steward lease. And whoever is next in line is believed of
the whole by those that are not, and so never heard who holds the lease. See docs/adr/0007.
"""

from __future__ import annotations

from beemesh.dht.kset import K, k_set
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.leases import steward_key
from beemesh.scheduling.line import stewards_in_line
from beemesh.scheduling.messages import Event
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.stewardship.ledger import TaskLedger
from beemesh.scheduling.telling import MANIFEST


class Witnesses:
    """One node's judgement. Part of the steward, whose ledger it reads: ask before an event changes that."""

    def __init__(self, roster: Roster, view: View, ledger: TaskLedger) -> None:
        self._roster = roster
        self._view = view
        self._ledger = ledger

    def of_replica(self, hosted: Hosted, event: Event) -> bool:
        """Whether its author had the replica; notes who takes one."""
        slot = (event.revision, event.replica)
        if self._may_tell_of_task(event):
            if event.status in ("Scheduled", "Deployed"):
                hosted.taken(slot, event.node_id, event.task_id)
            return True
        if event.task_id and hosted.takers.get(slot, {}).get(event.node_id) == event.task_id:
            return True
        return not hosted.hosting and (self._view.is_large or not hosted.saw_all)

    def _may_tell_of_task(self, event: Event) -> bool:
        """Whether an event is about an outstanding task that nobody else was heard to have."""
        found = self._ledger.find(event.task_id) if event.task_id else None
        if found is None or event.workload_id != found.task.workload_id:
            return False
        same = (event.revision, event.replica) == (found.task.revision, found.task.replica)
        return same and (event.status == "Scheduled" or found.holder in (None, event.node_id))

    def heard(self, hosted: Hosted, event: Event) -> None:
        """A word of a whole workload that another hosts: its steward's counts. Where this node does not know who that
        is, it is one of those next in line. Another keeper's is kept until it shows whether that one holds it."""
        holder, teller = hosted.holder, event.node_id
        line = stewards_in_line(hosted.workload_id, self._roster, self._view) if holder is None else [holder]
        if teller in line:
            hosted.recall(event)
        elif self._may_host(hosted, teller):
            hosted.doubted.pop(teller, None)
            hosted.doubted[teller] = event
            while len(hosted.doubted) > K:
                hosted.doubted.pop(next(iter(hosted.doubted)))

    def holds(self, hosted: Hosted, holder: NodeId | None) -> None:
        """It is known now who holds the lease: what that one told before counts."""
        word = hosted.doubted.pop(holder, None) if holder is not None else None
        if word is not None:
            hosted.recall(word)

    def remember(self, hosted: Hosted, event: Event, boot_s: float) -> None:
        """Something that was told before this node knew of the workload."""
        if MANIFEST not in event.details:
            hosted.remember(event, boot_s)
        elif self._may_host(hosted, event.node_id):
            hosted.recall(event)

    def _may_host(self, hosted: Hosted, node_id: NodeId) -> bool:
        return node_id in k_set(self._roster, steward_key(hosted.workload_id))
