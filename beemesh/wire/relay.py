"""An API request that another agent must answer: relayed as it came, signature included, and checked there."""

from __future__ import annotations

import msgspec

RELAYED_BODY_BYTES_MAX = 64 * 1024
"""Requests that are relayed ask for something (logs, checks); what is submitted is handled where it arrives."""


class RelayedRequest(msgspec.Struct, frozen=True):
    """Method, target (path with query), headers and body of the original request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


class RelayedHead(msgspec.Struct, frozen=True):
    """First piece of the answer."""

    status: int
    headers: dict[str, str]


class RelayedData(msgspec.Struct, frozen=True):
    """A further piece of the answer's body."""

    data: bytes
