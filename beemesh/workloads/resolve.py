"""From checked objects to what is sealed and what members may see.

A workload's template is embedded with exactly those ConfigMap and Secret keys that it refers to, so a change of any
of them is a new revision, and a machine that runs the workload learns nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from beemesh.secret import SecretBytes
from beemesh.workloads.daemons import DAEMON_SET
from beemesh.workloads.fingerprint import canonical
from beemesh.workloads.objects import (
    CONFIG_KINDS,
    WORKLOAD_KINDS,
    Finding,
    ManifestObject,
    ObjectKey,
    Path,
    path_text,
    shown,
)
from beemesh.workloads.record import HISTORY_MAX, Constraints, JobTerms, Qos, Requirements, Strategy
from beemesh.workloads.requirements import constraints_of, images_of, qos_of, requirements_of
from beemesh.workloads.schema import did_you_mean
from beemesh.workloads.settings import CHANGE_CAUSE, NEAR, PREFIX, WorkloadSettings, settings_of
from beemesh.workloads.strategies import strategy_of

TEMPLATE_API_VERSION = "beemesh.io/v1alpha1"
TEMPLATE_KIND = "ResolvedPodTemplate"

TEMPLATE_BYTES_MAX = 3 * 1024 * 1024
"""A resolved template: two of the largest ConfigMaps in base64 fit, and sealed it stays below 4 MiB."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One use of a ConfigMap or Secret by a template; `keys` is None when all of them are used."""

    kind: str
    name: str
    path: Path
    keys: tuple[str, ...] | None = None
    optional: bool = False
    as_text: bool = False
    """The content becomes environment variables, so it must be text."""


@dataclass(frozen=True, slots=True)
class ResolvedWorkload:
    """Everything that `apply` needs of one workload. Only `template` is secret; the rest is what members may see.

    `template` is the canonical JSON of the pod template with what it refers to: the bytes that are sealed, and that
    `fingerprint` is taken of. Two workloads with the same `template` run the same pods; `replicas`, `strategy`,
    `labels` and `annotations` may change without a new revision. `annotations` are those of `beemesh.io/` alone.
    """

    kind: str
    namespace: str
    name: str
    template: SecretBytes
    replicas: int
    strategy: Strategy
    requirements: Requirements
    constraints: Constraints
    qos: Qos
    settings: WorkloadSettings
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    pod_labels: dict[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    history_limit: int = HISTORY_MAX
    job: JobTerms | None = None
    stated: frozenset[str] = frozenset()
    """Which of `replicas` and `paused` the manifest names: what it leaves out stays as `scale` or `rollout` made it."""

    @property
    def key(self) -> ObjectKey:
        """Kind, namespace and name."""
        return ObjectKey(self.kind, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Resolution:
    """The workloads that could be resolved, and what kept the others from it."""

    workloads: tuple[ResolvedWorkload, ...]
    problems: tuple[tuple[ObjectKey, Finding], ...]


def resolve(objects: Sequence[ManifestObject], on_mesh: Mapping[ObjectKey, ManifestObject] | None = None) -> Resolution:
    """Resolve each Pod and Deployment of `objects` with the ConfigMaps and Secrets among them, else those `on_mesh`."""
    known = dict(on_mesh or {})
    known.update({item.key: item for item in objects if item.kind in CONFIG_KINDS})
    workloads: list[ResolvedWorkload] = []
    problems: list[tuple[ObjectKey, Finding]] = []
    for item in objects:
        if item.kind not in WORKLOAD_KINDS:
            continue
        resolved, findings = resolve_one(item, known)
        problems.extend((item.key, finding) for finding in findings)
        if resolved is not None:
            workloads.append(resolved)
    return Resolution(tuple(workloads), tuple(problems))


def needed_objects(objects: Iterable[ManifestObject]) -> tuple[ObjectKey, ...]:
    """The ConfigMaps and Secrets that workloads refer to and that are not among `objects`: what to ask the mesh for."""
    items = list(objects)
    present = {item.key for item in items}
    needed = {
        ObjectKey(reference.kind, item.namespace, reference.name)
        for item in items
        if item.kind in WORKLOAD_KINDS
        for reference in references_of(item)
    }
    return tuple(sorted(needed - present))


def resolve_one(
    item: ManifestObject, known: Mapping[ObjectKey, ManifestObject]
) -> tuple[ResolvedWorkload | None, list[Finding]]:
    """Resolve one Pod or Deployment, or say what it lacks."""
    metadata, spec, _ = _template_of(item)
    references = list(references_of(item))
    embedded, findings = _embed(item, references, known)
    template_annotations = metadata.get("annotations", {})
    settings = settings_of(item.annotations, template_annotations)
    content = {
        "apiVersion": TEMPLATE_API_VERSION,
        "kind": TEMPLATE_KIND,
        "workload": {"kind": item.kind, "namespace": item.namespace, "name": item.name},
        "metadata": {
            "labels": metadata.get("labels", {}),
            "annotations": item.annotations if item.kind == "Pod" else template_annotations,
        },
        "spec": spec,
        "settings": {"publishAuto": settings.publish_auto, "state": settings.state},
        **embedded,
    }
    template = canonical(content)
    if len(template) > TEMPLATE_BYTES_MAX:
        message = f"{item.key} has {len(template)} bytes with what it refers to; at most {TEMPLATE_BYTES_MAX} fit"
        findings.append(Finding((), message, "put large files into the image"))
    if findings:
        return None, findings
    body_spec = item.body["spec"] if item.kind != "Pod" else {}
    counted = {"Deployment": "replicas", "Job": "completions"}.get(item.kind, "")
    replicas = body_spec.get(counted, 1) if item.kind != DAEMON_SET else 0  # as many as there are nodes for it
    near = {NEAR: settings.near} if settings.near else {}
    resolved = ResolvedWorkload(
        kind=item.kind,
        namespace=item.namespace,
        name=item.name,
        template=SecretBytes(template),
        replicas=replicas,
        strategy=strategy_of(item.kind, body_spec, replicas, settings.rollback),
        requirements=requirements_of(spec, settings),
        constraints=constraints_of(spec, metadata.get("labels", {})),
        qos=qos_of(spec, settings),
        settings=settings,
        restart_policy=spec.get("restartPolicy", "Always"),
        labels=item.labels,
        annotations={name: value for name, value in item.annotations.items() if _is_shown(name)} | near,
        pod_labels=dict(metadata.get("labels", {})),
        images=images_of(spec),
        references=tuple(sorted({f"{reference.kind.lower()}/{reference.name}" for reference in references})),
        history_limit=body_spec.get("revisionHistoryLimit", HISTORY_MAX),
        stated=frozenset({"replicas", "paused"} & set(body_spec)),
        job=_job_terms(body_spec) if item.kind == "Job" else None,
    )
    return resolved, []


def _job_terms(spec: Mapping[str, Any]) -> JobTerms:
    """Kubernetes' defaults: one at a time, six failures, no deadline."""
    return JobTerms(spec.get("parallelism", 1), spec.get("backoffLimit", 6), spec.get("activeDeadlineSeconds", 0))


def _is_shown(annotation: str) -> bool:
    """Whether members may see it."""
    return annotation.startswith(PREFIX) or annotation == CHANGE_CAUSE


def _template_of(item: ManifestObject) -> tuple[Mapping[str, Any], Mapping[str, Any], Path]:
    """Metadata, spec and place of a workload's pod template."""
    if item.kind == "Pod":
        return item.body["metadata"], item.body["spec"], ("spec",)
    template = item.body["spec"]["template"]
    return template.get("metadata", {}), template["spec"], ("spec", "template", "spec")


def references_of(item: ManifestObject) -> Iterator[Reference]:
    """Every use of a ConfigMap or Secret by a Pod or Deployment."""
    _, spec, path = _template_of(item)
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group, [])):
            yield from _environment(container, (*path, group, index))
    for index, volume in enumerate(spec.get("volumes", [])):
        for kind, source, name in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
            if source in volume:
                used = volume[source]
                keys = tuple(entry["key"] for entry in used["items"]) if used.get("items") else None
                place = (*path, "volumes", index, source)
                yield Reference(kind, used[name], (*place, name), keys, used.get("optional", False))


def _environment(container: Mapping[str, Any], path: Path) -> Iterator[Reference]:
    kinds = (("ConfigMap", "configMapKeyRef", "configMapRef"), ("Secret", "secretKeyRef", "secretRef"))
    for index, item in enumerate(container.get("env", [])):
        for kind, by_key, _ in kinds:
            used = item.get("valueFrom", {}).get(by_key)
            if used is not None:
                place = (*path, "env", index, "valueFrom", by_key)
                optional = used.get("optional", False)
                yield Reference(kind, used["name"], (*place, "name"), (used["key"],), optional, as_text=True)
    for index, item in enumerate(container.get("envFrom", [])):
        for kind, _, whole in kinds:
            used = item.get(whole)
            if used is not None:
                place = (*path, "envFrom", index, whole, "name")
                yield Reference(kind, used["name"], place, None, used.get("optional", False), as_text=True)


def content_of(item: ManifestObject) -> dict[str, bytes]:
    """The files of a ConfigMap or Secret by key; `stringData` wins over `data` (Kubernetes)."""
    body = item.body
    if item.kind == "ConfigMap":
        plain, encoded = body.get("data", {}), body.get("binaryData", {})
    else:
        plain, encoded = body.get("stringData", {}), body.get("data", {})
    content = {name: base64.b64decode(value) for name, value in encoded.items()}
    content.update({name: value.encode() for name, value in plain.items()})
    return content


def _embed(
    item: ManifestObject, references: list[Reference], known: Mapping[ObjectKey, ManifestObject]
) -> tuple[dict[str, Any], list[Finding]]:
    """The contents that a template refers to, in base64 by object and key, and what is missing."""
    groups: dict[str, dict[str, dict[str, str]]] = {"configMaps": {}, "secrets": {}}
    findings: list[Finding] = []
    for reference in references:
        source = known.get(ObjectKey(reference.kind, item.namespace, reference.name))
        if source is None:
            if not reference.optional:
                findings.append(_missing_object(item, reference, known))
            continue
        content = content_of(source)
        group = groups["configMaps" if reference.kind == "ConfigMap" else "secrets"]
        kept = group.setdefault(reference.name, {})
        for name in content if reference.keys is None else reference.keys:
            if name in content:
                kept[name] = base64.b64encode(content[name]).decode("ascii")
                findings.extend(_text_finding(reference, name, content[name]))
            elif not reference.optional:
                findings.append(_missing_key(reference, name, content))
    return dict(groups), findings


def _missing_object(item: ManifestObject, reference: Reference, known: Mapping[ObjectKey, ManifestObject]) -> Finding:
    kind, name = reference.kind, reference.name
    names = [key.name for key in known if key.kind == kind and key.namespace == item.namespace]
    elsewhere = next((key.namespace for key in known if key.kind == kind and key.name == name), "")
    hint = did_you_mean(name, names) or f"apply it first, or in the same command as {item.key}"
    if elsewhere:
        hint = f"there is one in namespace {elsewhere}; a pod uses those of its own namespace only"
    message = f"there is no {kind} {shown(name)} in namespace {shown(item.namespace)}"
    return Finding(reference.path, message, hint)


def _missing_key(reference: Reference, name: str, content: Mapping[str, bytes]) -> Finding:
    hint = did_you_mean(name, list(content)) or f"add the key, or set optional: true beside {path_text(reference.path)}"
    return Finding(reference.path, f"{reference.kind} {shown(reference.name)} has no key {shown(name)}", hint)


def _text_finding(reference: Reference, name: str, content: bytes) -> Iterator[Finding]:
    """Environment variables are texts without zero bytes."""
    if not reference.as_text:
        return
    try:
        fits = "\0" not in content.decode("utf-8")
    except UnicodeDecodeError:
        fits = False
    if not fits:
        message = f"key {shown(name)} of {reference.kind} {shown(reference.name)} is no text"
        yield Finding(reference.path, f"{message}, so it cannot be an environment variable", "mount it as a file")
