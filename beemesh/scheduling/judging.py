"""A node's own verdict on a task, before a bid and before a start: the reasons against itself, or its score."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from beemesh.identity.membership_card import Membership
from beemesh.ids import NodeId
from beemesh.intents.record import Cordon, body_of, cordon_key, workload_key
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.eligibility import (
    capacity_refusals,
    name_refusal,
    node_labels,
    placement_refusals,
    refusals,
    repelled_softly,
)
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.messages import Task
from beemesh.scheduling.neighbours import Newcomer, Verdict, judge
from beemesh.scheduling.preemption import Candidate, victims
from beemesh.scheduling.score import Place, Score, nearness, score
from beemesh.scheduling.tasks import IntentLookup, pod_key, pod_of, record_of, workload_of
from beemesh.settings.model import NodeSettings
from beemesh.workloads.daemons import DAEMON_SET, ordinal_of
from beemesh.workloads.node_keys import FIELD_NAME
from beemesh.workloads.record import Requirements, Workload
from beemesh.workloads.revising import REPLICAS_MAX

UNKNOWING = "this node has not taken stock of itself yet: its engine has to list its pods first"

NEAR_NODES = 8
"""Nodes of a site whose round trips are looked at: they are much alike."""


class Judge:
    """Looks at the node's card, its settings, its cordon and what it has promised."""

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        view: View,
        settings: NodeSettings,
        local: LocalWork,
        intent_for: IntentLookup,
        disruption: Disruption,
    ) -> None:
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._settings = settings
        self._local = local
        self._intent_for = intent_for
        self._disruption = disruption

    def judge(self, task: Task, leads: Iterable[Task], wall_ms: int) -> list[str] | Score:
        """The reasons against this node, or its score. `leads` are other tasks that it is about to win."""
        card = self._roster.member(self._self_id)
        others = tuple(leads)
        resources = self._local.resources(card.caps, (lead.reqs for lead in others)) if card else None
        if card is None or resources is None:
            return [UNKNOWING]
        leading = {lead.replica for lead in others if lead.workload_id == task.workload_id}
        crowd = self._local.siblings(task.workload_id, task.replica) + len(leading - {task.replica})
        against = refusals(
            task,
            card,
            resources,
            standing=self._roster.standing(self._self_id, wall_ms),
            cordoned=None if task.kind == DAEMON_SET else self.cordon(card.name),
            namespaces=tuple(self._settings.policies.admission.namespaces),
            runs_sibling=crowd > 0,
        )
        against += self._moving_away(task, card.name, wall_ms)
        against += self._name_taken(task, others)
        if task.kind == DAEMON_SET and task.replica != ordinal_of(self._self_id):
            against.append("this DaemonSet's replica belongs to another node")
        beside = self._beside(task, card, len(leading - {task.replica}))
        against += beside.against
        evicted: tuple[Candidate, ...] = ()
        if against:
            if against != capacity_refusals(task.reqs, resources):
                return against
            # Only room is lacking: somebody less important may make it.
            evicted = self._victims(task, card, [lead.reqs for lead in others])
            after = self._local.resources(card.caps, (lead.reqs for lead in others), {each.name for each in evicted})
            if not evicted or after is None:
                return against
            resources = after
        place = Place(
            site=card.site,
            zone=card.zone,
            wished_site=task.hints.get("site", ""),
            wished_zone=task.hints.get("zone", ""),
            near=self._nearness(task.hints.get("near", ""), card),
            softly_repelled=repelled_softly(task.constraints, card),
            crowd=max(crowd, 1 if self._self_id in task.avoid else 0),
            failed=self._self_id in task.failed,
            wished=beside.wished,
            uneven=beside.uneven,
            victims=evicted,
        )
        return score(task.reqs, resources, place, self._settings.scheduler.weights)

    def _name_taken(self, task: Task, leads: Iterable[Task]) -> list[str]:
        """Why the replica's pod has no place here for its name's sake: another workload's has it, or is about to."""
        name = _pod_key_of(task)
        here = self._local.get(name)
        coming = [each.workload_id for each in leads if each.namespace == task.namespace and _pod_key_of(each) == name]
        owners = [*([here.workload_id] if here is not None else []), *coming]
        return [name_refusal(owner) for owner in owners if owner != task.workload_id][:1]

    def _victims(self, task: Task, card: Membership, also: list[Requirements]) -> tuple[Candidate, ...]:
        """Who would be evicted for the task; empty when that may not be, or would not help."""
        if not task.qos.preempts:
            return ()
        shortage = self._local.shortage(task.reqs, card.caps, also)
        if shortage is None:
            return ()
        return victims(self._local.candidates(task, self._spares), shortage) or ()

    def _spares(self, workload_id: str) -> int:
        """How many replicas a workload may miss; of one that is not wanted any more, all that it has."""
        workload = workload_of(self._intent_for(workload_key(workload_id)))
        return self._disruption.spares(workload) if workload is not None else REPLICAS_MAX

    def _nearness(self, wished: str, card: Membership) -> float:
        """How near this node is to a node, site or zone of that name; 1 where none is wished."""
        if wished in ("", card.name, card.site, card.zone):
            return 1.0
        named = self._roster.named(wished)
        cards = (named,) if named else (each for each in self._roster.members() if wished in (each.site, each.zone))
        alive = islice((each.node_id for each in cards if self._view.is_alive(each.node_id)), NEAR_NODES)
        rtts_s = [rtt_s for node_id in alive if (rtt_s := self._view.expected_rtt_s(node_id)) is not None]
        return nearness(min(rtts_s, default=None))

    def _beside(self, task: Task, card: Membership, siblings_coming: int) -> Verdict:
        """What this node is to the replica because of other pods, and of its labels."""
        constraints = task.constraints
        if not constraints.pod_terms and not constraints.preferences and not self._local.repels():
            return Verdict()
        workload = workload_of(record_of(task, self._intent_for))
        newcomer = Newcomer(
            namespace=task.namespace,
            workload_id=task.workload_id,
            replica=task.replica,
            labels=workload.pod_labels if workload else {},
            terms=constraints.pod_terms,
            occupancy=task.occupancy,
            apart_already=constraints.anti_affinity_hosts,
        )
        labels = {**node_labels(card), FIELD_NAME: card.name}
        return judge(newcomer, self._local.neighbours(), siblings_coming, labels, constraints.preferences)

    def suits(self, workload: Workload, revision: int) -> bool:
        """Whether this node's card is what a revision of a workload asks for."""
        card, asks = self._roster.member(self._self_id), workload.as_of(revision) or workload
        return card is not None and not placement_refusals(asks.constraints, card)

    def cordon(self, name: str) -> str | None:
        """Why the node is cordoned; None when it is not."""
        cordon = self.orders(name)
        return cordon.reason if cordon is not None and cordon.cordoned else None

    def own_orders(self) -> Cordon | None:
        """What operators ordered about this node; None when nothing."""
        card = self._roster.member(self._self_id)
        return self.orders(card.name) if card else None

    def orders(self, name: str) -> Cordon | None:
        """What operators ordered about a node; None when nothing."""
        found = self._intent_for(cordon_key(name))
        return body_of(found[0] if found else None, "cordon", Cordon)

    def _moving_away(self, task: Task, name: str, wall_ms: int) -> list[str]:
        """Why a replica that is being moved does not come here."""
        wanted = task.hints.get("node", name)
        if wanted != name:
            return [f"an operator moves it to {wanted}"]
        orders = self.orders(name)
        moved = orders.move_of(task.workload_id, task.replica, wall_ms) if orders else None
        return ["an operator moved it away from here"] if moved is not None else []


def _pod_key_of(task: Task) -> str:
    return pod_key(task.namespace, pod_of(task))
