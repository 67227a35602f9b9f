"""The quick part: what was found before stays mended, valid inputs are read, and some fresh mutants of each target."""

from __future__ import annotations

import random
import time

import pytest

from tests.fuzz import corpus, target
from tests.fuzz.mutations import mutant
from tests.fuzz.target import Finding, Target, check
from tests.fuzz.targets import TARGETS

MUTANTS, MUTANTS_SLOW = 60, 6
"""Fresh inputs of each target: the same in every run, so that this part never surprises anybody."""


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_before_stays_mended(name: str) -> None:
    """Every kept input is read within its promise."""
    for _, data in corpus.kept(name):
        check(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_first_valid_input_is_read(name: str) -> None:
    """Mutants start from something that the target really reads: it raises nothing, not even a documented error."""
    TARGETS[name].call(TARGETS[name].seeds[0])


@pytest.mark.parametrize("name", TARGETS)
def test_some_mutants_keep_the_promise(name: str) -> None:
    """A few dozen bad inputs of each target."""
    target, chance = TARGETS[name], random.Random(name)
    for _ in range(MUTANTS_SLOW if target.slow else MUTANTS):
        check(target, mutant(target.seeds, target.form, chance.randrange, target.head))


def test_every_kept_input_belongs_to_a_target() -> None:
    """A folder of the corpus that no target reads would be replayed by nobody."""
    assert {folder.name for folder in corpus.FOLDER.iterdir()} <= set(TARGETS)


def test_a_broken_promise_is_told_with_its_input() -> None:
    """The check sees what it is for: a foreign exception, and an input that never ends costs no patience."""

    def call(data: bytes) -> None:
        if data == b"bad":
            raise KeyError("oops")

    target = Target("t", "bytes", lambda: call, lambda: [b"good"])
    check(target, b"good")
    with pytest.raises(Finding, match=r"KeyError: 'oops'.*\n.*bad"):
        check(target, b"bad")
    check(Target("t", "bytes", lambda: call, lambda: [b"good"], (KeyError,)), b"bad")


def test_memory_counts() -> None:
    """A decoder that takes far more than it may is found, though it lets go of it at once."""
    target = Target("t", "bytes", lambda: lambda data: len(b"x" * 200 * 1024 * 1024), lambda: [b""])
    with pytest.raises(Finding, match="MiB of memory"):
        check(target, b"")


def test_time_counts_by_the_pace_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that takes far longer than it may is found; a slow machine is not taken for a slow decoder."""

    def call(_data: bytes) -> None:
        end_s = time.process_time() + 0.2
        while time.process_time() < end_s:
            pass

    spins = Target("t", "bytes", lambda: call, lambda: [b""])
    monkeypatch.setattr(target, "CHORE_S", 1e-6)  # by this the machine is as slow as any may be
    monkeypatch.setattr(target, "SECONDS_MAX", 0.2 / target.SLOWNESS_MAX * 1.5)
    check(spins, b"")
    monkeypatch.setattr(target, "SECONDS_MAX", 0.2 / target.SLOWNESS_MAX / 1.5)
    with pytest.raises(Finding, match="s of CPU"):
        check(spins, b"")
    monkeypatch.setattr(target, "CHORE_S", 60.0)
    monkeypatch.setattr(target, "SECONDS_MAX", 0.15)
    with pytest.raises(Finding, match="s of CPU"):
        check(spins, b"")
