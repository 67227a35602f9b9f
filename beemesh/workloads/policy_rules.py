"""ResourceQuota and PriorityClass manifests: what is wrong with one, and its form in the operator's record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from beemesh.workloads.formats import cpu
from beemesh.workloads.objects import Finding, ManifestObject, shown
from beemesh.workloads.policies import (
    PRIORITY_MIN,
    QUOTA_KEYS,
    SYSTEM_PREFIX,
    USER_PRIORITY_MAX,
    PriorityClass,
    Quota,
)
from beemesh.workloads.quantities import mebibytes, millicores, parse_quantity
from beemesh.workloads.schema import did_you_mean

SHORT_KEYS = {"cpu": "requests.cpu", "memory": "requests.memory"}


def quota_findings(body: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with a quota by itself."""
    hard = body.get("spec", {}).get("hard", {})
    known = (*QUOTA_KEYS, *SHORT_KEYS)
    for key, amount in hard.items():
        place = ("spec", "hard", key)
        if key not in known:
            hint = did_you_mean(key, known) or f"{', '.join(known)} are"
            yield Finding(place, f"a quota on {shown(key)} is not supported by beemesh yet", hint, at_key=True)
        elif key.endswith("cpu") and (wrong := cpu(amount)):
            yield Finding(place, f"{key} {shown(amount)} {wrong}")
        elif parse_quantity(amount) < 0:
            yield Finding(place, f"{key} {shown(amount)} must not be negative")
        elif key == "pods" and parse_quantity(amount).denominator != 1:
            yield Finding(place, f"pods {shown(amount)} must be a whole number")
        elif key in SHORT_KEYS and SHORT_KEYS[key] in hard:
            yield Finding(place, f"{key} is short for {SHORT_KEYS[key]}, which is given too", "keep one of the two")


def quota_of(item: ManifestObject, *, created_ms: int = 0, managed_by: str = "") -> Quota:
    """The record of a quota that was checked."""
    hard = {SHORT_KEYS.get(key, key): amount for key, amount in item.body["spec"].get("hard", {}).items()}
    return Quota(
        namespace=item.namespace,
        name=item.name,
        hard={key: _amount(key, amount) for key, amount in sorted(hard.items())},
        labels=item.labels,
        annotations=item.annotations,
        created_ms=created_ms,
        managed_by=managed_by,
    )


def _amount(key: str, amount: Any) -> int:
    if key == "pods":
        return int(parse_quantity(amount))
    return millicores(amount) if key.endswith("cpu") else mebibytes(amount)


def priority_findings(body: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with a priority class by itself."""
    name, value = body["metadata"].get("name", ""), body.get("value", 0)
    if name.startswith(SYSTEM_PREFIX):
        message = f"metadata.name {shown(name)} is reserved: names that begin with {SYSTEM_PREFIX} are the system's"
        yield Finding(("metadata", "name"), message)
    if not PRIORITY_MIN <= value <= USER_PRIORITY_MAX:
        message = f"value {value} must be from {PRIORITY_MIN} to {USER_PRIORITY_MAX}: above are the system's classes"
        yield Finding(("value",), message)


def priority_of(item: ManifestObject, *, created_ms: int = 0, managed_by: str = "") -> PriorityClass:
    """The record of a priority class that was checked."""
    body = item.body
    return PriorityClass(
        name=item.name,
        value=body["value"],
        global_default=body.get("globalDefault", False),
        preempts=body.get("preemptionPolicy", "PreemptLowerPriority") != "Never",
        description=body.get("description", ""),
        labels=item.labels,
        annotations=item.annotations,
        created_ms=created_ms,
        managed_by=managed_by,
    )
