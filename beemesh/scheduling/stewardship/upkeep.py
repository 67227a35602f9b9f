"""What operators ordered about nodes, as stewards read it: a read model over the intent map."""

from __future__ import annotations

from functools import partial

from beemesh.effects import Now
from beemesh.ids import NodeId
from beemesh.intents.record import Cordon, Intent, Records, body_of
from beemesh.membership.roster import Roster
from beemesh.scheduling.disruption import BUDGETS, Disruption
from beemesh.scheduling.eligibility import placement_refusals
from beemesh.scheduling.quotas import Policies
from beemesh.scheduling.stewardship.hosting import STOP_SEEN_S, Hosted
from beemesh.workloads.moves import Arranged, Leave, Terms, arrange
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.reconciler import Declared, Observed
from beemesh.workloads.record import Constraints, Workload

CORDONS = "cordon/"


class Upkeep:
    """Orders about nodes, and how far budgets let them go. Read at start, and told of every change."""

    def __init__(self, roster: Roster, records: Records, disruption: Disruption) -> None:
        """`disruption` is kept up to date here, whoever else reads it."""
        self.policies = Policies(records)
        self._roster = roster
        self._records = records
        self._cordons: dict[str, Cordon] = {}
        """By the node's name."""
        self._disruption = disruption

    def load(self) -> None:
        """Read what stands."""
        self._disruption.load()
        for intent, _ in tuple(self._records(CORDONS)):
            self.changed(intent)

    def changed(self, intent: Intent) -> None:
        """Another record stands at a key."""
        if intent.key.startswith(CORDONS):
            cordon = body_of(intent, "cordon", Cordon)
            name = intent.key.removeprefix(CORDONS)
            self._cordons.pop(name, None)
            if cordon is not None and (cordon.drain is not None or cordon.moves):
                self._cordons[name] = cordon
        self._disruption.changed(intent)

    def concerns(self, intent: Intent, hosted: Hosted) -> bool:
        """Whether a changed order may mean work for the steward of `hosted`."""
        if intent.key.startswith(BUDGETS):
            return bool(self._cordons)
        card = self._roster.named(intent.key.removeprefix(CORDONS)) if intent.key.startswith(CORDONS) else None
        return card is not None and bool(hosted.reports.get(card.node_id))

    def frees(self, intent: Intent, hosted: Hosted) -> bool:
        """Whether a changed record may leave a workload more of its quotas, or less."""
        return hosted.workload is not None and self.policies.concerns(intent.key, hosted.workload.namespace)

    def arrange(self, hosted: Hosted, declared: Declared, observed: Observed, now: Now) -> Arranged:
        """The moves of one workload. A steward that no majority chose moves nothing."""
        workload = hosted.workload
        if workload is None or not self._cordons:
            return Arranged(observed)
        leaves = {id(each): leave for each in observed.replicas if (leave := self._leave(each, workload, now))}
        if not leaves:
            return Arranged(observed)
        forced = any(leave.force for leave in leaves.values())
        stopped = {task for (_, task), when_s in hosted.stops.items() if now.boot_s - when_s < STOP_SEEN_S}
        terms = Terms(
            leaves=lambda report: leaves.get(id(report)),
            allowance=self._disruption.allowance(workload, force=forced),
            tolerant=workload.duplicate_tolerant,
            ordered=frozenset(stopped),
            kept=frozenset(revision.number for revision in workload.revisions),
        )
        arranged = arrange(declared, observed, terms, now.boot_s)
        return Arranged(arranged.observed) if hosted.tentative else arranged

    def _leave(self, report: ReplicaReport, workload: Workload, now: Now) -> Leave | None:
        card = self._roster.member(report.node_id)
        cordon = self._cordons.get(card.name) if card else None
        if cordon is None:
            return None
        asks = workload.as_of(report.revision) or workload
        stranded = partial(self._is_stranded, asks.constraints, report.node_id)
        if cordon.drain is not None:
            grace_s = cordon.drain.grace_s
            return Leave(grace_s if grace_s >= 0 else None, cordon.drain.force, stranded=stranded())
        move = cordon.move_of(report.workload_id, report.replica, now.wall_ms)
        return Leave(towards=move.to, stranded=stranded()) if move is not None else None

    def _is_stranded(self, constraints: Constraints, node_id: NodeId) -> bool:
        """Whether no other member is what the replica's revision asks for."""
        others = (card for card in self._roster.members() if card.node_id != node_id)
        return all(placement_refusals(constraints, card) for card in others)
