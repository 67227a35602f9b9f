"""Records of the DHT: small, signed, typed, transient; who may write which, and when two of them are compared.

A record says something about its writer alone: that it is there, that it keeps a manifest or a share, that it runs a
replica. So records of one key stand side by side, one of each writer, the highest (epoch, seq) of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from beemesh.errors import Untrusted
from beemesh.identity.signing import Signed, Verifier, check_statement, decode_body
from beemesh.ids import to_text

RECORD_KIND = "record"

RECORD_BYTES_MAX = 1_024
"""An encoded record: it names things, it does not hold them."""

TTL_MS_MIN, TTL_MS_MAX = 5_000, 2 * 3_600_000
"""Shorter ones are noise; longer ones would outlive what they tell of by too much."""

AHEAD_MS_MAX = 30_000
"""How far a writer's clock may run before ours, as for datagrams."""

SUBJECT_CHARS_MAX = 300

RecordType = Literal["presence", "manifest", "share", "runs", "service"]
"""`presence`: the writer is there; `manifest`, `share`: it keeps the ciphertext with that address, or a share of its
key; `runs`: it runs that replica (`<workload id>/<replica>`); `service`: a replica offers it (work plane)."""


MACHINE_RECORDS: frozenset[RecordType] = frozenset({"presence", "manifest", "share", "runs"})
WORK_RECORDS: frozenset[RecordType] = frozenset({"service"})
"""What each plane's DHT holds: neither ever holds anything of the other."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """The signed body. `subject` names what it is about, within its type; `value` is for readers."""

    domain: str
    type: RecordType
    subject: str
    writer: bytes
    epoch: int
    seq: int
    issued_ms: int
    ttl_ms: int
    value: bytes = b""

    @property
    def point(self) -> bytes:
        """Where it lies among the node IDs."""
        return point_of(self.domain, self.type, self.subject)

    @property
    def version(self) -> tuple[int, int]:
        """What decides between two records of one writer."""
        return self.epoch, self.seq


def point_of(domain: str, type: RecordType, subject: str) -> bytes:  # noqa: A002 - the field's name
    """The 32 bytes whose nearest nodes keep records of that subject."""
    return hashlib.sha256(b"beemesh/1/record\0" + "\0".join((domain, type, subject)).encode()).digest()


@dataclass(frozen=True, slots=True)
class Domain:
    """One plane's trust: its name, and the signing key of each writer that it knows. Machine plane and work plane have
    a domain each, and neither knows the other's writers."""

    name: str
    types: frozenset[RecordType]
    key_of: Callable[[bytes], bytes | None]
    """The Ed25519 key of a writer by its ID; None for strangers."""


def open_record(verifier: Verifier, domain: Domain, signed: Signed, wall_ms: int) -> Record:
    """The record inside, if its writer may say that in this domain and it has not expired; raises `Untrusted`."""
    claimed = read_record(signed)
    check_record(verifier, domain, signed, claimed, wall_ms)
    return claimed


def read_record(signed: Signed) -> Record:
    """What `signed` claims, without any check but of its size; raises `Untrusted` when it is no record."""
    if len(signed.body) > RECORD_BYTES_MAX:
        raise Untrusted(f"a record takes {RECORD_BYTES_MAX} bytes at most")
    return decode_body(signed, Record)


def check_record(verifier: Verifier, domain: Domain, signed: Signed, claimed: Record, wall_ms: int) -> None:
    """Raises `Untrusted` unless `claimed`, read from `signed`, is its writer's word, lawful here and not expired."""
    if claimed.domain != domain.name or claimed.type not in domain.types:
        raise Untrusted(f"a record of {claimed.domain}/{claimed.type} does not belong to {domain.name}")
    if claimed.writer != signed.signer:
        raise Untrusted("a record speaks for another than its signer")
    key = domain.key_of(claimed.writer)
    if key is None:
        raise Untrusted(f"nobody of {domain.name} signed this record")
    objection = _objection(claimed, wall_ms)
    if objection:
        raise Untrusted(objection)
    check_statement(verifier, signed, RECORD_KIND, key)


def _objection(record: Record, wall_ms: int) -> str:
    if not 0 < len(record.subject) <= SUBJECT_CHARS_MAX:
        return f"a record's subject has 1 to {SUBJECT_CHARS_MAX} characters"
    if record.type == "presence" and record.subject != to_text(record.writer):
        return "a node tells of its own presence alone"
    if not TTL_MS_MIN <= record.ttl_ms <= TTL_MS_MAX:
        return f"a record lives {TTL_MS_MIN} to {TTL_MS_MAX} ms"
    if record.issued_ms > wall_ms + AHEAD_MS_MAX:
        return "a record comes from the future"
    if left_ms(record, wall_ms) <= 0:
        return "the record has expired"
    return ""


def left_ms(record: Record, wall_ms: int) -> int:
    """How much of its life is left; never more than the whole, whatever its writer's clock says."""
    return min(record.ttl_ms, record.issued_ms + record.ttl_ms - wall_ms)
