"""All targets by name."""

from __future__ import annotations

from tests.fuzz import targets_agent, targets_files, targets_node, targets_wire
from tests.fuzz.target import Target

_ALL = (*targets_wire.TARGETS, *targets_node.TARGETS, *targets_files.TARGETS, *targets_agent.TARGETS)
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}
