"""What a simulated machine is before the simulation gives it keys: its card, its settings, its size."""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from beemesh.errors import InvalidInput
from beemesh.identity.membership_card import Membership
from beemesh.ids import NodeId
from beemesh.settings import NodeIdentity, NodeSettings

PLACES = ("site", "zone", "org")
"""Fields of a card that a selector may name, besides labels."""

SHOWN_MAX = 12
"""Names that an error lists."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """`card` is a draft: the world fills in mesh, keys, address and times. Selectors may use `groups`."""

    card: Membership
    settings: NodeSettings
    cpu_m: int = 4000
    mem_mb: int = 8192
    storage_mb: int = 100_000
    groups: frozenset[str] = field(default=frozenset())

    @property
    def name(self) -> str:
        """The node's name."""
        return self.card.name


def machine(name: str, settings: dict[str, Any] | None = None, **card: Any) -> MachineSpec:
    """A machine of its own; `settings` are sections of `NodeSettings`, `card` are fields of its membership."""
    draft = Membership(
        mesh="",
        name=name,
        node_id=NodeId(b""),
        sign_key=b"",
        open_key=b"",
        addresses=(),
        gossip_port=7946,
        api_port=7947,
        serial=1,
        signed_at_ms=0,
        not_after_ms=0,
        **{"machine": name, **card},
    )
    return MachineSpec(draft, NodeSettings(mesh="", node=NodeIdentity(name=name), **(settings or {})))


def numbered(count: int, **settings: Any) -> tuple[MachineSpec, ...]:
    """Machines n0, n1, …"""
    return tuple(machine(f"n{index}", settings) for index in range(count))


def choose(
    selector: str, machines: Sequence[MachineSpec], chance: random.Random, *, but: Collection[int] = ()
) -> tuple[int, ...]:
    """The machines that a selector means, as sorted indices; raises `InvalidInput` when it means none.

    `all`, a share such as `30%` of all machines (drawn by `chance` from those that are not in `but`), `site=berlin`
    (or zone, org, or any label), or names, patterns of names and groups with commas between them.
    """
    if selector.endswith("%"):
        return _share(selector, machines, chance, but)
    found: set[int] = set()
    for part in selector.split(","):
        here = {index for index, each in enumerate(machines) if _is_meant(each, part)}
        if not here:
            raise InvalidInput(f"no machine is meant by {part!r}", hint=_known(machines, part))
        found |= here
    return tuple(sorted(found))


def _is_meant(spec: MachineSpec, part: str) -> bool:
    key, equals, value = part.partition("=")
    if equals:
        said = getattr(spec.card, key) if key in PLACES else spec.card.labels.get(key)
        return said == value
    return part == "all" or part in spec.groups or fnmatch.fnmatchcase(spec.name, part)


def percent_of(selector: str) -> float:
    """How much a share says; raises `InvalidInput` when it is none."""
    try:
        percent = float(selector[:-1])
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise InvalidInput(f"{selector!r} is no share of the machines", hint="write a number up to 100%, such as 30%")
    return percent


def _share(
    selector: str, machines: Sequence[MachineSpec], chance: random.Random, but: Collection[int]
) -> tuple[int, ...]:
    count = max(1, round(len(machines) * percent_of(selector) / 100))
    left = [index for index in range(len(machines)) if index not in but]
    return tuple(sorted(chance.sample(left, min(count, len(left)))))


def _known(machines: Sequence[MachineSpec], part: str) -> str:
    key, equals, _ = part.partition("=")
    if equals and key in PLACES:
        known = sorted({getattr(each.card, key) for each in machines} - {""})
    elif equals:
        known = sorted({each.card.labels[key] for each in machines if key in each.card.labels})
    else:
        known = sorted({each.name for each in machines} | {group for each in machines for group in each.groups})
    if not known:
        return f"no machine has the label {key!r}"
    return "there are " + ", ".join(known[:SHOWN_MAX]) + (", …" if len(known) > SHOWN_MAX else "")
