"""Writes the JSON Schemas from the code that enforces them: `python -m schemas.generate`; a test compares the two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def _inventory() -> dict[str, Any]:
    from beemeshctl.inventory.schema import inventory_schema

    return inventory_schema()


def _node() -> dict[str, Any]:
    from beemesh.settings import json_schema

    return json_schema()


def _messages() -> dict[str, Any]:
    import msgspec

    from beemesh.wire.registry import TYPES

    heads, components = msgspec.json.schema_components(TYPES.values(), ref_template="#/$defs/{name}")
    numbered = [
        {"title": TYPES[code].__name__, "x-number": code, **head} for code, head in zip(TYPES, heads, strict=True)
    ]
    return {
        "$schema": DRAFT,
        "title": "Messages between nodes",
        "description": "One of these, in MessagePack, behind the number of its type; bytes are raw there.",
        "oneOf": numbered,
        "$defs": dict(sorted(components.items())),
    }


def _statements() -> dict[str, Any]:
    import msgspec

    from schemas.statements import BODIES

    heads, components = msgspec.json.schema_components(BODIES.values(), ref_template="#/$defs/{name}")
    by_kind = [
        {"title": body.__name__, "x-kind": kind, **head}
        for (kind, body), head in zip(BODIES.items(), heads, strict=True)
    ]
    return {
        "$schema": DRAFT,
        "title": "What nodes, operators and the mesh CA sign",
        "description": "One of these, in MessagePack, is the body of a signed statement of its kind, or the body inside"
        " an intent (`intent/<its kind>`); bytes are raw there, and fields that are not known are ignored.",
        "anyOf": by_kind,
        "$defs": dict(sorted(components.items())),
    }


def _explanation() -> dict[str, Any]:
    import msgspec

    from beemesh.scheduling.explanation import Explanation

    title = "What `beemeshctl explain -o json` prints for one task"
    return {"$schema": DRAFT, **msgspec.json.schema(Explanation), "title": title}


def _drain() -> dict[str, Any]:
    import msgspec

    from beemesh.scheduling.stewardship.drain_plan import DrainReport

    title = "What `beemeshctl node drain -o json` prints"
    return {"$schema": DRAFT, **msgspec.json.schema(DrainReport), "title": title}


def _rebalance() -> dict[str, Any]:
    import msgspec

    from beemesh.scheduling.stewardship.rebalance import Proposal

    title = "What `beemeshctl rebalance -o json` prints"
    return {"$schema": DRAFT, **msgspec.json.schema(Proposal), "title": title}


def _rollout_status() -> dict[str, Any]:
    from beemesh.workloads.rollout_report import RolloutReport

    return _list_of(RolloutReport, "What `beemeshctl rollout status -o json` prints")


def _rollout_history() -> dict[str, Any]:
    from beemesh.workloads.rollout_report import History

    return _list_of(History, "What `beemeshctl rollout history -o json` prints")


def _list_of(item: type[Any], title: str) -> dict[str, Any]:
    """A `List` of these."""
    import msgspec

    (head,), components = msgspec.json.schema_components([item], ref_template="#/$defs/{name}")
    properties = {"kind": {"const": "List"}, "items": {"type": "array", "items": head}}
    shape = {"type": "object", "properties": properties, "required": ["kind", "items"]}
    return {"$schema": DRAFT, "title": title, **shape, "$defs": dict(sorted(components.items()))}


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "drain.schema.json": _drain,
    "explanation.schema.json": _explanation,
    "inventory.schema.json": _inventory,
    "messages.schema.json": _messages,
    "node.schema.json": _node,
    "rebalance.schema.json": _rebalance,
    "rollout-history.schema.json": _rollout_history,
    "rollout-status.schema.json": _rollout_status,
    "statements.schema.json": _statements,
}
"""Every generated file and what makes it."""


def text_of(name: str) -> str:
    """The exact text of one schema file."""
    return json.dumps(SCHEMAS[name](), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write them all beside this file."""
    for name in SCHEMAS:
        (Path(__file__).parent / name).write_text(text_of(name), encoding="utf-8")


if __name__ == "__main__":
    main()
