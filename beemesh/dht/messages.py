"""Messages of the record DHT (streams): store a record near its key, and find records and nearer nodes."""

from __future__ import annotations

import msgspec

from beemesh.identity.signing import Signed

FOUND_NODES_MAX = 16
FOUND_RECORDS_MAX = 64
"""Records of one key in one answer: 64 KiB at most, and more writers than one key may have."""


class StoreRecord(msgspec.Struct, frozen=True):
    """Keep this record (a signed `beemesh.dht.records.Record`) of `domain` until it expires."""

    domain: str
    record: Signed


class RecordStored(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica's verdict: kept (`ok`), or why not; `newer` is the record that stands instead."""

    ok: bool
    reason: str = ""
    newer: Signed | None = None


class FindRecords(msgspec.Struct, frozen=True):
    """Ask for the records at `point` (32 bytes) of `domain`, and for the nodes nearest to it."""

    domain: str
    point: bytes


class FoundRecords(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept at the point here, and the IDs of the nearest nodes known here, nearest first."""

    records: tuple[Signed, ...] = ()
    nodes: tuple[bytes, ...] = ()
