"""`node.yaml`: everything a person may set on one machine, each value with its unit, range, default and trade-off.

The structs are the one truth: `schemas/node.schema.json` is generated from them, the inventory's `beemesh_*` variables
take their ranges and documentation from them, and an agent reads its configuration through `decode`.
"""

from __future__ import annotations

from beemesh.settings.fields import (
    ABSOLUTE_PATH_PATTERN,
    DEFAULT_API_PORT,
    DEFAULT_GOSSIP_PORT,
    ENDPOINT_PATTERN,
    LABEL_KEY_PATTERN,
    LABEL_VALUE_PATTERN,
    MAX_LABELS,
    MAX_SEEDS,
    MAX_TAINTS,
    NAME_PATTERN,
    TAINT_PATTERN,
)
from beemesh.settings.model import (
    Admission,
    Custody,
    Listen,
    Log,
    Membership,
    NodeIdentity,
    NodeSettings,
    Overcommit,
    Paths,
    Policies,
    Reserve,
    Runtime,
    Scheduler,
    Service,
    Weights,
)
from beemesh.settings.reading import (
    Endpoint,
    contradictions,
    decode,
    field_of,
    is_nested_too_deeply,
    json_schema,
    parse_endpoint,
    section_schema,
)

__all__ = [
    "ABSOLUTE_PATH_PATTERN",
    "DEFAULT_API_PORT",
    "DEFAULT_GOSSIP_PORT",
    "ENDPOINT_PATTERN",
    "LABEL_KEY_PATTERN",
    "LABEL_VALUE_PATTERN",
    "MAX_LABELS",
    "MAX_SEEDS",
    "MAX_TAINTS",
    "NAME_PATTERN",
    "TAINT_PATTERN",
    "Admission",
    "Custody",
    "Endpoint",
    "Listen",
    "Log",
    "Membership",
    "NodeIdentity",
    "NodeSettings",
    "Overcommit",
    "Paths",
    "Policies",
    "Reserve",
    "Runtime",
    "Scheduler",
    "Service",
    "Weights",
    "contradictions",
    "decode",
    "field_of",
    "is_nested_too_deeply",
    "json_schema",
    "parse_endpoint",
    "section_schema",
]
