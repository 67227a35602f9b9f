"""Figures that several benches print."""

from __future__ import annotations

from collections.abc import Iterable


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which that share of the values lies (nearest rank); 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def judged(*aims: tuple[str, bool]) -> int:
    """Print for each aim, in words, whether it was met; the exit code: 1 when one was missed."""
    for words, met in aims:
        print(f"aim: {words}: {'met' if met else 'missed'}")
    return 0 if all(met for _, met in aims) else 1
