"""Kubernetes quantities: `500m`, `1.5`, `64Mi`, `1e3`, exactly and without floating point."""

from __future__ import annotations

import math
import re
from fractions import Fraction

QUANTITY_CHARS_MAX = 64
"""Longer texts are no quantity that a person wrote; a bound on the arithmetic."""

EXPONENT_MAX = 30
"""Decimal exponents beyond this are refused: 10^30 bytes is more than all disks there are."""

AMOUNT_MAX = 2**53
"""The most that is kept of anything, in thousandths of a core, bytes or MiB: every reader of JSON knows such a number
exactly, a sum over a pod's containers fits a record, and 8 PiB is more memory than there is in one machine."""

_QUANTITY = re.compile(r"([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(?:([eE][+-]?[0-9]+)|([KMGTPE]i|[numkMGTPE]))?")
_SUFFIXES: dict[str, Fraction] = {
    **{suffix: Fraction(10) ** (3 * power) for power, suffix in enumerate(("n", "u", "m", "", "k", "M"), start=-3)},
    **{suffix: Fraction(10) ** (3 * power) for power, suffix in enumerate(("G", "T", "P", "E"), start=3)},
    **{suffix: Fraction(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}


def parse_quantity(value: str | int | float) -> Fraction:
    """The exact amount that `value` stands for, in units (cores, bytes); `ValueError` says what is wrong with it."""
    text = repr(value) if isinstance(value, int | float) else value
    if isinstance(value, bool) or len(text) > QUANTITY_CHARS_MAX:
        raise ValueError("not a quantity")
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError("not a quantity")
    sign, digits, exponent, suffix = match.groups()
    amount = Fraction(digits.rstrip(".") if digits.endswith(".") else digits)
    if exponent:
        power = int(exponent[1:])
        if abs(power) > EXPONENT_MAX:
            raise ValueError(f"its exponent is beyond {EXPONENT_MAX}")
        amount *= Fraction(10) ** power
    amount *= _SUFFIXES[suffix or ""]
    return -amount if sign == "-" else amount


def millicores(value: str | int | float) -> int:
    """A CPU quantity in thousandths of a core, rounded up as Kubernetes does; `ValueError` beyond `AMOUNT_MAX`."""
    return _bounded(math.ceil(parse_quantity(value) * 1000))


def whole_bytes(value: str | int | float) -> int:
    """A memory or storage quantity in bytes, rounded up."""
    return math.ceil(parse_quantity(value))


def mebibytes(value: str | int | float) -> int:
    """A memory or storage quantity in MiB, rounded up; `ValueError` beyond `AMOUNT_MAX`."""
    return _bounded(math.ceil(parse_quantity(value) / 2**20))


def _bounded(amount: int) -> int:
    if abs(amount) > AMOUNT_MAX:
        raise ValueError("it is more than there is anywhere")
    return amount
