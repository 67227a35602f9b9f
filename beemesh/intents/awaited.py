"""News whose record is still on its way: from whom to fetch it, in few requests and for a bounded time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from beemesh.effects import Randomness
from beemesh.ids import NodeId
from beemesh.intents.messages import KEYS_PER_FETCH_MAX, IntentEntry
from beemesh.membership.view import View
from beemesh.rates import Rates

FETCH_AGAIN_S = 0.1
FETCH_TRIES = 10
MISSING_MAX = 4_096

AT_ONCE_BURST = 16.0
AT_ONCE_PER_S = 4.0
"""Records that one member tells of and that are asked for at once, each alone: what an operator enters does not wait.
More wait for the next round, where one request asks a member for all of them: news are not signed, and whoever makes
them up would otherwise have every node ask for each."""

Fetch = tuple[NodeId, tuple[str, ...]]
"""Whom to ask, and for which keys."""


@dataclass(slots=True)
class _Missing:
    entry: IntentEntry
    relay: NodeId
    tries: int = 0


class Awaited:
    """One node's memory of what it heard of and lacks."""

    def __init__(self, view: View, randomness: Randomness) -> None:
        self._view = view
        self._randomness = randomness
        self._missing: dict[str, _Missing] = {}
        self._at_once = Rates(AT_ONCE_PER_S, AT_ONCE_BURST)

    def __bool__(self) -> bool:
        """Whether anything is missing: then a round is due."""
        return bool(self._missing)

    def heard(self, entry: IntentEntry, relay: NodeId, boot_s: float) -> list[Fetch]:
        """A member told of a record that is newer than what stands here; whom to ask for it now, if anybody."""
        missing = self._missing.get(entry.key)
        if missing is not None and missing.entry.version >= entry.version:
            return []
        if missing is None and len(self._missing) >= MISSING_MAX:
            return []
        self._missing[entry.key] = _Missing(entry, relay)
        return [(relay, (entry.key,))] if self._at_once.take(relay, boot_s) else []

    def again(self, is_newer: Callable[[IntentEntry], bool]) -> list[Fetch]:
        """Whoever told us may have had the news and not the record yet: ask again, and others, for a bounded time."""
        keys_of: dict[NodeId, list[str]] = {}
        other: NodeId | None = None
        for key, missing in list(self._missing.items()):
            if not is_newer(missing.entry) or missing.tries >= FETCH_TRIES:
                del self._missing[key]  # it came, or the next comparison brings it
                continue
            missing.tries += 1
            is_for_another = missing.tries % 2 == 0
            if is_for_another and other is None:
                other = self._another()
            peer = other if is_for_another and other is not None else missing.relay
            keys_of.setdefault(peer, []).append(key)
        return [(peer, piece) for peer, keys in keys_of.items() for piece in _pieces(keys)]

    def _another(self) -> NodeId | None:
        others = [peer for peer in self._view.alive() if peer != self._view.self_id]
        return self._randomness.choice(others) if others else None


def _pieces(keys: list[str]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(keys), KEYS_PER_FETCH_MAX):
        yield tuple(keys[start : start + KEYS_PER_FETCH_MAX])
