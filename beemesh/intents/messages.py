"""How nodes bring their intent maps together (wire type codes 40–49)."""

from __future__ import annotations

import msgspec

from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.intents.record import IntentVersion

TOPIC_INTENTS = "intents"

INLINE_BYTES_MAX = 4 * 1024
"""A signed record up to this size travels inside its news, in a few chunks if it must: most sealed manifests fit. When
every node fetched them instead, the last of 200 nodes had a manifest of 1,200 bytes after 0.77 s rather than 0.36 s,
and each node sent twice as much (`bench/intents.py`)."""

KEYS_PER_FETCH_MAX = 512
"""Keys of one `FetchIntents`: their answers fill a stream message with small records."""

ANSWER_BYTES_MAX = 512 * 1024
"""Records in one answer or push: half of a stream message."""

RECORD_OVERHEAD_BYTES = 200
"""Counted for each record beside its body: who signed it, the signature, and how it is packed."""

RECORDS_PER_MESSAGE_MAX = ANSWER_BYTES_MAX // RECORD_OVERHEAD_BYTES
"""Records of one answer or push that are looked at: more do not fit what an honest node sends."""

ENTRIES_PER_DIGEST_MAX = 4_000
"""Lines of one `IntentDigests`."""

DIGEST_BYTES_MAX = 768 * 1024
"""Lines of one `IntentDigests` that fit a stream message, also where their keys are as long as keys may be."""

ENTRY_OVERHEAD_BYTES = 64
"""Counted for each line beside its key: its version, and how it is packed."""

BUCKETS = 64
"""Parts of the key space that are compared by hash first."""


class IntentEntry(msgspec.Struct, frozen=True, array_like=True):
    """A key and the version that stands there."""

    key: str
    version: IntentVersion


class IntentNews(msgspec.Struct, frozen=True, array_like=True):
    """On the topic `intents`: a key changed. Without `record`, fetch it from whoever told."""

    entry: IntentEntry
    record: Signed | None = None


class FetchIntents(msgspec.Struct, frozen=True):
    """Ask for the records of these keys; answered by `IntentRecords`."""

    keys: tuple[str, ...]


class FetchMembers(msgspec.Struct, frozen=True):
    """Ask for the membership records of these nodes; answered by `IntentRecords`."""

    node_ids: tuple[NodeId, ...]


class IntentRecords(msgspec.Struct, frozen=True):
    """The records that were asked for, as far as they stand here and fit `ANSWER_BYTES_MAX`."""

    records: tuple[Signed, ...]


class PushIntents(msgspec.Struct, frozen=True):
    """Merge and save these records; answered by `IntentsAck` once they are on disk."""

    records: tuple[Signed, ...]


class IntentsAck(msgspec.Struct, frozen=True):
    """What stands and is saved here now under the keys that were pushed, and why others were refused."""

    saved: tuple[IntentEntry, ...]
    refused: tuple[str, ...] = ()


class SyncIntents(msgspec.Struct, frozen=True):
    """Compare maps: one 8-byte hash per bucket; answered by `IntentDigests`."""

    buckets: tuple[bytes, ...]


class IntentDigests(msgspec.Struct, frozen=True, omit_defaults=True):
    """The entries of those buckets that differ, at most `ENTRIES_PER_DIGEST_MAX`; `differing` names the buckets that
    are listed in full, and `BUCKETS` where more differs than fits (`beemesh.intents.digests`). `doubtful`: the answerer
    is new, or was away for longer than removals are remembered, and cannot tell yet which of its records still stand:
    nothing is taken from it, and nothing is removed on its word."""

    differing: tuple[int, ...] = ()
    entries: tuple[IntentEntry, ...] = ()
    doubtful: bool = False
