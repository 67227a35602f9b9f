"""Writes the JSON Schemas from the code that enforces them: `python -m schemas.generate`; a test compares the two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _inventory() -> dict[str, Any]:
    from beemeshctl.inventory.schema import inventory_schema

    return inventory_schema()


def _node() -> dict[str, Any]:
    from beemesh.settings import json_schema

    return json_schema()


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "inventory.schema.json": _inventory,
    "node.schema.json": _node,
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
