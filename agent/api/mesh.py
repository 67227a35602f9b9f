"""The whole mesh as one agent sees it, in the views that `kubeshape` turns into Kubernetes' objects.

Records come from the intent map that every node keeps; what runs is asked of every live node, in parallel and within a
bound, so any agent gives the same answer. A node that does not answer is named, and its replicas are not guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from agent.api.gathering import Asker, Gatherer
from agent.api.live import LiveReplicas
from agent.api.told import Told
from beemesh.errors import Unreachable
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId, to_text
from beemesh.intents.record import Cordon, Intent
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.line import stewards_in_line
from beemesh.scheduling.messages import Event
from beemesh.scheduling.stewardship.daemons import daemon_nodes
from beemesh.scheduling.telling import MANIFEST, ROLLOUT_EVENTS, TARGET
from beemesh.undecodable import UNDECODABLE
from beemesh.workloads.daemons import DAEMON_SET
from beemesh.workloads.kube_endpoints import EndpointsView, endpoints_views
from beemesh.workloads.kubedeployment import DeploymentView
from beemesh.workloads.kubeshape import ConfigView, EventView, NodeView, PodView
from beemesh.workloads.observation import ListReplicas, ReplicaList, ReplicaReport
from beemesh.workloads.podspec import pod_name
from beemesh.workloads.record import SealedObject, Workload

ASK_PATIENCE_S = 2.0
"""How long a live node may take to list its replicas before it is shown as not answering."""

EXPIRED = {
    "grace": "membership has expired and is in grace: run bootstrap again",
    "out": "membership has ended, and the mesh shuts it out: run bootstrap again",
}
"""What is said of a node by the standing of its membership."""

Body = TypeVar("Body", bound=msgspec.Struct)


class IntentReader(Protocol):
    """The intent map, to read."""

    def get(self, key: str) -> tuple[Intent, Signed] | None:
        """The winning record of a key."""
        ...

    def items(self, prefix: str = "") -> Iterable[tuple[Intent, Signed]]:
        """All winning records whose key begins with `prefix`, sorted by key."""
        ...


class JournalReader(Protocol):
    """The events that this agent heard."""

    def events(self, *, workload_id: str = "") -> Sequence[Event]:
        """Oldest first; of one workload, where it is named."""
        ...


@dataclass(frozen=True, slots=True)
class Replicas:
    """What runs on the mesh, and the nodes that did not say."""

    reports: tuple[ReplicaReport, ...]
    silent: tuple[str, ...]


class MeshReader:
    """Answers questions about the mesh."""

    def __init__(
        self, self_id: NodeId, roster: Roster, view: View, intents: IntentReader, journal: JournalReader, asker: Asker
    ) -> None:
        self.roster = roster
        self.view = view
        self.intents = intents
        self.journal = journal
        self._self_id = self_id
        self._asker = asker
        self._follows = False
        self.gatherer = Gatherer(self_id, roster, view, asker)
        self.live = LiveReplicas(self._busy, self._reports)

    def following(self) -> MeshReader:
        """The same mesh as `live` holds it, within `live.watched()`."""
        reader = copy(self)
        reader._follows = True
        return reader

    def _busy(self) -> list[NodeId]:
        """The live nodes that may run something."""
        summaries = ((node_id, self.view.summary(node_id)) for node_id in self._alive())
        return [node_id for node_id, summary in summaries if summary is None or summary.pods_running]

    def _alive(self) -> list[NodeId]:
        return [node_id for node_id in self.view.alive() if self.roster.member(node_id) is not None]

    async def _reports(self, node_id: NodeId) -> tuple[ReplicaReport, ...] | None:
        answer = await self._list(node_id)
        return answer.replicas if answer is not None else None

    # --- records --------------------------------------------------------------------------------------------------

    def records(self, prefix: str, kind: str, body_type: type[Body]) -> list[tuple[Intent, Body]]:
        """The decoded records of a kind; one that does not decode (a newer version's) is left out."""
        found = []
        for intent, _ in self.intents.items(prefix):
            if intent.kind == kind:
                try:
                    found.append((intent, msgspec.msgpack.decode(intent.body, type=body_type)))
                except UNDECODABLE:
                    continue
        return found

    def workloads(self, namespace: str = "") -> list[tuple[Intent, Workload]]:
        """All workloads that are wanted."""
        found = self.records("workload/", "workload", Workload)
        return [(intent, body) for intent, body in found if not namespace or body.namespace == namespace]

    def resource_version(self) -> int:
        """Grows with every record: enough for clients that compare."""
        return sum(intent.seq for intent, _ in self.intents.items())

    # --- what runs ------------------------------------------------------------------------------------------------

    async def replicas(self) -> Replicas:
        """Ask every live node what it runs."""
        if self._follows:
            known = sorted(await self.live.reports(), key=lambda each: (each.namespace, each.pod, each.node_id))
            return Replicas(tuple(known), ())
        nodes = self._alive()
        answers = await asyncio.gather(*(self._list(node_id) for node_id in nodes))
        reports = [report for answer in answers if answer is not None for report in answer.replicas]
        silent = [self.name(node_id) for node_id, answer in zip(nodes, answers, strict=True) if answer is None]
        reports.sort(key=lambda report: (report.namespace, report.pod, report.node_id))
        return Replicas(tuple(reports), tuple(silent))

    async def running_tasks(self) -> dict[str, str]:
        """Task id → name of the node that runs its pod."""
        reports = (await self.replicas()).reports
        return {each.task_id: self.name(each.node_id) for each in reports if each.phase == "Running" and each.task_id}

    async def _list(self, node_id: NodeId) -> ReplicaList | None:
        try:
            answer = await self._asker.ask_node(node_id, ListReplicas(), ASK_PATIENCE_S)
        except Unreachable:
            return None
        return answer if isinstance(answer, ReplicaList) else None

    def name(self, node_id: bytes) -> str:
        """A node's name, or its ID where the name is not known."""
        member = self.roster.member(node_id)
        return member.name if member else to_text(node_id)[:10]

    # --- views ----------------------------------------------------------------------------------------------------

    async def pods(self, namespace: str = "") -> list[PodView]:
        """Every replica that runs or should."""
        replicas, _ = await asyncio.gather(self.replicas(), self.catch_up(namespace))
        wanted = {body.workload_id: (intent, body) for intent, body in self.workloads()}
        views = [self._running(report, wanted) for report in replicas.reports]
        running = {(report.workload_id, report.replica) for report in replicas.reports}
        told = self.told()
        for intent, body in wanted.values():
            wanted_here: Iterable[int] = range(body.replicas) if body.kind != DAEMON_SET else self.daemons(body, told)
            missing = [each for each in wanted_here if (body.workload_id, each) not in running]
            if body.kind == "Job":
                continue  # its pods come in turn: `get jobs` tells how far it is
            views += [self._missing(intent, body, replica, told) for replica in missing]
        views.sort(key=lambda view: (view.namespace, view.name, view.node))
        return [view for view in views if not namespace or view.namespace == namespace]

    def told(self) -> Told:
        """What the journal says now, for one answer."""
        return Told(self.journal.events())

    def daemons(self, body: Workload, told: Told) -> dict[int, str]:
        """Ordinal → name of each node that a DaemonSet is for."""
        failed = told.failed_rollout(body)
        return daemon_nodes(body, rolled_back_to(failed) or body.current.number, self.roster, self.view)

    def _running(self, report: ReplicaReport, wanted: dict[str, tuple[Intent, Workload]]) -> PodView:
        record = wanted.get(report.workload_id)
        member = self.roster.member(report.node_id)
        return PodView(
            name=report.pod,
            namespace=report.namespace,
            workload_id=report.workload_id,
            owner_kind=report.kind,
            owner_name=report.workload_id.rpartition("/")[2],
            revision=report.revision,
            replica=report.replica,
            node=self.name(report.node_id),
            phase=report.phase,
            ready=report.ready,
            reason=report.reason,
            message="; ".join(each.message for each in report.containers if each.message),
            task_id=report.task_id,
            host_ip=member.addresses[0] if member and member.addresses else "",
            labels=report.labels or (record[1].pod_labels if record else {}),
            containers=report.containers,
            endpoints=report.endpoints,
            created_ms=report.started_ms,
            started_ms=report.started_ms,
            resource_version=record[0].seq if record else 0,
        )

    @staticmethod
    def _missing(intent: Intent, body: Workload, replica: int, told: Told) -> PodView:
        last = told.last_word(body.workload_id, replica, intent.issued_ms)
        return PodView(
            name=pod_name(body.kind, body.name, body.current.number, replica),
            namespace=body.namespace,
            workload_id=body.workload_id,
            owner_kind=body.kind,
            owner_name=body.name,
            revision=body.current.number,
            replica=replica,
            phase="Failed" if last is not None and last.status == "Failed" and last.details.get("final") else "Pending",
            reason=last.status if last is not None else "Scheduling",
            message=explained(last) if last is not None else "",
            task_id=last.task_id if last is not None else "",
            labels=body.pod_labels,
            images=body.images,
            created_ms=intent.issued_ms,
            resource_version=intent.seq,
        )

    async def deployments(self, namespace: str = "") -> list[DeploymentView]:
        """Every Deployment with what runs of it."""
        pods, told = by_workload(await self.pods(namespace)), self.told()
        return [
            self._deployment(intent, body, pods.get(body.workload_id, []), told)
            for intent, body in self.workloads(namespace)
            if body.kind == "Deployment"
        ]

    async def endpoints(self, namespace: str = "") -> list[EndpointsView]:
        """Every workload with where it is reached."""
        wanted = (
            EndpointsView(
                name=body.name,
                namespace=body.namespace,
                kind=body.kind,
                labels=body.labels,
                created_ms=body.created_ms or intent.issued_ms,
                resource_version=intent.seq,
            )
            for intent, body in self.workloads(namespace)
        )
        return endpoints_views(await self.pods(namespace), wanted)

    @staticmethod
    def _deployment(intent: Intent, body: Workload, pods: list[PodView], told: Told) -> DeploymentView:
        running = [pod for pod in pods if pod.node]
        current = [pod for pod in running if body.current.covers(pod.revision)]
        failed = told.failed_rollout(body)
        problems = sorted({pod.message for pod in pods if not pod.node and pod.message})
        return DeploymentView(
            name=body.name,
            namespace=body.namespace,
            replicas=body.replicas,
            revision=body.current.number,
            running=len([pod for pod in running if pod.phase == "Running"]),
            ready=len([pod for pod in running if pod.ready]),
            updated=len(current),
            generation=intent.seq,
            observed_generation=intent.seq,
            labels=body.labels,
            annotations=body.annotations,
            pod_labels=body.pod_labels,
            images=body.images,
            strategy=body.strategy,
            history_limit=body.history_limit,
            failed=explained(failed) if failed is not None else "",
            rolled_back_to=rolled_back_to(failed),
            endpoints=[(pod.name, endpoint) for pod in running for endpoint in pod.endpoints],
            problem="; ".join(problems),
            created_ms=body.created_ms or intent.issued_ms,
            resource_version=intent.seq,
        )

    def nodes(self, wall_ms: int) -> list[NodeView]:
        """Every member of the roster, alive or not."""
        cordons = {body.node: body for _, body in self.records("cordon/", "cordon", Cordon)}
        views = [self._node(member, cordons.get(member.name), wall_ms) for member in self.roster.members()]
        return sorted(views, key=lambda view: view.name)

    def _node(self, member: Membership, cordon: Cordon | None, wall_ms: int) -> NodeView:
        summary = self.view.summary(member.node_id)
        state = self.view.status(member.node_id)
        standing = self.roster.standing(member.node_id, wall_ms)
        warnings = [EXPIRED[standing]] if standing in EXPIRED else []
        if summary is not None and summary.storage_mb_total and not summary.storage_mb_free:
            warnings.append("its disk is full: it takes no new work until there is room again")
        return NodeView(
            name=member.name,
            node_id=to_text(member.node_id),
            ready=self.view.is_alive(member.node_id),
            state=state,
            cordoned=cordon is not None and cordon.cordoned,
            addresses=member.addresses,
            labels=member.labels,
            taints=member.taints,
            roles=member.roles,
            site=member.site,
            zone=member.zone,
            org=member.org,
            cpu_m=summary.cpu_m_total if summary else 0,
            mem_mb=summary.mem_mb_total if summary else 0,
            storage_mb=summary.storage_mb_total if summary else 0,
            free_cpu_m=summary.cpu_m_free if summary else 0,
            free_mem_mb=summary.mem_mb_free if summary else 0,
            free_storage_mb=summary.storage_mb_free if summary else 0,
            pods=summary.pods_running if summary else 0,
            version=summary.agent_version if summary else "",
            runtime=summary.engine if summary else "",
            warnings=warnings,
            created_ms=member.signed_at_ms,
            seen_ms=summary.taken_ms if summary else 0,
            resource_version=member.serial,
        )

    def configs(self, kind: str, namespace: str = "") -> list[ConfigView]:
        """ConfigMaps or Secrets: names and revisions, no content."""
        return [
            ConfigView(
                kind=body.kind,
                name=body.name,
                namespace=body.namespace,
                revision=body.revision.number,
                labels=body.labels,
                type=body.type,
                size_bytes=body.revision.size_bytes,
                created_ms=body.created_ms or intent.issued_ms,
                resource_version=intent.seq,
            )
            for intent, body in self.records(f"object/{kind.lower()}/", "object", SealedObject)
            if not namespace or body.namespace == namespace
        ]

    async def catch_up(self, namespace: str = "") -> None:
        """Have in the journal what was told of everything that is wanted."""
        await self.gatherer.gather(body.workload_id for _, body in self.workloads(namespace))

    async def teller_of(self, task_id: str) -> NodeId | None:
        """In a large mesh: the keeper that hosts the workload of a task, and so has its bids; None where it is not
        known, or this node."""
        await self.catch_up()
        about = (event.workload_id for event in self.journal.events() if event.task_id == task_id)
        workload_id = next(about, "")
        line = stewards_in_line(workload_id, self.roster, self.view) if workload_id and self.view.is_large else []
        return line[0] if line and line[0] != self._self_id else None

    def events(self, namespace: str = "") -> list[EventView]:
        """What this agent heard, oldest first."""
        return [self.event(event) for event in self.journal.events() if not namespace or event.namespace == namespace]

    def event(self, event: Event) -> EventView:
        """One event, for people."""
        kind, _, rest = event.workload_id.partition("/")
        whole = event.status in ROLLOUT_EVENTS or MANIFEST in event.details
        place = (
            event.workload_id if whole or not event.workload_id else f"replica {event.replica} of {event.workload_id}"
        )
        message = ": ".join(part for part in (place, explained(event)) if part)
        return EventView(
            event_id=event.event_id,
            status=event.status,
            node=self.name(event.node_id),
            namespace=event.namespace,
            kind=kind.capitalize(),
            name=rest.rpartition("/")[2],
            reason=event.status,
            message=message,
            task_id=event.task_id,
            at_ms=event.issued_ms,
            warning=event.status in WARNINGS,
            details=event.details,
        )


def by_workload(pods: Iterable[PodView]) -> dict[str, list[PodView]]:
    """Each workload's pods, in their order: once for all, since both may be thousands."""
    found: dict[str, list[PodView]] = {}
    for pod in pods:
        found.setdefault(pod.workload_id, []).append(pod)
    return found


def explained(event: Event) -> str:
    """The reason with what the runtime or the nodes said about it."""
    return ": ".join(part for part in (event.reason, event.details.get("message", "")) if part)


def rolled_back_to(event: Event | None) -> int:
    """The revision that a failed rollout went back to; 0 for none."""
    target = event.details.get(TARGET, "") if event is not None else ""
    return int(target) if target.isdigit() else 0


WARNINGS = frozenset(
    {"Failed", "RolledBack", "Preempted", "Pending", "ShareRefused", "IntentConflict", "IdentityCloned", "NodeDead"}
)
