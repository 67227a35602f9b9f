"""Where a replica could run, by what the machines really are and really run: nothing that agents say is asked."""

from __future__ import annotations

import msgspec

from beemesh.intents.record import Cordon, body_of, cordon_key
from beemesh.workloads.policies import Quota
from beemesh.workloads.record import Constraints, Requirements, Workload
from simulator.checkers.reservations import AMOUNTS, may_give
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime

PODS_MAX = 100


def has_room(
    runtime: MockRuntime, machine: Machine, workload: Workload, *, also_cordoned: bool = False, evicting: bool = False
) -> bool:
    """Whether nothing at all speaks against a machine; False where that takes more than a sum. `also_cordoned`: what
    belongs on every machine is not kept away by a cordon. `evicting`: what would have to go for it makes room."""
    card, wants = machine.spec.card, workload.requirements
    plain = msgspec.structs.replace(workload.constraints, node_selector={}) == Constraints()
    if not plain or wants.ports or wants.gpus or card.taints or card.caps.pods or not machine.is_up:
        return False
    if any(card.labels.get(key) != value for key, value in workload.constraints.node_selector.items()):
        return False
    if is_cordoned(machine) and not also_cordoned:
        return False
    limit, used, seen = may_give(machine), runtime.used(machine), runtime.resources(machine)
    goes = runtime.yielding(machine, workload) if evicting and workload.qos.preempts else Requirements()
    fits = all(
        getattr(wants, each) <= getattr(limit, each) - getattr(used, each) + getattr(goes, each) for each in AMOUNTS
    )
    # A pod needs some disk, whatever it asks for.
    storage_mb_free = seen.storage_mb_free + goes.storage_mb - machine.spec.settings.reserve.disk_mb
    measured = wants.mem_mb <= seen.mem_mb_free + goes.mem_mb and max(1, wants.storage_mb) <= storage_mb_free
    return fits and measured and len(machine.pods) < PODS_MAX


def is_cordoned(machine: Machine) -> bool:
    """Whether the machine's own agent holds it cordoned."""
    assert machine.composition is not None, f"n{machine.index} is down"
    found = machine.composition.intents.get(cordon_key(machine.spec.name))
    cordon = body_of(found[0] if found else None, "cordon", Cordon)
    # What was moved away may not come back for a while.
    return cordon is not None and (cordon.cordoned or bool(cordon.moves))


def is_over_quota(machine: Machine) -> bool:
    """Whether all that the machine's agent holds for wanted is more than a quota that it knows of."""
    assert machine.composition is not None, f"n{machine.index} is down"
    intents = machine.composition.intents
    bodies = (body_of(intent, "workload", Workload) for intent, _ in intents.items("workload/"))
    pods = sum(workload.replicas for workload in bodies if workload is not None)
    quotas = (body_of(intent, "quota", Quota) for intent, _ in intents.items("quota/"))
    return any(pods > quota.hard["pods"] for quota in quotas if quota is not None)
