"""The shapes that manifests take on their way: findings about them, checked objects, and how to name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Path = tuple[str | int, ...]
"""Where in an object: field names and list indices from its root."""

WORKLOAD_KINDS = ("Pod", "Deployment", "DaemonSet", "Job")
CONFIG_KINDS = ("ConfigMap", "Secret")
POLICY_KINDS = ("PriorityClass", "ResourceQuota", "PodDisruptionBudget")
"""In the order in which they are applied."""

CLUSTER_KINDS = ("PriorityClass",)
"""Kinds that belong to no namespace."""


def in_order(objects: Iterable[ManifestObject]) -> list[ManifestObject]:
    """The policies among objects, in the order in which they are applied."""
    return sorted(
        (each for each in objects if each.kind in POLICY_KINDS), key=lambda each: POLICY_KINDS.index(each.kind)
    )


def path_text(path: Path) -> str:
    """A path as people write it: `spec.containers[0].image`; keys with dots or slashes in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and part.replace("_", "").replace("-", "").isalnum():
            text += f".{part}" if text else part
        else:
            text += f"[{shown(part)}]"
    return text or "the object"


SHOWN_CHARS_MAX = 60
"""How much of a wrong value is repeated in a message."""


def shown(value: object) -> str:
    """A value for a message: quoted and cut; never used for values that may be secret."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong in an object. `at_key`: the name of the field is the matter, not its value."""

    path: Path
    message: str
    hint: str = ""
    at_key: bool = False

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Ignored:
    """A field that Kubernetes knows, Beemesh does not act on, and the operator allowed to be left out."""

    path: Path
    reason: str


class ObjectKey(NamedTuple):
    """What names an object on a mesh."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.kind.lower()}/{self.name}{where}"


@dataclass(frozen=True, slots=True)
class ManifestObject:
    """A checked object. `body` holds supported fields only, with no nulls; it is never changed and never shown whole,
    since it may hold secrets."""

    kind: str
    namespace: str
    name: str
    body: Mapping[str, Any] = field(repr=False)
    ignored: tuple[Ignored, ...] = ()

    @property
    def key(self) -> ObjectKey:
        """Kind, namespace and name."""
        return ObjectKey(self.kind, self.namespace, self.name)

    @property
    def labels(self) -> dict[str, str]:
        """The object's own labels."""
        return dict(self.body["metadata"].get("labels") or {})

    @property
    def annotations(self) -> dict[str, str]:
        """The object's own annotations, without what kubectl leaves there for itself."""
        annotations = self.body["metadata"].get("annotations") or {}
        return {name: value for name, value in annotations.items() if name not in CLIENT_ANNOTATIONS}


CLIENT_ANNOTATIONS = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
"""Bookkeeping of clients: dropped, since it repeats the whole manifest in readable form."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to: an object when `findings` is empty."""

    object: ManifestObject | None
    findings: tuple[Finding, ...]
    ignored: tuple[Ignored, ...] = ()
