"""Reading who runs what from whichever agent answers, for commands that plan moves."""

from __future__ import annotations

from typing import Any

import msgspec

from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed, decode_body
from beemesh.intents.record import Cordon, Intent
from beemesh.scheduling.stewardship.layout import Host, Layout, Pod
from beemesh.workloads.budgets import Budget
from beemesh.workloads.record import Workload
from beemeshctl.client import Client, items_of


def read_layout(client: Client) -> Layout:
    """The picture as the answering agent has it now."""
    roster, states = client.roster()
    bodies = {kind: _bodies(client.records(kind=kind), body) for kind, body in _KINDS.items()}
    cordoned = {cordon.node for cordon in bodies["cordon"] if cordon.cordoned}
    rooms = {str(item["metadata"]["name"]): item["status"] for item in items_of(client.get("/api/v1/nodes"))}
    hosts = {
        card.name: _host(card, states.get(bytes(card.node_id), ""), card.name in cordoned, rooms.get(card.name, {}))
        for card in roster.members()
    }
    pods = [pod for item in items_of(client.get("/api/v1/pods")) if (pod := _pod(item)) and pod.node in hosts]
    workloads = {each.workload_id: each for each in bodies["workload"]}
    return Layout(hosts, pods, workloads, tuple(bodies["budget"]))


_KINDS: dict[str, type[Any]] = {"workload": Workload, "budget": Budget, "cordon": Cordon}


def _bodies(records: dict[str, Signed], body: type[Any]) -> list[Any]:
    return [msgspec.msgpack.decode(decode_body(signed, Intent).body, type=body) for signed in records.values()]


def _host(card: Membership, state: str, cordoned: bool, status: dict[str, Any]) -> Host:
    capacity, free = status.get("capacity", {}), status.get("free", {})
    return Host(
        card=card,
        alive=state in ("alive", "suspect"),
        cordoned=cordoned,
        cpu_m=_amount(capacity, "cpu"),
        mem_mb=_amount(capacity, "memory"),
        storage_mb=_amount(capacity, "ephemeral-storage"),
        free_mem_mb=_amount(free, "memory"),
        free_storage_mb=_amount(free, "ephemeral-storage"),
    )


def _amount(amounts: dict[str, Any], name: str) -> int:
    """Thousandths of a core, or MiB: the units that agents write."""
    digits = str(amounts.get(name, "0")).removesuffix("Mi").removesuffix("m")
    return int(digits) if digits.isdecimal() else 0


def _pod(item: dict[str, Any]) -> Pod | None:
    """A pod that is on a node and not at its end."""
    metadata, status = item["metadata"], item["status"]
    node = item["spec"].get("nodeName", "")
    if not node or status.get("phase") in ("Succeeded", "Failed"):
        return None
    labels = metadata.get("labels", {})
    conditions = status.get("conditions", [])
    return Pod(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        workload_id=metadata.get("annotations", {}).get("beemesh.io/workload-id", ""),
        replica=int(labels.get("beemesh.io/replica", "0")),
        revision=int(labels.get("beemesh.io/revision", "0")),
        node=node,
        ready=any(each["type"] == "Ready" and each["status"] == "True" for each in conditions),
        leaving=status.get("reason") == "Terminating",
        message=str(status.get("message", "")),
    )
