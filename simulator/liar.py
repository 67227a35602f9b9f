"""A member whose answers are lies: it is silent, denies, boasts, garbles, or says again what it said to others.

Its machine's agent does what it is asked; only what leaves the machine is another thing. Two lies are left out, for
DESIGN section 5 rests on a majority of replicas whose word holds: to grant one lease to two, and to say that something
is saved which is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from beemesh.crypto import Crypto
from beemesh.custody.messages import FetchManifest, ManifestAnswer, ReleaseAnswer, ReleaseRequest, Stored, StoreShare
from beemesh.dht.messages import Answer, FindRecords, FoundRecords, RecordStored, StoreRecord
from beemesh.identity.membership_card import GossipRing
from beemesh.identity.signing import Signed, decode_body, sign_statement
from beemesh.ids import NodeId
from beemesh.intents.messages import (
    FetchIntents,
    FetchMembers,
    IntentDigests,
    IntentEntry,
    IntentRecords,
    IntentsAck,
    PushIntents,
    SyncIntents,
)
from beemesh.intents.record import IntentVersion
from beemesh.membership.messages import PushPull, PushPullAnswer
from beemesh.scheduling.leases import sign_lease
from beemesh.scheduling.messages import (
    VERDICT_KIND,
    CasAnswer,
    CompareAndSwap,
    GetLease,
    Lease,
    LeaseAnswer,
    Verdict,
)
from beemesh.wire.datagram import cipher_of, open_envelope, read_header
from beemesh.wire.registry import CODES, decode_message, encode_message

HIGHEST = (2**63 - 1, 2**64 - 1, 2**62, 2**32)
"""Numbers at which somebody else's arithmetic ends."""

RECORDS: tuple[type[msgspec.Struct], ...] = (FindRecords, StoreRecord)
"""What those ask who use the DHT."""

QUESTIONS: tuple[type[msgspec.Struct], ...] = (
    *RECORDS, CompareAndSwap, GetLease, PushPull, SyncIntents, FetchIntents, FetchMembers, PushIntents, FetchManifest,
    ReleaseRequest, StoreShare,
)  # fmt: skip
"""What one lies about; everything else is answered as it should be."""

SAVING: tuple[type[msgspec.Struct], ...] = (PushIntents, StoreShare)
"""Of these, what asks to save: a garbled or repeated answer could be the false word that is left out."""

SAID_MAX = 64

Lie = Callable[[msgspec.Struct, msgspec.Struct], msgspec.Struct | None]


class Liar:
    """What becomes of a machine's answers. Give it to `World.liars`."""

    def __init__(self, crypto: Crypto, ring: GossipRing, seed: int) -> None:
        """It lies about some questions, in a way of its own about each."""
        self._crypto = crypto
        self._ring = ring
        self._chance = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        modest: tuple[Lie, ...] = (self._nothing, self._denial)
        ways: tuple[Lie, ...] = (*modest, self._boast, self._garbled, self._said_before)
        some = self._chance.sample(QUESTIONS, self._chance.randint(1, len(QUESTIONS)))
        self.lies: dict[type[msgspec.Struct], Lie] = {
            kind: self._chance.choice(modest if kind in SAVING else ways) for kind in some
        }
        self._said: list[msgspec.Struct] = []
        self._fellows: tuple[NodeId, ...] = ()

    def crowd(self, fellows: Sequence[NodeId]) -> None:
        """From now on it lies about records alone: there are none, and nobody else is near than its fellows."""
        self._fellows = tuple(fellows)
        self.lies = dict.fromkeys(RECORDS, self._denial)

    def answer(self, question: msgspec.Struct, answer: msgspec.Struct) -> msgspec.Struct | None:
        """What the asker gets instead; None: nothing at all."""
        lie = self.lies.get(type(question))
        told = lie(question, answer) if lie is not None else answer
        if len(self._said) < SAID_MAX:
            self._said.append(answer)
        return told

    def lets_pass(self, data: bytes) -> bool:
        """Whether a datagram leaves the machine: answers in datagrams to what it lies about do not, so that the asker
        opens a stream and gets the lie there."""
        header = read_header(data)
        key = next((key.key for key in self._ring.keys if header is not None and key.epoch == header.epoch), None)
        if header is None or key is None:
            return True
        envelope = open_envelope(cipher_of(self._crypto, key, header), header, data)
        message = decode_message(envelope.type_code, envelope.body) if envelope is not None else None
        kinds = {CODES[FoundRecords]: FindRecords, CODES[RecordStored]: StoreRecord}
        return not isinstance(message, Answer) or kinds.get(message.code) not in self.lies

    # --- its ways -------------------------------------------------------------------------------------------------

    def _nothing(self, question: msgspec.Struct, answer: msgspec.Struct) -> None:
        return None

    def _denial(self, question: msgspec.Struct, answer: msgspec.Struct) -> msgspec.Struct | None:
        """There is nothing here, and nothing may be put here."""
        match question, answer:
            case FindRecords(), FoundRecords():
                nodes = self._fellows if answer.nodes and self._fellows else answer.nodes
                return msgspec.structs.replace(answer, records=(), nodes=nodes)
            case GetLease(key=key), _:
                return LeaseAnswer(key, None, 0)
            case FetchManifest(manifest=manifest), _:
                return ManifestAnswer(manifest)
            case CompareAndSwap(), CasAnswer():
                return self._verdict(answer, outcome="refused", reason="it would do harm")
        empty: dict[type, msgspec.Struct] = {
            StoreRecord: RecordStored(ok=False, reason="full"),
            PushPull: PushPullAnswer(),
            SyncIntents: IntentDigests(),
            FetchIntents: IntentRecords(()),
            FetchMembers: IntentRecords(()),
            PushIntents: IntentsAck((), ("full",)),
            ReleaseRequest: ReleaseAnswer(released=False, reason="unknown_manifest"),
            StoreShare: Stored(ok=False, reason="full"),
        }
        return empty.get(type(question))

    def _boast(self, question: msgspec.Struct, answer: msgspec.Struct) -> msgspec.Struct | None:
        """Something is known here that is far ahead of what everybody else knows."""
        high = self._chance.choice(HIGHEST)
        match answer:
            case LeaseAnswer(key=key):
                return LeaseAnswer(key, self._lease(key, high), high, high)
            case CasAnswer():
                standing = self._lease(decode_body(answer.verdict, Verdict).key, high)
                told = self._verdict(answer, outcome="conflict", fence_seen=high, ttl_ms=high)
                return CasAnswer(told.verdict, standing)
            case IntentDigests(entries=entries):
                ahead = (msgspec.structs.replace(each, version=self._ahead(each, high)) for each in entries)
                return msgspec.structs.replace(answer, entries=tuple(ahead))
            case PushPullAnswer():
                return msgspec.structs.replace(answer, wanted=tuple(self._chance.randbytes(32) for _ in range(8)))
        return self._garbled(question, answer)

    def _garbled(self, question: msgspec.Struct, answer: msgspec.Struct) -> msgspec.Struct | None:
        """One byte is another, if that can still be read."""
        code, body = encode_message(answer)
        place = self._chance.randrange(len(body))
        return decode_message(code, body[:place] + bytes([body[place] ^ 1 << place % 8]) + body[place + 1 :])

    def _said_before(self, question: msgspec.Struct, answer: msgspec.Struct) -> msgspec.Struct | None:
        """An answer to somebody else, often to another question."""
        return self._chance.choice(self._said) if self._said else None

    # --- its means ------------------------------------------------------------------------------------------------

    def _verdict(self, answer: CasAnswer, **changes: Any) -> CasAnswer:
        verdict = msgspec.structs.replace(decode_body(answer.verdict, Verdict), **changes)
        return CasAnswer(sign_statement(self._crypto, VERDICT_KIND, verdict))

    def _lease(self, key: str, high: int) -> Signed:
        """One that it signed for itself."""
        return sign_lease(self._crypto, Lease(key, NodeId(self._crypto.signer_id), "", high, high, high, bytes(8)))

    def _ahead(self, entry: IntentEntry, high: int) -> IntentVersion:
        return msgspec.structs.replace(entry.version, seq=high)
