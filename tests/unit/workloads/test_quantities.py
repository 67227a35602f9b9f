"""Quantities mean what Kubernetes says."""

from __future__ import annotations

import contextlib
from decimal import ROUND_CEILING, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.workloads.quantities import mebibytes, millicores, parse_quantity, whole_bytes

POWERS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def dumb(number: Decimal, suffix: str) -> Decimal:
    """The same amount by the plainest arithmetic there is."""
    return number * 1024 ** BINARY[suffix] if suffix in BINARY else number * Decimal(10) ** POWERS[suffix]


numbers = st.decimals(0, 10**6, places=3)
suffixes = st.sampled_from([*POWERS, *BINARY])


@given(numbers, suffixes)
def test_agrees_with_plain_arithmetic(number: Decimal, suffix: str) -> None:
    """A number with a suffix is that number times what the suffix says."""
    assert parse_quantity(f"{number:f}{suffix}") == dumb(number, suffix)


@given(numbers, suffixes, numbers, suffixes)
def test_order_is_that_of_amounts(one: Decimal, first: str, other: Decimal, second: str) -> None:
    """Quantities compare by amount, whatever their suffixes."""
    quantities = parse_quantity(f"{one:f}{first}"), parse_quantity(f"{other:f}{second}")
    assert (quantities[0] < quantities[1]) == (dumb(one, first) < dumb(other, second))


@given(st.integers(0, 10**12), st.integers(-20, 20), st.sampled_from("eE"))
def test_exponents(number: int, power: int, letter: str) -> None:
    """Decimal exponents are exact."""
    assert parse_quantity(f"{number}{letter}{power}") == Decimal(number).scaleb(power, None)


@pytest.mark.parametrize(
    ("text", "milli"), [("1", 1000), ("0.5", 500), ("100m", 100), (".1", 100), ("1.", 1000), (2, 2000), (0.25, 250)]
)
def test_cpu(text: str | float, milli: int) -> None:
    """CPU amounts in thousandths of a core."""
    assert millicores(text) == milli


def test_rounds_up() -> None:
    """What is asked for is never rounded away."""
    assert (millicores("1n"), mebibytes("1"), mebibytes("1Mi"), whole_bytes("1500m")) == (1, 1, 1, 2)


@pytest.mark.parametrize(
    "text", ["", "m", "1.2.3", "1 Gi", "1ki", "1MI", "1mm", "e3", "--1", "1e", "1e99", "٣", "1_000", "0x10", "1" * 65]
)
def test_refused(text: str) -> None:
    """What Kubernetes' grammar does not know is no quantity."""
    with pytest.raises(ValueError):
        parse_quantity(text)


@given(numbers, suffixes)
def test_what_is_kept_fits_a_record(number: Decimal, suffix: str) -> None:
    """Thousandths of a core and MiB are at most 2^53, or refused: more than that is nobody's, and fits no record."""
    for measure, in_units in ((millicores, Decimal(1000)), (mebibytes, Decimal(1) / 2**20)):
        fits = (dumb(number, suffix) * in_units).to_integral_value(ROUND_CEILING) <= 2**53
        with contextlib.nullcontext() if fits else pytest.raises(ValueError):
            assert measure(f"{number:f}{suffix}") <= 2**53


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the parser fail in another way."""
    with contextlib.suppress(ValueError):
        parse_quantity(text)
