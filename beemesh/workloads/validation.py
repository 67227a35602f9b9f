"""Whether a manifest can be right: everything wrong with it in one go, each finding with its place.

Pure: plain data in, findings out; the command line turns places into lines and columns.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from beemesh.workloads import formats
from beemesh.workloads.budget_rules import budget_findings
from beemesh.workloads.fields_pod import KINDS
from beemesh.workloads.objects import (
    CLUSTER_KINDS,
    CONFIG_KINDS,
    POLICY_KINDS,
    Checked,
    Finding,
    ManifestObject,
    ObjectKey,
    path_text,
    shown,
)
from beemesh.workloads.pod_rules import pod_findings
from beemesh.workloads.policy_rules import priority_findings, quota_findings
from beemesh.workloads.record import PROGRESS_DEADLINE_S
from beemesh.workloads.schema import did_you_mean, structs
from beemesh.workloads.selectors import selector_findings, selects
from beemesh.workloads.settings import check_agreement, check_annotations
from beemesh.workloads.structure import FINDINGS_MAX, Walk, word_for

DEFAULT_NAMESPACE = "default"

CONFIG_BYTES_MAX = 1024 * 1024
"""Content of one ConfigMap or Secret, as in Kubernetes."""

ANNOTATIONS_BYTES_MAX = 256 * 1024
"""All annotations of one object, as in Kubernetes."""

DEPLOYMENT_NAME_CHARS_MAX = 63
"""A deployment's name is the beginning of its pods' host names."""

FOREIGN_KINDS = frozenset(
    {
        "APIService",
        "ClusterRole",
        "ClusterRoleBinding",
        "ControllerRevision",
        "CronJob",
        "CustomResourceDefinition",
        "Endpoints",
        "EndpointSlice",
        "HorizontalPodAutoscaler",
        "Ingress",
        "IngressClass",
        "LimitRange",
        "Namespace",
        "NetworkPolicy",
        "Node",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "PodTemplate",
        "ReplicaSet",
        "ReplicationController",
        "Role",
        "RoleBinding",
        "RuntimeClass",
        "Service",
        "ServiceAccount",
        "StatefulSet",
        "StorageClass",
        "VerticalPodAutoscaler",
        "VolumeAttachment",
        "BeemeshDeployment",
        "BeemeshStatefulSet",
    }
)
"""Kinds that exist and that Beemesh does not run yet."""

_SECRET_KEYS = {
    "kubernetes.io/basic-auth": ("username", "password"),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
}


def check(
    document: object, *, namespace: str | None = None, allow_unsupported: bool = False, default_namespace: str = ""
) -> Checked:
    """Check one object. `namespace`, when given, is where it must go (`-n`); else `default_namespace` fills a gap.

    Never raises, whatever the data. With findings there is no object. `allow_unsupported` leaves known fields that
    Beemesh does not act on out, and lists them as ignored.
    """
    findings = _kind_findings(document)
    if findings or not isinstance(document, dict):
        return Checked(None, tuple(findings))
    kind: str = document["kind"]
    walk = Walk(allow_unsupported=allow_unsupported)
    body = walk.struct(structs()[kind], document, ())
    metadata = body.setdefault("metadata", {})
    findings = walk.findings
    wanted = namespace or metadata.get("namespace") or default_namespace or DEFAULT_NAMESPACE
    findings.extend(_metadata_findings(kind, metadata, wanted, document))
    findings.extend(_RULES[kind](body))
    if findings:
        return Checked(None, tuple(findings[:FINDINGS_MAX]), tuple(walk.ignored))
    ignored = tuple(walk.ignored)
    place = "" if kind in CLUSTER_KINDS else wanted
    return Checked(ManifestObject(kind, place, metadata["name"], body, ignored), (), ignored)


def check_set(objects: Sequence[ManifestObject]) -> list[tuple[int, Finding]]:
    """What is wrong between objects that are applied together: the same one twice. Indices are into `objects`."""
    seen: dict[ObjectKey, int] = {}
    problems = []
    for index, item in enumerate(objects):
        if item.key in seen:
            message = f"{item.key} is defined twice in what is applied together"
            problems.append((index, Finding(("metadata", "name"), message, "keep one of the two")))
        seen.setdefault(item.key, index)
    return problems


def _kind_findings(document: object) -> list[Finding]:
    if not isinstance(document, dict):
        return [Finding((), f"a manifest must be a mapping with apiVersion and kind, not {word_for(document)}")]
    kind, version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        hint = did_you_mean_key(document, "kind") or f"beemesh knows {', '.join(KINDS)}"
        return [Finding(("kind",) if "kind" in document else (), "kind is missing or no text", hint)]
    if kind not in KINDS:
        known = f"beemesh runs {', '.join(KINDS)}"
        if kind in FOREIGN_KINDS:
            return [Finding(("kind",), f"kind {shown(kind)} is not supported by beemesh yet", known)]
        hint = did_you_mean(kind, [*KINDS, *FOREIGN_KINDS]) or known
        return [Finding(("kind",), f"{shown(kind)} is no kind that beemesh knows", hint)]
    if not isinstance(version, str) or not version:
        return [Finding(("apiVersion",) if "apiVersion" in document else (), "apiVersion is missing", KINDS[kind])]
    if version != KINDS[kind]:
        message = f"apiVersion {shown(version)} does not fit kind {kind}"
        return [Finding(("apiVersion",), message, f"did you mean {KINDS[kind]!r}?")]
    return []


def did_you_mean_key(document: Mapping[Any, Any], name: str) -> str:
    """A hint when a key of `document` looks like a misspelt `name`."""
    near = next((key for key in document if isinstance(key, str) and key != name and key.lower() == name), None)
    return f"did you mean {name!r} instead of {near!r}?" if near else ""


def _metadata_findings(
    kind: str, metadata: Mapping[str, Any], namespace: str, document: Mapping[str, Any]
) -> Iterator[Finding]:
    name = metadata.get("name")
    raw = document.get("metadata")
    if name is None:
        if isinstance(raw, dict) and raw.get("name") is None:
            yield Finding(("metadata",), "metadata.name is missing")
    elif problem := formats.subdomain(name):
        yield Finding(("metadata", "name"), f"metadata.name {shown(name)} {problem}")
    elif kind in ("Deployment", "DaemonSet", "Job") and len(name) > DEPLOYMENT_NAME_CHARS_MAX:
        message = f"metadata.name of a {kind.lower()} must be at most {DEPLOYMENT_NAME_CHARS_MAX} characters"
        yield Finding(("metadata", "name"), message)
    stated = metadata.get("namespace")
    if stated and kind in CLUSTER_KINDS:
        yield Finding(("metadata", "namespace"), f"a {kind} belongs to no namespace", "leave it out", at_key=True)
    elif stated and stated != namespace:
        message = f"metadata.namespace {shown(stated)} is not the namespace that was asked for, {shown(namespace)}"
        yield Finding(("metadata", "namespace"), message, "leave out one of the two")
    elif problem := formats.label(namespace):
        yield Finding(("metadata",), f"namespace {shown(namespace)} {problem}")
    yield from _key_findings(metadata, ("metadata",))
    annotations = metadata.get("annotations", {})
    workload = kind not in CONFIG_KINDS + POLICY_KINDS
    yield from check_annotations(annotations, ("metadata", "annotations"), workload=workload)


def _key_findings(metadata: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Finding]:
    for group in ("labels", "annotations"):
        for name in metadata.get(group, {}):
            if problem := formats.qualified_name(name):
                yield Finding((*path, group, name), f"the name {shown(name)} in {group} {problem}", at_key=True)
    size = sum(len(name) + len(value.encode()) for name, value in metadata.get("annotations", {}).items())
    if size > ANNOTATIONS_BYTES_MAX:
        yield Finding((*path, "annotations"), f"annotations have {size} bytes; at most {ANNOTATIONS_BYTES_MAX} fit")


def _pod(body: Mapping[str, Any]) -> Iterator[Finding]:
    labels = body["metadata"].get("labels", {})
    if "spec" in body:
        yield from pod_findings(body["spec"], labels, ("spec",), deployment=False)


def _deployment(body: Mapping[str, Any]) -> Iterator[Finding]:
    spec = body.get("spec", {})
    yield from _strategy(spec.get("strategy", {}))
    yield from _deadline(spec)
    yield from _selected_template(body, spec)


def _daemon_set(body: Mapping[str, Any]) -> Iterator[Finding]:
    spec = body.get("spec", {})
    rolling = spec.get("updateStrategy", {}).get("rollingUpdate", {})
    amounts = {"maxSurge": rolling.get("maxSurge", 0), "maxUnavailable": rolling.get("maxUnavailable", 1)}
    some = [name for name, amount in amounts.items() if str(amount).rstrip("%") != "0"]
    path = ("spec", "updateStrategy", "rollingUpdate")
    if not some:
        yield Finding(path, "maxSurge and maxUnavailable cannot both be 0: nothing could ever be replaced")
    elif len(some) == 2:
        hint = "a node's new pod starts before the old one stops (maxUnavailable: 0), or after it (maxSurge: 0)"
        yield Finding(path, "one of maxSurge and maxUnavailable (1 where it is not given) must be 0", hint)
    yield from _selected_template(body, spec)


def _selected_template(body: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Finding]:
    template = spec.get("template", {})
    labels = template.get("metadata", {}).get("labels", {})
    base: tuple[str | int, ...] = ("spec", "template")
    selector = spec.get("selector")
    if selector is not None:
        yield from selector_findings(selector, ("spec", "selector"))
        if not selector:
            yield Finding(("spec", "selector"), "spec.selector must name at least one label")
        elif template and not selects(selector, labels):
            message = "spec.selector does not match the labels of spec.template"
            yield Finding(("spec", "selector"), message, "give spec.template.metadata.labels the selector's labels")
    metadata = template.get("metadata", {})
    yield from _key_findings(metadata, (*base, "metadata"))
    annotations, place = metadata.get("annotations", {}), (*base, "metadata", "annotations")
    yield from check_annotations(annotations, place, workload=True)
    yield from check_agreement(body["metadata"].get("annotations", {}), annotations, place)
    if "spec" in template:
        yield from pod_findings(template["spec"], labels, (*base, "spec"), deployment=True)


def _job(body: Mapping[str, Any]) -> Iterator[Finding]:
    spec = body.get("spec", {})
    template = spec.get("template", {})
    base: tuple[str | int, ...] = ("spec", "template")
    if spec.get("completions") is None and spec.get("parallelism", 1) > 1:
        message = "spec.completions is missing: a job whose pods share a queue of work is not supported by beemesh yet"
        yield Finding(("spec", "parallelism"), message, "say how many completions there are to be")
    metadata = template.get("metadata", {})
    yield from _key_findings(metadata, (*base, "metadata"))
    annotations, place = metadata.get("annotations", {}), (*base, "metadata", "annotations")
    yield from check_annotations(annotations, place, workload=True)
    yield from check_agreement(body["metadata"].get("annotations", {}), annotations, place)
    if "spec" in template:
        if template["spec"].get("restartPolicy", "Always") == "Always":
            path = (*base, "spec", *(("restartPolicy",) if "restartPolicy" in template["spec"] else ()))
            yield Finding(path, "a job's pods end: spec.template.spec.restartPolicy must be OnFailure or Never")
        yield from pod_findings(template["spec"], metadata.get("labels", {}), (*base, "spec"), deployment=False)


def _deadline(spec: Mapping[str, Any]) -> Iterator[Finding]:
    """As Kubernetes: what must stay ready for a while needs a deadline that leaves it the time."""
    least_s, deadline_s = spec.get("minReadySeconds", 0), spec.get("progressDeadlineSeconds", PROGRESS_DEADLINE_S)
    if deadline_s <= least_s:
        message = f"spec.progressDeadlineSeconds {deadline_s} must be greater than minReadySeconds, {least_s}"
        place = "progressDeadlineSeconds" if "progressDeadlineSeconds" in spec else "minReadySeconds"
        yield Finding(("spec", place), message)


def _strategy(strategy: Mapping[str, Any]) -> Iterator[Finding]:
    rolling = strategy.get("rollingUpdate")
    path = ("spec", "strategy", "rollingUpdate")
    if strategy.get("type") == "Recreate" and rolling:
        yield Finding(path, "strategy Recreate has no rollingUpdate")
    if rolling and all(str(rolling.get(name, "25%")).rstrip("%") == "0" for name in ("maxSurge", "maxUnavailable")):
        yield Finding(path, "maxSurge and maxUnavailable cannot both be 0: nothing could ever be replaced")


def _config_map(body: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _content(body, "data", "binaryData")
    both = set(body.get("data", {})) & set(body.get("binaryData", {}))
    for name in sorted(both):
        yield Finding(("binaryData", name), f"key {shown(name)} is both in data and in binaryData", at_key=True)


def _secret(body: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _content(body, "stringData", "data")
    present = set(body.get("data", {})) | set(body.get("stringData", {}))
    missing = [name for name in _SECRET_KEYS.get(body.get("type", ""), ()) if name not in present]
    if missing:
        yield Finding(("type",), f"a secret of type {body['type']} must have {' and '.join(missing)}")


def _content(body: Mapping[str, Any], plain: str, encoded: str) -> Iterator[Finding]:
    size = sum(len(value.encode()) for value in body.get(plain, {}).values())
    size += sum(len(base64.b64decode(value)) for value in body.get(encoded, {}).values())
    if size > CONFIG_BYTES_MAX:
        message = f"{body.get('kind', 'the object')} holds {size} bytes; at most {CONFIG_BYTES_MAX} fit"
        yield Finding((), message, "put large files into the image")
    for group in (plain, encoded):
        for name in body.get(group, {}):
            if problem := formats.data_key(name):
                yield Finding((group, name), f"key {shown(name)} in {path_text((group,))} {problem}", at_key=True)


_RULES = {
    "Pod": _pod,
    "Deployment": _deployment,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "ConfigMap": _config_map,
    "Secret": _secret,
    "PodDisruptionBudget": budget_findings,
    "ResourceQuota": quota_findings,
    "PriorityClass": priority_findings,
}


def checked_objects(documents: Iterable[object], *, allow_unsupported: bool = False) -> list[ManifestObject]:
    """The objects of documents that are known to be right, such as those that tests and agents hold."""
    results = [check(document, allow_unsupported=allow_unsupported) for document in documents]
    return [result.object for result in results if result.object is not None]
