"""What lies between simulated machines: who reaches whom, how long it takes, and what gets lost on the way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec

from beemesh.wire.registry import decode_message, encode_message


@dataclass(slots=True)
class Faults:
    """What the network does to datagrams, and who cannot reach whom."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_s: tuple[float, float] = (0.0005, 0.003)
    """Drawn for each message alone, so messages overtake each other."""
    cuts: dict[int, frozenset[tuple[int, int]]] = field(default_factory=dict)
    """Cuts that last, by number: pairs of (from, to) where nothing gets through in that direction."""
    slow: dict[int, float] = field(default_factory=dict)
    """Machine → by how much longer all its messages take, both ways."""
    _cut: int = 0

    def cut(self, left: set[int], right: set[int]) -> int:
        """Part two groups, in both directions; the number is for `heal`."""
        return self._lasting({(a, b) for a in left for b in right} | {(b, a) for a in left for b in right})

    def cut_one_way(self, source: set[int], target: set[int]) -> int:
        """What one group sends to the other is lost; the other way works. The number is for `heal`."""
        return self._lasting({(a, b) for a in source for b in target})

    def _lasting(self, pairs: set[tuple[int, int]]) -> int:
        self._cut += 1
        self.cuts[self._cut] = frozenset(pairs)
        return self._cut

    def heal(self, number: int | None = None) -> None:
        """Mend one cut, or join everybody again."""
        if number is None:
            self.cuts.clear()
        else:
            self.cuts.pop(number, None)

    def reaches(self, source: int, target: int) -> bool:
        """Whether anything gets from one machine to another."""
        return not self.cuts or not any((source, target) in pairs for pairs in self.cuts.values())

    def one_delay_s(self, chance: random.Random, source: int, target: int) -> float:
        """How long one message takes."""
        shortest_s, longest_s = self.delay_s
        delay_s = shortest_s + (longest_s - shortest_s) * chance.random()
        if not self.slow:
            return delay_s
        return delay_s * (self.slow.get(source, 1.0) * self.slow.get(target, 1.0))


def copied(message: msgspec.Struct) -> tuple[msgspec.Struct, bytes]:
    """A message as the far side decodes it, and what it decodes."""
    code, body = encode_message(message)
    decoded = decode_message(code, body)
    assert decoded is not None, f"{type(message).__name__} does not survive its own encoding"
    return decoded, body
