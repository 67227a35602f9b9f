"""Messages of the record DHT (datagrams where they fit, else streams): store a record near its key, find records and
nearer nodes; and the form in which such questions and answers travel in datagrams."""

from __future__ import annotations

import msgspec

from beemesh.identity.signing import Signed

FOUND_NODES_MAX = 16
FOUND_RECORDS_MAX = 256
"""Records of one key in one answer: as many as a key may have writers."""

FOUND_BYTES_MAX = 65_536
"""Bodies of records in one answer: all that hundreds of honest writers say of one thing."""


class StoreRecord(msgspec.Struct, frozen=True):
    """Keep this record (a signed `beemesh.dht.records.Record`) of `domain` until it expires."""

    domain: str
    record: Signed


class RecordStored(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica's verdict: kept (`ok`), or why not; `newer` is the record that stands instead."""

    ok: bool
    reason: str = ""
    newer: Signed | None = None


class FindRecords(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ask for the records at `point` (32 bytes) of `domain`; with `nodes` for the nodes around it as well."""

    domain: str
    point: bytes
    roster: bytes = b""
    """The asker's `Roster.digest`: whoever knows another roster names nodes unasked, with their cards."""
    nodes: bool = False


class FoundRecords(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept at the point here, and the IDs of nodes known here that would keep it, best first."""

    records: tuple[Signed, ...] = ()
    nodes: tuple[bytes, ...] = ()
    cards: tuple[Signed, ...] = ()
    """Membership records of `nodes`, for an asker that may not know them."""


class Question(msgspec.Struct, frozen=True, array_like=True):
    """A request in a datagram: a message by its type's number and its body. Asked again under the same `number` it is
    the same question, so only requests that may be handled twice are put so (`beemesh.wire.questions`)."""

    number: int
    code: int
    body: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The answer to the question of that number; `code` 0 says that it takes a stream."""

    number: int
    code: int = 0
    body: bytes = b""
