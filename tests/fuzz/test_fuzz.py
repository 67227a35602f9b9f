"""The larger part: thousands of mutants of each target, chosen by Hypothesis, which makes small what it finds; and the
valid inputs cut, and altered, at every byte."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import corpus
from tests.fuzz.mutations import mutant
from tests.fuzz.target import Target, check
from tests.fuzz.targets import TARGETS

EXAMPLES, EXAMPLES_SLOW = 150, 20
CUTS_MAX, CUTS_MAX_SLOW = 250, 15
"""Places at which a valid input is cut: every one of a short input, spread evenly over a long one."""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", TARGETS)
def test_no_mutant_breaks_the_promise(name: str) -> None:
    """An answer or a documented error, within bounds of time and memory: anything else is a `Finding` with its input,
    which `python -m tests.fuzz --target NAME --add FILE` keeps."""
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES_SLOW if target.slow else EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def feed(data: st.DataObject) -> None:
        numbers = st.integers(0, 2**31 - 1)
        check(target, mutant(target.seeds, target.form, lambda count: data.draw(numbers) % count, target.head))

    feed()


@pytest.mark.parametrize("name", TARGETS)
def test_no_cut_or_altered_byte_breaks_the_promise(name: str) -> None:
    """The shortest valid input, cut off at each byte, and with each byte altered."""
    target = TARGETS[name]
    seed = min(target.seeds, key=len)
    for at in _places(target, len(seed)):
        check(target, seed[:at])
        for altered in (0x00, 0xFF, seed[at] ^ 0x01, seed[at] ^ 0x80):
            check(target, seed[:at] + bytes([altered]) + seed[at + 1 :])


def _places(target: Target, length: int) -> range:
    return range(0, length, max(1, length // (CUTS_MAX_SLOW if target.slow else CUTS_MAX)))


@pytest.mark.parametrize("name", [name for name in TARGETS if corpus.kept(name, slow=True)])
def test_slow_kept_inputs_stay_within_their_promise(name: str) -> None:
    """Bombs that are read in a second, as they may be, and not in an hour."""
    for _, data in corpus.kept(name, slow=True):
        check(TARGETS[name], data)
