"""The intent map: the signed records that win, kept on disk by every node.

Highest `(epoch, seq)` wins a key, ties by record hash, whatever the order in which records arrive. A record is saved
before anybody is told of it.

A record may come before the revocation of who signed it, although it was signed after that. Then it goes when the
revocation comes, and what stands is again what nodes hold that heard of the revocation first. The record that it took
the place of comes back by comparison from whoever still has it, and is news like any other change. Until then nothing
stands at the key, and what the record wanted goes on: a workload must not stop because its record changes hands. When
`COMPARISONS_AWAITED` brought no older one, the key is told as removed: what a thief wanted after its key was revoked
ends, a workload as if it had been deleted. That is also so where the thief changed a workload of somebody else and the
change had come to every node: an image of the thief's choice must not run on with nobody who answers for it. Its owner
applies it again; an older record that turns up later stands as well.
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from beemesh.effects import Effects, Erase, Notify, Now, Save
from beemesh.errors import Forged, Untrusted
from beemesh.events import IntentChanged, IntentLost, Observed
from beemesh.identity.grants import Revocation
from beemesh.identity.signing import Signed, Verifier, decode_body
from beemesh.intents.entitlement import check_head, check_key, is_disowned, verify_intent
from beemesh.intents.messages import BUCKETS, IntentEntry
from beemesh.intents.record import CA_KINDS, SIGNED_KIND, Intent, IntentVersion, version_of
from beemesh.membership.roster import Roster
from beemesh.undecodable import UNDECODABLE

TABLE = "intents"

RECORDS_MAX = 50_000
"""Keys: five times the largest mesh's worth; past it new keys are refused and old ones still change."""

AUTHOR_RECORDS_MAX = 20_000
"""Keys of one operator: twice the largest mesh's worth, so that one stolen key cannot fill the map for all."""

TOMBSTONE_KEPT_MS = 90 * 86_400_000
"""How long a removal is remembered; a node that was silent for longer drops its records on return."""

COMPARISONS_AWAITED = 10
"""Comparisons with others, five minutes of them, in which the key of a record that a revocation took away waits for an
older one."""

REMOVALS_TOLD_MAX = 500
"""Of one call: all protocols of this node hear of each, and a thief may have signed thousands."""

HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of a record: whether it stands now (also when it did before), why not, and what is to be done."""

    stands: bool
    changed: bool
    effects: Effects
    reason: str = ""
    intent: Intent | None = None
    is_forged: bool = False


@dataclass(slots=True)
class _Entry:
    intent: Intent
    signed: Signed
    version: IntentVersion


class _Head(msgspec.Struct, frozen=True):
    """As much of a record as is read before its signature is checked."""

    key: str
    kind: str
    issued_ms: int


class IntentMap:
    """All winning records of one node. Writes the roster with what the CA signed."""

    def __init__(self, verifier: Verifier, roster: Roster) -> None:
        self._verifier = verifier
        self._roster = roster
        self._entries: dict[str, _Entry] = {}
        self._sorted: list[str] = []
        self._of_author: Counter[bytes] = Counter()
        self._disowned: dict[str, tuple[Intent, int]] = {}
        """Records that a revocation took away, and how many comparisons brought nothing in their places yet. They stay
        on disk, so that a restart forgets none. At most as many as one operator may keep, for each that was revoked
        within `COMPARISONS_AWAITED`."""
        self._in_bucket: list[list[str]] = [[] for _ in range(BUCKETS)]
        self._buckets: list[bytes | None] = [None] * BUCKETS

    # --- reading --------------------------------------------------------------------------------------------------

    def get(self, key: str) -> tuple[Intent, Signed] | None:
        """The winning record of a key; a tombstone is one too."""
        entry = self._entries.get(key)
        return (entry.intent, entry.signed) if entry else None

    def items(self, prefix: str = "") -> Iterator[tuple[Intent, Signed]]:
        """All winning records whose key begins with `prefix`, sorted by key."""
        for key in self._keys(prefix):
            entry = self._entries[key]
            yield entry.intent, entry.signed

    def entry(self, key: str) -> IntentEntry | None:
        """A key with the version that stands there."""
        entry = self._entries.get(key)
        return IntentEntry(key, entry.version) if entry else None

    def version(self, key: str) -> IntentVersion | None:
        """The version that stands at a key."""
        entry = self._entries.get(key)
        return entry.version if entry else None

    def __len__(self) -> int:
        return len(self._entries)

    def _keys(self, prefix: str) -> list[str]:
        start = bisect_left(self._sorted, prefix)
        end = bisect_left(self._sorted, prefix + "\U0010ffff")
        return self._sorted[start:end]

    # --- comparing ------------------------------------------------------------------------------------------------

    def bucket_hashes(self) -> tuple[bytes, ...]:
        """One short hash for each part of the key space: equal maps have equal hashes."""
        for index, known in enumerate(self._buckets):
            if known is None:
                digest = hashlib.sha256()
                for key in self._in_bucket[index]:
                    digest.update(key.encode() + self._entries[key].version.digest)
                self._buckets[index] = digest.digest()[:HASH_BYTES]
        return tuple(known or b"" for known in self._buckets)

    def entries_in(self, buckets: Iterable[int]) -> Iterator[IntentEntry]:
        """Every key and version in some buckets, sorted by key."""
        wanted = [self._in_bucket[index] for index in set(buckets) if 0 <= index < BUCKETS]
        for key in heapq.merge(*wanted):
            yield IntentEntry(key, self._entries[key].version)

    # --- writing --------------------------------------------------------------------------------------------------

    def merge(self, signed: Signed, now: Now) -> Merged:
        """Take a record if it is entitled and wins; never raises for what somebody else made.

        A removal that is no longer remembered is refused where nothing stands: nodes forget each at its own hour, and
        would hand it back to each other for ever. Where something stands it still removes that."""
        head = _head_of(signed)
        entry = self._entries.get(head.key) if head is not None else None
        if entry is not None and entry.signed == signed:  # gossip repeats itself: no signature is checked twice
            return Merged(True, False, [], intent=entry.intent)
        if head is not None and entry is None and self._is_forgotten(head, signed.signer, now):
            return Merged(False, False, [], f"{head.key} was removed so long ago that the removal is forgotten")
        try:
            intent = verify_intent(self._verifier, self._roster, signed)
        except Untrusted as error:
            return Merged(
                False, False, [Notify(Observed("intents_refused"))], error.message, None, isinstance(error, Forged)
            )
        version = version_of(intent, signed)
        if entry is not None and version <= entry.version:
            return self._lost(intent, version, entry)
        if entry is None and (full := self._why_full(intent)):
            return Merged(False, False, [], full, intent)
        before = entry.intent if entry else self._disowned.pop(intent.key, (None, 0))[0]
        self._put(intent, signed, version)
        effects: Effects = [Save(TABLE, intent.key.encode(), msgspec.msgpack.encode(signed))]
        if entry is not None and (version.epoch, version.seq) == (entry.version.epoch, entry.version.seq):
            effects.append(Notify(IntentLost(loser=entry.intent, winner=intent)))
        effects.append(Notify(IntentChanged(intent, signed, before)))
        if (
            intent.kind == "revocation"
            and self._of_author[msgspec.msgpack.decode(intent.body, type=Revocation).subject_id]
        ):
            effects += self._disown()
        return Merged(True, True, effects, intent=intent)

    def _disown(self) -> Effects:
        """Take away what was signed after its author was revoked; see above for what becomes of its place."""
        gone = [entry.intent for entry in self._entries.values() if is_disowned(self._roster, entry.intent)]
        self._disowned |= {intent.key: (intent, 0) for intent in gone}
        self._remove(intent.key for intent in gone)
        return [Notify(Observed("intents_disowned", amount=len(gone)))] if gone else []

    def note_comparison(self) -> Effects:
        """A comparison with another node is due: give up what none of many brought an older record of."""
        self._disowned = {key: (intent, compared + 1) for key, (intent, compared) in self._disowned.items()}
        return self.give_up()

    def given_up(self) -> list[str]:
        """The keys that a revocation emptied and nobody had an older record of: they are to be told as removed."""
        return [key for key, (_, compared) in self._disowned.items() if compared > COMPARISONS_AWAITED]

    def give_up(self) -> Effects:
        """Tell as removed what is given up, some of it at once and the rest by the next call. What is told is signed by
        nobody and goes no further than this node."""
        effects: Effects = []
        for key in self.given_up()[:REMOVALS_TOLD_MAX]:
            intent, _ = self._disowned.pop(key)
            removal = msgspec.structs.replace(intent, kind="tombstone", body=b"")
            unsigned = Signed(SIGNED_KIND, msgspec.msgpack.encode(removal), intent.author, b"")
            effects += [Erase(TABLE, key.encode()), Notify(IntentChanged(removal, unsigned, intent))]
        return effects

    def _why_full(self, intent: Intent) -> str:
        """Why no new key fits; the CA's records are the roster, and as many as there are machines and people."""
        if intent.author == self._roster.ca_id:
            return ""
        if len(self._entries) >= RECORDS_MAX:
            return f"this mesh holds {RECORDS_MAX} records and takes no more"
        if self._of_author[intent.author] >= AUTHOR_RECORDS_MAX:
            return f"one operator may keep {AUTHOR_RECORDS_MAX} records, and its are all used"
        return ""

    def _lost(self, intent: Intent, version: IntentVersion, entry: _Entry) -> Merged:
        if version == entry.version:
            return Merged(True, False, [], intent=intent)
        same_number = (version.epoch, version.seq) == (entry.version.epoch, entry.version.seq)
        effects: Effects = [Notify(IntentLost(loser=intent, winner=entry.intent))] if same_number else []
        reason = f"{intent.key} stands at ({entry.version.epoch}, {entry.version.seq}), this is no later"
        return Merged(False, False, effects, reason, intent)

    def _put(self, intent: Intent, signed: Signed, version: IntentVersion) -> None:
        before = self._entries.get(intent.key)
        if before is None:
            insort(self._sorted, intent.key)
            insort(self._in_bucket[bucket_of(intent.key)], intent.key)
        else:
            self._of_author[before.intent.author] -= 1
        self._of_author[intent.author] += 1
        self._entries[intent.key] = _Entry(intent, signed, version)
        self._buckets[bucket_of(intent.key)] = None
        self._roster.apply(intent)

    def begin_with(self, other: IntentMap) -> None:
        """Hold what another map of the same mesh holds, of one roster: many maps of one process share their records."""
        self._entries = dict(other._entries)
        self._sorted = list(other._sorted)
        self._of_author = Counter(other._of_author)
        self._in_bucket = [list(keys) for keys in other._in_bucket]
        self._buckets = list(other._buckets)

    def restore(self, rows: Iterable[tuple[bytes, bytes]]) -> Effects:
        """Take back what was saved. What operators signed was verified before it was saved; what makes the roster is
        verified again, and a row that a broken disk garbled is dropped: others still have it. What a revocation had
        taken away, or should have, is taken away again."""
        dropped: Effects = []
        for key, value in rows:
            try:
                signed = msgspec.msgpack.decode(value, type=Signed)
                intent = decode_body(signed, Intent)
                if signed.signer == self._roster.ca_id or intent.kind in CA_KINDS:
                    verify_intent(self._verifier, self._roster, signed)
                check_head(intent, self._roster.mesh)
                check_key(intent)
            except (Untrusted, *UNDECODABLE):
                dropped += [Erase(TABLE, key), Notify(Observed("intents_dropped"))]
                continue
            self._put(intent, signed, version_of(intent, signed))
        return dropped + self._disown()

    def drop(self, keys: Iterable[str]) -> Effects:
        """Forget records that the mesh removed so long ago that it no longer remembers; never what the CA signed. What
        stood until now is told as removed, no further than on this node: what it wanted ends here as well."""
        found = [self._entries[key].intent for key in keys if key in self._entries]
        gone = [intent for intent in found if self._entries[intent.key].signed.signer != self._roster.ca_id]
        self._remove(intent.key for intent in gone)
        erased: Effects = [Erase(TABLE, intent.key.encode()) for intent in gone]
        return erased + [_told_as_removed(intent) for intent in gone if intent.kind != "tombstone"]

    def _remove(self, keys: Iterable[str]) -> None:
        """All at once: they may be as many as one operator may keep."""
        gone = frozenset(keys)
        for key in gone:
            self._of_author[self._entries.pop(key).intent.author] -= 1
        self._sorted = [key for key in self._sorted if key not in gone]
        for index in {bucket_of(key) for key in gone}:
            self._in_bucket[index] = [key for key in self._in_bucket[index] if key not in gone]
            self._buckets[index] = None

    def forget_old_tombstones(self, now: Now) -> Effects:
        """Drop removals that every node has long heard of."""
        entries = self._entries.items()
        return self.drop([key for key, entry in entries if self._is_forgotten(entry.intent, entry.signed.signer, now)])

    def is_forgotten(self, key: str, now: Now) -> bool:
        """Whether what stands at a key is a removal that nodes which are in touch remember no longer."""
        entry = self._entries.get(key)
        return entry is not None and self._is_forgotten(entry.intent, entry.signed.signer, now)

    def _is_forgotten(self, record: _Head | Intent, signer: bytes, now: Now) -> bool:
        """Whether it is a removal that every node has long heard of; those that the CA signed are remembered."""
        is_old = record.kind == "tombstone" and now.wall_ms - record.issued_ms > TOMBSTONE_KEPT_MS
        return is_old and signer != self._roster.ca_id


def _told_as_removed(intent: Intent) -> Notify:
    """What those who follow the records are told where none of the mesh's removals says it; nobody signed it."""
    removal = msgspec.structs.replace(intent, kind="tombstone", body=b"")
    unsigned = Signed(SIGNED_KIND, msgspec.msgpack.encode(removal), intent.author, b"")
    return Notify(IntentChanged(removal, unsigned, intent))


def _head_of(signed: Signed) -> _Head | None:
    try:
        return msgspec.msgpack.decode(signed.body, type=_Head)
    except UNDECODABLE:
        return None


def bucket_of(key: str) -> int:
    """Which part of the key space a key belongs to."""
    return hashlib.sha256(key.encode()).digest()[0] % BUCKETS
