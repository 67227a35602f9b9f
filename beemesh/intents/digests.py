"""What one answer of a comparison lists, and what the listing speaks for.

Buckets that differ are listed in full as far as they fit, from another one on each time, so that none holds up the
others. One that is larger than an answer (whoever picks names can make them fall into one bucket) is listed in part: a
run of its keys that begins anywhere and goes on at its first key after its last. What lies between the ends of the run
is listed in full; the rest comes with later answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from beemesh.effects import Randomness
from beemesh.intents.map import IntentMap, bucket_of
from beemesh.intents.messages import (
    BUCKETS,
    DIGEST_BYTES_MAX,
    ENTRIES_PER_DIGEST_MAX,
    ENTRY_OVERHEAD_BYTES,
    IntentDigests,
    IntentEntry,
)

MORE_DIFFERS = BUCKETS
"""No bucket: stands among those that differ where more does than is listed. An empty answer would say `equal`."""


def digests_of(intents: IntentMap, theirs: Sequence[bytes], doubtful: bool, randomness: Randomness) -> IntentDigests:
    """The answer to a member whose map has these bucket hashes."""
    own = intents.bucket_hashes()
    differing = [index for index, value in enumerate(own) if index >= len(theirs) or theirs[index] != value]
    parts = {index: list(intents.entries_in((index,))) for index in differing}
    entries = [entry for part in parts.values() for entry in part]
    if len(_run(entries, 0, ENTRIES_PER_DIGEST_MAX, DIGEST_BYTES_MAX)) == len(entries):
        return IntentDigests(tuple(differing), tuple(entries), doubtful)
    first = randomness.choice(differing)
    return _cut(
        {index: parts[index] for index in sorted(differing, key=lambda index: (index < first, index))},
        doubtful,
        randomness,
    )


def _cut(parts: dict[int, list[IntentEntry]], doubtful: bool, randomness: Randomness) -> IntentDigests:
    listed: list[int] = []
    entries: list[IntentEntry] = []
    is_any_in_part = False
    lines, size = ENTRIES_PER_DIGEST_MAX, DIGEST_BYTES_MAX
    for index, part in parts.items():
        run = _run(part, 0, lines, size)
        if len(run) == len(part):
            listed.append(index)
        elif not is_any_in_part and len(_run(part, 0, ENTRIES_PER_DIGEST_MAX, DIGEST_BYTES_MAX)) < len(part):
            run = _run(part, int(randomness.random() * len(part)), lines // 2, size // 2)
            is_any_in_part = True
        else:
            continue
        entries += run
        lines, size = lines - len(run), size - sum(map(_size_of, run))
    return IntentDigests((*listed, MORE_DIFFERS), tuple(entries), doubtful)


def _run(part: list[IntentEntry], start: int, lines: int, size: int) -> list[IntentEntry]:
    """As many entries as fit, from `start` on and around."""
    run: list[IntentEntry] = []
    for entry in (*part[start:], *part[:start])[:lines]:
        size -= _size_of(entry)
        if size < 0:
            break
        run.append(entry)
    return run


def _size_of(entry: IntentEntry) -> int:
    return len(entry.key.encode()) + ENTRY_OVERHEAD_BYTES


def spoken_for(intents: IntentMap, digests: IntentDigests) -> Iterator[IntentEntry]:
    """What stands here in those parts of the key space that an answer lists in full: what it leaves out of them does
    not stand there."""
    yield from intents.entries_in(digests.differing)
    if MORE_DIFFERS in digests.differing:
        for index, (first, last) in _runs(digests.entries, frozenset(digests.differing)).items():
            for entry in intents.entries_in((index,)):
                is_after, is_before = entry.key >= first, entry.key <= last
                if (is_after and is_before) if first <= last else (is_after or is_before):
                    yield entry


def _runs(entries: Iterable[IntentEntry], listed: frozenset[int]) -> dict[int, tuple[str, str]]:
    """Both ends of the run of each bucket that is listed in part."""
    ends: dict[int, tuple[str, str]] = {}
    for entry in entries:
        index = bucket_of(entry.key)
        if index not in listed:
            ends[index] = (ends.get(index, (entry.key, ""))[0], entry.key)
    return ends
