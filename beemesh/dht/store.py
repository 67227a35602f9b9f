"""What one node keeps of the record DHT: in memory, bounded by writer, by key and in all, until it expires."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from beemesh.dht.messages import FOUND_BYTES_MAX, FOUND_RECORDS_MAX
from beemesh.dht.records import Record, left_ms
from beemesh.effects import Now
from beemesh.identity.signing import Signed

RECORDS_MAX = 50_000
"""Of all writers: some 50 MiB at the very worst. Past it the writer that has most of them makes room, so that nobody's
flood costs another its place."""

PER_WRITER_MAX = 4_000
"""A node that keeps 10,000 manifests spreads their records over all others; no honest one has so many at one place."""

PER_KEY_MAX = 256
"""Writers of one key: more than the holders, custodians or runners that anything has, and than the hostile members that
would take their places in a mesh of a thousand. Who came first stays for as long as it renews."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A record and until when this node keeps it, on its own boot clock."""

    record: Record
    signed: Signed
    until_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a record is kept, else why not, and which one stands instead."""

    ok: bool
    reason: str = ""
    newer: Signed | None = None


class RecordStore:
    """Records by point and writer. Takes only what the caller has verified."""

    def __init__(self) -> None:
        self._by_point: dict[bytes, dict[bytes, Kept]] = {}
        self._by_writer: dict[bytes, set[bytes]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def has(self, point: bytes, signed: Signed, now: Now) -> bool:
        """Whether this very record, which was verified then, is kept: it need not be verified again."""
        kept = self._by_point.get(point, {}).get(signed.signer)
        return kept is not None and kept.signed == signed and kept.until_s > now.boot_s

    def put(self, record: Record, signed: Signed, now: Now) -> Verdict:
        """Keep a record, unless a newer one of its writer stands or a bound is met."""
        point = record.point
        here = self._by_point.get(point, {})
        before = here.get(record.writer)
        if before is not None and before.until_s > now.boot_s:
            if before.record.version > record.version:
                return Verdict(False, "stale", before.signed)
            if before.record.version == record.version and before.signed.body != signed.body:
                return Verdict(False, "another record has that number", before.signed)
        if before is None:
            refusal = self._no_room(here, record.writer)
            if refusal:
                return Verdict(False, refusal)
            self._by_writer.setdefault(record.writer, set()).add(point)
            self._count += 1
        until_s = now.boot_s + left_ms(record, now.wall_ms) / 1000
        self._by_point.setdefault(point, {})[record.writer] = Kept(record, signed, until_s)
        return Verdict(True)

    def _no_room(self, here: dict[bytes, Kept], writer: bytes) -> str:
        if len(here) >= PER_KEY_MAX:
            return f"{PER_KEY_MAX} writers have a record of this key"
        own = len(self._by_writer.get(writer, ()))
        if own >= PER_WRITER_MAX:
            return f"its writer has {PER_WRITER_MAX} records here"
        if self._count >= RECORDS_MAX and not self._made_room(own):
            return f"this node keeps {RECORDS_MAX} records, and no writer has more of them"
        return ""

    def _made_room(self, own: int) -> bool:
        """Drop a record of the writer that has most, the one that ends first; not for one that has as many."""
        writer, points = max(self._by_writer.items(), key=lambda each: (len(each[1]), each[0]))
        if len(points) <= own + 1:
            return False
        self._remove(min(points, key=lambda point: (self._by_point[point][writer].until_s, point)), writer)
        return True

    def at(self, point: bytes, now: Now) -> tuple[Kept, ...]:
        """What stands at a point, by writer."""
        here = self._by_point.get(point, {})
        return tuple(kept for _, kept in sorted(here.items()) if kept.until_s > now.boot_s)

    def shown(self, point: bytes, by: bytes, now: Now) -> tuple[Signed, ...]:
        """What stands at a point, as much of it as an answer of node `by` takes: small ones first, and of those each
        node shows others first, so that nobody hides a record behind many."""
        kept = [each.signed for each in self.at(point, now)]
        if len(kept) > 1:
            kept.sort(key=lambda one: (len(one.body) >> 8, hashlib.sha256(by + one.signer).digest()))
        left, shown = FOUND_BYTES_MAX, list[Signed]()
        for signed in kept[:FOUND_RECORDS_MAX]:
            left -= len(signed.body)
            if left < 0:
                break
            shown.append(signed)
        return tuple(shown)

    def points(self) -> tuple[bytes, ...]:
        """Where something is kept."""
        return tuple(self._by_point)

    def writers(self) -> int:
        """How many have records here."""
        return len(self._by_writer)

    def sweep(self, now: Now) -> int:
        """Forget what has expired; how many that were."""
        gone = [
            (point, writer)
            for point, here in self._by_point.items()
            for writer, kept in here.items()
            if kept.until_s <= now.boot_s
        ]
        for point, writer in gone:
            self._remove(point, writer)
        return len(gone)

    def forget(self, writer: bytes) -> None:
        """The writer was revoked: nothing of it stands."""
        for point in list(self._by_writer.get(writer, ())):
            self._remove(point, writer)

    def _remove(self, point: bytes, writer: bytes) -> None:
        here = self._by_point[point]
        del here[writer]
        if not here:
            del self._by_point[point]
        points = self._by_writer[writer]
        points.discard(point)
        self._count -= 1
        if not points:
            del self._by_writer[writer]
