"""From an opened template to one concrete pod: environment, files and ports filled in for one replica.

What comes out is plain Kubernetes data without references, as `agent/runtime/contract.py` describes it: values from
Secrets are `SecretText` and `SecretBytes`, and nothing here prints them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from beemesh.errors import InvalidInput
from beemesh.ids import digest_of
from beemesh.secret import SecretBytes, SecretText
from beemesh.workloads.care import DEFAULT_GRACE_S
from beemesh.workloads.formats import env_name
from beemesh.workloads.pod_rules import KEYED_FIELD
from beemesh.workloads.record import HostPort
from beemesh.workloads.requirements import host_ports
from beemesh.workloads.resolve import TEMPLATE_API_VERSION, TEMPLATE_KIND

DEFAULT_FILE_MODE = 0o644
"""Permission bits of ConfigMap and Secret files (Kubernetes)."""

POD_NAME_CHARS_MAX = 63
"""A pod's name is its host name."""

NAME_MARK_CHARS = 8
"""Of the digest of a name that is cut."""

ENV_BYTES_MAX = 1024 * 1024
"""All variables of one container after `$(NAME)` was filled in: Linux refuses more for a program's start."""

_REFERENCE = re.compile(r"\$(\$|\([-._a-zA-Z][-._a-zA-Z0-9]*\))")


@dataclass(frozen=True, slots=True)
class ReplicaIdentity:
    """Which replica, of what, where: what `fieldRef` can ask for."""

    pod_name: str
    namespace: str
    node_name: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class MountedFiles:
    """The files of one ConfigMap or Secret volume, by their path below the mount."""

    volume: str
    files: Mapping[str, SecretBytes]
    mode: int = DEFAULT_FILE_MODE


@dataclass(frozen=True, slots=True)
class PodPlan:
    """One pod, ready for a runtime. `pod` has `metadata` and `spec` as Kubernetes writes them; env values are `str` or
    `SecretText`; a port with `hostPort` 0 takes any free one."""

    pod_name: str
    pod: dict[str, Any] = field(repr=False)
    files: tuple[MountedFiles, ...]
    ports: tuple[HostPort, ...]
    restart_policy: Literal["Always", "OnFailure", "Never"]
    grace_s: int
    state: Literal["memory", "disk"]


@dataclass(frozen=True, slots=True)
class Template:
    """An opened template. Holds secrets: never shown, never stored."""

    kind: str
    namespace: str
    name: str
    labels: dict[str, str]
    annotations: dict[str, str] = field(repr=False)
    spec: dict[str, Any] = field(repr=False)
    config_maps: dict[str, dict[str, bytes]] = field(repr=False)
    secrets: dict[str, dict[str, bytes]] = field(repr=False)
    publish_auto: bool
    state: Literal["memory", "disk"]


def pod_name(kind: str, name: str, revision: int, replica: int) -> str:
    """The name of a replica's pod: a Pod's own; else `<name>-<revision>-<replica>`. A name that has to be cut ends in a
    mark of the whole, by which it differs from others that begin alike."""
    if kind == "Pod":
        return name
    suffix = f"-{revision}-{replica}"
    if len(name) + len(suffix) > POD_NAME_CHARS_MAX:
        suffix = f"-{digest_of(name.encode()).hex()[:NAME_MARK_CHARS]}{suffix}"
        name = name[: POD_NAME_CHARS_MAX - len(suffix)].rstrip("-.")
    return name + suffix


def open_template(content: SecretBytes | bytes) -> Template:
    """Read the bytes that `resolve` made; raises `InvalidInput` (without content) when they are something else."""
    raw = content if isinstance(content, bytes) else content.reveal()
    try:
        data = json.loads(raw)
        if data["apiVersion"] != TEMPLATE_API_VERSION or data["kind"] != TEMPLATE_KIND:
            raise ValueError
        kind, namespace, name = (data["workload"][part] for part in ("kind", "namespace", "name"))
        if not all(isinstance(part, str) for part in (kind, namespace, name)):
            raise ValueError
        return Template(
            kind=kind,
            namespace=namespace,
            name=name,
            labels=dict(data["metadata"]["labels"]),
            annotations=dict(data["metadata"]["annotations"]),
            spec=dict(data["spec"]),
            config_maps=_decoded(data["configMaps"]),
            secrets=_decoded(data["secrets"]),
            publish_auto=data["settings"]["publishAuto"] is True,
            state="disk" if data["settings"]["state"] == "disk" else "memory",
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = f"the opened manifest is no {TEMPLATE_KIND} of {TEMPLATE_API_VERSION}"
        raise InvalidInput(message, hint="apply the workload again with a beemeshctl of this version") from None


def _decoded(group: dict[str, dict[str, str]]) -> dict[str, dict[str, bytes]]:
    return {
        name: {key: base64.b64decode(value, validate=True) for key, value in content.items()}
        for name, content in group.items()
    }


def plan_pod(template: Template, identity: ReplicaIdentity) -> PodPlan:
    """The concrete pod of one replica; raises `InvalidInput` when its variables grow beyond every bound, or when the
    template was never checked: whoever sealed it may have had another tool."""
    try:
        return _planned(template, identity)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise InvalidInput(
            f"the template of {template.kind.lower()} {template.namespace}/{template.name} makes no pod: "
            f"{type(error).__name__}",  # never the content: it may be a secret
            hint="apply it again with beemeshctl, which says what is wrong",
        ) from None


def _planned(template: Template, identity: ReplicaIdentity) -> PodPlan:
    spec = template.spec
    containers = [_container(container, template, identity) for container in spec.get("containers", [])]
    init = [_container(container, template, identity) for container in spec.get("initContainers", [])]
    concrete: dict[str, Any] = {
        "containers": containers,
        "restartPolicy": spec.get("restartPolicy", "Always"),
        "terminationGracePeriodSeconds": spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S),
        "volumes": [_volume(volume) for volume in spec.get("volumes", [])],
        "hostname": spec.get("hostname", identity.pod_name.split(".")[0][:POD_NAME_CHARS_MAX].rstrip("-")),
    }
    if init:
        concrete["initContainers"] = init
    if spec.get("securityContext"):
        concrete["securityContext"] = spec["securityContext"]
    metadata = {
        "name": identity.pod_name,
        "namespace": identity.namespace,
        "labels": template.labels,
        "annotations": template.annotations,
    }
    return PodPlan(
        pod_name=identity.pod_name,
        pod={"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": concrete},
        files=tuple(files for volume in spec.get("volumes", []) if (files := _files(volume, template)) is not None),
        ports=tuple(host_ports(spec, publish_auto=template.publish_auto)),
        restart_policy=concrete["restartPolicy"],
        grace_s=concrete["terminationGracePeriodSeconds"],
        state=template.state,
    )


Value = str | SecretText


def _container(container: Mapping[str, Any], template: Template, identity: ReplicaIdentity) -> dict[str, Any]:
    env = _environment(container, template, identity)
    concrete = {name: value for name, value in container.items() if name not in ("env", "envFrom", "ports")}
    for name in ("command", "args"):
        if name in container:
            concrete[name] = [_revealed(_filled(word, env)) for word in container[name]]
    _fill_commands(concrete, container.get("env", []))
    concrete["env"] = [{"name": name, "value": value} for name, value in env.items()]
    concrete["ports"] = [_port(port, publish_auto=template.publish_auto) for port in container.get("ports", [])]
    return concrete


def _fill_commands(container: dict[str, Any], env: Iterable[Mapping[str, Any]]) -> None:
    """Fill the commands of probes and hooks, with variables whose values stand in the manifest (Kubernetes' rule)."""
    written: dict[str, Value] = {item["name"]: item.get("value", "") for item in env if "valueFrom" not in item}

    def filled(handler: dict[str, Any]) -> dict[str, Any]:
        if "exec" not in handler:
            return handler
        words = [_revealed(_filled(word, written)) for word in handler["exec"].get("command", [])]
        return {**handler, "exec": {"command": words}}

    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if name in container:
            container[name] = filled(container[name])
    if "preStop" in container.get("lifecycle", {}):
        container["lifecycle"] = {"preStop": filled(container["lifecycle"]["preStop"])}


def _port(port: Mapping[str, Any], *, publish_auto: bool) -> dict[str, Any]:
    concrete = {"protocol": "TCP", **port}
    if publish_auto:
        concrete.setdefault("hostPort", 0)
    return concrete


def _environment(container: Mapping[str, Any], template: Template, identity: ReplicaIdentity) -> dict[str, Value]:
    """All variables in order: `envFrom`, then `env`, later ones winning; keys that name no variable are left out, as
    in Kubernetes."""
    env: dict[str, Value] = {}
    for source in container.get("envFrom", []):
        prefix = source.get("prefix", "")
        if "configMapRef" in source:
            content = template.config_maps.get(source["configMapRef"]["name"], {})
            found: dict[str, Value] = {prefix + key: value.decode() for key, value in content.items()}
        else:
            content = template.secrets.get(source["secretRef"]["name"], {})
            found = {prefix + key: SecretText(value.decode()) for key, value in content.items()}
        env.update({key: found[key] for key in sorted(found) if not env_name(key)})
    for item in container.get("env", []):
        value = _variable(item, template, identity, env)
        if value is not None:
            env[item["name"]] = value
        _bound(env)
    return env


def _bound(env: Mapping[str, Value]) -> None:
    if sum(len(name) + len(value) for name, value in env.items()) > ENV_BYTES_MAX:
        raise InvalidInput(
            f"the variables of a container have more than {ENV_BYTES_MAX} characters",
            hint="check variables that repeat each other with $(NAME)",
        )


def _variable(
    item: Mapping[str, Any], template: Template, identity: ReplicaIdentity, env: Mapping[str, Value]
) -> Value | None:
    source = item.get("valueFrom")
    if not source:
        return _filled(item.get("value", ""), env)
    if "configMapKeyRef" in source:
        raw = template.config_maps.get(source["configMapKeyRef"]["name"], {}).get(source["configMapKeyRef"]["key"])
        return None if raw is None else raw.decode()
    if "secretKeyRef" in source:
        raw = template.secrets.get(source["secretKeyRef"]["name"], {}).get(source["secretKeyRef"]["key"])
        return None if raw is None else SecretText(raw.decode())
    return _field(source["fieldRef"]["fieldPath"], template, identity)


def _field(path: str, template: Template, identity: ReplicaIdentity) -> str:
    fields: dict[str, str] = {
        "metadata.name": identity.pod_name,
        "metadata.namespace": identity.namespace,
        "metadata.uid": identity.uid,
        "spec.nodeName": identity.node_name,
    }
    if path in fields:
        return fields[path]
    match = KEYED_FIELD.fullmatch(path)
    if match is None:
        return ""
    group = template.labels if match[1] == "labels" else template.annotations
    return group.get(match[2], "")


def _filled(text: str, env: Mapping[str, Value]) -> Value:
    """`$(NAME)` replaced by variables defined before, `$$` by `$`, unknown ones left (Kubernetes' rule).

    Text that takes in a secret is secret."""
    secret = False

    def replace(match: re.Match[str]) -> str:
        nonlocal secret
        if match[1] == "$":
            return "$"
        value = env.get(match[1][1:-1])
        if value is None:
            return match[0]
        if isinstance(value, SecretText):
            secret = True
            return value.reveal()
        return str(value)

    filled = _REFERENCE.sub(replace, text)
    return SecretText(filled) if secret else filled


def _revealed(value: Value) -> str:
    """A word of a command line, which the started program shows to its machine anyway."""
    return value.reveal() if isinstance(value, SecretText) else value


def _volume(volume: Mapping[str, Any]) -> dict[str, Any]:
    """A volume for the runtime: the files of ConfigMaps and Secrets come beside it, what has no source is empty."""
    return {"name": volume["name"], "emptyDir": dict(volume.get("emptyDir", {}))}


def _files(volume: Mapping[str, Any], template: Template) -> MountedFiles | None:
    for source, name, group in (
        ("configMap", "name", template.config_maps),
        ("secret", "secretName", template.secrets),
    ):
        if source in volume:
            used = volume[source]
            content = group.get(used[name], {})
            files = _placed(used.get("items"), content)
            return MountedFiles(volume["name"], files, used.get("defaultMode", DEFAULT_FILE_MODE))
    return None


def _placed(items: list[dict[str, Any]] | None, content: Mapping[str, bytes]) -> dict[str, SecretBytes]:
    """Each key as a file of its name, or just the listed keys at the listed paths."""
    if not items:
        return {key: SecretBytes(value) for key, value in content.items()}
    return {item["path"]: SecretBytes(content[item["key"]]) for item in items if item["key"] in content}
