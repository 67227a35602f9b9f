"""Rules of where a pod may run: affinities, spread and tolerations, in Kubernetes' words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from beemesh.workloads.node_keys import FIELD_NAME, LABEL_HOSTNAME
from beemesh.workloads.objects import Finding, Path, path_text, shown
from beemesh.workloads.selectors import expressions, selector_findings, selects

POD_TERMS_MAX = 16
"""Affinity and spread terms of one pod: what a task tells of each is published with it."""

PREFERENCES_MAX = 32
"""Preferred node affinities of one pod."""

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"

Rules = Iterator[Finding]


def placement_findings(spec: Mapping[str, Any], labels: Mapping[str, str], path: Path) -> Rules:
    """Everything wrong with where a pod of these `labels` wants to run, with places below `path`."""
    affinity = spec.get("affinity", {})
    yield from _node_affinity(affinity.get("nodeAffinity", {}), (*path, "affinity", "nodeAffinity"))
    for kind in ("podAffinity", "podAntiAffinity"):
        for place, term in _pod_terms(affinity.get(kind, {}), (*path, "affinity", kind)):
            yield from _pod_term(term, labels, place, kind)
    for index, constraint in enumerate(spec.get("topologySpreadConstraints", [])):
        yield from _pod_term(constraint, labels, (*path, "topologySpreadConstraints", index), "topologySpread")
    yield from _too_many(spec, path)
    yield from _tolerations(spec, path)


def _node_affinity(affinity: Mapping[str, Any], path: Path) -> Rules:
    required = affinity.get(REQUIRED)
    base: Path = (*path, REQUIRED)
    if required is not None and not required.get("nodeSelectorTerms"):
        yield Finding(base, f"{path_text((*base, 'nodeSelectorTerms'))} must have at least one term")
    for index, term in enumerate((required or {}).get("nodeSelectorTerms", [])):
        yield from _node_term(term, (*base, "nodeSelectorTerms", index))
    for index, preferred in enumerate(affinity.get(PREFERRED, [])):
        yield from _node_term(preferred.get("preference", {}), (*path, PREFERRED, index, "preference"))


def _node_term(term: Mapping[str, Any], path: Path) -> Rules:
    place = (*path, "matchExpressions")
    if not term.get("matchExpressions") and not term.get("matchFields"):
        yield Finding(path, f"{path_text(place)} must have at least one entry: an empty term fits no node")
    yield from expressions(term.get("matchExpressions", []), place)
    fields = term.get("matchFields", [])
    yield from expressions(fields, (*path, "matchFields"))
    for index, item in enumerate(fields):
        if item.get("key") not in (None, FIELD_NAME):
            where = (*path, "matchFields", index, "key")
            yield Finding(where, f"{shown(item['key'])} is no field of a node to match", f"{FIELD_NAME} is")


def _pod_terms(affinity: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for index, term in enumerate(affinity.get(REQUIRED, [])):
        yield (*path, REQUIRED, index), term
    for index, weighted in enumerate(affinity.get(PREFERRED, [])):
        yield (*path, PREFERRED, index, "podAffinityTerm"), weighted.get("podAffinityTerm", {})


def _pod_term(term: Mapping[str, Any], labels: Mapping[str, str], path: Path, kind: str) -> Rules:
    """A node knows the pods that it runs, whosesoever; of other nodes, a task tells where its own workload runs."""
    selector = term.get("labelSelector")
    if selector is None:
        yield Finding(path, f"{path_text((*path, 'labelSelector'))} is missing: without it no pod is meant")
        return
    yield from selector_findings(selector, (*path, "labelSelector"))
    topology = term.get("topologyKey", LABEL_HOSTNAME)
    if selects(selector, labels) or (topology == LABEL_HOSTNAME and kind != "topologySpread"):
        return
    hint = "a labelSelector that matches the pod's own labels is"
    if kind == "topologySpread":
        message = "topologySpreadConstraints over pods of other workloads are not supported by beemesh yet"
    else:
        whose = f"{kind} to pods of other workloads with topologyKey {shown(topology)}"
        message = f"{whose} is not supported by beemesh yet"
        hint = f"{LABEL_HOSTNAME} is, and {hint}"
    yield Finding((*path, "labelSelector"), message, hint)


def _too_many(spec: Mapping[str, Any], path: Path) -> Rules:
    affinity = spec.get("affinity", {})
    terms = sum(len(affinity.get(kind, {}).get(how, [])) for kind in _POD_KINDS for how in (REQUIRED, PREFERRED))
    if terms + len(spec.get("topologySpreadConstraints", [])) > POD_TERMS_MAX:
        message = f"a pod may have at most {POD_TERMS_MAX} pod affinity, anti-affinity and spread terms together"
        yield Finding((*path, "affinity" if terms else "topologySpreadConstraints"), message)
    if len(affinity.get("nodeAffinity", {}).get(PREFERRED, [])) > PREFERENCES_MAX:
        place = (*path, "affinity", "nodeAffinity", PREFERRED)
        yield Finding(place, f"{path_text(place)} may have at most {PREFERENCES_MAX} entries")


def _tolerations(spec: Mapping[str, Any], path: Path) -> Rules:
    for index, toleration in enumerate(spec.get("tolerations", [])):
        place = (*path, "tolerations", index)
        exists = toleration.get("operator", "Equal") == "Exists"
        if exists and toleration.get("value"):
            yield Finding((*place, "value"), "a toleration with operator Exists has no value")
        if not exists and "key" not in toleration:
            yield Finding(place, f"{path_text((*place, 'key'))} is missing", "only operator Exists may leave it out")


_POD_KINDS = ("podAffinity", "podAntiAffinity")
