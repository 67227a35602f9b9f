"""What a node tells of itself in the DHT: which records, when each is due, and how fast they may leave."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from beemesh.crypto import Crypto
from beemesh.dht.records import RECORD_KIND, Domain, Record, RecordType, left_ms
from beemesh.effects import Now, Randomness
from beemesh.events import PublishRecord
from beemesh.identity.signing import Signed, decode_body, sign_statement
from beemesh.ids import NodeId
from beemesh.rates import Rates

TTL_MS = 3_600_000
"""Life of what nodes tell of themselves: it changes seldom, and whoever asks a node that has nothing loses 1 ms."""

RENEW = (0.4, 0.6)
"""Share of its life after which a record is published again: half, with jitter."""

RETRY_S = 10.0
"""A record that too few nodes keep, or that was published while this node knew few, is due again after so long, then
twice as long, until it is what it would be anyway."""

PER_S, BURST = 16.0, 32.0
"""Records sent out: a node that starts with thousands of them takes minutes rather than the network."""

TICK_S = 0.5
STALE_MAX = 64
"""Entries of the heap that may mean nothing any more, besides as many as there are records."""
OWN_MAX = 20_000

OwnKey = tuple[RecordType, str]


@dataclass(slots=True)
class Own:
    """One record of ours and when it is to be published (again)."""

    type: RecordType
    subject: str
    value: bytes
    due_s: float
    number: int
    """Counts what was added: the youngest leaves first, so what is new does not wait behind all that a start renews."""
    is_unsure: bool = False
    """Whether others may still keep it fresh, from before this node started."""
    tries: int = 0


class Publisher:
    """Decides which records leave when; whom they reach is not its business."""

    def __init__(self, self_id: NodeId, domain: Domain, crypto: Crypto, randomness: Randomness) -> None:
        self._self_id = self_id
        self._domain = domain
        self._crypto = crypto
        self._randomness = randomness
        self._own: dict[OwnKey, Own] = {}
        self._later: list[tuple[float, int, OwnKey]] = []
        """A heap of (due, number, key). Entries of records that are due at another time by now mean nothing."""
        self._ready: list[tuple[int, OwnKey]] = []
        """A heap of (-number, key): what is due and was not sent out yet."""
        self._added = 0
        self._rates = Rates(PER_S, BURST)
        self._seq = 0

    def __len__(self) -> int:
        return len(self._own)

    def add(self, wish: PublishRecord, at_s: float) -> bool:
        """Publish this from `at_s` on; False when it stands already, or does not belong here."""
        key = (wish.type, wish.subject)
        before = self._own.get(key)
        if wish.type not in self._domain.types or (before is None and len(self._own) >= OWN_MAX):
            return False
        if before is not None and before.value == wish.value:
            return False
        self._added += 1
        own = self._own[key] = Own(wish.type, wish.subject, wish.value, at_s, self._added, wish.is_old)
        self._set_due(own, at_s)
        return True

    def _set_due(self, own: Own, due_s: float) -> None:
        own.due_s = due_s
        heapq.heappush(self._later, (due_s, own.number, (own.type, own.subject)))
        if len(self._later) > 2 * len(self._own) + STALE_MAX:
            self._later = [(each.due_s, each.number, key) for key, each in self._own.items()]
            heapq.heapify(self._later)

    def withdraw(self, key: OwnKey) -> None:
        """Publish it no longer."""
        self._own.pop(key, None)

    def due(self, now: Now) -> Iterator[Own]:
        """Those that leave now; each is due again at half of its life."""
        while self._later and self._later[0][0] <= now.boot_s:
            due_s, number, key = heapq.heappop(self._later)
            if self._stands(number, key, due_s) is not None:
                heapq.heappush(self._ready, (-number, key))
        while self._ready:
            own = self._stands(-self._ready[0][0], self._ready[0][1])
            if own is not None and own.due_s <= now.boot_s:
                if not self._rates.take(self._self_id, now.boot_s):
                    return
                self._set_due(own, now.boot_s + TTL_MS / 1000 * self._randomness.uniform(*RENEW))
                heapq.heappop(self._ready)
                yield own
            else:
                heapq.heappop(self._ready)

    def _stands(self, number: int, key: OwnKey, due_s: float | None = None) -> Own | None:
        """The record that an entry means, unless that changed, or is due at another time by now."""
        own = self._own.get(key)
        return own if own is not None and own.number == number and due_s in (None, own.due_s) else None

    def next_s(self, now: Now) -> float | None:
        """When to look again; None when there is nothing to publish."""
        if self._ready:
            return now.boot_s + TICK_S
        while self._later:
            due_s, number, key = self._later[0]
            if self._stands(number, key, due_s) is not None:
                return max(now.boot_s + TICK_S, due_s)
            heapq.heappop(self._later)
        return None

    def sign(self, own: Own, now: Now) -> tuple[Record, Signed]:
        """The record as it leaves: newer than whatever this node signed before."""
        self._seq = max(self._seq + 1, now.wall_ms)
        record = Record(
            domain=self._domain.name,
            type=own.type,
            subject=own.subject,
            writer=self._self_id,
            epoch=0,
            seq=self._seq,
            issued_ms=now.wall_ms,
            ttl_ms=TTL_MS,
            value=own.value,
        )
        return record, sign_statement(self._crypto, RECORD_KIND, record)

    def left_fresh_s(self, key: OwnKey, signed: Signed, now: Now) -> float:
        """For how long a copy that somebody keeps saves publishing the record: until half of its life is over."""
        own = self._own.get(key)
        record = decode_body(signed, Record)
        if own is None or (record.type, record.subject, record.value) != (*key, own.value):
            return 0.0
        return max(0.0, (left_ms(record, now.wall_ms) - TTL_MS * (1 - RENEW[0])) / 1000)

    def skip(self, key: OwnKey, now: Now, fresh_s: float) -> None:
        """Enough others keep the record for so long: it is due then."""
        own = self._own.get(key)
        if own is not None:
            own.tries = 0
            self._set_due(own, now.boot_s + fresh_s)

    def settled(self, key: OwnKey, now: Now, *, well: bool) -> None:
        """How a publication went: `well` when most of those that should keep it do, and all were known."""
        own = self._own.get(key)
        if own is None:
            return
        if well:
            own.tries = 0
            return
        pause_s = RETRY_S * 2.0 ** min(own.tries, 10) * self._randomness.uniform(0.8, 1.2)
        own.tries += 1
        self._set_due(own, min(own.due_s, now.boot_s + pause_s))
