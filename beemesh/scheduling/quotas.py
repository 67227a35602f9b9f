"""What quotas and priority classes say to a record that is submitted, and to a steward before it starts replicas."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from beemesh.intents.record import Body, Intent, IntentKind, Records, body_of
from beemesh.scheduling.tasks import workload_of
from beemesh.workloads.policies import (
    PriorityClass,
    Quota,
    priority_objection,
    quota_objection,
    replicas_allowed,
)
from beemesh.workloads.record import Workload

QUOTAS = "quota/resourcequota/"
WORKLOADS = "workload/"


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

    @staticmethod
    def concerns(key: str, namespace: str) -> bool:
        """Whether a changed record may leave the workloads of a namespace more or less room."""
        return key.startswith((QUOTAS, WORKLOADS)) and key.split("/")[2:3] == [namespace]

    def _quotas(self, namespace: str) -> list[Quota]:
        return list(self._bodies(f"{QUOTAS}{namespace}/", "quota", Quota))

    def _others(self, workload: Workload) -> Iterator[Workload]:
        for found in self._records(WORKLOADS):
            if found[0].key.split("/")[2:3] != [workload.namespace]:
                continue
            other = workload_of(found)
            if other is not None and other.workload_id != workload.workload_id:
                yield other

    def _bodies(self, prefix: str, kind: IntentKind, body_type: type[Body]) -> Iterator[Body]:
        bodies = (body_of(intent, kind, body_type) for intent, _ in self._records(prefix))
        return (body for body in bodies if body is not None)
