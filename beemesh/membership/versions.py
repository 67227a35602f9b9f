"""The version of the protocol that this program speaks, and those that it gets on with.

Each node says its own version in its signed Alive. Messages only grow: fields and types are added, unknown ones are
ignored, and none changes its meaning, so neighbours in version understand each other as they are.
"""

from __future__ import annotations

PROTOCOL_VERSION = 1

APART_MAX = 1
"""A mesh is upgraded machine by machine: the old and the new version live side by side meanwhile."""


def gets_on_with(version: int) -> bool:
    """Whether a node of that version and this one understand each other."""
    return abs(version - PROTOCOL_VERSION) <= APART_MAX
