"""The `beemesh.io/` annotations: what a workload may ask for beyond Kubernetes' fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from beemesh.workloads.formats import label_value
from beemesh.workloads.objects import Finding, Path, shown
from beemesh.workloads.schema import did_you_mean

PREFIX = "beemesh.io/"

CHANGE_CAUSE = "kubernetes.io/change-cause"
"""Why an operator made a revision, for `rollout history`: the one annotation of Kubernetes' own that members see."""

CHOICES: dict[str, tuple[str, ...]] = {
    "beemesh.io/publish": ("auto",),
    "beemesh.io/duplicate-tolerant": ("true", "false"),
    "beemesh.io/near": (),
    "beemesh.io/preemptible": ("true", "false"),
    "beemesh.io/restart": ("alone", "with-peers"),
    "beemesh.io/rollback": ("auto", "never"),
    "beemesh.io/sealing-scheme": ("shamir",),
    "beemesh.io/state": ("memory", "disk"),
}
"""Every annotation and the values it may have; none listed: the name of a node, site or zone."""

NEAR = "beemesh.io/near"


@dataclass(frozen=True, slots=True)
class WorkloadSettings:
    """What the annotations come to, with defaults.

    `publish_auto` gives every container port without a `hostPort` any free port of the host. `duplicate_tolerant`
    allows a second copy of a replica for a bounded time while the mesh is split. `preemptible` lets replicas of a
    higher priority class evict it where there is no other room, as Kubernetes does. `restart` says whether a machine
    that starts again may run its replicas by itself or must ask its peers for the key. `state` says where the
    containers' writable layers live. `rollback` says whether the mesh goes back by itself when a revision fails.
    """

    publish_auto: bool = False
    duplicate_tolerant: bool = True
    preemptible: bool = True
    near: str = ""
    restart: Literal["alone", "with-peers"] = "alone"
    sealing_scheme: Literal["shamir"] = "shamir"
    state: Literal["memory", "disk"] = "memory"
    rollback: Literal["auto", "never"] = "auto"


def check_annotations(annotations: Mapping[str, str], path: Path, *, workload: bool) -> list[Finding]:
    """Refuse `beemesh.io/` annotations that do not exist, have another value, or stand where they mean nothing."""
    findings = []
    for name, value in annotations.items():
        if not name.startswith(PREFIX):
            continue
        where = (*path, name)
        if name not in CHOICES:
            hint = did_you_mean(name, CHOICES) or f"known ones: {', '.join(CHOICES)}"
            findings.append(Finding(where, f"{shown(name)} is no annotation that beemesh knows", hint, at_key=True))
        elif not workload:
            findings.append(Finding(where, f"{shown(name)} has a meaning on workloads only", at_key=True))
        elif name == NEAR:
            if problem := label_value(value) or ("" if value else "must name a node, a site or a zone"):
                findings.append(Finding(where, f"{name} {shown(value)} {problem}"))
        elif value not in CHOICES[name]:
            hint = did_you_mean(value, CHOICES[name])
            findings.append(Finding(where, f"{name} must be one of {', '.join(CHOICES[name])}", hint))
    return findings


def check_agreement(own: Mapping[str, str], template: Mapping[str, str], path: Path) -> list[Finding]:
    """A Deployment and its pod template may both carry an annotation, but not with two values."""
    return [
        Finding((*path, name), f"{name} differs from the same annotation on the deployment", "keep one of the two")
        for name in CHOICES
        if name in own and name in template and own[name] != template[name]
    ]


def settings_of(*annotations: Mapping[str, Any]) -> WorkloadSettings:
    """The settings from checked annotations; the first mapping that names one decides."""
    merged: dict[str, Any] = {}
    for mapping in reversed(annotations):
        merged.update(mapping)
    return WorkloadSettings(
        publish_auto=merged.get("beemesh.io/publish") == "auto",
        duplicate_tolerant=merged.get("beemesh.io/duplicate-tolerant", "true") == "true",
        near=merged.get(NEAR, ""),
        preemptible=merged.get("beemesh.io/preemptible", "true") == "true",
        restart="with-peers" if merged.get("beemesh.io/restart") == "with-peers" else "alone",
        state="disk" if merged.get("beemesh.io/state") == "disk" else "memory",
        rollback="never" if merged.get("beemesh.io/rollback") == "never" else "auto",
    )
