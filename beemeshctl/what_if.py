"""What `beemeshctl simulate` is about: the machines of an inventory, the workloads of manifests; nothing is signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from beemesh.errors import InvalidInput, Problem
from beemesh.identity.membership_card import Membership
from beemesh.ids import node_id_of, to_text
from beemesh.intents.record import IntentKind
from beemesh.settings import NodeSettings
from beemesh.workloads.objects import in_order
from beemesh.workloads.record import Workload
from beemeshctl.bootstrap.rendering import settings_of
from beemeshctl.bootstrap.signing import NodeKeys, card_of
from beemeshctl.inventory.desired import desired_nodes
from beemeshctl.inventory.reader import read_inventory

_NO_KEYS = NodeKeys(to_text(node_id_of(bytes(32))), bytes(32).hex(), bytes(32).hex())


@dataclass(frozen=True, slots=True)
class Draft:
    """One machine as bootstrap would make it, without keys of its own. `groups` are its inventory groups."""

    card: Membership
    settings: NodeSettings
    groups: frozenset[str]


def machines_of(inventory_file: Path) -> list[Draft]:
    """Every host of an inventory; raises `InvalidInput` as `bootstrap` would."""
    inventory = read_inventory(inventory_file)
    drafts = []
    for node in desired_nodes(inventory, inventory.hosts):
        settings = settings_of(node, manager="supervised", seeds=())
        where = node.connection.host if node.connection.kind == "ssh" else "local"
        card = card_of(node, settings, _NO_KEYS, address="", machine=where)
        drafts.append(Draft(card, settings, frozenset(inventory.hosts[node.host].groups) | {node.host}))
    return drafts


@dataclass(frozen=True, slots=True)
class Wanted:
    """What manifests ask of a mesh: `policies` in the order in which they are applied, as (kind, key, body) of their
    records; `ignored` are fields that are not supported yet."""

    workloads: tuple[Workload, ...]
    policies: tuple[tuple[IntentKind, str, msgspec.Struct], ...]
    ignored: tuple[Problem, ...]


def wanted_of(sources: Sequence[str], namespace: str, *, allow_unsupported: bool) -> Wanted:
    """Everything in manifests that a mesh decides by; raises `InvalidInput` as `apply` would. What ConfigMaps and
    Secrets hold is in the workloads that refer to them."""
    from beemesh.workloads.resolve import resolve
    from beemeshctl.applying import draft_of
    from beemeshctl.manifests import read_manifests
    from beemeshctl.policies import POLICIES, Priorities

    manifests = read_manifests(sources, default_namespace=namespace, allow_unsupported=allow_unsupported)
    resolution = resolve(manifests.objects)
    if resolution.problems:
        problems = tuple(manifests.problem(key, finding) for key, finding in resolution.problems)
        raise InvalidInput("these manifests cannot be resolved", problems=problems)
    priorities, policies = Priorities(()), []
    for item in in_order(manifests.objects):
        kind = POLICIES[item.kind]
        body = kind.record(item)
        priorities.note(body)
        policies.append((kind.intent, kind.key(item.key.namespace, item.key.name), body))
    workloads = tuple(draft_of(priorities.ranked(workload)) for workload in resolution.workloads)
    return Wanted(workloads, tuple(policies), manifests.ignored)
