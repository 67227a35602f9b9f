"""What quotas and priority classes say to a record that is submitted, and to a steward before it starts replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from beemesh.identity.signing import Signed
from beemesh.intents.record import Intent
from beemesh.scheduling.tasks import workload_of
from beemesh.undecodable import UNDECODABLE
from beemesh.workloads.policies import (
    PriorityClass,
    Quota,
    priority_objection,
    quota_objection,
    replicas_allowed,
)
from beemesh.workloads.record import Workload

Records = Callable[[str], Iterable[tuple[Intent, Signed]]]
"""The winning records whose keys begin with a prefix."""

Body = TypeVar("Body", bound=msgspec.Struct)


class Policies:
    """Reads the intent map when it is asked; keeps nothing."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def objection(self, intent: Intent, before: Intent | None) -> str:
        """Why a record may not be taken although its signature holds; empty when it may. `before` is what stands."""
        if intent.kind != "workload":
            return ""
        workload = msgspec.msgpack.decode(intent.body, type=Workload)
        stood = None
        if before is not None and before.kind == "workload":
            stood = msgspec.msgpack.decode(before.body, type=Workload)
        if stood is None or stood.qos != workload.qos:
            against = priority_objection(workload, self._bodies("priority/", "priority", PriorityClass))
            if against:
                return against
        quotas = self._quotas(workload.namespace)
        return quota_objection(workload, stood, self._others(workload), quotas) if quotas else ""

    def allowed(self, workload: Workload) -> tuple[int, str]:
        """How many of a workload's replicas quotas leave it, and why no more."""
        quotas = self._quotas(workload.namespace)
        return replicas_allowed(workload, self._others(workload), quotas) if quotas else (workload.replicas, "")

    def _quotas(self, namespace: str) -> list[Quota]:
        return list(self._bodies(f"quota/resourcequota/{namespace}/", "quota", Quota))

    def _others(self, workload: Workload) -> Iterator[Workload]:
        for found in self._records("workload/"):
            if found[0].key.split("/")[2:3] != [workload.namespace]:
                continue
            other = workload_of(found)
            if other is not None and other.workload_id != workload.workload_id:
                yield other

    def _bodies(self, prefix: str, kind: str, body_type: type[Body]) -> Iterator[Body]:
        for intent, _ in self._records(prefix):
            if intent.kind == kind:
                try:
                    yield msgspec.msgpack.decode(intent.body, type=body_type)
                except UNDECODABLE:
                    continue
