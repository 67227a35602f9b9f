"""How a workload's pods are replaced: from Kubernetes' fields to counts, and again when the number of replicas changes.

Percentages follow Kubernetes: surge rounds up, unavailable rounds down, and never are both 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from beemesh.workloads.record import PROGRESS_DEADLINE_S, Strategy

DEFAULT_PERCENT = "25%"
"""Surge and unavailable of a Deployment that says neither (Kubernetes)."""

Json = Mapping[str, Any]


def strategy_of(kind: str, spec: Json, replicas: int, rollback: Literal["auto", "never"] = "auto") -> Strategy:
    """The strategy of a checked object of `kind` with that `spec`."""
    if kind == "DaemonSet":
        return _of_daemons(spec, rollback)
    if kind != "Deployment":
        return Strategy("Recreate", 0, 1, rollback="never")
    more = {
        "min_ready_s": spec.get("minReadySeconds", 0),
        "progress_deadline_s": spec.get("progressDeadlineSeconds", PROGRESS_DEADLINE_S),
        "paused": spec.get("paused", False),
        "rollback": rollback,
    }
    strategy = spec.get("strategy", {})
    if strategy.get("type") == "Recreate":
        return Strategy("Recreate", 0, max(1, replicas), **more)
    rolling = strategy.get("rollingUpdate", {})
    surge, surge_percent = _amount(rolling.get("maxSurge", DEFAULT_PERCENT))
    unavailable, unavailable_percent = _amount(rolling.get("maxUnavailable", DEFAULT_PERCENT))
    counts = (surge, unavailable, surge_percent, unavailable_percent)
    return for_replicas(Strategy("RollingUpdate", *counts, **more), replicas)


def for_replicas(strategy: Strategy, replicas: int) -> Strategy:
    """The same strategy for another number of replicas."""
    if strategy.type == "Recreate":
        return msgspec.structs.replace(strategy, max_unavailable=max(1, replicas))
    surge, unavailable = strategy.max_surge, strategy.max_unavailable
    if strategy.surge_percent:
        surge = math.ceil(replicas * strategy.surge_percent / 100)
    if strategy.unavailable_percent:
        unavailable = math.floor(replicas * strategy.unavailable_percent / 100)
    return msgspec.structs.replace(
        strategy, max_surge=surge, max_unavailable=unavailable or int(surge == 0 and replicas > 0)
    )


def _of_daemons(spec: Json, rollback: Literal["auto", "never"]) -> Strategy:
    """One node after the other where a DaemonSet says nothing (Kubernetes)."""
    rolling = spec.get("updateStrategy", {}).get("rollingUpdate", {})
    surge, surge_percent = _amount(rolling.get("maxSurge", 0))
    unavailable, unavailable_percent = _amount(rolling.get("maxUnavailable", 1))
    counts = (surge, unavailable, surge_percent, unavailable_percent)
    return Strategy("RollingUpdate", *counts, min_ready_s=spec.get("minReadySeconds", 0), rollback=rollback)


def for_nodes(strategy: Strategy, nodes: int) -> Strategy:
    """A DaemonSet's strategy for so many nodes: both percentages round up (Kubernetes)."""
    surge, unavailable = strategy.max_surge, strategy.max_unavailable
    if strategy.surge_percent:
        surge = math.ceil(nodes * strategy.surge_percent / 100)
    if strategy.unavailable_percent:
        unavailable = math.ceil(nodes * strategy.unavailable_percent / 100)
    return msgspec.structs.replace(strategy, max_surge=surge, max_unavailable=unavailable or int(surge == 0))


def _amount(value: int | str) -> tuple[int, int]:
    """(count, percent) of a number or of a text such as `25%`."""
    return (value, 0) if isinstance(value, int) else (0, int(value[:-1]))
