"""What the sections of `node.yaml` are made of: patterns, limits, and how a value is documented."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
"""A DNS label: node and mesh names end up in certificates and in DNS."""

LABEL_KEY_PATTERN = r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"
TAINT_PATTERN = (
    r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
    r"(=[A-Za-z0-9_.-]{0,63})?:(NoSchedule|PreferNoSchedule|NoExecute)$"
)
ENDPOINT_PATTERN = r"^(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):[0-9]{1,5}$"
ABSOLUTE_PATH_PATTERN = r"^(/[A-Za-z0-9._@+:=~-]+)+$"

DEFAULT_GOSSIP_PORT = 7946
DEFAULT_API_PORT = 7947

MAX_LABELS = 64
"""Labels per node: they travel in every membership card."""
MAX_TAINTS = 16
"""Taints per node, for the same reason."""
MAX_SEEDS = 16
"""First addresses to try: a joiner needs one that answers; more only make the file longer."""


def setting(what: str, *, unit: str = "", trade_off: str = "", **bounds: Any) -> msgspec.Meta:
    """The documentation and the bounds of one value; they go into the schema as they stand here."""
    extra = {key: text for key, text in (("x-unit", unit), ("x-trade-off", trade_off)) if text}
    low, high = bounds.get("ge"), bounds.get("le")
    parts = [what]
    if unit:
        parts.append(f"Unit: {unit}.")
    if low is not None and high is not None:
        parts.append(f"Range: {low} to {high}.")
    if trade_off:
        parts.append(f"Trade-off: {trade_off}")
    return msgspec.Meta(description=" ".join(parts), extra_json_schema=extra or None, **bounds)


LabelKey = Annotated[str, msgspec.Meta(pattern=LABEL_KEY_PATTERN)]
LabelValue = Annotated[str, msgspec.Meta(pattern=LABEL_VALUE_PATTERN)]
TaintText = Annotated[str, msgspec.Meta(pattern=TAINT_PATTERN)]
EndpointText = Annotated[str, msgspec.Meta(pattern=ENDPOINT_PATTERN)]
