"""Whether a node may take a task, and if not, every reason in words for a person. Pure; Kubernetes' semantics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from beemesh.identity.membership_card import Membership, Taint
from beemesh.membership.roster import Standing
from beemesh.scheduling.messages import Task
from beemesh.workloads.node_keys import FIELD_NAME, LABEL_HOSTNAME, LABEL_ORG, LABEL_REGION, LABEL_SITE, LABEL_ZONE
from beemesh.workloads.record import Constraints, Expression, Requirements, Toleration
from beemesh.workloads.selectors import matches

REPELLING = frozenset({"NoSchedule", "NoExecute"})
"""Taint effects that keep new pods away; PreferNoSchedule only lowers a score."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a node has for pods and what of it is free, after caps, headroom and overcommit; CPU in thousandths of a
    core, memory and storage in MiB. `cpu_load` is 0…1 of all cores."""

    cpu_m_total: int
    mem_mb_total: int
    storage_mb_total: int
    cpu_m_free: int
    mem_mb_free: int
    storage_mb_free: int
    cpu_load: float = 0.0
    pods: int = 0
    pods_max: int = 110
    ports_in_use: frozenset[tuple[str, int]] = frozenset()
    """(protocol, port)"""


def node_labels(card: Membership) -> dict[str, str]:
    """The labels that selectors see: the card's own, and its name and place under Kubernetes' keys."""
    well_known = {
        LABEL_HOSTNAME: card.name,
        LABEL_ZONE: card.zone,
        LABEL_REGION: card.site,
        LABEL_SITE: card.site,
        LABEL_ORG: card.org,
    }
    return {**{key: value for key, value in well_known.items() if value}, **card.labels}


def refusals(
    task: Task,
    card: Membership,
    resources: Resources,
    *,
    standing: Standing = "valid",
    cordoned: str | None = None,
    namespaces: tuple[str, ...] = (),
    runs_sibling: bool = False,
) -> list[str]:
    """Why this node must not take `task`; empty when it may. `cordoned` is the reason given for a cordon (None when
    there is none), `namespaces` those the node's owner admits (empty: all), `runs_sibling` whether another replica of
    the workload is here."""
    reasons: list[str] = []
    if standing == "grace":
        reasons.append("this node's membership has run out: it keeps what it runs and takes nothing new")
    elif standing == "out":
        reasons.append("this node is not a member any more")
    if cordoned is not None:
        reasons.append(f"this node is cordoned ({cordoned})" if cordoned else "this node is cordoned")
    if namespaces and task.namespace not in namespaces:
        reasons.append(f"this node takes no pods of namespace {task.namespace}, only of {', '.join(namespaces)}")
    reasons += placement_refusals(task.constraints, card)
    if task.constraints.anti_affinity_hosts and runs_sibling:
        reasons.append("another replica of this workload runs here, and two may not share a node")
    return reasons + capacity_refusals(task.reqs, resources)


def placement_refusals(constraints: Constraints, card: Membership) -> list[str]:
    """What of `constraints` the node's signed card does not satisfy. Custodians decide by the same words."""
    labels = node_labels(card)
    reasons = []
    if constraints.node_name and constraints.node_name != card.name:
        reasons.append(f"wants node {constraints.node_name}, this is {card.name}")
    for key, value in sorted(constraints.node_selector.items()):
        if labels.get(key) != value:
            here = f"here it is {labels[key]!r}" if key in labels else "this node has no such label"
            reasons.append(f"node selector wants {key}={value}, {here}")
    if constraints.node_affinity and not affinity_holds(constraints.node_affinity, {**labels, FIELD_NAME: card.name}):
        wanted = " or ".join(_term_text(term) for term in constraints.node_affinity)
        reasons.append(f"node affinity wants {wanted}")
    for taint in card.taints:
        if taint.effect in REPELLING and not _tolerated(constraints.tolerations, taint):
            value = f"={taint.value}" if taint.value else ""
            reasons.append(f"does not tolerate the taint {taint.key}{value}:{taint.effect}")
    return reasons


def capacity_refusals(reqs: Requirements, resources: Resources) -> list[str]:
    """What of the amounts and ports the node cannot give now."""
    reasons = []
    amounts = (
        ("memory", "MiB", reqs.mem_mb, resources.mem_mb_total, resources.mem_mb_free),
        ("disk", "MiB", reqs.storage_mb, resources.storage_mb_total, resources.storage_mb_free),
        ("CPU", "m", reqs.cpu_m, resources.cpu_m_total, resources.cpu_m_free),
    )
    for what, unit, need, total, free in amounts:
        if need > free:
            gap = "" if unit == "m" else " "
            have = f"this node has {total}{gap}{unit}, {max(0, free)} free"
            reasons.append(f"needs {need}{gap}{unit} of {what}, {have}")
    if resources.storage_mb_free <= 0:
        reasons.append("this node's disk is full, up to what it keeps in reserve")
    if reqs.gpus:
        reasons.append(f"needs {reqs.gpus} GPUs, this node offers none")
    for port in reqs.ports:
        if port.number and (port.protocol, port.number) in resources.ports_in_use:
            reasons.append(f"needs host port {port.number}/{port.protocol}, which is in use here")
    if resources.pods >= resources.pods_max:
        reasons.append(f"this node runs {resources.pods} pods, and takes {resources.pods_max} at most")
    return reasons


def name_refusal(owner: str) -> str:
    """Why no other pod of a name can be where that of the workload `owner` is."""
    return f"a pod of that name, of {owner}, is here"


def repelled_softly(constraints: Constraints, card: Membership) -> bool:
    """Whether a PreferNoSchedule taint is not tolerated."""
    taints = (taint for taint in card.taints if taint.effect == "PreferNoSchedule")
    return any(not _tolerated(constraints.tolerations, taint) for taint in taints)


def _tolerated(tolerations: tuple[Toleration, ...], taint: Taint) -> bool:
    return any(toleration.tolerates(taint) for toleration in tolerations)


def affinity_holds(terms: tuple[tuple[Expression, ...], ...], labels: Mapping[str, str]) -> bool:
    """A disjunction of conjunctions; an empty term matches nothing (Kubernetes). `labels` are a node's, with its name
    at `FIELD_NAME`."""
    return any(term and all(matches(expression, labels) for expression in term) for term in terms)


def _term_text(term: tuple[Expression, ...]) -> str:
    return " and ".join(expression_text(expression) for expression in term) or "nothing at all"


def expression_text(expression: Expression) -> str:
    """A selector requirement for people."""
    values = ", ".join(expression.values)
    return f"{expression.key} {expression.operator}" + (f" ({values})" if values else "")
