"""What lies between simulated machines: who reaches whom, how long it takes, and what gets lost on the way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """What the network does to datagrams, and who cannot reach whom."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_s: tuple[float, float] = (0.0005, 0.003)
    """Drawn for each message alone, so messages overtake each other."""
    cuts: set[tuple[int, int]] = field(default_factory=set)
    """(from, to): nothing gets through in that direction."""
    slow: dict[int, float] = field(default_factory=dict)
    """Machine → by how much longer all its messages take, both ways."""

    def cut(self, left: set[int], right: set[int]) -> None:
        """Part two groups, in both directions."""
        self.cut_one_way(left, right)
        self.cut_one_way(right, left)

    def cut_one_way(self, source: set[int], target: set[int]) -> None:
        """What one group sends to the other is lost; the other way works."""
        self.cuts |= {(a, b) for a in source for b in target}

    def heal(self) -> None:
        """Join everybody again."""
        self.cuts.clear()

    def reaches(self, source: int, target: int) -> bool:
        """Whether anything gets from one machine to another."""
        return (source, target) not in self.cuts

    def one_delay_s(self, chance: random.Random, source: int, target: int) -> float:
        """How long one message takes."""
        factor = self.slow.get(source, 1.0) * self.slow.get(target, 1.0)
        return chance.uniform(*self.delay_s) * factor
